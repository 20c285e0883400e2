"""Rows of many clients: reads that ask the directory, commits, contention."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.etcd_load import NativeLoad
from tests.bench.rows import Figures, Row, group
from tests.bench.running import Bench, CommandLoad, Load, Measured
from tests.bench.script_load import captured

PER_S = "operations/s"
SESSIONS = 64
NATIVE = "native load (h2load)"


def native(bench: Bench, kind: str, clients: int = SESSIONS) -> Load:
    """etcd under a native load."""
    load = NativeLoad(kind, bench.etcd.address, clients, bench.folder)
    return CommandLoad(load.words, load.read, {"etcd": bench.etcd.pid})


def compared(
    bench: Bench, ours: Load, peers: Mapping[str, tuple[str, Load]], figure: str = "per_s"
) -> tuple[Figures, dict[str, list[Measured]]]:
    """Rounds in turn; `peers` are (name to show, load) by the row that compares with them."""
    loads = {"homenode": ours} | (dict(peers.values()) if bench.peers else {})
    sides = bench.take_turns(loads)
    figures = Figures(sides=sides)
    for row, (name, _) in peers.items():
        figures.pairs[row] = series(sides["homenode"], figure), series(sides.get(name, []), figure)
    return figures, sides


def series(rounds: list[Measured], figure: str) -> list[float]:
    """One figure over the rounds."""
    return [measured[figure] for measured in rounds]


@group(
    Row(
        "acquire_64",
        "read that asks the directory, 64 sessions",
        "etcd linearizable get, Python",
        PER_S,
        4,
        True,
        moonshot=8,
    ),
    Row("acquire_64_native", "the same", f"etcd linearizable get, {NATIVE}", PER_S, 2.5, True, moonshot=5),
)
def acquire_64(bench: Bench) -> Figures:
    """Both sides: 64 clients of one process over one connection."""
    peers = {
        "acquire_64": ("etcd, Python", bench.on_etcd("etcd_load.get", SESSIONS)),
        "acquire_64_native": ("etcd, native", native(bench, "get")),
    }
    return compared(bench, bench.ours("homenode_load.acquire", SESSIONS), peers)[0]


@group(
    Row(
        "acquire_512",
        "read that asks the directory, 512 sessions",
        "the same script call on Redis, natively: 8 connections, 64 in a pipeline",
        PER_S,
        0.3,
        True,
        moonshot=0.8,
    ),
)
def acquire_512(bench: Bench) -> Figures:
    """How much of what the store can do is left when the directory stands before it."""
    one = bench.ours("homenode_load.acquire", 1)
    words = [word.hex() for word in captured(bench.redis.port, one)]
    peer = bench.on_redis("script_load.replay", 1, words=words)
    try:
        ours = bench.ours("homenode_load.acquire", 512)
        return compared(bench, ours, {"acquire_512": ("Redis", peer)})[0]
    finally:
        one.close()


@group(
    Row(
        "streams_64",
        "the same, 64 connections and streams",
        "etcd linearizable get, Python",
        PER_S,
        1,
        True,
        moonshot=4,
    ),
)
def streams_64(bench: Bench) -> Figures:
    """As if each session were a process of its own."""
    ours = bench.ours("homenode_load.acquire", SESSIONS, own_streams=True)
    return compared(bench, ours, {"streams_64": ("etcd, Python", bench.on_etcd("etcd_load.get", SESSIONS, own=True))})[
        0
    ]


@group(
    Row(
        "commit_64",
        "durable commit of a change in 1 KiB, 64 sessions",
        "etcd compare-and-set, Python",
        PER_S,
        5,
        True,
        moonshot=10,
    ),
    Row("commit_64_native", "the same", f"etcd compare-and-put, {NATIVE}", PER_S, 4, True, moonshot=8),
    Row("commit_p99", "the same, p99", "etcd compare-and-set, Python, p99", "ms", 0.25, moonshot=0.1),
)
def commit_64(bench: Bench) -> Figures:
    """Both on disk before the answer."""
    peers = {
        "commit_64": ("etcd, Python", bench.on_etcd("etcd_load.swap", SESSIONS)),
        "commit_64_native": ("etcd, native", native(bench, "swap")),
    }
    figures, sides = compared(bench, bench.ours("homenode_load.commit", SESSIONS), peers)
    figures.pairs["commit_p99"] = series(sides["homenode"], "p99_ms"), series(sides.get("etcd, Python", []), "p99_ms")
    return figures


@group(
    Row(
        "batch_64",
        "durable commits, 512 sessions",
        "etcd transactions of 64 compare-and-sets, 8 at once, Python",
        PER_S,
        1,
        True,
        moonshot=1.5,
    ),
)
def batch_64(bench: Bench) -> Figures:
    """etcd's own way to batch is the honest peer for ours."""
    peers = {"batch_64": ("etcd, Python", bench.on_etcd("etcd_load.batch", 8, batch=64))}
    return compared(bench, bench.ours("homenode_load.commit", 512), peers)[0]


@group(
    Row(
        "hot_64",
        "64 sessions edit one artifact until it holds",
        "etcd compare-and-set with retry, Python",
        PER_S,
        4,
        True,
        moonshot=8,
    ),
    Row("hot_64_p99", "the same, p99", "etcd compare-and-set with retry, Python, p99", "ms", 1),
)
def hot_64(bench: Bench) -> Figures:
    """An operation is an edit that took effect."""
    peers = {"hot_64": ("etcd, Python", bench.on_etcd("etcd_load.hot", SESSIONS))}
    figures, sides = compared(bench, bench.ours("homenode_load.hot", SESSIONS), peers)
    figures.pairs["hot_64_p99"] = series(sides["homenode"], "p99_ms"), series(sides.get("etcd, Python", []), "p99_ms")
    return figures


@group(
    Row(
        "unary_64",
        "one call for each durable commit, 64 clients",
        "etcd compare-and-set, Python",
        PER_S,
        0.8,
        True,
        moonshot=1.5,
    ),
)
def unary_64(bench: Bench) -> Figures:
    """Without the session stream: any gRPC client."""
    ours = bench.ours("homenode_load.unary_commit", SESSIONS)
    return compared(bench, ours, {"unary_64": ("etcd, Python", bench.on_etcd("etcd_load.swap", SESSIONS, own=True))})[0]
