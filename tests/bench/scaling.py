"""`python -m tests.bench.scaling`: the figures of deploy/scaling.md, from one server process and one Redis.

What sessions and artifacts take of memory, what operations take of CPU time, and how a server with many sessions
answers. Load is made by `homenode bench load`, as an operator would, and the command is printed with what it gave.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.filling import fill
from tests.bench.homenode_load import body
from tests.bench.processes import ROOT, ServerProcess, cpu_s, memory_bytes
from tests.support.redis_process import RedisProcess

IDLE, ACTIVE = 5_000, 1_000
RATE = 500.0  # what the sessions of a fleet of 1,000 do, two seconds apart
ARTIFACTS = (100, 1_000, 10_000, 100_000, 1_000_000)
OWN_STREAMS = 500


class Site:
    """A server over a Redis that syncs every second, both fresh."""

    def __init__(self, redis: RedisProcess, server: ServerProcess) -> None:
        self.redis = redis
        self.server = server

    def load(self, *words: object) -> dict[str, Any]:
        """`homenode bench load` on it, with Redis watched too."""
        command = ["homenode", "--json", "bench", "load", "--timeout", "60", "--pid", str(self.redis.pid)]
        command += map(str, words)
        print(f"\n$ homenode bench load {' '.join(map(str, words))}", flush=True)
        environment = {**os.environ, "HOMENODE_URL": f"homenode://{self.server.address}/bench"}
        path = str(Path(sys.executable).with_name("homenode"))
        done = subprocess.run([path, *command[1:]], env=environment, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2_000:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def used_bytes(self) -> int:
        """Of Redis, as it says."""
        with self.redis.client() as client:
            return int(client.info("memory")["used_memory"])


@contextmanager
def site(**settings: str) -> Iterator[Site]:
    """One with nothing in it; `settings` of Redis."""
    (ROOT / ".run").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="scaling-", dir=ROOT / ".run"))
    redis = RedisProcess(folder / "redis", settings)
    server: ServerProcess | None = None
    try:
        redis.start()
        server = ServerProcess(redis.url, folder / "server.log")
        server.wait_ready()
        yield Site(redis, server)
    finally:
        if server is not None:
            server.close()
        redis.kill()
        shutil.rmtree(folder, ignore_errors=True)


def of(found: dict[str, Any], pid: int) -> dict[str, Any]:
    """What a load says of a process."""
    return next(one for one in found["processes"] if one["pid"] == pid)


def idle_sessions(sessions: int, *, own_streams: bool) -> dict[str, float]:
    """What sessions that only live take of the server and of Redis."""
    with site() as one:
        used = one.used_bytes()
        words = ["--active", 0, "--idle", sessions, "--artifacts", 1, "--seconds", 20]
        found = one.load(*words, *(["--own-streams"] if own_streams else []))
        server, redis = of(found, one.server.pid), of(found, one.redis.pid)
        grown = server["memory_sessions_bytes"] - server["memory_before_bytes"]
        figures = {
            "sessions": sessions,
            "server_kb_per_session": grown / 1e3 / sessions,
            "redis_kb_per_session": (redis["memory_sessions_bytes"] - redis["memory_before_bytes"]) / 1e3 / sessions,
            "server_cores": server["cores"],
            "redis_cores": redis["cores"],
            "server_before_mb": server["memory_before_bytes"] / 1e6,
            "redis_empty_mb": used / 1e6,
        }
    return said("idle sessions, a stream each" if own_streams else "idle sessions, streams shared", figures)


def crowd(idle: int, active: int, rate: float, seconds: float) -> dict[str, Any]:
    """A server process with many sessions, some of which work."""
    with site() as one:
        words = ("--active", active, "--idle", idle, "--rate", rate, "--seconds", seconds, "--mix", "read=80,commit=20")
        found = one.load(*words)
        server = of(found, one.server.pid)
        for kind, told in found["operations"].items():
            print(f"{kind:8} {told}")
        figures = {
            "server_most_mb": server["memory_most_bytes"] / 1e6,
            "server_cores": server["cores"],
            "redis_cores": of(found, one.redis.pid)["cores"],
            "lost": found["sessions"]["lost"],
            "replaced": found["sessions"]["replaced"],
        }
    said(f"{active:,} active and {idle:,} idle sessions", figures)
    return figures | {"operations": found["operations"]}


def costs(seconds: float) -> dict[str, dict[str, float]]:
    """CPU time for each operation, with 64 sessions that do one after another."""
    made = {}
    for kind in ("fetch", "commit", "edit", "write"):
        with site() as one:
            found = one.load("--mix", kind, "--seconds", seconds, "--artifacts", 1_000)
            server, redis = (of(found, pid)["cpu_us_per_operation"] for pid in (one.server.pid, one.redis.pid))
            told = found["operations"][kind]
            figures = {
                "per_s": told["per_s"],
                "p50_ms": told["p50_ms"],
                "p99_ms": told["p99_ms"],
                "server_us": server,
                "redis_us": redis,
                "per_core_of_server": 1e6 / max(server, 1.0),
                "per_core_of_redis": 1e6 / max(redis, 1.0),
            }
        made[kind] = said(f"{kind}, 64 sessions", figures)
    return made


def artifacts(counts: tuple[int, ...]) -> list[dict[str, float]]:
    """What artifacts of 1 KiB, one version each, take of Redis, and of a server that has read some."""
    points = [made_by_api(1_000)]
    with site(appendonly="no") as one:
        empty, made = one.used_bytes(), 0
        for count in counts:
            asyncio.run(fill(one.redis, one.server.address, body(0), made, count))
            made = count
            used = one.used_bytes()
            points.append(
                said(
                    f"{count:,} artifacts of 1 KiB",
                    {
                        "artifacts": count,
                        "redis_mb": used / 1e6,
                        "redis_bytes_each": (used - empty) / count,
                        "redis_resident_mb": memory_bytes(one.redis.pid) / 1e6,
                        "server_mb": memory_bytes(one.server.pid) / 1e6,
                    },
                )
            )
    return points


def made_by_api(count: int) -> dict[str, float]:
    """The same for artifacts that were made one by one, with their entries in the log."""
    with site() as one:
        empty = one.used_bytes()
        one.load("--active", 1, "--artifacts", count, "--seconds", 0.1, "--warmup", 0.1, "--mix", "fetch", "--keep")
        each = (one.used_bytes() - empty) / count
        return said(f"{count:,} artifacts made by commits", {"artifacts": count, "redis_bytes_each": each})


def idle_server(seconds: float) -> dict[str, float]:
    """What a server without sessions uses."""
    with site() as one:
        time.sleep(1.0)
        before = cpu_s(one.server.pid), cpu_s(one.redis.pid)
        time.sleep(seconds)
        after = cpu_s(one.server.pid), cpu_s(one.redis.pid)
        server, redis = ((end - start) / seconds for start, end in zip(before, after, strict=True))
        return said("nobody there", {"server_cores": server, "redis_cores": redis})


def said(what: str, figures: dict[str, float]) -> dict[str, float]:
    """Print figures, and give them back."""
    print(f"{what}: " + ", ".join(f"{name} {value:,.3f}".rstrip("0").rstrip(".") for name, value in figures.items()))
    sys.stdout.flush()
    return figures


def main() -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: to see that it works")
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    part = 10 if args.quick else 1
    seconds = 20.0 / part
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print(f"{now}, {machine}, load of the machine before: {os.getloadavg()[0]:.1f}")
    found = {
        "date": now,
        "load": os.getloadavg()[0],
        "nobody": idle_server(seconds),
        "idle": idle_sessions(IDLE // part, own_streams=False),
        "idle_own_streams": idle_sessions(OWN_STREAMS // part, own_streams=True),
        "crowd": crowd(IDLE // part, ACTIVE // part, RATE / part, 3 * seconds),
        "operations": costs(seconds / 2),
        "artifacts": artifacts(ARTIFACTS[: -1 if args.quick else None]),
    }
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
