"""Faults planted in the directory or the SDK show in what agents record, and in the log.

Three sessions in this process, over the real directory in a SQLite file, work on shared artifacts at random.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import homenode
from homenode.cache import Cache
from homenode.embedded import EmbeddedTransport
from homenode.history.operations import read_history
from homenode.history.report import Verdict, judge
from homenode_directory.api.local import LocalEndpoint
from homenode_directory.audit.live import read_store
from homenode_directory.audit.rules import Auditor
from homenode_directory.config import Settings
from homenode_directory.protocol import rules
from homenode_directory.protocol.draft import Draft
from homenode_directory.protocol.events import Base, Commit
from homenode_directory.server import build
from homenode_directory.store.open import open_store

KEYS = ("a", "b")
MAX_AGE_MS = 300
SESSIONS = 3


async def work(hn: homenode.Homenode, rng: random.Random, until: Callable[[int], bool]) -> None:
    """Reads and writes, one after the other."""
    n = 0
    while not until(n):
        n += 1
        key, dice = rng.choice(KEYS), rng.random()
        try:
            if dice < 0.5:
                hn.read_cached(key)
            elif dice < 0.7:
                await hn.read(key)
            elif dice < 0.9:
                await hn.put(key, f"{hn.name} {n}")
            else:
                async with hn.lease(key, "write", ttl_ms=1_000) as lease:
                    assert isinstance(lease, homenode.WriteLease)
                    await lease.commit(f"{hn.name} {n} leased")
                    await asyncio.sleep(rng.random() * 0.005)
                    await lease.commit(f"{hn.name} {n} leased again")
        except homenode.HomenodeError:
            pass
        await asyncio.sleep(rng.random() * 0.01)


async def run(folder: Path, consistency: str, seconds: float = 0.0) -> tuple[Verdict, list[str]]:
    """What the judges say of the history, and the rules that the log breaks."""
    loop, rng = asyncio.get_running_loop(), random.Random(7)
    path, history = folder / "d.sqlite3", folder / "history.jsonl"
    settings = Settings(store=f"sqlite:///{path}", term_ms=1_000, bookmark_ms=100, max_age_ms=MAX_AGE_MS)
    server = build(settings)
    await server.start()
    endpoint, agents = LocalEndpoint(server.endpoint), []
    for n in range(SESSIONS):
        transport = EmbeddedTransport(endpoint)
        agents.append(await homenode.connect("embedded://", agent=f"a{n}", transport=transport, record=str(history)))
    for key in KEYS:
        await agents[0].put(key, "first")
        await agents[0].set_policy(key, consistency=consistency)
    ends = loop.time() + seconds
    until = (lambda n: loop.time() > ends) if seconds else (lambda n: n > 120)
    await asyncio.gather(*(work(hn, rng, until) for hn in agents))
    for hn in agents:
        await hn.close()
    await server.close()
    auditor, store = Auditor(), open_store(settings.store)
    await store.open()
    async for item in read_store(store):
        auditor.see(item)
    await store.close()
    return judge(read_history([history]), max_age_ms=MAX_AGE_MS), [found.rule for found in auditor.violations]


@pytest.mark.parametrize("consistency", ["lazy", "strict"])
async def test_without_a_fault_nothing_is_found(tmp_path: Path, consistency: str) -> None:
    verdict, broken = await run(tmp_path, consistency)
    assert not verdict.findings and not broken
    assert verdict.operations["hit"] > 20 and verdict.operations["write"] > 40


async def test_no_base_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_check_base", lambda draft, event: None)
    verdict, _ = await run(tmp_path, "lazy")
    assert "lost update" in {found.rule for found in verdict.findings}


async def test_no_token_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that somebody else holds the lease."""
    monkeypatch.setattr(rules, "_check_token", lambda draft, event: None)
    publish = rules._publish_or_prepare
    monkeypatch.setattr(rules, "_held", lambda draft: publish(draft, current(draft)))
    _, broken = await run(tmp_path, "lazy")
    assert "lease" in broken


def current(draft: Draft) -> Any:
    """The commit that is being judged: the one that asks past the holder."""
    return Commit("main~intruder", draft.content, Base.ANY)


async def test_a_copy_is_served_after_its_invalidation_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cache, "invalidate", lambda self, key, version: None)
    verdict, _ = await run(tmp_path, "strict")
    assert "stale" in {found.rule for found in verdict.findings}


async def test_lazy_copies_are_not_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cache, "invalidate", lambda self, key, version: None)
    verdict, _ = await run(tmp_path, "lazy", seconds=3.0)
    assert "too old" in {found.rule for found in verdict.findings}
    assert verdict.oldest_ms > MAX_AGE_MS


async def test_published_before_the_acknowledgements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(draft: Draft, pending: Any, *args: Any) -> Any:
        waiting = prepare(draft, pending, *args)
        assert draft.pending is not None
        draft.publish(draft.pending)
        return waiting

    prepare = rules._prepare
    monkeypatch.setattr(rules, "_prepare", hasty)
    _, broken = await run(tmp_path, "strict")
    assert "publish" in broken


async def test_copies_are_acknowledged_before_they_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop = Cache.invalidate

    def later(self: Cache, key: str, version: homenode.Version) -> None:
        asyncio.get_running_loop().call_later(0.05, drop, self, key, version)

    monkeypatch.setattr(Cache, "invalidate", later)
    verdict, broken = await run(tmp_path, "strict")
    assert "stale" in {found.rule for found in verdict.findings}
    assert not broken, "the log cannot know"


async def test_an_old_answer_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was read last may be shown again, whatever was seen since."""
    monkeypatch.setattr(Cache, "invalidate", lambda self, key, version: None)
    monkeypatch.setattr(Cache, "may_show", lambda self, key, version: True)
    verdict, _ = await run(tmp_path, "lazy")
    assert "went back" in {found.rule for found in verdict.findings}


async def test_a_request_runs_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every overwriting commit makes two versions, of which its writer hears of one."""
    publish = rules._publish_or_prepare

    def twice(draft: Draft, event: Any) -> Any:
        if event.base is Base.ANY and draft.content is not None:
            publish(draft, event)
        return publish(draft, event)

    monkeypatch.setattr(rules, "_publish_or_prepare", twice)
    history = tmp_path / "history.jsonl"
    async with homenode.connect("embedded://", record=str(history)) as hn:
        await hn.put("k", "one")
        await hn.put("k", "two", base=homenode.ANY)
    assert [found.rule for found in judge(read_history([history])).findings] == ["twice"]
