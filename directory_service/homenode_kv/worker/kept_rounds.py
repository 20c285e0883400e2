"""What is kept of rounds, and found again by who goes on from there.

Of each group the master is kept whole, the other members as what differs. A prompt that begins as a member's prompt
did, up to the last artifact in it, finds that member: its KV of the artifacts was computed in this very context, with
an error that is known, so it is neither checked nor refreshed again. A prompt with other text before or between the
same artifacts in the same order finds it as well: what an artifact takes from its context it takes from the artifacts
before it most of all. That is checked and repaired as bases are, and takes less of it. What is found is approximate, so
it serves as nothing else: no base, no exact beginning.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from homenode_kv.collector import Collected
from homenode_kv.errors import OutOfMemory
from homenode_kv.families import Families
from homenode_kv.ident import SegmentKey, Version, digest
from homenode_kv.kin import Standing
from homenode_kv.layout import blocks_of
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.pool import Pool
from homenode_kv.provenance import Kind
from homenode_kv.rope import Rotation
from homenode_kv.worker.prompts import Piece, Prompt

KeyOf = Callable[[Piece], SegmentKey]


@dataclass(frozen=True, slots=True)
class Place:
    """A segment: its content key, where it begins in the prompt, how long it is, its first block of what is kept."""

    digest: str
    start: int
    tokens: int
    block: int


@dataclass(frozen=True, slots=True)
class Link:
    """Segments of a prompt that a member of a family holds."""

    family: str
    member: str
    blocks: int  # that the family keeps of each member
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Begun:
    """The beginning of a prompt, as rounds left it.

    Attributes:
        tokens: of it, up to the end of its last artifact.
        links: who holds its artifacts.
        error: greatest relative deviation of their keys.
    """

    tokens: int
    links: tuple[Link, ...] = ()
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Member:
    """A member's prompt, and what it went on from."""

    prompt: Prompt
    begun: Begun | None


@dataclass(slots=True)
class _Group:
    """A family: the round it comes from; the versions in each member's prompt, and by which names it is found."""

    round_id: str
    versions: dict[str, dict[str, Version]]
    begun: dict[str, str] = field(default_factory=dict)
    alike: dict[str, str] = field(default_factory=dict)


class KeptRounds:
    """See the module.

    Attributes:
        on_change: hears of a round's master and how many mirrors it has; "" where it is kept no more.
    """

    def __init__(self, pool: Pool, sheets: Pool) -> None:
        self._pool = pool
        self._families = Families(pool, sheets)
        self._families.on_change = self._changed
        self._groups: dict[str, _Group] = {}  # by family; late members of a round are a group of their own
        self._begun: dict[str, Begun] = {}  # by `_beginnings`
        self._alike: dict[str, dict[str, Begun]] = {}  # by the same without own text, then by member
        self._count = 0
        self._standing = Standing()
        self.on_change: Callable[[str, str, int], None] = lambda round_id, master, mirrors: None

    def keep(
        self,
        round_id: str,
        collected: Collected,
        members: Mapping[str, Member],
        key_of: KeyOf,
        dead: Callable[[str, Version], bool],
    ) -> tuple[int, int]:
        """Keeps what the members share; bytes that takes, and as many whole members would.

        (0, 0) where nothing was reused, for exact KV is kept as such, where a version is dead by now, or without room.
        """
        read = {name: _fresh(member, key_of) for name, member in members.items()}
        reading = {name: members[name] for name, segments in read.items() if segments}
        versions = {name: _versions(member.prompt) for name, member in reading.items()}
        over = any(dead(*one) for each in versions.values() for one in each.items())
        if not reading or over or collected.provenance.kind is Kind.EXACT:
            return 0, 0
        kept = {name: collected.composite(name) for name in reading}
        self._count += 1
        family = f"{round_id} {self._count}"
        self._groups[family] = _Group(round_id, versions)
        try:
            ratios = self._families.put(family, kept, {name: collected.plan.deviation[name] for name in kept})
        except OutOfMemory:
            self._groups.pop(family, None)
            return 0, 0
        for name, member in reading.items():
            self._remember(family, name, member, read[name], collected, key_of)
        whole = sum(kv.nbytes for kv in kept.values())
        return int(whole / ratios.per_group), whole

    def find(self, prompt: Prompt, key_of: KeyOf) -> Begun | None:
        """The longest beginning of a prompt that a round left, and that is cheaper to bring back than to compute."""
        found = None
        for _, name in _beginnings(prompt, key_of) if self._begun else ():
            begun = self._begun.get(name)
            if begun is not None and self._pays(begun):
                found = begun
        return found

    def alike(self, prompt: Prompt, key_of: KeyOf, member: str = "") -> Begun | None:
        """The longest with the same artifacts, whatever the text about them: this member's, or the last one's."""
        found = None
        for _, name in _beginnings(prompt, key_of, own=False) if self._alike else ():
            if kept := {who: begun for who, begun in self._alike.get(name, {}).items() if self._pays(begun)}:
                found = kept.get(member) or kept[next(reversed(kept))]
        return found

    def restore(self, begun: Begun, rotation: Rotation) -> dict[int, Tensor]:
        """KV of the artifacts of a beginning, each at its place, by where it begins; empty for a miss."""
        restored: dict[int, Tensor] = {}
        for link in begun.links:
            delta = torch.zeros(link.blocks, dtype=torch.long)
            for place in link.places:
                delta[place.block : place.block + blocks_of(place.tokens)] = place.start
            if (kv := self._moved(link, rotation, delta)) is None:
                return {}
            restored |= {place.start: _part(kv, place) for place in link.places}
        return restored

    def canonical(self, begun: Begun, rotation: Rotation) -> dict[str, Tensor]:
        """The same, each at position 0, by content key."""
        restored: dict[str, Tensor] = {}
        for link in begun.links:
            if (kv := self._moved(link, rotation, 0)) is None:
                return {}
            restored |= {place.digest: _part(kv, place) for place in link.places}
        return restored

    def materialize(self, round_id: str, member: str) -> tuple[int, int] | None:
        """Makes a member whole; its tokens and bytes, None for a miss. Raises OutOfMemory."""
        key = self._families.materialize(self._family(round_id, member), member)
        entry = self._pool.entry(key) if key is not None else None
        return (entry.tokens, entry.size_bytes) if entry is not None else None

    def leave(self, round_id: str, member: str) -> str | None:
        """Forgets a member, in whose place another one becomes the master; who is it now, None for a miss."""
        family = self._family(round_id, member)
        if not self._leave(family, [member]):
            return None
        return next(iter(self._families.members(family)), "")

    def release(self, artifact: str, current: Version, *, deleted: bool = False) -> None:
        """`artifact` is at `current`, or was `deleted` then: members over what is dead go, others stay."""
        for family, group in list(self._groups.items()):
            read = {name: versions[artifact] for name, versions in group.versions.items() if artifact in versions}
            if gone := [
                name for name, version in read.items() if version < current or (deleted and version == current)
            ]:
                self._leave(family, gone)

    def shed(self) -> bool:
        """Gives up the round that was used longest ago; False where there is none."""
        return self._families.shed()

    def standing(self) -> Standing:
        """How much is kept; other threads may ask."""
        try:
            self._standing = self._families.standing()
        except RuntimeError:  # something changed while it was counted
            pass
        return self._standing

    # --- inside -------------------------------------------------------------------------------------------------------

    def _remember(
        self,
        family: str,
        name: str,
        member: Member,
        read: Sequence[tuple[int, Piece]],
        collected: Collected,
        key_of: KeyOf,
    ) -> None:
        """Who begins as this member's prompt does finds it, unless it reads a segment twice: it is kept once."""
        error = collected.plan.left.get(name)
        keys = [key_of(piece).digest for _, piece in read]
        if error is None or len(set(keys)) < len(keys):
            return
        starts = collected.starts
        places = tuple(
            Place(key, start, len(piece.tokens), starts[key]) for (start, piece), key in zip(read, keys, strict=True)
        )
        link = Link(family, name, collected.blocks, places)
        before, group = member.begun or Begun(0), self._groups[family]
        end, group.begun[name] = list(_beginnings(member.prompt, key_of))[-1]
        _, group.alike[name] = list(_beginnings(member.prompt, key_of, own=False))[-1]
        begun = Begun(end, (*before.links, link), max(before.error, error))
        self._begun[group.begun[name]] = begun
        alike = self._alike.setdefault(group.alike[name], {})
        alike.pop(name, None)
        alike[name] = begun

    def _pays(self, begun: Begun) -> bool:
        return all(self._families.pays(link.family, link.member) for link in begun.links)

    def _moved(self, link: Link, rotation: Rotation, delta: int | Tensor) -> Tensor | None:
        try:
            return self._families.moved(link.family, link.member, rotation, delta)
        except OutOfMemory:
            return None

    def _family(self, round_id: str, member: str) -> str:
        """The latest of a round's groups that keeps a member."""
        named = [family for family, group in self._groups.items() if group.round_id == round_id]
        return next((family for family in reversed(named) if member in self._families.members(family)), "")

    def _leave(self, family: str, members: Sequence[str]) -> bool:
        try:
            left = self._families.leave(family, *members)
        except OutOfMemory:  # no room for a successor of the master
            return self._families.release(family)
        if (group := self._groups.get(family)) is not None:
            for name in members:
                group.versions.pop(name, None)
                self._forget(family, group, name)
        return left

    def _forget(self, family: str, group: _Group, member: str) -> None:
        """A member is found no more, unless a later round has begun as it did."""
        begins, same = group.begun.pop(member, ""), group.alike.pop(member, "")
        alike = self._alike.get(same, {})
        for kept, name in ((self._begun, begins), (alike, member)):
            if name in kept and kept[name].links[-1].family == family:
                del kept[name]
        if same and not alike:
            self._alike.pop(same, None)

    def _changed(self, family: str, master: str, mirrors: int) -> None:
        if (group := self._groups.get(family)) is None:
            return
        if not master:
            del self._groups[family]
            for name in list(group.begun):
                self._forget(family, group, name)
        self.on_change(group.round_id, master, mirrors)


def _part(kv: Tensor, place: Place) -> Tensor:
    return kv[:, :, place.block * BLOCK_TOKENS :][:, :, : place.tokens]


def _beginnings(prompt: Prompt, key_of: KeyOf, own: bool = True) -> Iterator[tuple[int, str]]:
    """Where each artifact of a prompt ends, and a name of the versions up to there and, with `own`, of all tokens."""
    name, text = "", array("q", prompt.lead)
    for start, piece in prompt.placed():
        if not piece.artifact or not piece.tokens:
            text.extend(piece.tokens)
            continue
        key, before = key_of(piece), text.tobytes() if own else b""
        name = digest([name.encode(), before, key.digest.encode()], salt=key.salt, person=b"beginning")
        text = array("q")
        yield start + len(piece.tokens), name


def _fresh(member: Member, key_of: KeyOf) -> list[tuple[int, Piece]]:
    """The artifacts of a prompt behind what it went on from, and where they begin."""
    done = member.begun.tokens if member.begun else 0
    placed = member.prompt.placed()
    return [(start, piece) for start, piece in placed if piece.artifact and piece.tokens and start >= done]


def _versions(prompt: Prompt) -> dict[str, Version]:
    return {piece.artifact: piece.version for piece in prompt.pieces if piece.version is not None}
