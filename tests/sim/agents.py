"""Scripted agents: what they do, what they note of it, and what every read must have been."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import homenode
from homenode.artifact import STRICT
from homenode.errors import HomenodeError
from homenode_directory.protocol.model import Version
from tests.sim.sdk import SimClient
from tests.sim.world import HEAD, LAZY_KEYS, MAX_AGE_MS, MIXED, SCRATCH, STRICT_KEYS, World, name_of

STEPS = 24
WRITE_MS = 10_000


class Agent:
    """One scripted agent: reads, edits, takes leases, deletes; notes every outcome and checks every read."""

    def __init__(self, world: World, number: int, client: SimClient) -> None:
        self.world = world
        self.name = f"agent{number}"
        self.rng = random.Random(world.seed * 1_000 + number)
        self.client = client
        self.edit_count = 0
        self.seen: dict[str, Version] = {}

    async def run(self) -> None:
        """Work through the script."""
        actions: list[tuple[Callable[[], Awaitable[object]], int]] = [
            (self._read, 6), (self._read_cached, 6), (self._read_strict, 2), (self._edit, 4), (self._put, 3),
            (self._write, 3), (self._delete, 1), (self._recreate, 2), (self._set_policy, 1), (self._pause, 3),
        ]  # fmt: skip
        choices, weights = [action for action, _ in actions], [weight for _, weight in actions]
        for _ in range(STEPS):
            action = self.rng.choices(choices, weights)[0]
            try:
                await action()
            except HomenodeError as failure:
                self._did(f"{action.__name__.lstrip('_')}:{type(failure).__name__}")

    async def watch_cache(self) -> None:
        """Ask the cache all the time: whatever it serves must be allowed at that very moment."""
        while self.world.observed:
            for key in (*self.world.keys, SCRATCH):
                self._hit(self.client.hn.agent("watcher"), key)
            await asyncio.sleep(0.1)

    # --- actions ------------------------------------------------------------------------------------------------

    @property
    def beside(self) -> homenode.Homenode:
        """Another agent of the same session, for what happens beside the script: it has a view of its own."""
        return self.client.hn.agent("beside")

    async def read(self, hn: homenode.Homenode, key: str, **options: Any) -> homenode.Artifact:
        """A read, checked. Raises HomenodeError."""
        started_s, least = self.world.loop.time(), self.world.register(key).begin()
        artifact = await hn.read(key, default="", **options)
        self._check_read(key, artifact, started_s, least)
        return artifact

    async def try_to_read(self, hn: homenode.Homenode, key: str, **options: Any) -> None:
        """A read that may fail, but not give what it must not."""
        with suppress(HomenodeError):
            await self.read(hn, key, **options)

    async def edit(self, hn: homenode.Homenode, key: str) -> None:
        """An edit, noted."""
        line = self._line()

        def add(text: str) -> str:
            return self.world.tried(text + line)

        await self._outcome(key, line, lambda: hn.edit(key, add, default=HEAD.get(key, "")))

    async def _read(self, consistency: str | None = None) -> None:
        key = self.rng.choice((*self.world.keys, SCRATCH))
        artifact = await self.read(self.client.hn, key, consistency=consistency)
        if consistency == STRICT and artifact.exists and artifact.level != STRICT:
            self.world.problem(f"{self.name} asked for a strict read of {key}, and got a {artifact.level} one")
        self._did(f"read {artifact.level}")

    async def _read_strict(self) -> None:
        await self._read(STRICT)

    async def _read_cached(self) -> None:
        if self._hit(self.client.hn, self.rng.choice((*self.world.keys, SCRATCH))):
            self._did("hit")

    def _hit(self, hn: homenode.Homenode, key: str) -> bool:
        artifact = hn.read_cached(key)
        if artifact is None:
            return False
        if artifact.level == STRICT:
            self.world.report.done["hit strict"] += 1
        self._check_read(key, artifact, self.world.loop.time(), self.world.register(key).begin())
        return True

    async def _edit(self) -> None:
        await self.edit(self.client.hn, self.rng.choice(self.world.keys))

    async def _put(self) -> None:
        key, line = self.rng.choice(self.world.keys), self._line()
        base = await self.client.hn.read(key, default=HEAD.get(key, ""))
        if self.rng.random() < 0.3:
            await asyncio.sleep(self.rng.uniform(0, 0.5))
        text = self.world.tried(base.text + line)
        await self._outcome(key, line, lambda: self.client.hn.put(key, text))

    async def _write(self) -> None:
        key, line = self.rng.choice(self.world.keys), self._line()
        hold_s = self.rng.choice((0.0, 0.01, 0.5, 3.0, 12.0) if key in LAZY_KEYS else (0.0, 0.01, 0.01, 0.5))

        async def write() -> homenode.Artifact | None:
            async with self.client.hn.write(key, create=True, ttl_ms=WRITE_MS, wait_ms=4_000) as draft:
                draft.text = self.world.tried((draft.text or HEAD.get(key, "")) + line)
                await asyncio.sleep(hold_s)
            return draft.committed

        await self._outcome(key, line, write)

    async def _delete(self) -> None:
        await self.client.hn.read(SCRATCH, default="")
        await self.client.hn.delete(SCRATCH)
        self._did("delete")

    async def _recreate(self) -> None:
        line = self._line()

        def add(text: str) -> str:
            return self.world.tried(text + line)

        await self.client.hn.edit(SCRATCH, add, default="")
        self._did("recreate")

    async def _set_policy(self) -> None:
        """One artifact goes from lazy to strict and back; the strict ones are made so again after memory was lost."""
        key = self.rng.choice([key for key in self.world.keys if key in (MIXED, *STRICT_KEYS)] or [SCRATCH])
        level = STRICT if key in STRICT_KEYS else self.rng.choice(("lazy", STRICT))
        if self.rng.random() < 0.4:  # its own policy goes, that of its prefix comes
            await self.client.hn.set_policy(prefix=key[:6], consistency=level)
            await self.client.hn.set_policy(key)
            self._did(f"prefix policy {level}")
            return
        await self.client.hn.set_policy(key, consistency=level)
        self._did(f"policy {level}")

    async def _pause(self) -> None:
        await asyncio.sleep(self.rng.choice((0.001, 0.1, 1.0, 4.0)))

    # --- book-keeping -------------------------------------------------------------------------------------------

    def _line(self) -> str:
        self.edit_count += 1
        return f"{self.name}.{self.edit_count}\n"

    async def _outcome(self, key: str, line: str, effect: Callable[[], Awaitable[homenode.Artifact | None]]) -> None:
        world = self.world
        edits = world.edits.setdefault(key, {})
        edits[line] = "unknown"
        try:
            committed = await effect()
        except homenode.errors.Unknown:
            self._did("unknown")
        except HomenodeError as failure:
            edits[line] = "refused"
            self._did(f"refused:{type(failure).__name__}")
        else:
            edits[line] = "acknowledged"
            world.note(f"{self.name} acknowledged {line.strip()} of {key}")
            assert committed is not None and committed.version is not None
            world.register(key).complete(Version(*committed.version))
            self._did("acknowledged")

    def _check_read(self, key: str, artifact: homenode.Artifact, started_s: float, least: Version) -> None:
        """`started_s`: when the read began; `least`: what the artifact's register said then."""
        world, name = self.world, name_of(key)
        if artifact.version is None:
            return
        version = Version(*artifact.version)
        before = self.seen.get(key)
        if before is not None and version < before:
            world.problem(f"{self.name} saw {key} at {version} after {before}")
        self.seen[key] = version
        register = world.register(key)
        if artifact.level == STRICT:
            if register.is_stale(least, version):
                world.problem(f"{self.name} read {key} at {version}, strictly, when {least} had been read or written")
        else:
            self._check_age(key, version, started_s)
        register.complete(version)
        known = next((c for c in world.history.versions.get(name, ()) if c.version == version), None)
        if known is None:
            world.problem(f"{self.name} read {key} at {version}, which is not committed")
        elif known.hash != hashlib.sha256(artifact.bytes).hexdigest():
            world.problem(f"{key} at {version} was read with other bytes than were committed")

    def _check_age(self, key: str, version: Version, started_s: float) -> None:
        gone_s = self.world.history.superseded_at_s(name_of(key), version)
        oldest_s = started_s - MAX_AGE_MS / 1_000 * 1.02 - 0.002
        if gone_s is not None and gone_s < oldest_s:
            late_s = started_s - gone_s
            self.world.problem(f"{self.name} read {key} at {version}, {late_s:.3f} s after it was superseded")

    def _did(self, what: str) -> None:
        self.world.report.done[what] += 1
        self.world.note(f"{self.name} {what}")
