"""Who may call a worker: sessions of its workspace, as the directory says; real processes, and the rule by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import homenode
from homenode import Key
from homenode.errors import Unavailable
from homenode_api.v1 import directory_pb2
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_api.v1.directory_pb2_grpc import DirectoryServiceStub
from homenode_api.v1.kv_tier_pb2_grpc import KvTierServiceStub
from homenode_kv.worker.callers import BELIEVED_ALONE_S, BELIEVED_S, REMEMBERED_MAX, Callers
from homenode_kv.worker.refusals import Refused
from tests.kv.worker.parts import Caller, WorkerProcess, artifact, refusal, text

SECRET = "the launch code is swordfish. " * 4


@asynccontextmanager
async def stranger(worker: WorkerProcess) -> AsyncIterator[Caller]:
    made = Caller(worker.address, named=False)
    try:
        yield made
    finally:
        await made.close()


async def session_in(directory: str, workspace: str, *, ended: bool = False) -> str:
    host = directory.removeprefix("homenode://").partition("/")[0]
    async with grpc.aio.insecure_channel(host) as channel:
        stub = DirectoryServiceStub(channel)
        session = (await stub.OpenSession(directory_pb2.OpenSessionRequest(workspace=workspace))).session_id
        if ended:
            await stub.CloseSession(directory_pb2.CloseSessionRequest(session_id=session))
        return str(session)


def calls(caller: Caller, part: pb.PromptPart, output: str, session: str) -> dict[str, Any]:
    """Every call that uses what a worker holds."""
    stub, mine = caller.stub, {"session_id": session}
    version = part.artifact.version
    adopt = pb.AdoptOutputRequest(output_id=output, key="mine.md", version=version, **mine)
    return {
        "generate": caller.generate(part, text("Repeat it."), **mine),
        "generate from text alone": caller.generate(text(SECRET), **mine),
        "prefill": stub.Prefill(pb.PrefillRequest(artifacts=[part.artifact], **mine)),
        "adopt": stub.AdoptOutput(adopt),
        "begin": stub.BeginRound(pb.BeginRoundRequest(round_id="spy", members=["a"], **mine)),
        "commit": stub.CommitRound(pb.CommitRoundRequest(round_id="r", **mine)),
        "leave": stub.LeaveRound(pb.LeaveRoundRequest(round_id="r", member="a", **mine)),
        "materialize": stub.Materialize(pb.MaterializeRequest(round_id="r", member="a", **mine)),
    }


@pytest.mark.slow
@pytest.mark.xdist_group("kv worker")
@pytest.mark.parametrize(
    ("workspace", "ended", "reason"),
    [
        (None, False, t.ERROR_REASON_UNAUTHENTICATED),
        ("main", True, t.ERROR_REASON_SESSION_LOST),
        ("elsewhere", False, t.ERROR_REASON_PERMISSION_DENIED),
        ("elsewhere", True, t.ERROR_REASON_PERMISSION_DENIED),
    ],
)
async def test_who_could_not_read_an_artifact_gets_nothing_of_it(
    workspace: str | None, ended: bool, reason: int, worker: WorkerProcess, directory: str, caller: Caller,
    hn: homenode.Homenode,
) -> None:  # fmt: skip
    secret = await hn.put(f"secret of {workspace} {ended}", SECRET)
    written = await caller.generate(artifact(secret), text("?"), keep_output=True)
    session = await session_in(directory, workspace, ended=ended) if workspace else ""
    entries = (await caller.stat()).entries
    absent = artifact(secret)
    absent.artifact.key = "never was"
    absent.artifact.ClearField("text")
    async with stranger(worker) as spy:
        for part in (artifact(secret), artifact(secret, with_text=False), absent):
            told = []
            for call in calls(spy, part, written.report.output_id, session).values():
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                told.append(refusal(caught.value))
            assert {error.reason for error in told} == {reason}
            assert len({error.message for error in told}) == 1, "held or not, there or not: it says the same"
        assert (await spy.stat()).worker.worker == written.report.worker.worker
    assert (await caller.stat()).entries == entries
    adopted = pb.AdoptOutputRequest(output_id=written.report.output_id, key=secret.key)
    adopted.version.CopyFrom(artifact(secret).artifact.version)
    assert (await caller.stub.AdoptOutput(adopted)).tokens == written.report.output_tokens, "nobody took it away"


@pytest.mark.slow
@pytest.mark.xdist_group("kv worker")
async def test_no_method_but_stat_serves_who_names_no_session(worker: WorkerProcess) -> None:
    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["KvTierService"].methods]
    async with grpc.aio.insecure_channel(worker.address) as channel:
        for name in methods:
            path = f"/homenode_api.v1.KvTierService/{name}"
            if name == "Stat":
                assert await channel.unary_unary(path)(b"", timeout=10)
                continue
            call = channel.unary_stream(path) if name == "Generate" else channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                answer = call(b"", timeout=10)
                await (answer.read() if name == "Generate" else answer)
            assert refusal(caught.value).reason == t.ERROR_REASON_UNAUTHENTICATED, name


@pytest.mark.slow
@pytest.mark.xdist_group("kv worker")
async def test_an_agent_whose_session_was_ended_goes_on_with_its_next_one(
    worker: WorkerProcess, hn: homenode.Homenode, directory: str
) -> None:
    await hn.put("goes on.md", "on it goes. " * 5)
    host = directory.removeprefix("homenode://").partition("/")[0]
    async with homenode.connect(directory, agent="one") as one:
        await (await one.generate("", [Key("goes on.md")], max_tokens=2)).done()
        before = one.session_id
        async with grpc.aio.insecure_channel(host) as channel:
            ending = directory_pb2.CloseSessionRequest(session_id=before)
            await DirectoryServiceStub(channel).CloseSession(ending)
        generation = await one.generate("", [Key("goes on.md")], max_tokens=2)
        assert (await generation.done()).report is not None
    async with homenode.connect(directory.replace("/main", "/elsewhere"), agent="two") as two:
        with pytest.raises(homenode.NoWorker):
            await two.generate("", ["no worker is of this workspace"])


@pytest.mark.slow
async def test_callers_show_a_certificate_where_that_is_asked(
    tls_files: tuple[str, str], model_folder: Path, own_tmp: Path, directory: str
) -> None:
    cert, key = tls_files
    flags = ("--listen", "localhost:0", "--listen-cert", cert, "--listen-key", key, "--listen-client-ca", cert)
    worker = WorkerProcess(model_folder, directory, own_tmp, *flags)
    chain, secret = Path(cert).read_bytes(), Path(key).read_bytes()
    try:
        await worker.start()
        for shown in (True, False):
            own = {"private_key": secret, "certificate_chain": chain} if shown else {}
            credentials = grpc.ssl_channel_credentials(chain, **own)
            async with grpc.aio.secure_channel(worker.address, credentials) as channel:
                asked = KvTierServiceStub(channel).Stat(pb.KvTierServiceStatRequest(), timeout=10)
                if shown:
                    assert (await asked).worker.worker == worker.address
                else:
                    with pytest.raises(grpc.aio.AioRpcError):
                        await asked
    finally:
        worker.kill()


# --- the rule ---------------------------------------------------------------------------------------------------------


class Book:
    """What a directory would say, and how often it was asked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        self.live = {"main~a"}
        self.away = False
        self.callers = Callers(self.ask, lambda: self.now)

    async def ask(self, session: str) -> pb.Admission:
        self.asked.append(session)
        if self.away:
            raise Unavailable("nobody is there")
        return pb.ADMISSION_GRANTED if session in self.live else pb.ADMISSION_SESSION_OVER


async def test_the_directory_is_asked_now_and_then() -> None:
    book = Book()
    for book.now in (0.0, 1.0, BELIEVED_S - 0.1):
        await book.callers.require("main~a")
    assert len(book.asked) == 1
    book.now = BELIEVED_S
    await book.callers.require("main~a")
    assert len(book.asked) == 2
    book.live.clear()
    book.now = 2 * BELIEVED_S
    for _ in range(2):  # no is not believed for a while: the session may be opened by then
        with pytest.raises(Refused):
            await book.callers.require("main~a")
    assert len(book.asked) == 4


async def test_what_is_known_stands_for_a_minute_without_a_directory_and_nothing_else_does() -> None:
    book = Book()
    await book.callers.require("main~a")
    book.away = True
    book.now = BELIEVED_ALONE_S - 1
    await book.callers.require("main~a")
    with pytest.raises(Unavailable):
        await book.callers.require("main~b")
    book.now = BELIEVED_ALONE_S
    with pytest.raises(Unavailable):
        await book.callers.require("main~a")


async def test_what_is_remembered_is_bounded() -> None:
    book = Book()
    book.live = {f"main~{number}" for number in range(REMEMBERED_MAX + 5)}
    for session in book.live:
        await book.callers.require(session)
    assert len(book.callers._granted) == REMEMBERED_MAX
