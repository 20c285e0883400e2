"""`hn.generate` against a real directory and scripted workers: what goes wrong, and what then."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

import homenode
from homenode import Key
from homenode_api.v1 import kv_tier_pb2_grpc as rpc
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api.server import ApiServer, Listen
from homenode_directory.config import Settings
from homenode_directory.kv_routing.model import Load
from homenode_directory.server import build
from tests.api.conftest import Served, serve
from tests.routing.scripted import Script, scripted
from tests.routing.stream import stored


class Bed:
    """A directory, an agent, and workers as they are added."""

    def __init__(self, served: Served, hn: homenode.Homenode, session: str, stack: AsyncExitStack) -> None:
        self.served, self.hn, self.session = served, hn, session
        self.stub = rpc.KvRoutingServiceStub(served.channel)
        self._stack = stack

    async def worker(self, name: str, *held: homenode.Artifact, **script: object) -> Script:
        """One more worker, which holds those."""
        made = Script(name, **script)  # type: ignore[arg-type]
        versions = [stored(a.key, t.Version(incarnation=a.version[0], n=a.version[1])) for a in held if a.version]
        await self._stack.enter_async_context(scripted(self.stub, self.session, made, *versions))
        return made

    def busy(self, name: str) -> None:
        """That worker is not the best."""
        placements = self.served.server.endpoint.kv.routing.placements
        (worker,) = [worker for worker in placements.everyone() if worker.hello.name == name]
        worker.load = Load(queued_tokens=100_000)


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    async with serve() as served, AsyncExitStack() as stack:
        hn = await stack.enter_async_context(homenode.connect(f"homenode://127.0.0.1:{served.api.port}/main"))
        yield Bed(served, hn, await served.open(), stack)


async def test_pieces_come_as_they_are_written_and_the_report_says_what_was_reused(bed: Bed) -> None:
    plan = await bed.hn.put("plan.md", "# Plan", base=homenode.ABSENT)
    await bed.worker("other")
    script = await bed.worker("holder", plan)
    generation = await bed.hn.generate("m", ["Sum up: ", Key("plan.md")], max_tokens=9, exact=False)
    assert [piece async for piece in generation] == ["one ", "two ", "three"]
    assert generation.text == "one two three" and generation.versions == {"plan.md": plan.version}
    report = generation.report
    assert report is not None and (report.worker, report.model, report.ended) == ("holder", "m", "stop")
    assert report.provenance.kind == "exact" and report.prompt.reused == 7 and report.lost == ()
    assert [(use.key, use.version, use.exact) for use in report.parts] == [("", None, 3), ("plan.md", plan.version, 3)]
    assert 0 < report.ttft_ms <= report.total_ms and report.adopted is None
    (asked,) = script.requests
    assert asked.parts[0].text == "Sum up: " and asked.parts[1].artifact.text == "# Plan"
    assert (asked.epoch, asked.tokens_max, asked.consumer, asked.model) == (1, 9, "agent", "f")
    assert [piece async for piece in generation] == [], "it is over"


async def test_the_output_becomes_a_version_and_its_worker_is_told(bed: Bed) -> None:
    script = await bed.worker("w")
    generation = await (await bed.hn.generate("m", ["Write"], commit_to="out.md")).done()
    artifact = generation.artifact
    assert artifact is not None and artifact.version is not None
    assert (await bed.hn.read("out.md")).text == "one two three" == artifact.text
    assert generation.report is not None and generation.report.adopted
    (told,) = script.adopted
    assert (told.key, told.output_id, told.version.n) == ("out.md", "o1", artifact.version.n)


async def test_an_output_replaces_only_what_its_agent_saw_before_it_was_asked_for(bed: Bed) -> None:
    await bed.worker("w")
    await bed.hn.put("out.md", "0", base=homenode.ABSENT)
    generation = await bed.hn.generate("m", ["Write"], commit_to="out.md")
    await bed.hn.agent("other").put("out.md", "1", base=homenode.ANY)
    await bed.hn.read("out.md")
    with pytest.raises(homenode.VersionConflict):
        await generation.done()
    assert generation.text == "one two three" and generation.report is not None and generation.artifact is None


async def test_a_worker_that_dies_while_it_writes_is_a_typed_failure(bed: Bed) -> None:
    await bed.worker("w", cut=2)
    await bed.worker("spare")
    bed.busy("spare")
    generation = await bed.hn.generate("m", ["Write"], commit_to="out.md")
    with pytest.raises(homenode.Unavailable, match=r"'w' was lost after 2 tokens.*on_loss='retry'"):
        await generation.done()
    assert generation.text == "one two " and generation.report is None
    with pytest.raises(homenode.NotFound):
        await bed.hn.read("out.md")


async def test_another_worker_goes_on_behind_what_is_written_where_that_is_wanted(bed: Bed) -> None:
    await bed.worker("w", cut=2)
    spare = await bed.worker("spare")
    bed.busy("spare")
    generation = await bed.hn.generate("m", ["Write"], commit_to="out.md", on_loss="retry", max_tokens=9)
    assert [piece async for piece in generation] == ["one ", "two ", "three"]
    assert generation.report is not None and generation.report.lost == ("w",) and generation.report.worker == "spare"
    (asked,) = spare.requests
    assert list(asked.parts[1].tokens.ids) == [1, 2] and asked.tokens_max == 7
    assert (await bed.hn.read("out.md")).text == "one two three"


async def test_a_worker_that_is_lost_with_all_written_is_asked_for_no_more_than_was_wanted(bed: Bed) -> None:
    first = await bed.worker("w1", pieces=["one ", "two ", "three"], cut=2)
    second = await bed.worker("w2")
    bed.busy("w2")
    generation = await bed.hn.generate("m", ["Count: "], max_tokens=2, on_loss="retry", commit_to="counted")
    await generation.done()
    assert generation.text == "one two " and len(first.requests) == 1 and not second.requests
    assert generation.report is not None and generation.report.output_tokens == 2
    assert generation.report.provenance.kind == "unspecified" and generation.report.ended == "length"
    assert (await bed.hn.read("counted")).text == "one two "


async def test_a_worker_that_stands_still_is_lost_too(bed: Bed) -> None:
    await bed.worker("w", stand=1)
    await bed.worker("spare")
    bed.busy("spare")
    generation = await bed.hn.generate("m", ["Write"], on_loss="retry", stall_ms=300)
    assert (await generation.done()).text == "one two three"


@pytest.mark.parametrize("reason", [t.ERROR_REASON_STALE_FENCE, t.ERROR_REASON_OVERLOADED, t.ERROR_REASON_UNAVAILABLE])
async def test_a_worker_that_does_not_begin_is_passed_over(bed: Bed, reason: int) -> None:
    plan = await bed.hn.put("plan.md", "# Plan", base=homenode.ABSENT)
    await bed.worker("holder", plan, refusal=reason)
    await bed.worker("spare")
    generation = await (await bed.hn.generate("m", [plan])).done()
    assert generation.report is not None
    assert (generation.report.worker, generation.report.lost) == ("spare", ("holder",))


async def test_keys_are_read_again_where_a_commit_was_faster_than_the_prompts_turn(bed: Bed) -> None:
    plan = await bed.hn.put("plan.md", "# Plan", base=homenode.ABSENT)
    script = await bed.worker("w", refusal=t.ERROR_REASON_VERSION_CONFLICT, refusals=3)
    generation = await (await bed.hn.generate("m", [Key("plan.md")])).done()
    assert generation.report is not None and generation.report.lost == () and len(script.requests) == 4
    script.refusals = 1
    with pytest.raises(homenode.VersionConflict):
        await bed.hn.generate("m", [plan])
    script.refusals = 1_000
    with pytest.raises(homenode.Contended):
        await bed.hn.generate("m", [Key("plan.md")])


async def test_a_worker_that_never_knows_the_session_is_given_up(bed: Bed) -> None:
    script = await bed.worker("w", named="main~another")
    with pytest.raises(homenode.SessionLost):
        await bed.hn.generate("m", ["Write"])
    assert {asked.session_id for asked in script.requests} == {bed.hn.session_id} and len(script.requests) == 3


async def test_the_only_workers_refusal_is_told_as_it_is(bed: Bed) -> None:
    await bed.worker("w", refusal=t.ERROR_REASON_OVERLOADED)
    with pytest.raises(homenode.Overloaded, match="as the script says") as failure:
        await bed.hn.generate("m", ["Write"])
    assert failure.value.retry_after == 1.5
    with pytest.raises(homenode.NoWorker, match="that model") as nobody:
        await bed.hn.generate("another", ["Write"])
    assert (nobody.value.known, nobody.value.other_model, nobody.value.silent) == (1, 1, 0)


async def test_a_round_whose_worker_computes_none_is_written_all_the_same(bed: Bed) -> None:
    script = await bed.worker("w", refusal=t.ERROR_REASON_UNSUPPORTED, refusals=1)
    together = {"round": "r1", "members": ["agent", "other"], "round_wait_ms": 50}
    assert (await (await bed.hn.generate("m", ["Write"], **together)).done()).text == "one two three"
    assert [(asked.round_id, asked.member) for asked in script.requests] == [("r1", "agent"), ("", "")]
    (begun,) = script.rounds
    assert (begun.round_id, list(begun.members), begun.deadline_ms) == ("r1", ["agent", "other"], 50)
    with pytest.raises(homenode.InvalidArgument, match="among its members"):
        await bed.hn.agent("stranger").generate("m", ["Write"], **together)


async def test_an_agent_leaves_its_round(bed: Bed) -> None:
    script = await bed.worker("w")
    generation = await (await bed.hn.generate("m", ["Write"], round="r1", members=["agent"])).done()
    assert await generation.leave_round()
    (left,) = script.left
    assert (left.round_id, left.member, left.epoch, left.session_id) == ("r1", "agent", 1, bed.hn.session_id)
    alone = await (await bed.hn.generate("m", ["Write"])).done()
    assert not await alone.leave_round() and len(script.left) == 1


async def test_no_worker_is_said_at_once(bed: Bed) -> None:
    with pytest.raises(homenode.NoWorker, match="homenode kv serve"):
        async with asyncio.timeout(5):
            await bed.hn.generate("m", ["Write"])


async def test_who_says_retry_waits_for_workers_that_a_directory_does_not_know_yet(bed: Bed) -> None:
    generating = asyncio.ensure_future(bed.hn.generate("m", ["Write"], on_loss="retry"))
    await asyncio.sleep(0.3)
    assert not generating.done()
    await bed.worker("w")
    assert (await (await generating).done()).text == "one two three"


async def test_the_wait_for_workers_has_an_end(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homenode.workers.NOBODY_WAITS", 2)
    with pytest.raises(homenode.NoWorker):
        async with asyncio.timeout(5):
            await bed.hn.generate("m", ["Write"], on_loss="retry")


async def test_a_copy_that_the_directory_knows_to_be_superseded_is_read_again(bed: Bed) -> None:
    script = await bed.worker("w")
    plan = await bed.hn.put("plan.md", "0", base=homenode.ABSENT)
    await bed.hn.read("plan.md")
    placements = bed.served.server.endpoint.kv.routing.placements
    async with homenode.connect(f"homenode://127.0.0.1:{bed.served.api.port}/main") as other:
        now = await other.put("plan.md", "1", base=homenode.ANY)
        bed.hn._core.cache.install(plan, bed.hn._core._default_policy)  # as if the invalidation were on its way
        assert plan.version is not None and placements.dead("default/main/plan.md", plan.version)
        generation = await (await bed.hn.generate("m", [Key("plan.md"), plan])).done()
    assert generation.report is not None and generation.report.dead_parts == (1,), "the caller's own word counts"
    assert [use.version for use in generation.report.parts] == [now.version, plan.version]
    assert [part.artifact.text for part in script.requests[0].parts] == ["1", "0"]


async def test_what_makes_no_sense_is_refused_before_anybody_is_asked(bed: Bed) -> None:
    for parts in ("text", [], [3], [b"bytes"]):
        with pytest.raises(homenode.InvalidArgument):
            await bed.hn.generate("m", parts)  # type: ignore[arg-type]
    with pytest.raises(homenode.InvalidArgument):
        await bed.hn.generate("m", ["a"], on_loss="maybe")  # type: ignore[arg-type]
    for options in (
        {"max_tokens": -1}, {"max_tokens": 2**32}, {"max_tokens": 1.5}, {"seed": -1}, {"temperature": "hot"},
        {"error_max": "none"}, {"round": 7}, {"round": "r", "members": bed.hn.name}, {"round_wait_ms": -1},
        {"stall_ms": 0}, {"stall_ms": -1}, {"commit_to": ""}, {"commit_to": 3}, {"commit_to": "\ud800"},
    ):  # fmt: skip
        with pytest.raises(homenode.InvalidArgument):
            await bed.hn.generate("m", ["a"], **options)  # type: ignore[arg-type]
    for model, part in ((3, "a"), ("\ud800", "a"), ("m", "\ud800")):
        with pytest.raises(homenode.InvalidArgument):
            await bed.hn.generate(model, [part])  # type: ignore[arg-type]
    await bed.hn.put("picture", b"\xff\xfe", base=homenode.ABSENT)
    with pytest.raises(homenode.InvalidArgument, match="no text"):
        await bed.hn.generate("m", [Key("picture")])
    with pytest.raises(homenode.NotFound):
        await bed.hn.generate("m", [Key("nothing")])


async def test_leaving_early_tells_the_worker_and_commits_nothing(bed: Bed) -> None:
    await bed.worker("w")
    async with await bed.hn.generate("m", ["Write"], commit_to="out.md") as generation:
        async for _ in generation:
            break
    with pytest.raises(homenode.NotFound):
        await bed.hn.read("out.md")
    assert [piece async for piece in generation] == []


async def test_blocking_code_has_the_same(bed: Bed) -> None:
    await bed.worker("w")

    def blocking() -> tuple[list[str], str]:
        with homenode.connect_sync(f"homenode://127.0.0.1:{bed.served.api.port}/main") as hn:
            generation = hn.generate("m", ["Write"], commit_to="out.md")
            pieces = list(generation)
            assert generation.report.worker == "w" and generation.artifact.text == generation.text
            with hn.generate("m", ["Write"]) as second:
                assert second.done().text == "one two three"
            return pieces, hn.read("out.md").text

    assert await asyncio.to_thread(blocking) == (["one ", "two ", "three"], "one two three")


async def test_workers_are_reached_with_the_credentials_for_the_directory(tls_files: tuple[str, str]) -> None:
    cert, key = tls_files
    server = build(Settings(store="memory://", listen="localhost:0"))
    await server.start()
    api = ApiServer(server.endpoint, Listen("localhost:0", tls_cert=cert, tls_key=key))
    await api.start()
    url, trusted = f"homenode://localhost:{api.port}/main", Path(cert).read_bytes()
    secure = grpc.ssl_channel_credentials(trusted)
    try:
        async with (
            homenode.connect(url, credentials=ssl.create_default_context(cadata=trusted.decode())) as hn,
            grpc.aio.secure_channel(f"localhost:{api.port}", secure) as channel,
            scripted(rpc.KvRoutingServiceStub(channel), hn.session_id, Script("w"), tls=tls_files),
        ):
            assert (await (await hn.generate("m", ["Write"])).done()).text == "one two three"
    finally:
        await api.stop()
        await server.close()
