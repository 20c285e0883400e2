"""Base KV of segments: each computed once, kept at canonical position 0, found by its own content key.

A base is what was computed without a context (exact, as far as it goes: it is what a prompt that begins with the
segment has), or an agent's own decode of it, turned back to position 0 (KVCOMM, section 3.1; approximate, for it
carries the context of its writer). Nothing else becomes a base: KV that was blended once and kept as a base would carry
its error into every later prompt. Exact bases also enter the index of exact prefixes, no others do.

Exact KV of texts that begin alike shares its pages: the next version of an artifact takes what differs from the one
before, up to the block of the first edit, and so does each prompt that goes on from another.

Superseded versions are dropped by their version, or retired: then what other texts have in common with them is found,
by tokens, and nothing else. KV of a dead version cannot be found before that either, for who looks names the version
that its coherent read returned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from homenode_kv.costs import Choice, Costs, Tier
from homenode_kv.entries import Held
from homenode_kv.errors import InUse, NotABase, WrongShape
from homenode_kv.ident import SegmentKey, token_hash
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.pool import Pool
from homenode_kv.prefix import PrefixIndex
from homenode_kv.provenance import EXACT, Kind, Provenance


@dataclass(frozen=True, slots=True)
class Found:
    """A segment that is kept.

    Attributes:
        digest: its content key.
        tokens: T.
        tier: where it lies.
        provenance: of its KV in the canonical frame; used after other text it is approximate, whatever this says.
        choice: what bringing it back costs, and whether computing it again is cheaper.
    """

    digest: str
    tokens: int
    tier: Tier
    provenance: Provenance
    choice: Choice


@dataclass(frozen=True, slots=True)
class Prefix:
    """The exact beginning of a prompt: `tokens` tokens of the entry `digest`."""

    digest: str
    tokens: int


class Segments:
    """Bases in a pool. It listens to the pool, so that what is evicted there is forgotten here.

    Who listened to the pool before is told as before.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._told_before, pool.on_change = pool.on_change, self._changed
        self._prefixes = PrefixIndex()
        self._provenance: dict[str, Provenance] = {}
        self._versions: dict[str, set[str]] = {}  # digest of a version -> its segments
        self._version_of: dict[str, str] = {}
        for entry in list(pool.entries()):  # what a restart found on disk
            self._restore(entry.key, entry.meta)

    def put(self, key: SegmentKey, tokens: Sequence[int], kv: Tensor, provenance: Provenance) -> bool:
        """Keeps the KV of `tokens` at positions 0, 1, …; False where what is kept is as good, or is in use.

        Raises NotABase for approximate KV that is no agent's own decode, WrongShape, OutOfMemory.
        """
        if not provenance.may_be_base:
            raise NotABase("approximate KV is never a base")
        if self._pool.geometry.check(kv) != len(tokens) or token_hash(tokens) != key.tokens:
            raise WrongShape("the KV is not of these tokens, or the key is not theirs")
        kept, exact = self._provenance.get(key.digest), provenance.kind is Kind.EXACT
        if kept is not None and not provenance.better_than(kept):
            if not exact or key.digest in self._prefixes:
                return False
            self._prefixes.add(key.digest, key.fingerprint, key.salt, tokens, kept)  # of an earlier run
            return True
        like, alike = (exact and self._prefixes.match(key.fingerprint, key.salt, tokens)) or ("", 0)
        meta = {"provenance": provenance.text(), "version": key.version_digest}
        try:
            self._pool.put(key.digest, kv, meta, like=like, alike=alike)
        except InUse:
            return False
        self._note(key.digest, key.version_digest, provenance)
        if exact:
            self._prefixes.add(key.digest, key.fingerprint, key.salt, tokens, provenance)
        return True

    def find(self, key: SegmentKey) -> Found | None:
        """The segment under its content key, or None."""
        digest = key.digest
        entry, choice = self._pool.entry(digest), self._pool.look(digest)
        if entry is None or choice is None or digest not in self._provenance:
            return None
        return Found(digest, entry.tokens, entry.tier, self._provenance[digest], choice)

    def prefix(self, fingerprint: str, salt: bytes, tokens: Sequence[int]) -> Prefix | None:
        """The longest beginning of a prompt, of a block at least, of which exact KV is kept."""
        match = self._prefixes.match(fingerprint, salt, tokens)
        return Prefix(*match) if match else None

    @property
    def costs(self) -> Costs:
        """Measured costs, shared with who computes KV."""
        return self._pool.costs

    def look(self, digest: str) -> Choice | None:
        """What bringing an entry back costs; None for a miss."""
        return self._pool.look(digest)

    def use(self, found: Found | Prefix) -> Held | None:
        """The KV on the device, in use until released; None if it went meanwhile. Raises OutOfMemory."""
        return self._pool.get(found.digest)

    def drop_version(self, key: SegmentKey) -> int:
        """Forgets all segments of the key's artifact at the key's version; how many. Pinned ones go when unpinned.

        They are no longer found from here on, pinned or not.
        """
        gone = 0
        for digest in sorted(self._versions.get(key.version_digest, ())):
            self._forget(digest)
            try:
                gone += self._pool.drop(digest)
            except InUse:
                continue  # the pool evicts it in time: nobody finds it any more
        return gone

    def retire(self, digest: str, key: SegmentKey, tokens: Sequence[int]) -> None:
        """From here on an exact entry of `key`'s model and tenant is found as the beginning `tokens` alone, if at all.

        Its text is superseded from there on: neither its key finds it any more, nor a restart.
        """
        self._forget(digest)
        if (entry := self._pool.entry(digest)) is None:
            return
        if entry.tier is Tier.DISK:  # where what a restart will find is written already
            self.drop(digest)
            return
        entry.meta.clear()
        if len(tokens) >= BLOCK_TOKENS:
            self._prefixes.add(digest, key.fingerprint, key.salt, tokens, EXACT)

    def drop(self, digest: str) -> None:
        """Forgets an entry; where it is pinned the pool keeps it until it is not, and nobody finds it."""
        self._forget(digest)
        with contextlib.suppress(InUse):
            self._pool.drop(digest)

    def _changed(self, key: str, before: Tier | None, after: Tier | None) -> None:
        if after is None:
            self._forget(key)
        self._told_before(key, before, after)

    def _note(self, digest: str, version: str, provenance: Provenance) -> None:
        self._provenance[digest] = provenance
        self._versions.setdefault(version, set()).add(digest)
        self._version_of[digest] = version

    def _forget(self, digest: str) -> None:
        self._prefixes.remove(digest)
        self._provenance.pop(digest, None)
        if version := self._version_of.pop(digest, None):
            segments = self._versions[version]
            segments.discard(digest)
            if not segments:
                del self._versions[version]

    def _restore(self, digest: str, meta: dict[str, str]) -> None:
        """Entries of an earlier run are found by their key; prefixes are not, for files hold no tokens."""
        try:
            provenance = Provenance.parse(meta["provenance"])
            self._note(digest, meta["version"], provenance)
        except (KeyError, ValueError):
            self._pool.drop(digest)
