"""Writers that are dead, asleep or out of date change nothing, free what they hold, and are told why."""

from __future__ import annotations

import asyncio
import signal
import time

import grpc
import pytest

import homenode
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.api.client import content, refused
from tests.client.server_process import ServerProcess
from tests.faults import raw
from tests.faults.conftest import Report, ScriptFactory, ServerFactory
from tests.faults.processes import Script
from tests.support.ports import wait_until_async

TERM_MS = 1_000
SESSION_TTL_MS = 5_000
LONG_TERM_MS = 60_000
#: What a busy machine may add to a term before a test gives up.
PATIENCE_MS = 60_000

STORES = pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])


async def held(holder: Script) -> None:
    """Wait until it holds the lease."""
    await wait_until_async(lambda: holder.records, timeout_s=60, what="the holder's lease")


async def take_over(hn: homenode.Homenode, key: str, text: str) -> float:
    """Queue for the write lease, write; returns how many seconds it took."""
    started = time.monotonic()
    async with hn.write(key, wait_ms=PATIENCE_MS) as draft:
        draft.text += text
    return time.monotonic() - started


@STORES
async def test_an_old_base_is_refused_after_delete_and_recreate(store: str, store_server: ServerFactory) -> None:
    server = await store_server(store).start()
    async with homenode.connect(server.url, agent="a", timeout_ms=30_000) as hn:
        first = (await hn.put("k", "one")).version
        deleted = await hn.delete("k", base=first)
        again = (await hn.put("k", "one", base=homenode.ABSENT)).version
        assert first is not None and again is not None and first.n < deleted.n < again.n
        for base in (first, deleted):
            with pytest.raises(homenode.VersionConflict) as conflict:
                await hn.put("k", "from an old base", base=base)
            assert conflict.value.current == again
        with pytest.raises(homenode.AlreadyExists):
            await hn.put("k", "as if new", base=homenode.ABSENT)
        server.kill()
        await server.start()
        for base in (first, deleted):
            with pytest.raises(homenode.VersionConflict):
                await hn.put("k", "from an old base", base=base)
        await hn.delete("k", base=again)
        server.kill()
        await server.start()
        for base in (first, deleted, again):
            with pytest.raises(homenode.VersionConflict):
                await hn.put("k", "from an old base", base=base)
        third = (await hn.put("k", "two", base=homenode.ABSENT)).version
        assert third is not None and third.n > again.n + 1
        assert (await hn.read("k", max_age_ms=0)).text == "two"


FAULTS = (
    ("killed", signal.SIGKILL, TERM_MS, 0, None),
    ("asleep past its term", signal.SIGSTOP, TERM_MS, 0, "expired"),
    ("asleep past its session", signal.SIGSTOP, LONG_TERM_MS, SESSION_TTL_MS, "session_lost"),
)


@STORES
async def test_dead_and_sleeping_writers_are_fenced(
    store: str, store_server: ServerFactory, scripts: ScriptFactory, report: Report
) -> None:
    """What they held is free in time, and the sleepers' late commits are refused, with the cause."""
    server = await store_server(store).start()
    async with homenode.connect(server.url, agent="a", timeout_ms=30_000) as hn:

        async def one(key: str, fault: signal.Signals, term_ms: int, ttl_ms: int, cause: str | None) -> None:
            await hn.put(key, "")
            holder = scripts("holder", server.url, key, term_ms, ttl_ms)
            await held(holder)
            with pytest.raises(homenode.LeaseDenied):
                await hn.lease(key)
            holder.signal(fault)
            waited_s = await take_over(hn, key, "+")
            report(f"{store}, {key} (term {term_ms} ms): free after {waited_s:.1f} s")
            if cause is not None:
                holder.signal(signal.SIGCONT)
                (*_, last) = await holder.stop()
                assert last.get("cause") == cause, last
            assert (await hn.read(key, max_age_ms=0)).text == "+"

        await asyncio.gather(*(one(*fault) for fault in FAULTS))


async def acquire(service: object, session: str, ttl_ms: int, request_id: int = 1) -> pb.AcquireResponse:
    """The write lease of `k`, without the SDK."""
    request = pb.AcquireRequest(session_id=session, request_id=request_id, key="k", lease_id="zombie", ttl_ms=ttl_ms)
    return await service.Acquire(request, timeout=raw.TIMEOUT_S)  # type: ignore[attr-defined, no-any-return]


def late_commit(session: str, lease: pb.AcquireResponse, request_id: int = 2) -> pb.CommitRequest:
    """What a zombie sends that knows nothing."""
    return pb.CommitRequest(
        session_id=session, request_id=request_id, key="k", content=content(b"late"), token=lease.token,
        version=lease.version,
    )  # fmt: skip


@STORES
async def test_the_server_refuses_late_tokens_by_itself(store: str, store_server: ServerFactory) -> None:
    """A client that trusts its lease for ever: the fence holds without its help, and says why."""
    server = await store_server(store).start()
    async with homenode.connect(server.url, agent="a", timeout_ms=30_000) as hn, raw.stub(server.port) as service:
        await hn.put("k", "")
        session = await raw.open_session(service)
        lease = await acquire(service, session, TERM_MS)
        await take_over(hn, "k", "+")
        for attempt in range(2):
            error = await refused(service.Commit(late_commit(session, lease, 2 + attempt), timeout=raw.TIMEOUT_S))
            assert error.reason in (t.ERROR_REASON_STALE_FENCE, t.ERROR_REASON_LEASE_LOST), error
            assert error.cause == t.LEASE_END_EXPIRED, error
            assert error.HasField("current"), error
        lease = await acquire(service, session, LONG_TERM_MS, request_id=10)
        await service.Release(
            pb.ReleaseRequest(session_id=session, request_id=11, key="k", lease_id="zombie"), timeout=raw.TIMEOUT_S
        )
        error = await refused(service.Commit(late_commit(session, lease, 12), timeout=raw.TIMEOUT_S))
        assert error.cause == t.LEASE_END_RELEASED, error
        assert (await hn.read("k", max_age_ms=0)).text == "+"

        # Over Redis a lease outlives the server; over SQLite each opening is another incarnation, and it does not.
        lease = await acquire(service, session, LONG_TERM_MS, request_id=20)
        server.kill()
        await server.start()
        outcome = await commit_again(service, late_commit(session, lease, 21))
        text = (await hn.read("k", max_age_ms=0)).text
        assert (outcome, text) == (("late", "late") if store == "redis" else ("refused", "+"))


async def commit_again(service: object, request: pb.CommitRequest) -> str:
    """Send a commit until the server answers; "late" when it took effect."""
    for _ in range(100):
        try:
            await service.Commit(request, timeout=raw.TIMEOUT_S)  # type: ignore[attr-defined]
            return "late"
        except grpc.aio.AioRpcError as failure:
            if failure.code() is not grpc.StatusCode.UNAVAILABLE:
                return "refused"
            await asyncio.sleep(0.1)
    raise AssertionError("the server does not come back")


async def test_one_request_id_is_one_effect_however_often_it_is_sent(store_server: ServerFactory) -> None:
    """Also across a kill, and by another connection."""
    server: ServerProcess = await store_server("sqlite").start()
    async with raw.stub(server.port) as service:
        session = await raw.open_session(service)
        request = pb.CommitRequest(session_id=session, request_id=1, key="k", content=content(b"once"), any=True)
        answers = await asyncio.gather(*(service.Commit(request, timeout=raw.TIMEOUT_S) for _ in range(20)))
        assert len({(answer.version.incarnation, answer.version.n) for answer in answers}) == 1
        server.kill()
        await server.start()
        resolved = await resolve_again(service, pb.ResolveRequest(session_id=session, request_ids=[1, 2]))
        assert resolved.outcomes[0].answer.commit.version == answers[0].version
        assert resolved.outcomes[1].never


async def resolve_again(service: object, request: pb.ResolveRequest) -> pb.ResolveResponse:
    """Ask until the server is back."""
    found: list[pb.ResolveResponse] = []

    async def asked() -> bool:
        try:
            found.append(await service.Resolve(request, timeout=raw.TIMEOUT_S))  # type: ignore[attr-defined]
        except grpc.aio.AioRpcError as failure:
            assert failure.code() is grpc.StatusCode.UNAVAILABLE, failure
        return bool(found)

    await wait_until_async(asked, timeout_s=60, what="an answer to Resolve")
    return found[0]
