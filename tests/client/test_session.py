"""The session against a scripted directory: what is served, what is sent again, what is never done twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import homenode
from homenode.link import Link
from homenode.versions import Version
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.client.scripted import WAIT_S, ScriptedDirectory, connect, content_of, read_response, until


@pytest.fixture
def directory() -> ScriptedDirectory:
    return ScriptedDirectory()


def commit_response(directory: ScriptedDirectory, n: int, **more: Any) -> pb.CommitResponse:
    version = t.Version(incarnation=directory.position[0], n=n)
    return pb.CommitResponse(version=version, as_of=directory.at(), level=t.CONSISTENCY_LAZY, **more)


SESSION_LOST = t.Error(reason=t.ERROR_REASON_SESSION_LOST, message="the session is over")

# --- serving from the cache -------------------------------------------------------------------------------------------


async def test_one_fetch_then_hits_until_an_invalidation_comes(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    assert (await hn.read("a")).text == "one"
    assert hn.read_cached("a") is await hn.read("a")
    directory.hold("a", 2, b"two")
    directory.invalidate("a", 2)
    await until(lambda: hn.read_cached("a") is None)
    assert (await hn.read("a")).text == "two"
    assert len(directory.stream.named("read")) == 2
    await hn.close()


async def test_a_silent_stream_serves_nothing_after_the_greatest_age(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    hn, clock = await connect(directory)
    await hn.read("a")
    directory.pings = False
    assert hn.read_cached("a") is not None
    clock.pass_ms(3_001)
    assert hn.read_cached("a") is None
    await hn.close()


async def test_a_machine_that_slept_serves_nothing_on_waking(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    hn, clock = await connect(directory)
    await hn.read("a")
    clock.pass_ms(3_600_000)
    assert hn.read_cached("a") is None
    await hn.close()


async def test_a_lost_stream_serves_nothing_and_a_resumed_one_serves_again(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    await hn.read("a")
    directory.reachable = False
    directory.stream.cancel()
    await until(lambda: not hn.connected)
    assert hn.read_cached("a") is None
    directory.reachable = True
    await until(lambda: hn.read_cached("a"), "a hit after the resume")
    holding = directory.stream.named("attach")[0].attach.holdings[0]
    assert (holding.key, holding.version.n) == ("a", 1)
    await hn.close()


async def test_a_resume_that_lost_events_drops_every_copy(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    await hn.read("a")
    directory.resync = True
    directory.stream.cancel()
    await until(lambda: len(directory.streams) > 1 and hn.connected)
    assert hn.read_cached("a") is None
    await hn.close()


async def test_a_session_that_is_never_confirmed_attaches_anew(directory: ScriptedDirectory) -> None:
    hn, clock = await connect(directory)
    directory.pings = False
    clock.pass_ms(1_500)
    pings = len(directory.stream.named("ping"))
    await until(lambda: len(directory.stream.named("ping")) > pings)
    directory.stream.send(pb.Item(session=directory.number()))  # the stream itself is alive
    directory.pings = True
    clock.pass_ms(12_000)
    await until(lambda: len(directory.streams) > 1 and hn.connected)
    await hn.close()


async def test_a_missing_frame_ends_the_stream(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    directory.stream.send(pb.Item(session=directory.number()), number=99)
    await until(lambda: len(directory.streams) > 1 and hn.connected)
    await hn.close()


async def test_an_invalidation_that_overtakes_the_reply_wins(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    old = directory.at()
    reading = asyncio.create_task(hn.read("a"))
    operation = (await until(lambda: directory.stream.named("read")))[0]
    directory.invalidate("a", 2)
    directory.answer(operation, read=read_response((1, 1), b"one", old))
    assert (await reading).text == "one"  # it was current when it was asked
    assert hn.read_cached("a") is None
    await hn.close()


async def test_a_reply_from_before_a_resync_is_not_cached(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    old = directory.at()
    reading = asyncio.create_task(hn.read("a"))
    operation = (await until(lambda: directory.stream.named("read")))[0]
    directory.position = (1, 20)
    directory.event(resync=pb.Resync(position=directory.at()))
    directory.answer(operation, read=read_response((1, 1), b"one", old))
    await reading
    assert hn.read_cached("a") is None
    await hn.close()


async def test_versions_never_go_back_for_a_session(directory: ScriptedDirectory) -> None:
    directory.hold("a", 5, b"five")
    hn, _ = await connect(directory)
    await hn.read("a")
    replies = iter([(4, b"four"), (6, b"six")])

    def answer(_: pb.Operation) -> dict[str, Any]:
        n, data = next(replies)
        return {"read": read_response((1, n), data, directory.at())}

    directory.handlers["read"] = answer
    assert (await hn.read("a", max_age_ms=0)).text == "six"
    await hn.close()


async def test_invalidations_of_one_tick_are_acknowledged_together(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    for n in (1, 2, 3):
        directory.invalidate("a", n)
        directory.invalidate(f"b{n}", 1)
    await until(lambda: directory.stream.named("ack"))
    keys = {acked.key: acked.version.n for op in directory.stream.named("ack") for acked in op.ack.keys}
    assert keys == {"a": 3, "b1": 1, "b2": 1, "b3": 1}
    assert len(directory.stream.named("ack")) == 1
    await hn.close()


async def test_who_can_be_no_sharer_any_more_acknowledges_nothing(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    await hn.read("a")
    directory.invalidate("a", 2)
    await until(lambda: directory.stream.named("ack"))
    directory.invalidate("a", 3)
    directory.invalidate("b", 1)
    await until(lambda: len(directory.stream.named("ack")) == 2)
    assert [acked.key for acked in directory.stream.named("ack")[1].ack.keys] == ["b"]
    directory.hold("a", 3, b"three")
    await hn.read("a")
    directory.invalidate("a", 4)
    await until(lambda: len(directory.stream.named("ack")) == 3)
    directory.invalidate("a", 5, prepared=True)  # a writer waits, who may know more
    await until(lambda: len(directory.stream.named("ack")) == 4)
    await hn.close()


async def test_what_was_read_anew_meanwhile_is_not_acknowledged(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    directory.hold("b", 1, b"one")
    hn, _ = await connect(directory)
    await asyncio.gather(hn.read("a"), hn.read("b"))
    directory.hold("a", 2, b"two")
    directory.invalidate("a", 2)
    directory.invalidate("b", 2)
    assert (await hn.read("a", max_age_ms=0)).text == "two"
    (ack,) = await until(lambda: directory.stream.named("ack"))
    assert [acked.key for acked in ack.ack.keys] == ["b"]
    await hn.close()


async def test_a_copy_of_an_earlier_epoch_fails_closed_as_stale(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory, timeout_ms=600)
    await hn.read("a")
    directory.reachable = False
    directory.stream.cancel()
    await until(lambda: not hn.connected)
    with pytest.raises(homenode.Stale) as refused:
        await hn.read("a")
    assert refused.value.max_age_ms == 3_000
    with pytest.raises(homenode.Unavailable):
        await hn.read("b")
    await hn.close()


async def test_agents_that_miss_together_ask_once(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    reads = [asyncio.create_task(hn.agent(f"a{i}").read("k")) for i in range(20)]
    operation = (await until(lambda: directory.stream.named("read")))[0]
    reads[5].cancel()
    directory.answer(operation, read=read_response((1, 1), b"one", directory.at()))
    done = await asyncio.gather(*reads, return_exceptions=True)
    assert [isinstance(one, homenode.Artifact) for one in done] == [i != 5 for i in range(20)]
    assert len(directory.stream.named("read")) == 1
    await hn.close()


async def test_whoever_joined_a_read_that_was_given_up_asks_for_himself(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    first, second = (asyncio.create_task(hn.agent(name).read("k")) for name in ("a", "b"))
    await until(lambda: directory.stream.named("read"))
    directory.hold("k", 1, b"one")
    first.cancel()
    assert (await second).text == "one"
    assert len(directory.stream.named("read")) == 2
    await hn.close()


# --- sending again ----------------------------------------------------------------------------------------------------


async def test_an_unanswered_effect_is_sent_again_with_the_same_id(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    putting = asyncio.create_task(hn.put("a", "one"))
    first = (await until(lambda: directory.stream.named("commit")))[0]
    directory.handlers["commit"] = lambda _: {"commit": commit_response(directory, 1)}
    directory.stream.cancel()
    assert (await putting).version == Version(1, 1)
    second = directory.stream.named("commit")[0]
    assert directory.stream is not directory.streams[0]
    assert second.request_id == first.request_id
    assert second.commit == first.commit
    await hn.close()


async def test_the_answer_to_a_repeated_commit_raises_the_floor_but_is_not_served(
    directory: ScriptedDirectory,
) -> None:
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    await hn.read("a")
    putting = asyncio.create_task(hn.put("a", "two"))
    await until(lambda: directory.stream.named("commit"))
    directory.handlers["commit"] = lambda _: {"commit": commit_response(directory, 2)}
    directory.stream.cancel()
    await putting
    await until(lambda: hn.connected)
    assert hn.read_cached("a") is None  # somebody may have committed since, before we were a sharer on this stream
    await hn.close()


async def test_an_own_commit_is_served_at_once_and_ends_the_older_copy(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    directory.handlers["commit"] = lambda _: {"commit": commit_response(directory, 2)}
    hn, _ = await connect(directory)
    before = await hn.read("a")
    await hn.put("a", "two")
    cached = hn.read_cached("a")
    assert cached is not None
    assert cached.text == "two"
    assert before.text == "one"
    await hn.close()


async def test_a_transient_refusal_is_tried_again_with_the_same_id(directory: ScriptedDirectory) -> None:
    refusals = [t.ERROR_REASON_UNAVAILABLE, t.ERROR_REASON_UNKNOWN, t.ERROR_REASON_OVERLOADED]

    def answer(_: pb.Operation) -> dict[str, Any]:
        return {"error": t.Error(reason=refusals.pop())} if refusals else {"commit": commit_response(directory, 1)}

    directory.handlers["commit"] = answer
    hn, _ = await connect(directory)
    await hn.put("a", "one")
    assert len({operation.request_id for operation in directory.stream.named("commit")}) == 1
    assert len(directory.stream.named("commit")) == 4
    await hn.close()


async def test_an_effect_without_an_answer_in_time_is_unknown(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    with pytest.raises(homenode.Unknown) as failure:
        await hn.put("a", "one", timeout_ms=100)
    assert failure.value.request_id == directory.stream.named("commit")[0].request_id
    assert failure.value.session_id == "main~1"
    await hn.close()


async def test_an_effect_that_was_never_sent_is_not_unknown(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    directory.reachable = False
    directory.stream.cancel()
    await until(lambda: not hn.connected)
    with pytest.raises(homenode.Unavailable):
        await hn.put("a", "one", timeout_ms=100)
    await hn.close()


async def test_operations_under_way_are_bounded_and_the_rest_waits(directory: ScriptedDirectory) -> None:
    directory.in_flight = 32  # of which requests take three quarters
    hn, _ = await connect(directory)
    reads = [asyncio.create_task(hn.read(f"k{i}", default="")) for i in range(100)]
    await until(lambda: len(directory.stream.named("read")) == 24)
    await asyncio.sleep(0.05)
    assert len(directory.stream.named("read")) == 24
    directory.handlers["read"] = directory.answer_read
    for operation in directory.stream.named("read"):
        directory.answer(operation, **directory.answer_read(operation))
    await asyncio.gather(*reads)
    await hn.close()


async def test_writers_that_queue_leave_room_for_whoever_they_wait_for(directory: ScriptedDirectory) -> None:
    directory.in_flight = 32
    hn, _ = await connect(directory)
    queued = [asyncio.ensure_future(hn.lease("a", wait_ms=60_000)) for _ in range(64)]
    await until(lambda: directory.stream.named("acquire"))
    directory.handlers["commit"] = lambda _: {"commit": commit_response(directory, 1)}
    await asyncio.wait_for(hn.put("b", "done"), WAIT_S)
    for task in queued:
        task.cancel()
    await asyncio.gather(*queued, return_exceptions=True)
    await hn.close()


async def test_operations_of_one_tick_leave_in_one_frame(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    directory.handlers["read"] = directory.answer_read
    before = directory.stream.frames
    await asyncio.gather(*(hn.agent(f"a{i}").read(f"x{i}", default="") for i in range(64)))
    assert directory.stream.frames - before <= 3
    await hn.close()


# --- lost sessions ----------------------------------------------------------------------------------------------------


async def lose_during_commit(directory: ScriptedDirectory, hn: homenode.Homenode, outcome: Any, **put: Any) -> Any:
    """Start a put, lose the session before it is answered, resolve it to `outcome`."""
    putting = asyncio.create_task(hn.put("a", "one", **put))
    operation = (await until(lambda: directory.stream.named("commit")))[0]
    if outcome is not None:
        directory.outcomes[operation.request_id] = outcome
    directory.handlers["commit"] = lambda _: {"commit": commit_response(directory, 7)}
    directory.event(session_ended=pb.SessionEnded(error=SESSION_LOST))
    return await putting


async def test_an_effect_that_ran_before_the_session_was_lost_is_not_run_again(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    ran = pb.Answer(commit=commit_response(directory, 3))
    assert (await lose_during_commit(directory, hn, {"answer": ran})).version == Version(1, 3)
    assert sum(len(stream.named("commit")) for stream in directory.streams) == 1
    await hn.close()


async def test_an_effect_that_never_ran_is_run_under_the_next_session(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    assert (await lose_during_commit(directory, hn, {"never": True})).version == Version(1, 7)
    assert hn.session_id == "main~2"
    assert [name for name, _ in directory.calls] == ["OpenSession", "Resolve", "OpenSession"]
    await hn.close()


async def test_what_is_answered_after_the_session_ended_does_not_count(directory: ScriptedDirectory) -> None:
    """What was on its way when the session ended is refused as nobody's; it may have run when it was sent before."""
    hn, _ = await connect(directory)
    putting = asyncio.create_task(hn.put("a", "one"))
    operation = (await until(lambda: directory.stream.named("commit")))[0]
    directory.outcomes[operation.request_id] = {"answer": pb.Answer(commit=commit_response(directory, 3))}
    nobodys = t.Error(reason=t.ERROR_REASON_INVALID_ARGUMENT, message="no session is attached as number 1")
    directory.event(session_ended=pb.SessionEnded(error=SESSION_LOST))
    directory.answer(operation, error=nobodys)
    assert (await putting).version == Version(1, 3)
    await hn.close()


async def test_an_effect_of_which_nobody_knows_is_unknown_and_not_run_again(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    with pytest.raises(homenode.Unknown):
        await lose_during_commit(directory, hn, None)
    await until(lambda: hn.connected)
    assert sum(len(stream.named("commit")) for stream in directory.streams) == 1
    await hn.close()


async def test_a_lost_session_takes_permissions_and_keeps_bytes(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    copy = await hn.read("a")
    directory.position = (2, 0)
    directory.event(session_ended=pb.SessionEnded(error=SESSION_LOST))
    await until(lambda: hn.session_id == "main~2" and hn.connected)
    assert hn.read_cached("a") is None
    assert (directory.calls[-1][0], directory.calls[-1][1].seen_incarnation) == ("OpenSession", 1)
    await hn.read("a")
    assert directory.stream.named("read")[-1].read.have == [copy.hash]
    await hn.close()


async def test_a_version_below_what_the_lost_memory_had_is_shown(directory: ScriptedDirectory) -> None:
    directory.hold("a", 9, b"nine")
    hn, _ = await connect(directory)
    await hn.read("a")
    directory.position = (2, 0)
    directory.hold("a", 8, b"eight", incarnation=1)  # an acknowledged commit was lost with the store's memory
    directory.event(session_ended=pb.SessionEnded(error=SESSION_LOST))
    await until(lambda: hn.session_id == "main~2" and hn.connected)
    assert (await hn.read("a")).text == "eight"
    assert hn.read_cached("a") is not None
    await hn.close()


# --- leases -----------------------------------------------------------------------------------------------------------


def grant(directory: ScriptedDirectory, n: int = 1, data: bytes | None = b"one", fence: int = 5) -> dict[str, Any]:
    response = pb.AcquireResponse(
        token=pb.Token(incarnation=1, fence=fence), ttl_ms=10_000, version=t.Version(incarnation=1, n=n),
        as_of=directory.at(), level=t.CONSISTENCY_LAZY,
    )  # fmt: skip
    if data is not None:
        response.content.CopyFrom(content_of(data))
    return {"acquire": response}


async def test_a_cancelled_wait_for_a_lease_gives_it_back_when_it_comes(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    taking = asyncio.ensure_future(hn.lease("a", wait_ms=5_000).__aenter__())
    operation = (await until(lambda: directory.stream.named("acquire")))[0]
    taking.cancel()
    await asyncio.wait([taking])
    directory.answer(operation, **grant(directory))
    release = (await until(lambda: directory.stream.named("release")))[0]
    assert release.release.lease_id == operation.acquire.lease_id
    await hn.close()


async def test_a_lease_that_comes_after_the_deadline_is_given_back(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    with pytest.raises(homenode.DeadlineExceeded):
        await hn.lease("a", timeout_ms=50)
    operation = directory.stream.named("acquire")[0]
    directory.answer(operation, **grant(directory))
    await until(lambda: directory.stream.named("release"))
    await hn.close()


async def test_a_lease_is_renewed_and_counts_only_after_the_log(directory: ScriptedDirectory) -> None:
    directory.handlers["acquire"] = lambda _: grant(directory)
    later = t.Position(incarnation=1, sequence=50)
    directory.handlers["renew"] = lambda _: {"renew": pb.RenewResponse(ttl_ms=10_000, as_of=later)}
    hn, clock = await connect(directory)
    lease = await hn.lease("a")
    clock.pass_ms(4_000)
    before = lease.remaining_ms
    await until(lambda: directory.stream.named("renew"))
    await asyncio.sleep(0.05)
    assert lease.remaining_ms <= before
    directory.position = (1, 50)
    clock.pass_ms(1_000)  # time for another ping
    await until(lambda: lease.remaining_ms > before)
    await hn.close()


async def test_a_lease_that_ended_says_why_and_refuses_to_commit(directory: ScriptedDirectory) -> None:
    directory.handlers["acquire"] = lambda _: grant(directory)
    hn, _ = await connect(directory)
    lease = await hn.lease("a")
    assert isinstance(lease, homenode.WriteLease)
    assert (lease.state, lease.fence) == ("M", 5)
    ended = pb.LeaseEnded(key="a", lease_id=lease.record.lease_id, cause=t.LEASE_END_EXPIRED, sequence=11)
    directory.event(lease_ended=ended)
    await until(lambda: lease.state == "I")
    with pytest.raises(homenode.LeaseLost) as lost:
        await lease.commit("two")
    assert lost.value.cause == "expired"
    assert not directory.stream.named("commit")
    await hn.close()


async def test_a_commit_under_a_lease_of_a_lost_session_is_not_run_again(directory: ScriptedDirectory) -> None:
    directory.handlers["acquire"] = lambda _: grant(directory)
    hn, _ = await connect(directory)
    lease = await hn.lease("a")
    assert isinstance(lease, homenode.WriteLease)
    committing = asyncio.create_task(lease.commit("two"))
    operation = (await until(lambda: directory.stream.named("commit")))[0]
    directory.outcomes[operation.request_id] = {"never": True}
    directory.event(session_ended=pb.SessionEnded(error=SESSION_LOST))
    with pytest.raises(homenode.LeaseLost) as lost:
        await committing
    assert lost.value.cause == "session_lost"
    assert lease.state == "I"
    await hn.close()


async def test_own_lease_raises_the_floor(directory: ScriptedDirectory) -> None:
    directory.handlers["acquire"] = lambda _: grant(directory, n=4, data=b"four")
    hn, _ = await connect(directory)
    reading = asyncio.create_task(hn.read("a"))
    operation = (await until(lambda: directory.stream.named("read")))[0]
    lease = await hn.lease("a")
    directory.hold("a", 4, b"four")
    directory.answer(operation, read=read_response((1, 3), b"three", directory.at()))
    assert (await reading).version == lease.version == Version(1, 4)
    await hn.close()


# --- watches ----------------------------------------------------------------------------------------------------------


async def test_a_watch_goes_on_after_a_reconnect_and_tells_of_losses(directory: ScriptedDirectory) -> None:
    directory.handlers["watch"] = lambda _: {"watch": pb.WatchAck(position=directory.at())}
    hn, _ = await connect(directory)
    async with hn.watch("n/") as events:
        watch_id = directory.stream.named("watch")[0].request_id

        def change(n: int, sequence: int) -> None:
            version = t.Version(incarnation=1, n=n)
            directory.event(change=pb.Change(watch_id=watch_id, key="n/1", version=version, sequence=sequence))

        change(1, 11)
        assert (await anext(events)).version == Version(1, 1)
        directory.stream.cancel()
        again = (await until(lambda: len(directory.streams) > 1 and directory.stream.named("watch")))[0]
        assert again.request_id == watch_id
        assert again.watch.after.sequence == 11
        change(1, 11)  # told already
        change(2, 12)
        assert (await anext(events)).version == Version(1, 2)
        directory.event(resync=pb.Resync(position=t.Position(incarnation=1, sequence=30)))
        assert (await anext(events)).kind == "resync"
    await until(lambda: directory.stream.named("unwatch"))
    await hn.close()


async def test_a_watch_that_is_not_read_is_bounded(directory: ScriptedDirectory) -> None:
    directory.handlers["watch"] = lambda _: {"watch": pb.WatchAck(position=directory.at())}
    hn, _ = await connect(directory)
    async with hn.watch() as events:
        watch_id = directory.stream.named("watch")[0].request_id
        version = t.Version(incarnation=1, n=1)
        items = [
            pb.Item(
                session=directory.number(), change=pb.Change(watch_id=watch_id, key="a", version=version, sequence=s)
            )
            for s in range(11, 3_011)
        ]
        directory.stream.send(*items)
        await until(lambda: hn._core.session.position.sequence >= 3_009)
        kinds = [(await anext(events)).kind]
        assert kinds == ["resync"]
    await hn.close()


async def test_close_ends_the_session_and_every_wait(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    reading = asyncio.create_task(hn.read("a"))
    await until(lambda: directory.stream.named("read"))
    await hn.close()
    with pytest.raises(homenode.Unavailable):
        await reading
    with pytest.raises(homenode.Unavailable):
        await hn.put("a", "x")
    assert directory.calls[-1][0] == "CloseSession"
    assert hn.read_cached("a") is None


async def test_a_lost_session_serves_nothing_while_there_is_no_other(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    await hn.read("a")
    directory.reachable = False
    directory.event(session_ended=pb.SessionEnded(error=SESSION_LOST))
    await until(lambda: hn._core.session.phase.value == "lost")
    assert hn.read_cached("a") is None
    directory.reachable = True
    await until(lambda: hn.connected)
    await hn.close()


# --- large contents, which come on another channel --------------------------------------------------------------------


class SlowContents(ScriptedDirectory):
    """Reads are answered at once; their bodies come when the test lets them, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[pb.ReadContentRequest] = []
        self.bodies: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def answer_read(self, operation: pb.Operation) -> dict[str, Any]:
        answer = super().answer_read(operation)
        if "read" in answer:
            answer["read"].content.ClearField("snapshot")
        return answer

    async def read_content(self, request: pb.ReadContentRequest, timeout_s: float) -> Any:
        self.asked.append(request)
        body = await self.bodies.get()
        if isinstance(body, Exception):
            raise body
        content = content_of(body)
        yield pb.ReadContentResponse(
            header=pb.ContentHeader(
                hash=content.hash,
                size=content.size,
                encoding=pb.CONTENT_ENCODING_SNAPSHOT,
                encoded_size=len(content.snapshot),
            )
        )
        yield pb.ReadContentResponse(data=content.snapshot)


async def test_a_copy_whose_body_came_after_a_reattach_is_not_kept() -> None:
    """The attach did not declare it, so nobody would tell of its invalidation."""
    directory = SlowContents()
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    reading = asyncio.create_task(hn.read("a"))
    await until(lambda: directory.asked)
    directory.stream.cancel()
    await until(lambda: len(directory.streams) > 1 and hn.connected)
    assert not directory.stream.named("attach")[0].attach.holdings
    directory.bodies.put_nowait(b"one")
    assert (await reading).text == "one"
    assert hn.read_cached("a") is None
    directory.bodies.put_nowait(b"one")
    await hn.read("a")
    assert hn.read_cached("a") is not None
    await hn.close()


async def test_a_version_that_was_forgotten_while_its_body_was_asked_for_is_read_anew() -> None:
    directory = SlowContents()
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    reading = asyncio.create_task(hn.read("a", default="nothing"))
    await until(lambda: directory.asked)
    directory.hold("a", 40, b"forty")
    directory.bodies.put_nowait(homenode.NotFound("this version is not retained"))
    directory.bodies.put_nowait(b"forty")
    artifact = await reading
    assert artifact.text == "forty" and artifact.version == Version(1, 40)
    await hn.close()


async def test_a_body_of_another_content_is_not_taken_for_the_one_that_was_named() -> None:
    directory = SlowContents()
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    directory.bodies.put_nowait(b"two")
    directory.bodies.put_nowait(b"one")
    assert (await hn.read("a")).text == "one"
    await hn.close()


async def test_what_a_read_lease_showed_is_not_followed_by_an_older_version() -> None:
    directory = SlowContents()
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    old = asyncio.create_task(hn.read("a"))
    await until(lambda: directory.asked)
    directory.hold("a", 2, b"two")
    directory.handlers["read"] = lambda operation: ScriptedDirectory.answer_read(directory, operation)
    lease = await hn.lease("a", "read")
    assert lease.version == Version(1, 2)
    directory.bodies.put_nowait(b"one")
    assert (await old).version == Version(1, 2)
    await hn.close()


async def test_a_body_that_came_after_its_copy_was_given_up_is_not_kept() -> None:
    directory = SlowContents()
    directory.hold("a", 1, b"one")
    directory.handlers["release"] = lambda _: {"release": pb.ReleaseResponse(as_of=directory.at())}
    hn, _ = await connect(directory)
    directory.bodies.put_nowait(b"one")
    lease = await hn.lease("a", "read")
    reading = asyncio.create_task(hn.read("a", max_age_ms=0))
    await until(lambda: directory.stream.named("read")[1:])
    await lease.release()
    await until(lambda: directory.stream.named("release"))
    directory.bodies.put_nowait(b"one")
    await reading
    await until(lambda: hn.read_cached("a") is None, "the copy is gone")
    await hn.close()


async def test_a_copy_that_was_given_up_while_another_read_was_under_way_is_not_kept(
    directory: ScriptedDirectory,
) -> None:
    """The directory tells of no invalidation after the release, whenever the read was answered."""
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    lease = await hn.lease("a", "read")
    directory.handlers["read"] = lambda _: None
    reading = asyncio.create_task(hn.read("a", max_age_ms=0))
    (_, operation) = await until(lambda: len(directory.stream.named("read")) == 2 and directory.stream.named("read"))
    await lease.release()
    release = (await until(lambda: directory.stream.named("release")))[0]
    directory.answer(operation, read=read_response((1, 1), b"one", directory.at()))
    await reading
    directory.answer(release, release=pb.ReleaseResponse(as_of=directory.at()))
    await until(lambda: hn.read_cached("a") is None, "the copy is gone")
    directory.hold("a", 1, b"one")
    await hn.read("a")
    assert hn.read_cached("a") is not None
    await hn.close()


# --- frames -----------------------------------------------------------------------------------------------------------


async def test_what_many_sessions_hold_is_declared_in_frames_that_a_server_takes() -> None:
    directory = ScriptedDirectory()
    link = Link(directory, clock=time.monotonic_ns, rng=random.Random(1))
    for session in range(64):
        attach = pb.Attach(session_id=f"main~{session}")
        for n in range(3_000):
            attach.holdings.add(key=f"notes/of/a/project/{n}", version=t.Version(incarnation=1, n=n))
        link._out.append(pb.Operation(session=session, attach=attach))
    frames = []
    while link._out:
        frames.append(link._frame())
    assert sum(len(frame.operations) for frame in frames) == 64
    assert max(frame.ByteSize() for frame in frames) < 3 << 20


async def test_a_first_server_that_says_nothing_at_all_is_left_for_another_one(directory: ScriptedDirectory) -> None:
    """As where the resolution of its name hangs: neither the stream nor a call ever fails."""
    directory.hosts = 2
    call, deaf = directory.call, True

    async def say_nothing(method: str, request: Any, timeout_s: float) -> Any:
        if not deaf:
            return await call(method, request, timeout_s)
        await asyncio.sleep(timeout_s)
        raise homenode.DeadlineExceeded("no answer in time")

    async def next_server() -> None:
        nonlocal deaf
        deaf = False

    directory.call, directory.next_server = say_nothing, next_server  # type: ignore[method-assign]
    hn, _ = await connect(directory)
    assert not deaf and directory.opened == 1
    await hn.close()


async def test_a_failure_that_nobody_foresaw_does_not_end_the_recovery(directory: ScriptedDirectory) -> None:
    directory.hold("a", 1, b"one")
    hn, _ = await connect(directory)
    call, failures = directory.call, [ValueError("unforeseen")]

    async def fail_once(method: str, request: Any, timeout_s: float) -> Any:
        if failures:
            raise failures.pop()
        return await call(method, request, timeout_s)

    directory.call = fail_once  # type: ignore[method-assign]
    directory.event(session_ended=pb.SessionEnded(error=SESSION_LOST))
    await until(lambda: directory.opened == 2)
    assert (await hn.read("a")).text == "one"
    await hn.close()


# --- many sessions on a stream ----------------------------------------------------------------------------------------


class Ticked:
    """An endpoint that notes when it is to keep its times."""

    def __init__(self, at: list[float]) -> None:
        self.number = 0
        self._at = at

    def tick(self, now_ns: int) -> None:
        self._at.append(asyncio.get_running_loop().time())

    def connected(self) -> None: ...

    def disconnected(self) -> None: ...

    def item(self, item: pb.Item) -> None: ...


async def test_thousands_of_sessions_do_not_keep_their_times_all_at_once(directory: ScriptedDirectory) -> None:
    link = Link(directory, clock=time.monotonic_ns, rng=random.Random(1))
    lists: list[list[float]] = [[] for _ in range(1_000)]
    for at in lists:
        link.add(Ticked(at))
    link.start()
    await until(lambda: all(lists))
    turns = Counter(round(at[0], 3) for at in lists)
    assert len(turns) > 8
    await link.close()


# --- edits ------------------------------------------------------------------------------------------------------------


async def test_an_edit_that_met_others_goes_on_in_turn_with_them_for_a_while(directory: ScriptedDirectory) -> None:
    n = 1
    directory.hold("a", n, b"x")

    def acquire(operation: pb.Operation) -> dict[str, Any]:
        token = pb.Token(lease_id=operation.acquire.lease_id, incarnation=1, fence=n)
        grant = pb.AcquireResponse(token=token, ttl_ms=10_000, level=t.CONSISTENCY_LAZY, as_of=directory.at())
        grant.version.incarnation, grant.version.n = 1, n
        grant.content.CopyFrom(content_of(b"x"))
        return {"acquire": grant}

    def commit(operation: pb.Operation) -> dict[str, Any]:
        nonlocal n
        if not operation.commit.HasField("token"):
            return {"error": t.Error(reason=t.ERROR_REASON_VERSION_CONFLICT, message="somebody was faster")}
        n += 1
        return {"commit": commit_response(directory, n)}

    directory.handlers |= {"acquire": acquire, "commit": commit}
    hn, clock = await connect(directory)

    async def tried() -> list[bool]:
        before = len(directory.stream.named("commit"))
        await hn.edit("a", lambda text: text + "y")
        return [operation.commit.HasField("token") for operation in directory.stream.named("commit")[before:]]

    assert await tried() == [False, True]
    assert await tried() == [True]
    clock.pass_ms(1_001)
    assert await tried() == [False, True]
    await hn.close()


async def test_a_token_counter_of_fractions_does_no_harm(short_tmp: Path) -> None:
    def quarter(text: str) -> int:
        return len(text) / 4  # type: ignore[return-value]

    async with homenode.connect(f"embedded://{short_tmp}/d.sqlite3", agent="a", count_tokens=quarter) as hn:
        session = hn.session_id
        for size in (10, 30):
            await hn.put("k", "x" * size)
            for _ in range(3):
                await hn.read("k")
        assert isinstance(hn.stats().tokens_saved, int)
        hn._core.session.ping()
        await asyncio.sleep(0.3)
        assert hn.connected and hn.session_id == session
