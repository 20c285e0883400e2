"""A simulated agent: what it does in a step, and what that costs in tokens. The same in virtual time and live."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import homenode
from homenode.artifact import Artifact
from homenode.change import POINTER_TOKENS, Change, changed_text, describe, estimate_tokens
from homenode.cli.simulate.corpus import load
from homenode.cli.simulate.edits import BLOCK, EDITS, HISTORY
from homenode.cli.simulate.workload import ALWAYS_READ, CHANGE, OVERWRITE, POINTER, Workload
from homenode.errors import VersionConflict
from homenode.versions import Version

ATTEMPTS = 8


@dataclass(slots=True)
class Deed:
    """What an agent has done with one artifact, or (`pushes`) what came to it.

    Attributes:
        version: that it used in the end; None: of a push.
        fetches: accesses that showed it a version which was not in its context and not its own.
        shown: tokens of what was new to it; repeated: of what its context held already.
        first: of `shown`, those of artifacts that it saw for the first time.
        changed: tokens of the places alone that others had changed since what it saw before.
        conflicts: writes that were refused.
        committed, text: what it wrote, if it did.
    """

    key: str
    version: Version | None = None
    accesses: int = 0
    hits: int = 0
    fetches: int = 0
    pushes: int = 0
    shown: int = 0
    repeated: int = 0
    first: int = 0
    changed: int = 0
    conflicts: int = 0
    committed: Version | None = None
    text: str = ""


class Agent:
    """See the module. `texts` says what it writes."""

    def __init__(self, hn: homenode.Homenode, workload: Workload, texts: random.Random) -> None:
        self.hn = hn
        self._workload = workload
        self._texts = texts
        self._context: dict[str, Artifact] = {}  # by key, what its prompt holds
        self._corpus = load(workload.corpus, workload.artifacts) if workload.edit == HISTORY else None

    async def act(self, key: str | None, *, writes: bool) -> Deed | None:
        """One step: a read or a write of one artifact, or nothing."""
        async with self.hn.step():
            if key is None:
                return None
            deed = Deed(key)
            artifact = await self._read(deed)
            deed.version = artifact.version
            if writes:
                await self._write(deed, artifact)
            return deed

    def take_pushed(self, keys: list[str]) -> Iterator[Deed]:
        """What came unasked goes into the prompt, wanted or not."""
        for key in keys if self._workload.pushes else []:
            artifact = self.hn.read_cached(key)
            if artifact is not None and self._is_new(artifact):
                before = self._context.get(key)
                change = None
                if before is not None and self._workload.shows == CHANGE:
                    change = describe(before.text, artifact.text)
                deed = Deed(key, pushes=1)
                self._show(deed, artifact, change)
                yield deed

    async def _read(self, deed: Deed) -> Artifact:
        deed.accesses += 1
        artifact = self.hn.read_cached(deed.key)
        if artifact is not None:
            deed.hits += 1
        else:
            before = self._context.get(deed.key)
            since = before.version if before is not None and self._workload.shows == CHANGE else None
            artifact = await self.hn.read(deed.key, since=since)
        if self._is_new(artifact):
            deed.fetches += 1
            self._show(deed, artifact, artifact.change)
        elif self._workload.access == ALWAYS_READ:
            deed.repeated += artifact.tokens(estimate_tokens)
        elif self._workload.access == POINTER:
            deed.repeated += POINTER_TOKENS
        return artifact

    def _is_new(self, artifact: Artifact) -> bool:
        before = self._context.get(artifact.key)
        return before is None or before.version != artifact.version

    def _show(self, deed: Deed, artifact: Artifact, change: Change | None) -> None:
        before, tokens = self._context.get(artifact.key), artifact.tokens(estimate_tokens)
        self._context[artifact.key] = artifact
        deed.shown += tokens if change is None else change.tokens
        if before is None:
            deed.first += tokens
        elif change is not None:
            deed.changed += estimate_tokens(changed_text(before.text, artifact.text))

    async def _write(self, deed: Deed, artifact: Artifact) -> None:
        for _ in range(ATTEMPTS):
            text = self._edited(artifact)
            if text is None:
                return
            base = homenode.ANY if self._workload.writes == OVERWRITE else artifact.version
            try:
                committed = await self.hn.put(deed.key, text, base=base)
            except VersionConflict:
                deed.conflicts += 1
                artifact = await self._read(deed)
                continue
            self._context[deed.key] = committed
            deed.committed, deed.text = committed.version, text
            return
        raise AssertionError("agents act one after another: nobody else can have committed meanwhile")

    def _edited(self, artifact: Artifact) -> str | None:
        """What it makes of the text; None: there is nothing to write, the file's history ends here."""
        if self._corpus is None:
            sizes = [self._workload.block_lines] if self._workload.edit == BLOCK else []
            return EDITS[self._workload.edit](self._texts, artifact.text, *sizes)
        assert artifact.version is not None
        return self._corpus.after(number_of(artifact.key), artifact.version.n - 1)  # the founder's is number 1


def key_of(place: str, number: int) -> str:
    """An artifact's name."""
    return f"{place}/{number}"


def number_of(key: str) -> int:
    """Which artifact it is, counted from 0."""
    return int(key.rpartition("/")[2])
