"""A simulated agent: what it does in a step, what that costs in tokens, and what was wrong with what it read."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import homenode
from homenode.artifact import Artifact
from homenode.change import Change, describe, estimate_tokens
from homenode.cli.simulate.edits import EDITS
from homenode.cli.simulate.paper import ACT_PROBABILITY, fetches_max
from homenode.cli.simulate.workload import CHANGE, OVERWRITE, Workload
from homenode.errors import VersionConflict
from homenode.versions import Version

ATTEMPTS = 8


@dataclass(slots=True)
class Truth:
    """What is committed, as somebody sees it who is told at once. Texts by key.

    Attributes:
        accesses, writes, fetches, pushes: by key. A fetch is an access that shows the agent a version which was not in
            its context and not its own; a push shows it unasked.
        stale: reads of a version that was superseded then; oldest_steps: how many steps ago, at most.
        tokens: of what agents were shown; pull_tokens: what the accesses would have cost without any cache.
        changes, largest: by key, the tokens of all changes from version to version (of the versions, where agents are
            shown documents), and of the largest version.
    """

    shows: str
    step: int = 0
    newest: dict[str, Version] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    superseded: dict[tuple[str, Version], int] = field(default_factory=dict)
    accesses: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    fetches: Counter[str] = field(default_factory=Counter)
    pushes: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    largest: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    pull_tokens: int = 0
    reads: int = 0
    hits: int = 0
    stale: int = 0
    oldest_steps: int = 0
    conflicts: int = 0

    def committed(self, artifact: Artifact) -> None:
        """Somebody has committed this."""
        assert artifact.version is not None
        key, before = artifact.key, self.newest.get(artifact.key)
        tokens = artifact.tokens(estimate_tokens)
        if before is not None:
            self.superseded[key, before] = self.step
            changed = self.shows == CHANGE
            self.changes[key] += describe(self.texts[key], artifact.text).tokens if changed else tokens
        self.largest[key] = max(self.largest[key], tokens)
        self.newest[key], self.texts[key] = artifact.version, artifact.text

    def was_read(self, artifact: Artifact) -> None:
        """An agent uses this now."""
        assert artifact.version is not None
        self.reads += 1
        since = self.superseded.get((artifact.key, artifact.version))
        if since is not None:
            self.stale += 1
            self.oldest_steps = max(self.oldest_steps, self.step - since)

    def bounds(self, agents: int) -> dict[str, int]:
        """Most fetches and pushes by key."""
        pushed = {key for key, count in self.pushes.items() if count}
        return {
            key: fetches_max(agents, 1 << 62 if key in pushed else self.accesses[key], self.writes[key])
            for key in self.newest
        }

    def tokens_max(self, agents: int) -> int:
        """Most tokens that agents can have been shown: each of them a first look, and everybody else's changes."""
        return sum(agents * self.largest[key] + (agents - 1) * self.changes[key] for key in self.newest)


class Agent:
    """See the module. `rng` says what all agents do, drawn in the order of the published simulation; `texts` what they
    write.
    """

    def __init__(
        self, hn: homenode.Homenode, workload: Workload, truth: Truth, rng: random.Random, texts: random.Random
    ) -> None:
        self.hn = hn
        self._workload = workload
        self._truth = truth
        self._rng = rng
        self._texts = texts
        self._edit = EDITS[workload.edit]
        self._context: dict[str, Artifact] = {}  # by key, what its prompt holds

    async def act(self, keys: list[str]) -> None:
        """One step: perhaps nothing, else a read or a write of one artifact."""
        async with self.hn.step():
            if self._rng.random() >= ACT_PROBABILITY:
                return
            key = keys[self._rng.randrange(len(keys))]
            writes = self._rng.random() < self._workload.volatility
            self._truth.pull_tokens += estimate_tokens(self._truth.texts[key])
            artifact = await self._read(key)
            if writes:
                await self._write(artifact)
            else:
                self._truth.was_read(artifact)

    def take_pushed(self, keys: list[str]) -> None:
        """What came unasked goes into the prompt, wanted or not."""
        for key in keys:
            artifact = self.hn.read_cached(key)
            if artifact is not None and self._is_new(artifact):
                before = self._context.get(key)
                change = None
                if before is not None and self._workload.shows == CHANGE:
                    change = describe(before.text, artifact.text)
                self._show(artifact, change)
                self._truth.pushes[key] += 1

    async def _read(self, key: str) -> Artifact:
        truth = self._truth
        truth.accesses[key] += 1
        artifact = self.hn.read_cached(key)
        if artifact is not None:
            truth.hits += 1
            return artifact
        before = self._context.get(key)
        since = before.version if before is not None and self._workload.shows == CHANGE else None
        artifact = await self.hn.read(key, since=since)
        if self._is_new(artifact):
            truth.fetches[key] += 1
            self._show(artifact, artifact.change)
        return artifact

    def _is_new(self, artifact: Artifact) -> bool:
        before = self._context.get(artifact.key)
        return before is None or before.version != artifact.version

    def _show(self, artifact: Artifact, change: Change | None) -> None:
        self._truth.tokens += artifact.tokens(estimate_tokens) if change is None else change.tokens
        self._context[artifact.key] = artifact

    async def _write(self, artifact: Artifact) -> None:
        truth, key = self._truth, artifact.key
        for _ in range(ATTEMPTS):
            text = self._edit(self._texts, artifact.text)
            base = homenode.ANY if self._workload.writes == OVERWRITE else artifact.version
            try:
                committed = await self.hn.put(key, text, base=base)
            except VersionConflict:
                truth.conflicts += 1
                artifact = await self._read(key)
                continue
            self._context[key] = committed
            truth.writes[key] += 1
            truth.committed(committed)
            return
        raise AssertionError("agents act one after another: nobody else can have committed meanwhile")
