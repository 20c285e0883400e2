"""Rows of large contents and of many sessions at rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.processes import ROOT, ServerProcess, memory_bytes
from tests.bench.rows import Figures, Row, group
from tests.bench.running import Bench, ProcessLoad
from tests.bench.throughput import compared, series
from tests.support.ports import HOST

LARGE = 16 << 20
MEDIUM = 1 << 20
IDLE = 5_000


@contextmanager
def unary_server(size: int) -> Iterator[tuple[str, int]]:
    """(address, process id) of a plain gRPC server that answers with `size` bytes."""
    words = [sys.executable, "-m", "tests.bench.unary_server", str(size)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdin is not None
        yield f"{HOST}:{int(process.stdout.readline())}", process.pid
        process.stdin.close()


@group(
    Row(
        "large_16m",
        "read of 16 MiB, p50",
        "gRPC unary call, the same bytes in a protobuf message, p50",
        "ms",
        4,
        True,
        times_faster=True,
        moonshot=5.5,
    )
)
def large_16m(bench: Bench) -> Figures:
    """Random bytes, which no encoding makes smaller; a session that has nothing at hand."""
    with unary_server(LARGE) as (address, pid):
        peer = ProcessLoad("bodies_load.unary", address, 1, {}, {"peer": pid})
        return compared(bench, bench.ours("bodies_load.whole", 1, size=LARGE), {"large_16m": ("gRPC", peer)}, "p50_ms")[
            0
        ]


@group(
    Row(
        "delta_1m",
        "read again after a one-line edit of 1 MiB, p50",
        "read of the whole 1 MiB, p50",
        "ms",
        10,
        True,
        times_faster=True,
    ),
    Row("delta_1m_bytes", "bytes of the session stream for it", "", "bytes", 1_024),
)
def delta_1m(bench: Bench) -> Figures:
    """The peer is our own read with nothing at hand."""
    peers = {"delta_1m": ("whole", bench.ours("bodies_load.whole", 1, size=MEDIUM))}
    figures, sides = compared(bench, bench.ours("bodies_load.refetch", 1, size=MEDIUM), peers, "p50_ms")
    figures.pairs["delta_1m_bytes"] = series(sides["homenode"], "wire_bytes"), []
    return figures


@group(
    Row(
        "sessions_5000",
        "server memory for each idle session of 5,000, on two streams",
        "",
        "bytes",
        64 * 1_024,
        moonshot=8 * 1_024,
    )
)
def sessions_5000(bench: Bench) -> Figures:
    """A server of its own; what 100 sessions make it load and import is not counted."""
    server = ServerProcess(bench.redis.url, bench.folder / "idle.log")
    try:
        server.wait_ready()
        pids = {"server": server.pid}
        few = ProcessLoad("homenode_load.idle", server.address, 100, {}, pids)
        before = memory_bytes(server.pid)
        many = ProcessLoad("homenode_load.idle", server.address, IDLE, {}, pids)
        many.measure(3.0)
        grown = (memory_bytes(server.pid) - before) / IDLE
        many.close()
        few.close()
    finally:
        server.close()
    return Figures(pairs={"sessions_5000": ([grown], [])})
