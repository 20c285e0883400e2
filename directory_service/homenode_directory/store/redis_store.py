"""A store in Redis (7.0 or later) or Valkey.

Layout, for a store named `hn` and slice 3; the hash tag keeps a slice on one shard of a cluster:

  hn#store        hash: format, slices
  {hn:3}#log      stream: one entry for each call that appended, id `sequence-0` of its last log entry; fields: `n`, the
                  log entries' lengths, and `d`, their bytes in a row
  {hn:3}:meta     hash: number, token, identity (the adopted process's run_id), head, offset, kept (least sequence that
                  a trim has left)
  {hn:3}:KEY      hash for a record, sorted set for a ranked set, string for a blob
  {hn:3}#touch    string: written before each WAIT
  hn#hint         pub/sub channel: `origin slice head` after each call that appended, if anybody but the client that
                  called, which is the origin, has subscribed

A commit is one call of `commit.lua`. It carries the adopted incarnation's token and the `run_id` of the process that
its connection reaches; the script compares both with the meta record. So FLUSHALL (no meta record), an empty or older
restart and a failover (another run_id) end in StoreChanged until `adopt`, itself a compare-and-set, takes over.
Blobs travel on connections of their own, because a large value holds up whatever is behind it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from redis.exceptions import NoScriptError, OutOfMemoryError

from homenode_directory.store.base import (
    META,
    OFFSET,
    Commit,
    Condition,
    Incarnation,
    LogTrimmed,
    Outcome,
    StoreChanged,
    StoreError,
    StoreFull,
)
from homenode_directory.store.memory_store import DEFAULT_LOG_MAX, DEFAULT_SLICES
from homenode_directory.store.redis_link import Command, Links, raise_errors
from homenode_directory.store.redis_script import ADOPT, COMMIT, RELIEF, TRIM, Call, whole

FORMAT = "2"
ROW_ENTRIES = 8  # how many log entries a call is expected to append, when a part of the log is read
WAIT_MS = 1_000  # for replicas
TOUCH_S = 10**9
LEAST_VERSION = (7, 0)
LARGEST_EXACT = 2**53
SMALL_CALL_BYTES = 256 << 10  # a call with more content goes over the connections for blobs
_MULTI: Command = ("MULTI",)
_EXEC: Command = ("EXEC",)


class Script:
    """A script and the digest that calls it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = ""


class RedisStore:
    """A client of a store in Redis. Several may share one; they see each other's commits."""

    shared = True

    def __init__(
        self,
        url: str,
        *,
        name: str = "hn",
        slices: int = DEFAULT_SLICES,
        log_max: int = DEFAULT_LOG_MAX,
        connections_max: int = 16,
        blob_connections_max: int = 4,
        connect_timeout_ms: int = 3_000,
        command_timeout_ms: int = 5_000,
        blob_timeout_ms: int = 20_000,
        allow_eviction: bool = False,
        wait_replicas: int = 0,
        always_hint: bool = False,
        ids: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """`always_hint`: subscribers may be where this server does not see them, at other nodes of a cluster."""
        self.slices = slices
        self._name = name
        self._log_max = log_max
        self._ids = ids
        self.origin = ids()
        self._always_hint = always_hint
        self._own_hints = 0  # subscriptions; where there are more, others listen
        self._allow_eviction = allow_eviction
        self._wait_replicas = wait_replicas
        self._links = Links(
            url, size=connections_max, connect_timeout_ms=connect_timeout_ms, command_timeout_ms=command_timeout_ms
        )
        self._blob_links = Links(
            url, size=blob_connections_max, connect_timeout_ms=connect_timeout_ms, command_timeout_ms=blob_timeout_ms
        )
        self._commit = Script(COMMIT)
        self._relief = Script(RELIEF)
        self._adopt = Script(ADOPT)
        self._trim = Script(TRIM)

    async def open(self) -> None:
        """See `Store.open`. Also refuses a Redis that is too old, evicts, or holds another format."""
        await self.prepare()
        await self.join()

    async def prepare(self) -> None:
        """Check the server, and have the scripts there. Raises StoreError."""
        link = await self._links.take()
        version = link.version
        (memory,) = await self._links.run(link, [("INFO", "memory")])
        if version < LEAST_VERSION:
            raise StoreError(f"Redis {version[0]}.{version[1]} is too old: 7.0 or later is needed")
        self._check_policy(memory)
        for script in (self._commit, self._relief, self._adopt, self._trim):
            script.digest = (await self._links.call(("SCRIPT", "LOAD", script.source)))[0].decode()

    async def join(self) -> None:
        """Check the store's format, and take the number of slices that it has. Raises StoreError."""
        (stored,) = await self._links.call(("HGET", self._store_key, "format"))
        if stored is not None and stored != FORMAT.encode():
            raise StoreError(f"the store has format {stored.decode()}; this version reads format {FORMAT}")
        self.slices = await self._fix_slices()

    async def close(self) -> None:
        """See `Store.close`."""
        await self._links.close()
        await self._blob_links.close()

    async def adopt(self, slice_: int, at_least: int) -> Incarnation:
        """See `Store.adopt`."""
        if at_least >= LARGEST_EXACT:
            raise StoreError("an incarnation's number stays below 2^53")
        if await self._fix_slices() != self.slices:
            raise StoreError("the store was made anew with another number of slices; open it again")
        keys = (self._key(slice_, META), self._log_key(slice_))
        reply = await self._eval(slice_, self._adopt, keys, (at_least, self._ids()))
        return Incarnation(int(reply[0]), reply[1].decode())

    async def commit(
        self,
        slice_: int,
        incarnation: str,
        commits: Sequence[Commit],
        *,
        relief: bool = False,
        blobs: Sequence[tuple[str, bytes]] = (),
    ) -> list[Outcome]:
        """See `Store.commit`."""
        call = Call(f"{self._tag(slice_)}:", self._key(slice_, META), self._log_key(slice_))
        words: list[str | bytes | int] = [
            incarnation, f"{self.origin} {slice_}", self._channel, -1 if self._always_hint else self._own_hints,
            self._log_max, *call.packed(commits),
        ]  # fmt: skip
        first: list[Command] = [("SET", self._key(slice_, key), data, "NX") for key, data in blobs]
        large = sum(len(data) for _, data in blobs) > SMALL_CALL_BYTES
        links = self._blob_links if large else self._links
        script = self._relief if relief else self._commit
        return call.outcomes(await self._eval(slice_, script, call.keys(), words, first, links))

    async def load(self, slice_: int, keys: Sequence[str], names: Sequence[str] = ()) -> list[Mapping[str, str]]:
        """See `Store.load`."""
        if not keys:
            return []
        link = await self._links.take()
        read = "HMGET" if names else "HGETALL"
        reads: list[Command] = [(read, self._key(slice_, key), *names) for key in keys]
        replies = await self._links.run(link, [*reads, *self._replicated(slice_)])
        self._require_replicas(replies)  # it may be an answer that is given then
        found = raise_errors(replies[: len(reads)])
        if names:
            return [
                {name: value.decode() for name, value in zip(names, values, strict=True) if value is not None}
                for values in found
            ]
        return [whole(b"hash", flat) for flat in found]  # type: ignore[misc]

    async def ranked(self, slice_: int, key: str) -> Mapping[str, int]:
        """See `Store.ranked`."""
        reply = await self._links.call(("ZRANGE", self._key(slice_, key), 0, -1, "WITHSCORES"))
        return whole(b"zset", reply[0])  # type: ignore[return-value]

    async def by_prefix(self, slice_: int, key: str, prefix: str, after: str, limit: int) -> list[str]:
        """See `Store.by_prefix`."""
        low = b"(" + after.encode() if after >= prefix else b"[" + prefix.encode()
        raw = prefix.encode()
        # UTF-8 has no byte 0xff, so the last byte can always be raised.
        high = b"(" + raw[:-1] + bytes([raw[-1] + 1]) if raw else b"+"
        command: Command = ("ZRANGEBYLEX", self._key(slice_, key), low, high, "LIMIT", 0, limit)
        return [member.decode() for member in (await self._links.call(command))[0]]

    async def by_score(self, slice_: int, key: str, limit: int) -> tuple[list[tuple[str, int]], int]:
        """See `Store.by_score`."""
        time, offset, flat = await self._links.call(
            ("TIME",),
            ("HGET", self._key(slice_, META), OFFSET),
            ("ZRANGE", self._key(slice_, key), 0, limit - 1, "WITHSCORES"),
        )
        members: Mapping[str, Any] = whole(b"zset", flat)
        return list(members.items()), _ms(time) + int(offset or 0)

    async def read_log(
        self, slice_: int, after: int, limit: int, *, incarnation: str | None = None
    ) -> tuple[list[tuple[int, bytes]], int]:
        """See `Store.read_log`."""
        entries: list[tuple[int, bytes]] = []
        head = after
        while len(entries) < limit:
            count = max(1, (limit - len(entries)) // ROW_ENTRIES)
            found, rows, stored = await self._read_rows(slice_, after + len(entries), count, incarnation)
            head = head if entries else stored
            entries += found
            if rows < count:
                break
        # A stream hides what was trimmed from it; sequences are dense, so a gap shows.
        dense = all(sequence == after + 1 + i for i, (sequence, _) in enumerate(entries))
        if after > head or not dense or len(entries) < min(limit, head - after):
            raise LogTrimmed(f"slice {slice_} does not keep all that follows {after}; its head is {head}", head)
        return entries[:limit], head

    async def _read_rows(
        self, slice_: int, after: int, count: int, incarnation: str | None
    ) -> tuple[list[tuple[int, bytes]], int, int]:
        """Log entries above a sequence, of up to `count` calls; how many calls that were; and the head before."""
        link = await self._links.take()
        run_id, meta = link.run_id, self._key(slice_, META)
        replies = await self._links.run(
            link,
            [
                ("HMGET", meta, "token", "identity", "head", "kept"),
                ("XRANGE", self._log_key(slice_), f"{after + 1}-0", "+", "COUNT", count),
                ("HGET", meta, "token"),
            ],
        )
        (token, identity, head, kept), rows, token_after = raise_errors(replies)
        # Tokens are never used again, so the same one before and after vouches for the entries in between. (MULTI would
        # do as well, but is refused, reads and all, when Redis is out of memory.)
        if incarnation is not None and not (
            token == token_after == incarnation.encode() and identity == run_id.encode()
        ):
            raise StoreChanged("the slice's memory is not the one that was adopted")
        least = max(after + 1, int(kept or 0))
        entries = [entry for row_id, fields in rows for entry in _unpacked(row_id, fields) if entry[0] >= least]
        return entries, len(rows), int(head or 0)

    async def heads(self, slices: Mapping[int, str]) -> Mapping[int, int | None]:
        """See `Store.heads`."""
        link = await self._links.take()
        identity = link.run_id.encode()
        fields = ("token", "identity", "head")
        reads: list[Command] = [("HMGET", self._key(s, META), *fields) for s in slices]
        replies = await self._links.run(link, [*reads, *self._replicated(next(iter(slices), 0))])
        self._require_replicas(replies)
        rows = raise_errors(replies[: len(reads)])
        return {
            slice_: int(head or 0) if (token, owner) == (adopted.encode(), identity) else None
            for (slice_, adopted), (token, owner, head) in zip(slices.items(), rows, strict=True)
        }

    async def trim_log(self, slice_: int, keep_from: int) -> None:
        """See `Store.trim_log`."""
        await self._eval(slice_, self._trim, (self._key(slice_, META), self._log_key(slice_)), (keep_from,))

    async def put_blobs(self, slice_: int, blobs: Sequence[tuple[str, bytes]]) -> None:
        """See `Store.put_blobs`."""
        link = await self._blob_links.take()
        replies = await self._blob_links.run(link, [("SET", self._key(slice_, key), data, "NX") for key, data in blobs])
        for reply in replies:
            _check_room(reply)
        raise_errors(replies)

    async def get_blob(self, slice_: int, key: str) -> bytes | None:
        """See `Store.get_blob`."""
        data: bytes | None = (await self._blob_links.call(("GET", self._key(slice_, key))))[0]
        return data

    async def weakness(self) -> str:
        """See `Store.weakness`. A replica that commits do not wait for may be promoted without having them."""
        info = (await self._links.call(("INFO", "replication")))[0].decode()
        fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        replicas = int(fields.get("connected_slaves", 0))
        if replicas > self._wait_replicas:
            return f"Redis has {replicas} replicas, and commits wait for {self._wait_replicas} of them"
        return ""

    async def condition(self) -> Condition:
        """See `Store.condition`."""
        info = (await self._links.call(("INFO", "memory", "persistence", "replication")))[0].decode()
        fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        return Condition(
            int(fields.get("used_memory", 0)),
            int(fields.get("maxmemory", 0)),
            all(fields.get(name, "ok") == "ok" for name in ("aof_last_write_status", "rdb_last_bgsave_status")),
            int(fields.get("connected_slaves", 0)),
        )

    async def now_ms(self) -> int:
        """See `Store.now_ms`."""
        return _ms((await self._links.call(("TIME",)))[0])

    async def hints(self) -> AsyncIterator[tuple[int, int]]:
        """See `Store.hints`."""
        link, counted = await self._links.take(), 0
        try:
            async for message in link.subscribe(self._channel):
                if message is None:
                    counted = 1
                    self._own_hints += 1
                    continue
                origin, slice_, head = message.decode().split()
                if origin != self.origin:
                    yield int(slice_), int(head)
        finally:
            self._own_hints -= counted
            await self._links.drop(link)

    async def _eval(
        self,
        slice_: int,
        script: Script,
        keys: Sequence[str],
        words: Sequence[str | bytes | int],
        first: Sequence[Command] = (),
        links: Links | None = None,
    ) -> Any:
        """Run a script whose first argument is the `run_id` of the process that runs it.

        With commands to run `first`, all is one transaction: a process that dies has applied all of it or nothing.
        """
        links, replicated = links or self._links, self._replicated(slice_)
        link = await links.take()
        command: Command = ("EVALSHA", script.digest, len(keys), *keys, link.run_id, *words)
        replies = await links.run(link, [*_transaction(first, command), *replicated])
        reply = self._script_reply(replies)
        if isinstance(reply, NoScriptError):
            # The script cache went (a restart, SCRIPT FLUSH). The script did not run, and what came first is there.
            link = await links.take()
            command = ("EVAL", script.source, len(keys), *keys, link.run_id, *words)
            replies = await links.run(link, [*_transaction(first, command), *replicated])
            reply = self._script_reply(replies)
        if isinstance(reply, Exception):
            if str(reply).startswith("CHANGED"):
                raise StoreChanged("the slice's memory is not the one that was adopted")
            _check_room(reply)
            raise StoreError(f"Redis refused a commit: {reply}") from reply
        self._require_replicas(replies)
        return reply

    def _replicated(self, slice_: int) -> list[Command]:
        """What makes sure that replicas have all that came before.

        WAIT speaks of the connection's own writes. So that it speaks of everything that was there before, there is
        always one, which Redis takes even where it has no room.
        """
        if not self._wait_replicas:
            return []
        key = f"{self._tag(slice_)}#touch"
        return [("SET", key, "", "NX"), ("EXPIRE", key, TOUCH_S), ("WAIT", self._wait_replicas, WAIT_MS)]

    def _script_reply(self, replies: list[Any]) -> Any:
        return _last(replies[: len(replies) - 3] if self._wait_replicas else replies)

    def _require_replicas(self, replies: list[Any]) -> None:
        """That what came before `_replicated`, and all that it rests on, is in enough replicas; or StoreError."""
        if not self._wait_replicas:
            return
        touched, have = replies[-2:]
        if touched != 1 or isinstance(have, Exception) or have < self._wait_replicas:
            found = 0 if isinstance(have, Exception) else have
            raise StoreError(f"{found} of {self._wait_replicas} replicas have it in time; the outcome is unknown")

    async def _fix_slices(self) -> int:
        read: Command = ("HGET", self._store_key, "slices")
        (stored,) = await self._links.call(read)  # works where there is no room for a write
        if stored is None:
            create = [
                ("HSETNX", self._store_key, *field) for field in (("format", FORMAT), ("slices", str(self.slices)))
            ]
            stored = (await self._links.call(*create, read))[-1]
        return int(stored)

    def _check_policy(self, reply: Any) -> None:
        # Not CONFIG GET: a user with few rights, or of a managed service, may not ask for that.
        if isinstance(reply, Exception):
            raise StoreError(f"Redis refused: {reply}") from reply
        fields = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
        policy = fields.get("maxmemory_policy", "noeviction")  # who does not tell it is vouched for by the operator
        if policy != "noeviction" and not self._allow_eviction:
            raise StoreError(
                f"Redis may evict directory state: maxmemory-policy is {policy}; set it to noeviction"
                " (or allow_eviction=1, and lose entries when memory runs out)"
            )

    @property
    def _store_key(self) -> str:
        return f"{self._name}#store"

    @property
    def _channel(self) -> str:
        return f"{self._name}#hint"

    def _tag(self, slice_: int) -> str:
        if not 0 <= slice_ < self.slices:
            raise StoreError(f"no slice {slice_}: the store has {self.slices}")
        return f"{{{self._name}:{slice_}}}"

    def _key(self, slice_: int, key: str) -> str:
        return f"{self._tag(slice_)}:{key}"

    def _log_key(self, slice_: int) -> str:
        return f"{self._tag(slice_)}#log"


def _unpacked(row_id: bytes, fields: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """The log entries of one call, with their sequences."""
    last, (_, lengths, _, data) = int(row_id.partition(b"-")[0]), fields
    ends = list(accumulate(map(int, lengths.split())))
    starts = [0, *ends[:-1]]
    first = last - len(ends) + 1
    return [(first + i, data[start:end]) for i, (start, end) in enumerate(zip(starts, ends, strict=True))]


def _ms(time: Sequence[bytes]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000


def _transaction(first: Sequence[Command], command: Command) -> list[Command]:
    """The commands that run `command`, all or none with what comes `first`."""
    return [_MULTI, *first, command, _EXEC] if first else [command]


def _last(replies: Sequence[Any]) -> Any:
    """The reply to a lone command, or to the last one of a transaction; where that was given up, the reason."""
    if len(replies) == 1:
        return replies[0]
    for queued in replies[:-1]:
        if isinstance(queued, Exception):
            return queued
    done = replies[-1]
    if isinstance(done, Exception):
        return done
    for reply in done:
        if isinstance(reply, Exception):
            return reply
    return done[-1]


def _check_room(reply: Any) -> None:
    # MISCONF: Redis cannot write its files (a full disk) and refuses writes before it runs them.
    if isinstance(reply, OutOfMemoryError) or str(reply).startswith("MISCONF"):
        raise StoreFull("Redis has no room; nothing was applied") from reply
