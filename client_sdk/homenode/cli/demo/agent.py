"""One agent of the demo in a process of its own, sharing pages through the directory.

Run by the stage: `python -m homenode.cli.demo.agent '{"role": …}'`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from typing import Any

import homenode
from homenode.cli.demo import script
from homenode.cli.demo.records import COST, DONE, EDIT, HOLDING, READ, REFUSED, await_go, clock_ns, emit
from homenode.cli.demo.script import Edit, Fate, Role, Way
from homenode.cli.session import credentials
from homenode.lease_handle import WriteLease

PUT_ATTEMPTS = 40
LEASE_ATTEMPTS = 10
RETRY_S = 0.3
WAIT_MS = 20_000


class Agent:
    """Plays a role's turns.

    Args:
        hn: the connection.
        role: the part.
        term_ms: term of its write leases.
    """

    def __init__(self, hn: homenode.Homenode, role: Role, term_ms: int) -> None:
        self._hn = hn
        self._role = role
        self._term_ms = term_ms
        self._seen: dict[str, homenode.Version] = {}

    async def play(self, turns: list[script.Turn]) -> None:
        """All turns, one after the other."""
        for turn in turns:
            async with self._hn.step():
                for page in turn.reads:
                    await self._read(page)
                if turn.edit is not None:
                    await self._edit(turn.edit)
            self._cost()
            await asyncio.sleep(turn.pause_ms / 1000)

    async def _read(self, page: str) -> str:
        """From here if it may be, else what changed since this agent saw it last."""
        began = clock_ns()
        artifact = self._hn.read_cached(page)
        hit = artifact is not None
        if artifact is None:
            artifact = await self._hn.read(page, since=self._seen.get(page))
        assert artifact.version is not None
        self._seen[page] = artifact.version
        emit(READ, page=page, version=artifact.version, began=began, hit=hit)
        return artifact.text

    async def _edit(self, edit: Edit) -> None:
        if edit.fate is not None:
            await self._meet(edit)
            return
        way = {Way.LEASE: self._by_lease, Way.EDIT: self._by_edit, Way.PUT: self._by_put}[self._role.way]
        artifact, sent, tries = await way(edit)
        self._acknowledged(edit, artifact, sent, tries)

    def _acknowledged(self, edit: Edit, artifact: homenode.Artifact, sent: int, tries: int) -> None:
        assert artifact.version is not None
        acked = clock_ns()
        self._seen[edit.page] = artifact.version
        emit(EDIT, page=edit.page, id=edit.id, version=artifact.version, sent=sent, acked=acked, tries=tries)

    async def _by_lease(self, edit: Edit) -> tuple[homenode.Artifact, int, int]:
        for tries in range(1, LEASE_ATTEMPTS + 1):
            began = clock_ns()
            try:
                async with self._hn.write(edit.page, ttl_ms=self._term_ms, wait_ms=WAIT_MS) as draft:
                    text = draft.text
                    emit(READ, page=edit.page, version=draft.version, began=began, hit=False)
                    await asyncio.sleep(edit.think_ms / 1000)
                    draft.text = script.apply(text, edit)
                    sent = clock_ns()
            except (homenode.LeaseLost, homenode.LeaseDenied):
                continue  # this process stood still for longer than its lease, and nothing was written
            assert draft.committed is not None
            return draft.committed, sent, tries
        raise homenode.HomenodeError(f"{edit.id} lost its lease {LEASE_ATTEMPTS} times")

    async def _by_edit(self, edit: Edit) -> tuple[homenode.Artifact, int, int]:
        tries = sent = 0

        async def change(text: str) -> str:
            nonlocal tries, sent
            tries += 1
            emit(READ, page=edit.page, hit=False)
            await asyncio.sleep(edit.think_ms / 1000)
            sent = clock_ns()
            return script.apply(text, edit)

        return await self._hn.edit(edit.page, change, timeout_ms=WAIT_MS), sent, tries

    async def _by_put(self, edit: Edit) -> tuple[homenode.Artifact, int, int]:
        for tries in range(1, PUT_ATTEMPTS + 1):
            text = await self._read(edit.page)
            await asyncio.sleep(edit.think_ms / 1000)
            sent = clock_ns()
            try:
                return await self._hn.put(edit.page, script.apply(text, edit)), sent, tries
            except homenode.VersionConflict:
                continue  # somebody was faster: look again, write again
            except homenode.LeaseDenied as denied:
                await asyncio.sleep(min(denied.retry_after or RETRY_S, RETRY_S))
        raise homenode.HomenodeError(f"{edit.id} found no place in {PUT_ATTEMPTS} tries")

    async def _meet(self, edit: Edit) -> None:
        """The agent has the page in its hands when it is killed, or stopped until its lease has run out."""
        began = clock_ns()
        lease = await self._hn.lease(edit.page, "write", ttl_ms=self._term_ms, wait_ms=WAIT_MS)
        assert isinstance(lease, WriteLease) and lease.artifact is not None
        emit(READ, page=edit.page, version=lease.version, began=began, hit=False)
        text = script.apply(lease.artifact.text, edit)
        emit(HOLDING, page=edit.page, id=edit.id, fate=edit.fate, at=clock_ns(), fence=lease.fence)
        if edit.fate is Fate.KILLED:
            await asyncio.sleep(3_600)
        os.kill(os.getpid(), signal.SIGSTOP)
        sent = clock_ns()
        try:
            artifact = await lease.commit(text, keep=False)
        except homenode.LeaseLost as refusal:
            emit(REFUSED, page=edit.page, id=edit.id, error=type(refusal).__name__, cause=refusal.cause, at=clock_ns())
        else:
            self._acknowledged(edit, artifact, sent, 1)

    def _cost(self) -> None:
        stats = self._hn.stats()
        emit(
            COST,
            hits=stats.hits,
            misses=stats.misses,
            bytes=stats.fetched_bytes + stats.sent_bytes,
            tokens=stats.tokens_shown,
        )


async def main(spec: dict[str, Any]) -> None:
    """Connect, wait for the others, play."""
    role = next(role for role in script.CAST if role.name == spec["role"])
    turns = script.turns(role, seed=spec["seed"], count=spec["turns"])
    tls = credentials(argparse.Namespace(**spec["tls"]))
    async with homenode.connect(spec["url"], agent=role.name, credentials=tls) as hn:
        await asyncio.to_thread(await_go)
        await Agent(hn, role, spec["term_ms"]).play(turns)
    emit(DONE)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
