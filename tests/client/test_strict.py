"""Strict artifacts against a scripted directory: how long a copy may be served, and when none may be kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import homenode
from homenode.leases import EPSILON_NS
from homenode.versions import Version
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.client.scripted import ScriptedDirectory, TurnedClock, connect, until

LEASE_MS = 10_000
#: What is left of it after the greatest drift and the margin.
SERVED_MS = LEASE_MS * 99 // 100 - EPSILON_NS // 1_000_000


@pytest.fixture
def directory() -> ScriptedDirectory:
    """One whose artifact "a" is strict."""
    made = ScriptedDirectory()
    made.lease_ms = LEASE_MS
    made.strict.add("a")
    made.hold("a", 1, b"one")
    return made


async def connected(directory: ScriptedDirectory, **settings: Any) -> tuple[homenode.Homenode, TurnedClock]:
    """A connection whose bookmarks come when the test sends them, after the first."""
    hn, clock = await connect(directory, **settings)
    directory.pings = False
    return hn, clock


async def ping(directory: ScriptedDirectory, hn: homenode.Homenode) -> int:
    """Make the session ping; when it was sent, in its own microseconds."""
    before = len(directory.stream.named("ping"))
    hn._core.session.ping()
    await until(lambda: len(directory.stream.named("ping")) > before)
    return directory.stream.named("ping")[-1].ping.sent_at


async def settle(hn: homenode.Homenode) -> None:
    """Let what was sent to the session be taken in: a read of nothing comes behind it."""
    await hn.read("nothing", default="")


def strict_commit(directory: ScriptedDirectory, n: int) -> pb.CommitResponse:
    version = t.Version(incarnation=directory.position[0], n=n)
    return pb.CommitResponse(version=version, as_of=directory.at(), level=t.CONSISTENCY_STRICT)


# --- how long a copy is served ----------------------------------------------------------------------------------------


async def test_a_strict_copy_is_served_for_the_lease_from_the_send_of_the_ping(directory: ScriptedDirectory) -> None:
    hn, clock = await connected(directory)
    sent = await ping(directory, hn)
    clock.pass_ms(LEASE_MS // 2)  # the bookmark takes its time
    directory.bookmark(sent, LEASE_MS)
    await settle(hn)
    copy = await hn.read("a")
    assert copy.level == "strict"
    assert copy.window.until_ns == sent * 1_000 + SERVED_MS * 1_000_000
    assert hn.read_cached("a") is copy
    clock.pass_ms(4_000)  # far beyond the greatest age of a lazy copy
    assert hn.read_cached("a") is copy
    clock.pass_ms(1_000)
    assert hn.read_cached("a") is None
    await hn.close()


async def test_without_a_lease_no_strict_copy_is_served(directory: ScriptedDirectory) -> None:
    directory.lease_ms = 0
    hn, _ = await connect(directory)
    assert (await hn.read("a")).level == "strict"
    assert hn.read_cached("a") is None
    await hn.read("a")
    assert len(directory.stream.named("read")) == 2
    await hn.close()


async def test_a_bookmark_without_a_lease_extends_nothing(directory: ScriptedDirectory) -> None:
    hn, clock = await connected(directory)
    copy = await hn.read("a")
    until_ns = copy.window.until_ns
    clock.pass_ms(1_000)
    directory.bookmark(await ping(directory, hn))
    await settle(hn)
    assert copy.window.until_ns == until_ns > 0
    await hn.close()


@pytest.mark.parametrize("echo_us", [-1_000_000, 1_000_000], ids=["repeated", "never sent"])
async def test_a_bookmark_of_no_ping_of_now_extends_nothing(directory: ScriptedDirectory, echo_us: int) -> None:
    hn, clock = await connected(directory)
    copy = await hn.read("a")
    clock.pass_ms(2_000)
    sent = await ping(directory, hn)
    directory.bookmark(sent, LEASE_MS)
    await settle(hn)
    until_ns = copy.window.until_ns
    directory.bookmark(sent, LEASE_MS)
    directory.bookmark(sent + echo_us, LEASE_MS)
    await settle(hn)
    assert copy.window.until_ns == until_ns
    await hn.close()


async def test_a_bookmark_of_a_former_stream_opens_nothing(directory: ScriptedDirectory) -> None:
    hn, _ = await connected(directory)
    copy = await hn.read("a")
    sent = await ping(directory, hn)
    directory.stream.cancel()
    await until(lambda: len(directory.streams) == 2 and directory.stream.named("ping"))
    directory.bookmark(sent, LEASE_MS)
    await settle(hn)
    assert hn.read_cached("a") is None
    assert not hn.connected
    directory.bookmark(directory.stream.named("ping")[-1].ping.sent_at, LEASE_MS)
    await settle(hn)
    assert hn.read_cached("a") is copy
    await hn.close()


async def test_a_bookmark_of_another_memory_opens_nothing(directory: ScriptedDirectory) -> None:
    hn, _ = await connected(directory)
    await hn.read("a")
    sent = await ping(directory, hn)
    directory.position = (2, 0)
    directory.bookmark(sent, LEASE_MS)
    directory.hold("a", 1, b"one", incarnation=1)
    await settle(hn)
    assert hn.read_cached("a") is None
    await hn.close()


async def test_a_lost_stream_serves_nothing_strict_until_the_next_lease(directory: ScriptedDirectory) -> None:
    """The attach that follows may find the session out of every sharer set, long before its answer says so."""
    hn, _ = await connected(directory)
    copy = await hn.read("a")
    first = directory.stream
    first.cancel()
    await until(lambda: not hn.connected)
    assert hn.read_cached("a") is None
    await until(lambda: directory.stream is not first and directory.stream.named("ping"))
    directory.bookmark(directory.stream.named("ping")[-1].ping.sent_at)
    await until(lambda: hn.connected)
    assert hn.read_cached("a") is None, "no lease yet"
    directory.bookmark(await ping(directory, hn), LEASE_MS)
    await settle(hn)
    assert hn.read_cached("a") is copy
    await hn.close()


async def test_a_machine_that_slept_serves_nothing_strict_on_waking(directory: ScriptedDirectory) -> None:
    hn, clock = await connected(directory)
    await hn.read("a")
    sent = await ping(directory, hn)
    clock.pass_ms(3_600_000)
    directory.bookmark(sent, LEASE_MS)  # was on its way when the machine fell asleep
    await settle(hn)
    assert hn.read_cached("a") is None
    await hn.close()


# --- another's commit -------------------------------------------------------------------------------------------------


async def test_a_prepared_version_ends_the_copy_and_is_acknowledged_with_its_round(
    directory: ScriptedDirectory,
) -> None:
    hn, _ = await connect(directory)
    await hn.read("a")
    directory.handlers["read"] = lambda operation: uncacheable(directory.answer_read(operation))
    directory.invalidate("a", 2, prepared=True, by="somebody")
    await until(lambda: directory.stream.named("ack"))
    (acked,) = directory.stream.named("ack")[0].ack.keys
    assert (acked.key, acked.version.n, acked.fence) == ("a", 2, 2)
    assert hn.read_cached("a") is None
    assert (await hn.read("a")).text == "one", "the old version is shown until the new one is published"
    assert hn.read_cached("a") is None
    directory.hold("a", 2, b"two")
    assert (await hn.read("a")).text == "two"
    assert hn.read_cached("a") is not None
    await hn.close()


def uncacheable(answer: dict[str, Any] | None) -> dict[str, Any] | None:
    assert answer is not None
    if "read" in answer:
        answer["read"].cacheable = False
    return answer


async def test_a_fetch_that_another_commit_overtakes_is_not_kept(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    late = directory.answer_read(pb.Operation(read=pb.ReadRequest(key="a", share=True)))
    assert late is not None
    directory.handlers["read"] = lambda _: None
    reading = asyncio.create_task(hn.read("a"))
    operation = (await until(lambda: directory.stream.named("read")))[0]
    directory.invalidate("a", 2, prepared=True, by="somebody")
    directory.answer(operation, **late)
    assert (await reading).text == "one"
    assert hn.read_cached("a") is None
    await hn.close()


async def test_an_own_prepared_version_is_acknowledged_too(directory: ScriptedDirectory) -> None:
    """A change of policy waits for every copy, that of whoever asked for it included."""
    hn, _ = await connect(directory)
    await hn.read("a")
    directory.invalidate("a", 2, prepared=True, by=hn.session_id)
    await until(lambda: directory.stream.named("ack"))
    await hn.close()


async def test_acks_outlast_a_broken_stream(directory: ScriptedDirectory) -> None:
    """A commit of somebody else waits for them."""
    hn, _ = await connect(directory)
    await hn.read("a")
    first = directory.stream
    directory.invalidate("a", 2, prepared=True, by="somebody")
    first.cancel()
    await until(lambda: directory.stream is not first and directory.stream.named("ping"))
    acks = [operation for stream in directory.streams for operation in stream.named("ack")]
    assert [key.fence for ack in acks for key in ack.ack.keys] == [2]
    await hn.close()


# --- an own commit ----------------------------------------------------------------------------------------------------


async def test_an_own_commit_withdraws_the_copy_when_it_is_sent(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    await hn.read("a")
    putting = asyncio.create_task(hn.put("a", "two"))
    (operation,) = await until(lambda: directory.stream.named("commit"))
    other = hn.agent("other")
    assert other.read_cached("a") is None
    assert (await other.read("a")).text == "one"
    assert other.read_cached("a") is None, "nobody waits for this session's copies while it commits"
    directory.answer(operation, commit=strict_commit(directory, 2))
    written = await putting
    assert written.level == "strict"
    assert other.read_cached("a") is written
    await hn.close()


async def test_a_refused_commit_lets_copies_be_kept_again(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    await hn.read("a")
    refusal = t.Error(reason=t.ERROR_REASON_HELD, message="another writer is active")
    directory.handlers["commit"] = lambda _: {"error": refusal}
    with pytest.raises(homenode.LeaseDenied):
        await hn.put("a", "two")
    assert hn.read_cached("a") is None
    await hn.read("a")
    assert hn.read_cached("a") is not None
    await hn.close()


async def test_a_fetch_that_an_own_commit_overtakes_is_not_kept(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    await hn.read("a")
    late = directory.answer_read(pb.Operation(read=pb.ReadRequest(key="a", share=True)))
    assert late is not None
    directory.handlers["read"] = lambda _: None
    reading = asyncio.create_task(hn.agent("other").read("a", max_age_ms=0))
    operation = (await until(lambda: directory.stream.named("read")[1:]))[0]
    putting = asyncio.create_task(hn.put("a", "two"))
    (commit,) = await until(lambda: directory.stream.named("commit"))
    directory.answer(commit, commit=strict_commit(directory, 2))
    written = await putting
    directory.handlers["read"] = directory.answer_read
    directory.hold("a", 2, b"two")
    directory.answer(operation, **late)
    assert (await reading).text == "two", "older than what this session has written: asked again"
    cached = hn.read_cached("a")
    assert cached is not None and cached.version == written.version
    await hn.close()


@pytest.mark.parametrize("end", ["timeout", "cancelled"])
async def test_while_the_outcome_of_an_own_commit_is_unknown_nothing_strict_is_kept(
    directory: ScriptedDirectory, end: str
) -> None:
    hn, clock = await connect(directory)
    await hn.read("a")
    putting = asyncio.create_task(hn.put("a", "two", timeout_ms=2_000))
    (commit,) = await until(lambda: directory.stream.named("commit"))
    directory.pings = False
    if end == "timeout":
        clock.pass_ms(2_000)
        with pytest.raises(homenode.Unknown):
            await putting
    else:
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
    await hn.read("a")
    assert hn.read_cached("a") is None
    if end == "cancelled":  # it is still under way, and its time is not over
        directory.bookmark(await ping(directory, hn), LEASE_MS)
        await settle(hn)
        await hn.read("a")
        assert hn.read_cached("a") is None
        clock.pass_ms(2_000)
        await until(lambda: hn._core.cache.doubt)
    before = await ping(directory, hn)
    directory.bookmark(before - 10_000, LEASE_MS)
    await settle(hn)
    await hn.read("a")
    assert hn.read_cached("a") is None, "that ping did not say yet that the commit is settled"
    assert directory.stream.named("ping")[-1].ping.settled_below > commit.request_id
    directory.bookmark(before, LEASE_MS)
    await settle(hn)
    await hn.read("a")
    assert hn.read_cached("a") is not None
    await hn.close()


async def test_an_older_request_under_way_keeps_an_unknown_commit_in_doubt(directory: ScriptedDirectory) -> None:
    """Pings say below which id everything is settled; a lease that is queued for holds that mark back."""
    hn, clock = await connect(directory)
    waiting = asyncio.create_task(hn.agent("other").lease("b", wait_ms=60_000)._take())
    await until(lambda: directory.stream.named("acquire"))
    putting = asyncio.create_task(hn.put("a", "two", base=homenode.ANY, timeout_ms=100))
    with pytest.raises(homenode.Unknown):
        await putting
    directory.pings = False
    directory.bookmark(await ping(directory, hn), LEASE_MS)
    await settle(hn)
    await hn.read("a")
    assert hn.read_cached("a") is None
    clock.pass_ms(80_000)
    await asyncio.gather(waiting, return_exceptions=True)
    directory.bookmark(await ping(directory, hn), LEASE_MS)
    await settle(hn)
    await hn.read("a")
    assert hn.read_cached("a") is not None
    await hn.close()


async def test_a_commit_of_a_strict_artifact_waits_a_term_longer(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory, timeout_ms=5_000)
    await hn.read("a")
    putting = [asyncio.create_task(hn.put(key, "two", base=homenode.ANY)) for key in ("a", "b")]
    await until(lambda: len(hn._core.session.pending) == 2)
    strict, lazy = (pending.deadline_ns for pending in hn._core.session.pending.values())
    assert 9_000_000_000 < strict - lazy <= 10_000_000_000
    await hn.close()
    await asyncio.gather(*putting, return_exceptions=True)


async def test_a_copy_that_is_given_up_is_not_kept_again_before_the_directory_has_heard(
    directory: ScriptedDirectory,
) -> None:
    hn, _ = await connect(directory)
    lease = await hn.lease("a", "read")
    await lease.release()
    (operation,) = await until(lambda: directory.stream.named("release"))
    await hn.read("a")
    assert hn.read_cached("a") is None
    directory.answer(operation, release=pb.ReleaseResponse(as_of=directory.at()))
    await settle(hn)
    await hn.read("a")
    assert hn.read_cached("a") is not None
    await hn.close()


# --- levels -----------------------------------------------------------------------------------------------------------


async def test_a_strict_read_of_a_lazy_artifact_is_a_load_that_is_not_kept(directory: ScriptedDirectory) -> None:
    directory.hold("b", 1, b"lazy")
    hn, _ = await connect(directory)
    assert (await hn.read("b")).level == "lazy"
    directory.hold("b", 2, b"newer")
    loaded = await hn.read("b", consistency="strict")
    assert (loaded.text, loaded.level) == ("newer", "strict")
    assert not directory.stream.named("read")[-1].read.share
    assert hn.read_cached("b") is None, "the older copy would let the session go back"
    await hn.read("b", consistency="strict")
    assert len(directory.stream.named("read")) == 3
    assert (await hn.read("b")).level == "lazy"
    assert hn.read_cached("b") is not None
    await hn.close()


async def test_a_strict_read_of_a_strict_artifact_is_served_from_its_copy(directory: ScriptedDirectory) -> None:
    hn, _ = await connect(directory)
    copy = await hn.read("a", consistency="strict")
    assert await hn.read("a", consistency="strict") is copy
    assert await hn.read("a", consistency="lazy") is copy
    assert len(directory.stream.named("read")) == 1
    await hn.close()


async def test_less_than_a_strict_read_is_an_error(directory: ScriptedDirectory) -> None:
    directory.hold("b", 1, b"lazy")
    directory.handlers["read"] = lambda operation: lazily(directory.answer_read(operation))
    hn, _ = await connect(directory)
    with pytest.raises(homenode.errors.Unsupported, match="'b'"):
        await hn.read("b", consistency="strict")
    assert (await hn.read("a")).level == "lazy", "its policy says strict, the directory cannot keep it so"
    assert hn.read_cached("a") is not None
    with pytest.raises(homenode.InvalidArgument):
        await hn.read("a", consistency="sometimes")
    await hn.close()


def lazily(answer: dict[str, Any] | None) -> dict[str, Any] | None:
    assert answer is not None
    if "read" in answer:
        answer["read"].level = t.CONSISTENCY_LAZY
    return answer


async def test_a_directory_that_cannot_keep_strict_artifacts_is_not_asked_to(directory: ScriptedDirectory) -> None:
    directory.strongest = t.CONSISTENCY_LAZY
    directory.handlers["set_policy"] = lambda _: {"set_policy": pb.SetPolicyResponse(as_of=directory.at())}
    hn, _ = await connect(directory)
    with pytest.raises(homenode.errors.Unsupported):
        await hn.set_policy("a", consistency="strict")
    assert not directory.stream.named("set_policy")
    await hn.set_policy("a", consistency="lazy")
    await hn.close()


@pytest.mark.parametrize("was", ["lazy", "strict"])
async def test_a_changed_policy_ends_the_copy_before_it_is_asked_for(directory: ScriptedDirectory, was: str) -> None:
    if was == "lazy":
        directory.strict.clear()
    hn, _ = await connect(directory)
    assert (await hn.read("a")).level == was
    directory.strict.add("a")
    setting = asyncio.create_task(hn.set_policy("a", consistency="lazy"))
    (operation,) = await until(lambda: directory.stream.named("set_policy"))
    assert hn.read_cached("a") is None
    await hn.read("a")
    assert hn.read_cached("a") is None
    directory.strict.clear()
    directory.answer(operation, set_policy=pb.SetPolicyResponse(as_of=directory.at()))
    await setting
    assert (await hn.read("a")).level == "lazy"
    assert hn.read_cached("a") is not None
    await hn.close()


async def test_who_joins_a_strict_read_under_way_is_not_given_what_was_asked_for_before(
    directory: ScriptedDirectory,
) -> None:
    hn, _ = await connect(directory)
    late = uncacheable(directory.answer_read(pb.Operation(read=pb.ReadRequest(key="a", share=True))))
    assert late is not None
    directory.handlers["read"] = lambda _: None
    first = asyncio.create_task(hn.read("a"))
    (operation,) = await until(lambda: directory.stream.named("read"))
    second = asyncio.create_task(hn.agent("other").read("a"))
    await asyncio.sleep(0)
    directory.hold("a", 2, b"two")  # published, and read by others, before the second one asked
    directory.answer(operation, **late)
    assert (await first).text == "one"
    assert (await second).text == "two"
    assert (await second).version == Version(1, 2)
    await hn.close()
