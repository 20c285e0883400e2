"""Pins over every store: what a cut had stays readable until it is released or reaped; then nothing of it is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from homenode_directory.content.retention import RetentionPolicy
from homenode_directory.errors import Contended
from homenode_directory.pins import DUE_PINS, PinLimits, Snapshot, pin_key, session_pins_key
from homenode_directory.protocol.effects import Denial, Done, Reason
from homenode_directory.protocol.events import Base, Commit
from homenode_directory.store import fields
from homenode_directory.store.base import META
from homenode_directory.together import Request
from tests.tools.conftest import PLACE, Inside, Open


async def put(inside: Inside, session: str, key: str, data: bytes | None, number: int) -> None:
    content = None if data is None else await inside.content(data)
    reply = await inside.directory.request(PLACE, key, Commit(session, content, Base.ANY), number, f"p{number}")
    assert isinstance(reply.answer, Done), reply.answer


async def take(
    inside: Inside, session: str, number: int, *keys: str, prefix: str = "", ttl_ms: int = 60_000
) -> Snapshot:
    request = Request(session, number, f"s{number}")
    found = await inside.pins.take(PLACE, request, ttl_ms, keys=keys, prefix=prefix)
    assert isinstance(found, Snapshot), found
    return found


async def texts(inside: Inside, session: str, snapshot: Snapshot) -> Mapping[str, bytes | None]:
    """What the snapshot's artifacts say, asked one by one."""
    found: dict[str, bytes | None] = {}
    for key in snapshot.records:
        record = await inside.pins.read(PLACE, session, snapshot.pin, key)
        assert not isinstance(record, Denial), record
        found[key] = None if record.content is None else await inside.bytes_of(record.content)
    return found


async def left(inside: Inside, pin: str) -> list[object]:
    """What the store still has of a pin."""
    store, number = inside.server.store, inside.slice_.number
    session = pin.partition("/")[0]
    record, tally, meta = await store.load(number, [pin_key(pin), session_pins_key(session), META])
    return [dict(record), dict(tally), meta.get("pins"), dict(await store.ranked(number, DUE_PINS))]


async def refs(inside: Inside, data: bytes) -> int:
    key = fields.references_key((await inside.content(data)).hash)
    (record,) = await inside.server.store.load(inside.slice_.number, [key])
    return int(record["refs"])


async def test_a_snapshot_outlives_commits_deletion_retention_and_collection(
    inside: Open, fresh: Callable[[], int]
) -> None:
    server = await inside(retention=RetentionPolicy(keep=1, slack=0))
    session = await server.session()
    await put(server, session, "a", b"a1", fresh())
    await put(server, session, "b", b"b1", fresh())
    snapshot = await take(server, session, fresh(), "a", "b", "none")
    for n in range(12):
        await put(server, session, "a", b"a%d" % (n + 2), fresh())
    await put(server, session, "b", None, fresh())
    for _ in range(3):
        await server.sweep()
        await server.collect()
    history = await server.directory.history(PLACE, session, "a")
    assert not isinstance(history, Denial)
    assert snapshot.records["a"].version not in [record.version for record in history], "retention has gone on"
    assert await texts(server, session, snapshot) == {"a": b"a1", "b": b"b1", "none": None}
    assert await texts(await inside(), session, snapshot) == {"a": b"a1", "b": b"b1", "none": None}


async def test_released_nothing_is_left_and_the_contents_are_collected(inside: Open, fresh: Callable[[], int]) -> None:
    server = await inside(retention=RetentionPolicy(keep=1, slack=0))
    session = await server.session()
    await put(server, session, "a", b"old", fresh())
    snapshot = await take(server, session, fresh(), "a")
    assert await refs(server, b"old") == 2
    await put(server, session, "a", b"new", fresh())
    await server.pins.release(PLACE, snapshot.pin)
    await server.pins.release(PLACE, snapshot.pin)
    assert await left(server, snapshot.pin) == [{}, {}, None, {}]
    assert await refs(server, b"old") == 1
    gone = await server.pins.read(PLACE, session, snapshot.pin, "a")
    assert isinstance(gone, Denial) and gone.reason is Reason.NOT_FOUND
    other = await (await inside()).pins.read(PLACE, session, snapshot.pin, "a")
    assert isinstance(other, Denial) and other.reason is Reason.NOT_FOUND


async def test_the_sweeper_reaps_what_nobody_releases(inside: Open, fresh: Callable[[], int]) -> None:
    server = await inside(PinLimits(look_ms=0))
    session, other = await server.session(), await server.session()
    await put(server, session, "a", b"one", fresh())
    short = await take(server, session, fresh(), "a", ttl_ms=1)
    long = await take(server, session, fresh(), "a")
    theirs = await take(server, other, fresh(), "a")
    await asyncio.sleep(0.01)
    await server.pins.reap(server.slice_, 10)
    assert (await left(server, short.pin))[0] == {}, "its time is over"
    assert (await left(server, long.pin))[0] != {}
    await server.directory.end_session(PLACE, session)
    await server.pins.reap(server.slice_, 10)
    assert (await left(server, long.pin))[0] == {}, "its session is over"
    assert await texts(server, other, theirs) == {"a": b"one"}
    assert await refs(server, b"one") == 2
    await server.pins.release(PLACE, theirs.pin)
    assert await left(server, theirs.pin) == [{}, {}, None, {}]


async def test_the_same_request_is_one_snapshot(inside: Open, fresh: Callable[[], int]) -> None:
    server, other = await inside(), await inside()
    session = await server.session()
    await put(server, session, "a", b"one", fresh())
    number = fresh()
    first = await take(server, session, number, "a")
    await put(server, session, "a", b"two", fresh())
    again = [await take(one, session, number, "a") for one in (server, other)]
    assert [(one.pin, one.records) for one in again] == [(first.pin, first.records)] * 2
    assert await refs(server, b"one") == 2
    await server.pins.release(PLACE, first.pin)
    late = await other.pins.take(PLACE, Request(session, number, f"s{number}"), 60_000, keys=["a"])
    assert isinstance(late, Denial) and late.reason is Reason.NOT_FOUND, "it must not come back to life"


async def test_bounds_hold_exactly_whoever_asks_at_once(inside: Open, fresh: Callable[[], int]) -> None:
    limits = PinLimits(session_pins_max=3, slice_pins_max=5, bytes_max=100, keys_max=4)
    server = await inside(limits)
    a, b = await server.session(), await server.session()
    await put(server, a, "k", b"x" * 60, fresh())
    await put(server, a, "l", b"y" * 60, fresh())

    async def ask(session: str, *keys: str, prefix: str = "", by: Inside = server) -> object:
        number = fresh()
        return await by.pins.take(PLACE, Request(session, number, f"{number}"), 60_000, keys=keys, prefix=prefix)

    other = await inside(limits)  # which does not know what this server counts
    await other.joint.cut(PLACE, a, ["k"])
    first = await asyncio.gather(*(ask(a, "k", by=(server, other)[n % 2]) for n in range(6)))
    taken = [one for one in first if isinstance(one, Snapshot)]
    assert len(taken) == 3
    assert {one.reason for one in first if isinstance(one, Denial)} == {Reason.QUOTA_EXCEEDED}
    second = await asyncio.gather(*(ask(b, "k") for _ in range(3)))
    assert sum(isinstance(one, Snapshot) for one in second) == 2, "the slice has room for five"
    await server.pins.release(PLACE, taken[0].pin)
    assert isinstance(await ask(a, "k"), Snapshot)
    too_large = await ask(b, "k", "l")
    assert isinstance(too_large, Denial) and too_large.reason is Reason.TOO_LARGE
    for n in range(4):
        await put(server, a, f"many/{n}", b"z", fresh())
    too_many = await ask(b, prefix="")
    assert isinstance(too_many, Denial) and too_many.reason is Reason.TOO_LARGE


async def test_a_prefix_is_exactly_what_there_was(inside: Open, fresh: Callable[[], int]) -> None:
    server, other = await inside(), await inside()
    session = await server.session()
    for n in range(4):
        await put(server, session, f"n/{n}", b"%d" % n, fresh())
    await put(server, session, "else", b"-", fresh())

    async def churn() -> None:
        for n in range(4, 10):
            await put(other, session, f"n/{n}", b"%d" % n, fresh())
            await put(other, session, f"n/{n - 3}", None, fresh())
            for _ in range(40):
                await asyncio.sleep(0)

    snapshots: list[Snapshot] = []

    async def look() -> None:
        for _ in range(6):
            try:
                found = await server.pins.take(PLACE, Request(session, fresh(), "x"), 60_000, prefix="n/")
            except Contended:
                continue
            assert isinstance(found, Snapshot)
            snapshots.append(found)
            await server.pins.release(PLACE, found.pin)

    await asyncio.gather(churn(), look())
    await look()
    assert snapshots
    entries, _ = await server.server.store.read_log(server.slice_.number, 0, 1_000)
    for snapshot in snapshots:
        exist: set[str] = set()
        for sequence, data in entries:
            if sequence > snapshot.as_of.sequence:
                break
            record = fields.decode_log(data)
            key = fields.split_artifact(record.artifact)[1]
            for event in record.events:
                if type(event).__name__ == "Inv" and key.startswith("n/"):
                    exist.discard(key) if event.content is None else exist.add(key)  # type: ignore[union-attr]
        assert set(snapshot.records) == exist
