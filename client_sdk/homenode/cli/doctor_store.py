"""The doctor's look at a store itself: Redis policy and persistence, a SQLite file and its disk."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from homenode.cli import doctor_machine
from homenode.cli.doctor_machine import FREE_BYTES_MIN
from homenode.cli.exits import CliError, Exit
from homenode.cli.findings import FAULT, NOTE, OK, WARN, Finding

REDIS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
CLUSTER = "+cluster"
MEMORY_PART_MAX = 0.8
CALLS = 20
SLOW_MS = 20
CLOCK_WARN_MS = 1_000
ASKED = ("appendfsync", "maxmemory-policy", "min-replicas-to-write")
WAL_BYTES_MAX = 1 << 30


def checked(url: str, password_file: str) -> str:
    """The store's address, with its password. Raises CliError for one that names no store."""
    scheme = url.partition(":")[0]
    plain = scheme.removesuffix(CLUSTER)
    if plain not in REDIS and scheme != "memory" and not (url.startswith("sqlite:///") and url != "sqlite:///"):
        raise CliError(
            f"not a store: {url!r}; there are redis, rediss (also +sentinel, +cluster), unix, sqlite:///F, memory",
            Exit.USAGE,
        )
    if plain in REDIS:
        try:
            from homenode_directory.config import Settings, store_url
            from homenode_directory.errors import ConfigError
        except ImportError:
            raise CliError("looking at Redis needs: pip install 'homenode[server]'", Exit.MISSING_EXTRA) from None
        try:
            url = store_url(Settings(store=url, store_password_file=password_file))
        except ConfigError as error:
            raise CliError(str(error), Exit.USAGE) from None
        for _, node in _nodes(url):
            _links(node)
    return url


def is_here(url: str) -> bool:
    """Whether a Redis of this address runs on this machine."""
    scheme, _, rest = url.partition("://")
    authority = rest.partition("/")[0].rpartition("@")[2]
    return scheme == "unix" or (scheme.removesuffix(CLUSTER) in REDIS and doctor_machine.is_here(authority))


async def examine_store(url: str, *, strict: bool = False) -> AsyncIterator[Finding]:
    """Findings about the store at an address from `checked`. `strict`: artifacts are, if nobody says otherwise."""
    scheme = url.partition(":")[0]
    if scheme.removesuffix(CLUSTER) in REDIS:
        nodes = _nodes(url)
        for host, node in nodes:
            async for finding in _redis(node, strict):
                yield finding if len(nodes) == 1 else replace(finding, found=f"{host}: {finding.found}")
    elif scheme == "memory":
        yield Finding("store", WARN, "memory: everything ends with the server", "use sqlite:///FILE or Redis")
    else:
        for finding in sqlite(Path(url.removeprefix("sqlite:///"))):
            yield finding


def _nodes(url: str) -> list[tuple[str, str]]:
    """The store's own address; of a cluster, the named nodes, each with an address of its own."""
    scheme, _, rest = url.partition("://")
    if not scheme.endswith(CLUSTER):
        return [("", url)]
    authority, slash, path = rest.partition("/")
    user, at, hosts = authority.rpartition("@")
    scheme = scheme.removesuffix(CLUSTER)
    return [(host, f"{scheme}://{user}{at}{host}{slash}{path}") for host in hosts.split(",")]


def _links(url: str) -> Any:
    """A connection pool, not connected yet. Raises CliError for what is no address."""
    try:
        from homenode_directory.store.redis_link import Links
    except ImportError:
        raise CliError("looking at Redis needs: pip install 'homenode[server]'", Exit.MISSING_EXTRA) from None
    try:
        parts = urlsplit(url)
        # `name` and `allow_eviction` are the directory's own words in a store's address, not Redis's.
        query = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("name", "allow_eviction")]
        plain = urlunsplit(parts._replace(query=urlencode(query)))
        return Links(plain, size=1, connect_timeout_ms=3_000, command_timeout_ms=5_000)
    except ValueError as error:
        raise CliError(f"not a Redis address: {error}", Exit.USAGE) from None


async def _redis(url: str, strict: bool) -> AsyncIterator[Finding]:
    from homenode_directory.store.base import StoreError

    links = _links(url)
    try:
        (info,) = await links.call(("INFO", "everything"))
        config: dict[str, str] = {}
        for name in ASKED:
            try:
                _, value = (await links.call(("CONFIG", "GET", name)))[0]
                config[name] = value.decode()
            except (StoreError, ValueError):  # a managed Redis, or a user who may not
                continue
        for finding in redis(parse_info(info.decode()), config, strict=strict):
            yield finding
        yield await _clock_and_latency(links)
    except StoreError as error:
        yield Finding("redis", FAULT, str(error), "start it, or correct the address, password or TLS in --store")
    finally:
        await links.close()


async def _clock_and_latency(links: Any) -> Finding:
    """How far the store is from here, and what it thinks that time it is."""
    took, off_ms = [], 0.0
    for _ in range(CALLS):
        before = time.time()
        (reply,) = await links.call(("TIME",))
        after = time.time()
        took.append(1000 * (after - before))
        seconds, micros = map(int, reply)
        off_ms = 1000 * (seconds + micros / 1e6 - (before + after) / 2)
    took.sort()
    median = took[CALLS // 2]
    found = f"a call from here takes {median:.2f} ms (median), its clock differs by {abs(off_ms):.0f} ms"
    if abs(off_ms) > CLOCK_WARN_MS:
        advice = "leases do not depend on it, but times shown do: set up NTP on both machines"
        return Finding("store clock", WARN, found, advice)
    slow = median > SLOW_MS
    advice = "from a server every commit takes that and more: put servers near the store" if slow else ""
    return Finding("store clock", WARN if slow else OK, found, advice)


def parse_info(text: str) -> dict[str, str]:
    """The answer of INFO as fields."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def redis(info: Mapping[str, str], config: Mapping[str, str], *, strict: bool = False) -> list[Finding]:
    """Findings from what INFO and CONFIG GET say; `config` is empty where CONFIG is refused."""
    return [
        _version(info), _eviction(info, config), _memory(info), *_persistence(info, config, strict),
        *_replication(info, config, strict), *_connections(info),
    ]  # fmt: skip


def _version(info: Mapping[str, str]) -> Finding:
    version = info.get("redis_version", "0")
    name = "valkey" if "valkey_version" in info else "redis"
    shown = info.get("valkey_version", version)
    if int(version.partition(".")[0] or 0) < 7:
        return Finding(name, FAULT, f"version {shown}", "7.0 or later is needed")
    return Finding(name, OK, f"version {shown}, {info.get('redis_mode', 'standalone')}")


def _eviction(info: Mapping[str, str], config: Mapping[str, str]) -> Finding:
    policy = config.get("maxmemory-policy") or info.get("maxmemory_policy", "")
    if policy == "noeviction":
        return Finding("eviction", OK, "maxmemory-policy noeviction")
    return Finding(
        "eviction",
        FAULT if policy else WARN,
        f"maxmemory-policy {policy or 'is not told'}",
        "CONFIG SET maxmemory-policy noeviction (and in redis.conf): what is evicted is a lost lease or version",
    )


def _memory(info: Mapping[str, str]) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    whole = int(info.get("total_system_memory", 0))
    if not limit:
        level = WARN if whole and used > MEMORY_PART_MAX * whole else NOTE
        found = f"{used >> 20} MiB used, no limit, of {whole >> 20} MiB of the machine"
        return Finding(
            "memory", level, found, "set maxmemory below what the machine has: half of it leaves room to fork"
        )
    found = f"{used >> 20} of {limit >> 20} MiB used"
    if used > MEMORY_PART_MAX * limit:
        return Finding(
            "memory", WARN, found, "at the limit commits are refused: raise maxmemory, or keep fewer versions"
        )
    if whole and limit > MEMORY_PART_MAX * whole:
        advice = "lower maxmemory: Redis needs room beside it when it forks to rewrite its file"
        return Finding("memory", WARN, f"{found}; the machine has {whole >> 20} MiB", advice)
    return Finding("memory", OK, found)


def _persistence(info: Mapping[str, str], config: Mapping[str, str], strict: bool) -> list[Finding]:
    if info.get("aof_enabled") != "1":
        found = "appendonly no: a restart loses what was committed since the last snapshot, or everything"
        advice = "CONFIG SET appendonly yes (and in redis.conf); clients notice a loss, but cannot undo it"
        return [Finding("persistence", FAULT if strict else WARN, found, advice)]
    fsync = config.get("appendfsync", "not told")
    level, advice, writes = OK, "", "well"
    if info.get("aof_last_write_status", "ok") != "ok":
        level, advice = FAULT, "Redis cannot write its append-only file: look at the disk and at Redis's log"
        writes = "failing"
    elif info.get("aof_last_bgrewrite_status", "ok") != "ok":
        level, advice = WARN, "Redis cannot rewrite its file, which grows: look at memory, disk, vm.overcommit_memory"
        writes = "well, rewrites failing"
    elif fsync == "no":
        level, advice = WARN, "CONFIG SET appendfsync everysec, or always for no acknowledged loss at all"
    elif fsync == "everysec":
        level = WARN if strict else OK
        advice = "a crash of the machine may lose the last second; appendfsync always loses nothing, and costs latency"
    return [Finding("persistence", level, f"appendonly yes, appendfsync {fsync}, writes {writes}", advice)]


def _replication(info: Mapping[str, str], config: Mapping[str, str], strict: bool) -> list[Finding]:
    role, replicas = info.get("role", ""), info.get("connected_slaves", "0")
    if role and role != "master":
        return [Finding("replication", FAULT, f"this is a {role}", "give the primary's address: replicas lag behind")]
    wanted = config.get("min-replicas-to-write", "0")
    if replicas == "0":
        if wanted != "0":
            advice = "start the replicas, or CONFIG SET min-replicas-to-write 0: until then every commit is refused"
            return [Finding("replication", FAULT, f"no replicas, and min-replicas-to-write {wanted}", advice)]
        return []
    found = f"{replicas} replicas" + (f", min-replicas-to-write {wanted}" if wanted != "0" else "")
    advice = (
        f"a failover may lose acknowledged commits, noticed as a new incarnation; --wait-replicas {replicas} on every "
        "server waits for them, and strict artifacts need it"
    )
    return [Finding("replication", WARN if strict else NOTE, found, advice)]


def _connections(info: Mapping[str, str]) -> list[Finding]:
    used, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    if most and used > MEMORY_PART_MAX * most:
        advice = "raise maxclients, and ulimit -n of Redis: servers that cannot connect refuse everything"
        return [Finding("connections", WARN, f"{used} of {most}", advice)]
    return []


def sqlite(path: Path) -> list[Finding]:
    """Findings about a SQLite file, without opening it: its directory holds its lock."""
    if not path.exists():
        return [
            Finding("sqlite", FAULT, f"there is no {path}", "give the file that `homenode serve --store` was given")
        ]
    size = path.stat().st_size
    findings = [Finding("sqlite", OK, f"{path}, {size / 1e6:.1f} MB")]
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        findings.append(
            Finding("permissions", WARN, "not writable by this user", "the server's user must own file and folder")
        )
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size > WAL_BYTES_MAX:
        advice = "somebody reads the file for long: end that; it is cut when the last reader has gone"
        findings.append(Finding("write-ahead log", WARN, f"{wal} has {wal.stat().st_size >> 20} MiB", advice))
    free = doctor_machine.room(path.parent)
    if free < FREE_BYTES_MIN:
        advice = "make room: commits are refused when the disk is full; what is acknowledged stays"
        findings.append(Finding("disk", WARN, f"{free >> 20} MiB free", advice))
    else:
        findings.append(Finding("disk", OK, f"{free >> 30} GiB free"))
    return findings
