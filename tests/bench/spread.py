"""Rows of one session alone, and of a change on its way to those who share the artifact."""

from __future__ import annotations

from tests.bench.rows import Figures, Row, group
from tests.bench.running import Bench
from tests.bench.throughput import compared


@group(
    Row(
        "acquire_1",
        "read that asks the directory, one session alone, p50",
        "etcd linearizable get, Python, p50",
        "ms",
        1.25,
        moonshot=0.5,
    )
)
def acquire_1(bench: Bench) -> Figures:
    """One operation under way."""
    peers = {"acquire_1": ("etcd, Python", bench.on_etcd("etcd_load.get", 1))}
    return compared(bench, bench.ours("homenode_load.acquire", 1), peers, "p50_ms")[0]


@group(
    Row(
        "commit_1",
        "durable commit of a change in 1 KiB, one session alone, p50",
        "etcd compare-and-set, Python, p50",
        "ms",
        1.2,
        moonshot=0.8,
    )
)
def commit_1(bench: Bench) -> Figures:
    """One operation under way."""
    peers = {"commit_1": ("etcd, Python", bench.on_etcd("etcd_load.swap", 1))}
    return compared(bench, bench.ours("homenode_load.commit", 1), peers, "p50_ms")[0]


@group(
    Row(
        "inval_1",
        "commit sent to one sharer's copy dropped, p50",
        "etcd, put to watcher, Python, p50",
        "ms",
        1.4,
        moonshot=0.7,
    ),
    Row("inval_1_csc", "the same", "redis-py client-side caching, set to the other's get, p50", "ms", 2, moonshot=1),
)
def inval_1(bench: Bench) -> Figures:
    """Writer and sharer have connections of their own."""
    peers = {
        "inval_1": ("etcd, Python", bench.on_etcd("spread_load.etcd_watchers", 1)),
        "inval_1_csc": ("redis-py", bench.on_redis("spread_load.redis_cache", 1)),
    }
    return compared(bench, bench.ours("spread_load.homenode_sharers", 1), peers, "p50_ms")[0]


@group(
    Row(
        "fanout_1000",
        "commit to the last of 1,000 sharers, 64 a stream, p99",
        "raw Redis pub/sub, 1,000 connections, p99",
        "ms",
        0.8,
        moonshot=0.3,
    ),
    Row("fanout_1000_etcd", "the same", "1,000 etcd watches on one stream, Python, p99", "ms", 0.1, moonshot=0.03),
)
def fanout_1000(bench: Bench) -> Figures:
    """The sharers read again before each commit, which is not timed."""
    peers = {
        "fanout_1000": ("Redis", bench.on_redis("spread_load.redis_subscribers", 1_000)),
        "fanout_1000_etcd": ("etcd, Python", bench.on_etcd("spread_load.etcd_watchers", 1_000)),
    }
    return compared(bench, bench.ours("spread_load.homenode_sharers", 1_000), peers, "p99_ms")[0]


@group(
    Row(
        "fanout_1000_own",
        "the same, one connection and stream each, p99",
        "1,000 etcd watches, one connection and stream each, Python, p99",
        "ms",
        1.4,
        moonshot=0.15,
    )
)
def fanout_1000_own(bench: Bench) -> Figures:
    """As if each sharer were a process of its own."""
    peers = {"fanout_1000_own": ("etcd, Python", bench.on_etcd("spread_load.etcd_watchers", 1_000, own_streams=True))}
    return compared(bench, bench.ours("spread_load.homenode_sharers", 1_000, per_stream=1), peers, "p99_ms")[0]
