"""The doctor's look at a store itself: Redis policy and persistence, a SQLite file and its disk."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

from homenode.cli.doctor import FAULT, NOTE, OK, WARN, Finding
from homenode.cli.exits import CliError, Exit

REDIS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
CLUSTER = "+cluster"
FREE_BYTES_MIN = 256 << 20
MEMORY_PART_MAX = 0.8


async def examine_store(url: str) -> AsyncIterator[Finding]:
    """Findings about the store at `url`. Raises CliError for an address that names none."""
    scheme = url.partition(":")[0]
    if scheme in REDIS:
        async for finding in _redis(url):
            yield finding
    elif scheme.removesuffix(CLUSTER) in REDIS:
        for host, node in _nodes(url):
            async for finding in _redis(node):
                yield replace(finding, found=f"{host}: {finding.found}")
    elif url.startswith("sqlite:///"):
        for finding in sqlite(Path(url.removeprefix("sqlite:///"))):
            yield finding
    elif scheme == "memory":
        yield Finding("store", WARN, "memory: everything ends with the server", "use sqlite:///FILE or Redis")
    else:
        raise CliError(
            f"not a store: {url!r}; there are redis, rediss (also +sentinel, +cluster), unix, sqlite and memory",
            Exit.USAGE,
        )


def _nodes(url: str) -> list[tuple[str, str]]:
    """The named nodes of a cluster, each with an address of its own."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, hosts = authority.rpartition("@")
    scheme = scheme.removesuffix(CLUSTER)
    return [(host, f"{scheme}://{user}{at}{host}{slash}{path}") for host in hosts.split(",")]


async def _redis(url: str) -> AsyncIterator[Finding]:
    try:
        from homenode_directory.store.base import StoreError
        from homenode_directory.store.redis_link import Links
    except ImportError:
        raise CliError("looking at Redis needs: pip install 'homenode[server]'", Exit.MISSING_EXTRA) from None
    from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

    parts = urlsplit(url)
    # `name` and `allow_eviction` are the directory's own words in a store's address, not Redis's.
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("name", "allow_eviction")]
    try:
        plain = urlunsplit(parts._replace(query=urlencode(query)))
        links = Links(plain, size=1, connect_timeout_ms=3_000, command_timeout_ms=5_000)
    except ValueError as error:
        raise CliError(f"not a Redis address: {error}", Exit.USAGE) from None
    try:
        (info,) = await links.call(("INFO", "everything"))
        config: dict[str, str] = {}
        for name in ("appendfsync", "maxmemory-policy"):
            try:
                _, value = (await links.call(("CONFIG", "GET", name)))[0]
                config[name] = value.decode()
            except (StoreError, ValueError):  # a managed Redis, or a user who may not
                continue
    except StoreError as error:
        yield Finding("redis", FAULT, str(error), "start it, or correct the address, password or TLS in --store")
        return
    finally:
        await links.close()
    for finding in redis(parse_info(info.decode()), config):
        yield finding


def parse_info(text: str) -> dict[str, str]:
    """The answer of INFO as fields."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def redis(info: Mapping[str, str], config: Mapping[str, str]) -> list[Finding]:
    """Findings from what INFO and CONFIG GET say; `config` is empty where CONFIG is refused."""
    return [_version(info), _eviction(info, config), _memory(info), *_persistence(info, config), *_replication(info)]


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
    if not limit:
        return Finding("memory", NOTE, f"{used >> 20} MiB used, no limit", "set maxmemory below what the machine has")
    if used > MEMORY_PART_MAX * limit:
        return Finding(
            "memory",
            WARN,
            f"{used >> 20} of {limit >> 20} MiB used",
            "at the limit commits are refused: raise maxmemory",
        )
    return Finding("memory", OK, f"{used >> 20} of {limit >> 20} MiB used")


def _persistence(info: Mapping[str, str], config: Mapping[str, str]) -> list[Finding]:
    if info.get("aof_enabled") != "1":
        return [
            Finding(
                "persistence",
                WARN,
                "appendonly no: a restart loses what was committed since the last snapshot, or everything",
                "CONFIG SET appendonly yes (and in redis.conf); clients notice a loss, but cannot undo it",
            )
        ]
    broken = info.get("aof_last_write_status", "ok") != "ok"
    fsync = config.get("appendfsync", "not told")
    level, advice = OK, ""
    if broken:
        level, advice = FAULT, "Redis cannot write its append-only file: look at the disk and at Redis's log"
    elif fsync == "no":
        level, advice = WARN, "CONFIG SET appendfsync everysec, or always for no acknowledged loss at all"
    elif fsync == "everysec":
        advice = "a crash of the machine may lose the last second; appendfsync always loses nothing, and costs latency"
    write = "failing" if broken else "well"
    return [Finding("persistence", level, f"appendonly yes, appendfsync {fsync}, writes {write}", advice)]


def _replication(info: Mapping[str, str]) -> list[Finding]:
    role, replicas = info.get("role", ""), info.get("connected_slaves", "0")
    if role and role != "master":
        return [Finding("replication", FAULT, f"this is a {role}", "give the primary's address: replicas lag behind")]
    if replicas != "0":
        return [
            Finding(
                "replication",
                NOTE,
                f"{replicas} replicas",
                "a failover may lose acknowledged commits; they are noticed as a new incarnation",
            )
        ]
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
    room = os.statvfs(path.parent)
    free = room.f_bavail * room.f_frsize
    if free < FREE_BYTES_MIN:
        findings.append(Finding("disk", WARN, f"{free >> 20} MiB free", "commits are refused when the disk is full"))
    else:
        findings.append(Finding("disk", OK, f"{free >> 30} GiB free"))
    return findings
