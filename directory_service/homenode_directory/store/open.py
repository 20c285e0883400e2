"""From a store's address to a store that is not open yet."""

from __future__ import annotations

import secrets
import time
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from homenode_directory.store.base import Store, StoreError
from homenode_directory.store.memory_store import DEFAULT_LOG_MAX, DEFAULT_SLICES, Memory, MemoryStore
from homenode_directory.store.sqlite_store import SqliteStore

SQLITE = "sqlite:///"
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


def open_store(
    url: str, *, slices: int = DEFAULT_SLICES, log_max: int = DEFAULT_LOG_MAX, wait_replicas: int = 0
) -> Store:
    """The store at an address; call its `open` next.

    `sqlite:///FILE` (a fourth slash begins an absolute path), `redis://HOST:PORT/DB`, `rediss://…`, `unix:///SOCKET`,
    `redis+sentinel://HOST:PORT,HOST:PORT/NAME/DB` (the primary that these Sentinels call NAME; `rediss+sentinel` with
    TLS; `?sentinel_username=` and `?sentinel_password=` where they want them), `redis+cluster://HOST:PORT,HOST:PORT`
    (any nodes of a cluster), or `memory://`, which ends with the process. For Redis, `?name=N` tells several stores in
    one database apart (default `hn`) and `?allow_eviction=1` accepts a server that may evict; the rest is as in
    redis-py's URLs.

    Args:
        url: the address.
        slices: number of slices, where the store is new; an existing store keeps its own.
        log_max: most entries of a slice's log, whatever happens; the sweeper trims earlier.
        wait_replicas: how many replicas of a Redis must have a commit before it is answered.

    Raises:
        StoreError: the address is not one of these, the part that it needs is not installed, or it is to wait for
            replicas and has none.
    """
    scheme = url.partition(":")[0]
    if wait_replicas and scheme in ("memory", "sqlite"):
        raise StoreError(f"a {scheme} store has no replicas to wait for")
    if scheme == "memory":
        memory = Memory(lambda: time.time_ns() // 1_000_000, lambda: secrets.token_hex(8), log_max=log_max)
        return MemoryStore(memory, slices=slices)
    if scheme == "sqlite":
        if not url.startswith(SQLITE) or url == SQLITE:
            raise StoreError("a SQLite store is written sqlite:///FILE, or sqlite:////FILE from the root")
        return SqliteStore(url.removeprefix(SQLITE), slices=slices, log_max=log_max)
    if scheme in REDIS_SCHEMES:
        return _redis(url, slices, log_max, wait_replicas)
    raise StoreError(f"no store has the scheme {scheme!r}; there are sqlite, memory, {', '.join(REDIS_SCHEMES)}")


def _redis(url: str, slices: int, log_max: int, wait_replicas: int) -> Store:
    try:
        from homenode_directory.store.redis_cluster import CLUSTER, ClusterStore
        from homenode_directory.store.redis_store import RedisStore
    except ImportError as error:
        raise StoreError(f"a Redis store needs the extra homenode[server]: {error}") from None
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    name = query.pop("name", "hn")
    allow_eviction = query.pop("allow_eviction", "0") == "1"
    if not name or set(name) & set("{}#"):
        raise StoreError("a Redis store's name has no braces and no #")
    try:
        plain = urlunsplit(parts._replace(query=urlencode(query)))
        kind = ClusterStore if parts.scheme.endswith(CLUSTER) else RedisStore
        return kind(
            plain,
            name=name,
            slices=slices,
            log_max=log_max,
            allow_eviction=allow_eviction,
            wait_replicas=wait_replicas,
        )
    except ValueError as error:
        raise StoreError(f"not a Redis address: {error}") from None
