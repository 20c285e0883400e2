"""Work that nobody waits for may fail without an end of the worker; a turn lasts as long as the thread is busy."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

import homenode
from homenode_kv.ident import Version
from homenode_kv.rounds import Group
from homenode_kv.worker import folder
from homenode_kv.worker.coherence import Coherence
from homenode_kv.worker.generation import Job
from homenode_kv.worker.keeper import Base, Keeper
from homenode_kv.worker.prompts import Piece, Prompt
from homenode_kv.worker.round_calls import Joined, Part, fitting
from homenode_kv.worker.turns import Turns
from tests.kv.worker.test_keeper import TOKENIZER, made
from tests.support.ports import wait_until_async

TEXT = "A TEXT OF BYTES THAT THE TINY MODEL KNOWS."


async def test_a_caller_who_leaves_keeps_the_turn_until_the_thread_is_free() -> None:
    """Else the next one asks whether its versions hold, and then waits for what nobody wants any more."""
    turns, begun, free, order = Turns(4), threading.Event(), threading.Event(), list[str]()

    def long() -> None:
        begun.set()
        free.wait(20)
        order.append("long")

    async def call(gate: str, work: object) -> None:
        async with turns.turn():
            order.append(gate)
            await turns.run(work)  # type: ignore[arg-type]

    first = asyncio.ensure_future(call("first asks", long))
    await asyncio.to_thread(begun.wait)
    second = asyncio.ensure_future(call("second asks", lambda: order.append("short")))
    first.cancel()
    await asyncio.sleep(0.05)
    free.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert order == ["first asks", "long", "second asks", "short"]
    turns.close()


async def test_work_that_has_not_begun_is_left_out_when_its_caller_goes() -> None:
    turns, free, done = Turns(4), threading.Event(), list[int]()
    busy = asyncio.ensure_future(turns.run(lambda: free.wait(20)))
    late = asyncio.ensure_future(turns.run(lambda: done.append(1)))
    await asyncio.sleep(0.01)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    free.set()
    await busy
    await turns.run(lambda: None)
    assert not done
    turns.close()


@pytest.mark.parametrize(
    "failure", [torch.OutOfMemoryError("CUDA out of memory"), OSError(28, "No space left"), RuntimeError("other")]
)
async def test_what_fails_while_nobody_waits_does_not_end_the_worker(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, _ = made()
    real, failures = Keeper.base, [failure]

    def base(self: Keeper, piece: Piece) -> Base:
        if failures:
            raise failures.pop()
        return real(self, piece)

    monkeypatch.setattr(Keeper, "base", base)
    monkeypatch.setattr("homenode_kv.worker.coherence.AGAIN_S", 0.01)
    turns = Turns(4)
    async with homenode.connect("embedded://", agent="worker") as hn:
        coherence = Coherence(hn, keeper, turns, TOKENIZER)
        running = asyncio.ensure_future(coherence.run())
        for name in ("first", "second"):
            found = await hn.put(name, TEXT)
            assert found.version is not None
            version = Version(*found.version)
            coherence.want([Piece((), name, version)])

            async def over() -> bool:
                return running.done() or not failures

            await wait_until_async(over, what="the work ahead")
        kept = Piece(tuple(TOKENIZER.encode(TEXT)), "second", version)

        async def built() -> bool:
            return running.done() or keeper.find(kept) is not None

        await wait_until_async(built, what="the second base")
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    turns.close()


def test_a_folder_has_one_worker_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    with folder.owned(tmp_path / "kv"):
        assert (tmp_path / "kv").stat().st_mode & 0o077 == 0
        first = folder.secret(tmp_path / "kv")
        with pytest.raises(OSError, match="another worker is at work"), folder.owned(tmp_path / "kv"):
            pass
    with folder.owned(tmp_path / "kv"):
        assert folder.secret(tmp_path / "kv") == first


def test_an_epoch_rises_whatever_the_folder_says(tmp_path: Path) -> None:
    first = folder.epoch(tmp_path)
    assert folder.epoch(tmp_path) > first
    (tmp_path / "epoch").write_text(str(first + 10**9))
    assert folder.epoch(tmp_path) == first + 10**9 + 1
    for nonsense in ("9" * 30, "", "x", str(2**53)):
        (tmp_path / "epoch").write_text(nonsense)
        assert first <= folder.epoch(tmp_path) < 2**53


def test_a_round_too_large_for_one_pass_is_computed_in_parts_of_it() -> None:
    def joined(tokens: int) -> Joined:
        return Joined(Job(Prompt((), (Piece((5,) * tokens),)), 1, lambda text, ids: None), lambda ms: None)

    def parts(*tokens: int) -> list[list[str]]:
        requests = {f"m{at}": joined(count) for at, count in enumerate(tokens)}
        group: Group[Joined, Part] = Group("r", requests, {name: Future() for name in requests}, False)
        found = list(fitting(group, 4_096))
        assert all(part.futures[name] is group.futures[name] for part in found for name in part.requests)
        assert [len(part.futures) for part in found] == [len(part.requests) for part in found]
        return [list(part.requests) for part in found]

    assert parts(*[300] * 20) == [[f"m{at}" for at in range(20)]]
    assert parts(4_000, 10, 4_000) == [["m0"], ["m1"], ["m2"]]
    assert parts(2_000, 2_000, 2_000, 2_000, 2_000) == [["m0", "m1", "m2", "m3"], ["m4"]]
