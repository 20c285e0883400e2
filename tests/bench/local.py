"""Rows without a network: hits, the rule book, and the embedded directory."""

from __future__ import annotations

from tests.bench.rows import Figures, Row, group
from tests.bench.running import Bench
from tests.bench.throughput import PER_S, compared, series


@group(
    Row("hit_dict", "`read_cached`, a hit", "look-up in a plain dict", "ns", 10, moonshot=3.5),
    Row("hit_await", "`await read`, a hit", "look-up in a plain dict", "ns", 16, moonshot=13),
    Row(
        "hit_csc",
        "`read_cached`, a hit",
        "redis-py client-side caching, a hit",
        "ns",
        150,
        True,
        times_faster=True,
        moonshot=500,
    ),
)
def hits(bench: Bench) -> Figures:
    """CPU time of one thread, so that a busy machine does not count."""
    load = bench.alone("local_load.hits", 1, redis_port=bench.redis.port)
    rounds = bench.take_turns({"hits": load})["hits"]
    plain, ours = series(rounds, "dict_ns"), series(rounds, "read_cached_ns")
    return Figures(
        pairs={
            "hit_dict": (ours, plain),
            "hit_await": (series(rounds, "await_ns"), plain),
            "hit_csc": (ours, series(rounds, "csc_ns")),
        }
    )


@group(Row("step", "`step` on a typical event", "", "us", 15, moonshot=5))
def steps(bench: Bench) -> Figures:
    """CPU time of one thread."""
    rounds = bench.take_turns({"step": bench.alone("local_load.steps", 1)})["step"]
    return Figures(pairs={"step": (series(rounds, "step_us"), [])})


@group(
    Row(
        "embedded",
        "durable commit of a change in 1 KiB on SQLite, 64 sessions of one process",
        "bare SQLite, one transaction each",
        PER_S,
        5,
        True,
        moonshot=20,
    ),
)
def embedded(bench: Bench) -> Figures:
    """Both `synchronous=FULL` in write-ahead mode, in one folder."""
    ours = bench.alone("homenode_load.embedded_commit", 64, path=str(bench.folder / "embedded.sqlite3"))
    peer = bench.alone("sqlite_load.swap", 1, path=str(bench.folder / "bare.sqlite3"))
    return compared(bench, ours, {"embedded": ("SQLite", peer)})[0]
