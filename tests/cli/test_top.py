"""top on real terminals, wide, narrow and dumb, over several servers; what it says of them as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

import homenode
from homenode.cli.metrics import Metrics
from homenode.cli.top_figures import FIGURES, Fleet, figures
from homenode.cli.top_picture import Sample, picture
from tests.cli.conftest import COMMAND, Cli, Served, start_server, stop
from tests.support.redis_process import RedisProcess

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.xdist_group("top")]

WAIT_S = 90.0
ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|\][^\x07]*\x07)")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]m")


class Terminal:
    """A program on a real terminal; `raw` is all that it wrote."""

    def __init__(self, *args: str, columns: int, rows: int, **environment: str) -> None:
        self._own, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        environment = {**kept, "TERM": "xterm-256color", **environment}
        self._process = subprocess.Popen([*COMMAND, *args], stdin=other, stdout=other, stderr=other, env=environment)
        os.close(other)
        self.raw = ""

    def until(self, condition: Callable[[str], object]) -> str:
        """The first whole picture for which the condition holds, without escapes."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            self._read(0.2)
            *whole, _ = self.raw.split("homenode://")  # each picture begins so; the last one may still come
            if whole and condition(shown := ESCAPE.sub("", whole[-1]).replace("\r", "")):
                return shown
        self._process.kill()
        raise TimeoutError(f"not seen; last came:\n{self.raw[-4_000:]}")

    def _read(self, within_s: float) -> None:
        if select.select([self._own], [], [], within_s)[0]:
            with contextlib.suppress(OSError):  # the other end is closed
                self.raw += os.read(self._own, 1 << 16).decode("utf-8", "replace")

    def end(self) -> int:
        """Interrupt it; the exit code."""
        self._process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + WAIT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        self._read(0.0)
        self._process.kill()
        os.close(self._own)
        return self._process.wait()


@pytest.fixture(scope="module")
def pair(redis_server: RedisProcess) -> Iterator[list[Served]]:
    """Two servers over one Redis; the last test of this module stops one of them."""
    redis_server.flushall()
    servers = [start_server("--store", redis_server.url) for _ in range(2)]
    yield servers
    for server in servers:
        stop(server.process)


@pytest.fixture(scope="module")
def busy(pair: list[Served]) -> Iterator[str]:
    """The servers' address, where agents are at work on a few of many artifacts."""
    url = f"homenode://{','.join(server.address.removeprefix('homenode://') for server in pair)}/main"
    over, begun = threading.Event(), threading.Event()

    async def agent(n: int) -> None:
        async with homenode.connect(url, agent=f"agent-{n}", timeout_ms=60_000) as hn:
            for k in range(20):
                await hn.put(f"quiet/{n}-{k}", "x" * k)
            begun.set()
            while not over.is_set():
                await hn.edit("hot/1.md", lambda text: f"{text}.", default="")
                await hn.edit(f"warm/{n}.md", lambda text: f"{text}.", default="")
                for _ in range(20):
                    await hn.read("hot/1.md")
                await asyncio.sleep(0.05)

    async def work() -> None:
        await asyncio.gather(*(agent(n) for n in range(3)))

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    assert begun.wait(WAIT_S)
    yield url
    over.set()
    thread.join(WAIT_S)


def test_on_terminals_of_all_kinds(busy: str, pair: list[Served]) -> None:
    metrics = ",".join(server.metrics for server in pair)

    # wide: every line, the busiest artifact first, both servers' figures added up
    wide = Terminal("--url", busy, "top", "--metrics", f"{metrics},127.0.0.1:9", columns=130, rows=32)
    shown = wide.until(lambda text: re.search(r"KEY.*\nhot/1.md .*\+\d", text) and "now)" in text)
    assert wide.end() == 0
    assert wide.raw.rstrip().endswith("\x1b[?1049l"), "the screen is not given back"
    lines = shown.split("\n")
    assert all(len(line) <= 130 for line in lines)
    assert "2 of 3 tell" in shown
    assert "127.0.0.1:9: Connection refused" in shown
    assert re.search(r"sessions [1-9]", shown)
    assert re.search(r"hit rate \d+\.\d %", shown)
    assert re.search(r"commits \d+ \([\d.]+/s\)", shown)
    assert re.search(r"seen p50 ≤ .* p99 ≤", shown)
    assert re.search(r"… and \d+ more", shown)

    # narrow: nothing is wider than the screen, and the busiest is there
    narrow = Terminal("--url", busy, "top", "--metrics", metrics, columns=40, rows=16, NO_COLOR="1")
    shown = narrow.until(lambda text: re.search(r"KEY +ST +NEW\nhot/1.md .*\+\d", text))
    assert narrow.end() == 0
    assert not COLOUR.search(narrow.raw)
    assert all(len(line) <= 40 for line in shown.split("\n"))
    assert len(shown.rstrip().split("\n")) <= 16

    # dumb: no escapes at all, one picture after the other
    dumb = Terminal("--url", busy, "top", "--metrics", metrics, columns=100, rows=24, TERM="dumb")
    dumb.until(lambda text: re.search(r"hot/1.md .*\+\d", text))
    assert dumb.end() == 0
    assert "\x1b" not in dumb.raw


def test_json_has_every_documented_name(busy: str, pair: list[Served], cli: Cli) -> None:
    metrics = ",".join(server.metrics for server in pair)
    told = cli("--json", "top", "hot/", "--once", "--url", busy, "--metrics", f"{metrics},127.0.0.1:9").json
    assert set(told) == {"artifacts", "more", "states", "servers", "server"}
    assert set(told["server"]) == set(FIGURES)
    assert [artifact["key"] for artifact in told["artifacts"]] == ["hot/1.md"]
    assert told["artifacts"][0]["new_versions"] is None  # nothing to compare with
    assert [server["reached"] for server in told["servers"]] == [True, True, False]
    help_text = cli("top", "--help").out
    assert all(name in help_text for name in FIGURES)


def test_a_server_that_goes_is_said_and_comes_back(busy: str, pair: list[Served]) -> None:
    metrics = ",".join(server.metrics for server in pair)
    terminal = Terminal("--url", busy, "top", "--metrics", metrics, columns=120, rows=30)
    terminal.until(lambda text: "2 of 2 tell" in text)
    stop(pair[0].process)
    terminal.until(lambda text: "1 of 2 tell" in text and "hot/1.md" in text)
    assert terminal.end() == 0


# --- what several servers say together --------------------------------------------------------------------------------

OLD = 'homenode_sessions 3\nhomenode_requests_total{operation="commit",outcome="ok"} 10\nhomenode_leases 4\n'
NEW = f"""{OLD}homenode_cache_reads_total{{result="hit"}} 90
homenode_cache_reads_total{{result="miss"}} 10
homenode_invalidation_seconds_bucket{{le="0.01"}} 50
homenode_invalidation_seconds_bucket{{le="0.1"}} 99
homenode_invalidation_seconds_bucket{{le="+Inf"}} 100
homenode_store_memory_bytes 0
homenode_store_persistence_ok 0
"""


def fleet(at: float, **texts: str) -> Fleet:
    return Fleet(at, {address: Metrics.parse(text) for address, text in texts.items()})


def test_figures_are_added_up_and_what_nobody_tells_is_not_zero() -> None:
    told = figures(fleet(1.0, a=OLD, b=NEW), None)
    assert (told["sessions"], told["commits"], told["write_leases"]) == (6, 20, 4)
    assert told["hit_rate"] == 0.9
    assert (told["invalidation_p50_s"], told["invalidation_p99_s"]) == (0.01, 0.1)
    unknown = figures(fleet(1.0, a=OLD), None)
    for name in ("hit_rate", "invalidation_p99_s", "tokens_saved", "conflicts", "stream_lag_s", "persistence_ok"):
        assert unknown[name] is None
    assert told["store_memory"] is None, "it was not asked yet"
    assert told["persistence_ok"] is None


def test_rates_are_of_the_servers_that_were_there_before() -> None:
    before = fleet(10.0, a=OLD, b=NEW)
    risen = OLD.replace(" 10\n", " 16\n")
    assert figures(fleet(12.0, a=risen, c=NEW), before)["commits_per_s"] == 3
    restarted = OLD.replace(" 10\n", " 4\n")
    assert figures(fleet(12.0, a=restarted), before)["commits_per_s"] == 2
    later = NEW.replace('"hit"} 90', '"hit"} 190').replace('"0.01"} 50', '"0.01"} 150').replace("} 99", "} 199")
    now = figures(fleet(11.0, b=later.replace("} 100", "} 200")), before)
    assert now["hit_rate_now"] == 1.0
    assert now["invalidation_p99_s"] == 0.01, "what was slow is over"


# --- KV workers -------------------------------------------------------------------------------------------------------

KV = """homenode_kv_workers 2
homenode_kv_holdings 7
homenode_kv_routes_total{how="held"} 10
homenode_kv_routes_total{how="cold"} 2
homenode_kv_routed_tokens_total{how="cached"} 300
homenode_kv_routed_tokens_total{how="computed"} 100
"""


def shown(fleet: Fleet, before: Fleet | None = None) -> str:
    console = Console(width=120)
    earlier = None if before is None else Sample(before.at, [], before)
    with console.capture() as captured:
        console.print(picture("homenode://h/main", Sample(fleet.at, [], fleet), earlier, width=120, rows=None))
    return captured.get()


def test_kv_workers_have_a_line_where_there_are_any() -> None:
    """Each server of a directory knows all workers; prompts are sent by one of them."""
    now = fleet(2.0, a=OLD + KV, b=OLD + KV.replace("workers 2", "workers 3"))
    assert re.search(r"^kv +workers 3  hold 7  prompts 24  tokens cached 75.0 %$", shown(now), re.MULTILINE)
    later = fleet(4.0, a=OLD + KV.replace('"held"} 10', '"held"} 16'), b=OLD + KV)
    assert "prompts 30 (3/s)" in shown(later, now)
    assert "\nkv " not in shown(fleet(1.0, a=OLD))
    assert "\nkv " not in shown(fleet(1.0, a=OLD + "homenode_kv_workers 0\n"))
