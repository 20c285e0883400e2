"""Exact prefixes: the longest beginning of a prompt whose KV is kept, of one block at least.

The usual chain of hashes (vLLM's automatic prefix caching): a block is named by its tokens and all that come before
them. Where no entry has the next block whole, tokens are compared up to the first that differs, so that nothing before
an edit is computed again. Only EXACT KV enters: a beginning that was reused out of its context would poison every
prompt that begins alike.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice

from homenode_kv.edits import common
from homenode_kv.errors import NotExact
from homenode_kv.ident import digest
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.provenance import Kind, Provenance

#: Entries whose next block is compared, the newest ones.
COMPARED_MAX = 16


def chain(fingerprint: str, salt: bytes, tokens: Sequence[int]) -> Iterator[str]:
    """Names of the beginnings of 32, 64, … tokens; a last block that is not full has none."""
    name = fingerprint
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        block = array("q", tokens[start : start + BLOCK_TOKENS]).tobytes()
        name = digest([name.encode(), block], salt=salt, person=b"prefix")
        yield name


class PrefixIndex:
    """Which entries of the pool begin with which tokens."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, None]] = {}  # name of a beginning -> keys of entries, oldest first
        self._names: dict[str, list[str]] = {}  # key of an entry -> names of its beginnings
        self._tokens: dict[str, array[int]] = {}

    def add(self, key: str, fingerprint: str, salt: bytes, tokens: Sequence[int], provenance: Provenance) -> None:
        """The entry `key` holds the KV of `tokens` from position 0. Raises NotExact unless it is exact."""
        if provenance.kind is not Kind.EXACT:
            raise NotExact(f"only exact KV is a prefix, not {provenance.kind.name.lower()}")
        self.remove(key)
        names = list(chain(fingerprint, salt, tokens))
        self._names[key], self._tokens[key] = names, array("q", tokens)
        for name in names:
            self._entries.setdefault(name, {})[key] = None

    def match(self, fingerprint: str, salt: bytes, tokens: Sequence[int]) -> tuple[str, int] | None:
        """An entry that begins as `tokens` do, and how many tokens of it serve; None where not even a block does."""
        found: dict[str, None] | None = None
        whole = 0
        for name in chain(fingerprint, salt, tokens):
            if not (entries := self._entries.get(name)):
                break
            found, whole = entries, whole + BLOCK_TOKENS
        if found is None:
            return None
        rest = tokens[whole : whole + BLOCK_TOKENS]
        best, more = "", -1
        for key in islice(reversed(found), COMPARED_MAX):
            alike = common(self._tokens[key][whole : whole + BLOCK_TOKENS], rest)
            if alike > more:
                best, more = key, alike
        return best, whole + more

    def remove(self, key: str) -> None:
        """The entry `key` is gone, or is no longer used as a prefix."""
        self._tokens.pop(key, None)
        for name in self._names.pop(key, ()):
            entries = self._entries[name]
            del entries[key]
            if not entries:
                del self._entries[name]

    def __contains__(self, key: str) -> bool:
        return key in self._tokens

    def __len__(self) -> int:
        return len(self._entries)
