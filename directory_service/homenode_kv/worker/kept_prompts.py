"""Prompts that were computed whole, as beginnings of the next ones.

Exact KV of a prompt, and of what was written after it, serves every prompt that begins alike, whatever becomes of the
versions in it: it is found by its tokens. But nobody who reads coherently asks for superseded text again, so a prompt
is cut before an artifact that changed: what comes before it is as good as it was.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from torch import Tensor

from homenode_kv.costs import Tier
from homenode_kv.entries import Held
from homenode_kv.errors import InUse
from homenode_kv.ident import Version
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.pool import Pool
from homenode_kv.segments import Found, Prefix
from homenode_kv.worker.prompts import Prompt

#: Of a prompt: where each artifact first begins, and its version.
Starts = dict[str, tuple[int, Version]]


class KeptPrompts:
    """See the module.

    Args:
        put: keeps exact KV of tokens in the pool; its key, or "" where it is not kept.
        use: brings an entry to the device.
    """

    def __init__(
        self, pool: Pool, put: Callable[[Sequence[int], Tensor], str], use: Callable[[Found | Prefix], Held | None]
    ) -> None:
        self._pool = pool
        self._put = put
        self._use = use
        self._kept: dict[str, tuple[array[int], Starts]] = {}

    def keep(self, prompt: Prompt, tokens: list[int], kv: Tensor, covered: Prefix | None) -> None:
        """Keeps `tokens`, a beginning of the prompt or that and more; `covered` is what was kept of them before."""
        whole = len(tokens) - len(tokens) % BLOCK_TOKENS
        if covered is not None and covered.tokens >= whole:
            return
        starts: Starts = {}
        for start, piece in prompt.placed():
            if piece.version is not None and start < len(tokens):
                starts.setdefault(piece.artifact, (start, piece.version))
        self._keep(tokens, kv, starts)
        if covered is not None and covered.digest in self._kept:  # the longer one serves in its place
            if len(self._kept[covered.digest][0]) // BLOCK_TOKENS * BLOCK_TOKENS <= covered.tokens:
                self._drop(covered.digest)

    def cut(self, artifact: str, current: Version) -> None:
        """`artifact` is at `current`: prompts with an older version end before it."""
        for digest, (tokens, starts) in list(self._kept.items()):
            start, version = starts.get(artifact, (0, current))
            if version >= current:
                continue
            entry = self._pool.entry(digest)
            left = start // BLOCK_TOKENS * BLOCK_TOKENS
            if left and entry is not None and entry.tier is Tier.DEVICE:
                if (held := self._use(Prefix(digest, left))) is not None:
                    with held:
                        before = {name: at for name, at in starts.items() if at[0] < left}
                        self._keep(tokens[:left].tolist(), held.kv(left), before)
            self._drop(digest)

    def forget(self, digest: str) -> None:
        """The pool has lost an entry."""
        self._kept.pop(digest, None)

    def _keep(self, tokens: list[int], kv: Tensor, starts: Starts) -> None:
        if len(tokens) >= BLOCK_TOKENS and (digest := self._put(tokens, kv)):  # beginnings are found in whole blocks
            self._kept[digest] = array("q", tokens), starts

    def _drop(self, digest: str) -> None:
        self._kept.pop(digest, None)
        try:
            self._pool.drop(digest)
        except InUse:
            return
