"""One prompt over kept KV: what it would be dense, what it is with some tokens computed afresh."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from homenode_kv.bench.prompts import Prompt
from homenode_kv.engine import Engine
from homenode_kv.ledger import BLOCK_TOKENS

BASES_MAX = 256
"""More than the documents of a corpus, of which each round draws some."""

#: Canonical KV of a segment.
Base = Callable[[tuple[int, ...]], Tensor]


class Bases:
    """Each segment's KV, computed alone, at position 0; those that were wanted last are kept."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def __call__(self, segment: tuple[int, ...]) -> Tensor:
        kv = self._kept.pop(segment, None)
        self._kept[segment] = self._engine.prefill(segment).kv if kv is None else kv
        if len(self._kept) > BASES_MAX:
            self._kept.popitem(last=False)
        return self._kept[segment]


@dataclass(frozen=True, eq=False, slots=True)
class Answered:
    """What came of one way of computing a prompt.

    Attributes:
        right: of each question, whether every token of its answer is the likeliest.
        agree: of each answer token, whether it is the likeliest that dense gives.
        kl: of each answer token, KL(dense ‖ this) in nats.
        refreshed: share of the reused tokens that was computed afresh.
        dirty: share of the reused blocks of 32 tokens in which any token was.
        kv: of the context.
    """

    right: list[bool]
    agree: Tensor
    kl: Tensor
    refreshed: float
    dirty: float
    kv: Tensor


class Case:
    """A prompt whose segments are taken from kept KV.

    Attributes:
        kept: [L, 2, T, Hkv, d], the reader's own text exact, the segments as kept, turned to their places.
        blocks: [T], the number of each context token's block of 32, counted from its segment's beginning; -1 in the
            reader's own text, which is always computed.
    """

    def __init__(self, engine: Engine, prompt: Prompt, base: Base) -> None:
        self._engine, self.prompt = engine, prompt
        self._context = prompt.context
        self._tail = [token for asked in prompt.asked for token in (*asked.question, *asked.answer)]
        self._tokens = self._context + self._tail
        starts = list(accumulate((len(one) for one in prompt.segments), initial=len(prompt.own)))
        parts = [engine.prefill(prompt.own).kv]
        parts += [engine.rotation.shift(base(one), at) for one, at in zip(prompt.segments, starts, strict=False)]
        self.kept = torch.cat(parts, dim=2)
        self.blocks = _blocks(prompt, engine.device)
        self._visible, self._moved, self._rows, self._gold = self._layout()
        self._dense = self._logits(self.kept, torch.ones(len(self._context), dtype=torch.bool))

    def deviation(self, layer: int, kept: Tensor | None = None) -> Tensor:
        """[T] of the context: how far kept keys are from fresh ones on the check layer."""
        kept = self.kept if kept is None else kept
        where = [list(range(len(self._context)))]
        return self._engine.deviation([self._context], kept[: layer + 1, :, None], where, layer)[0]

    def answer(self, chosen: Tensor, kept: Tensor | None = None) -> Answered:
        """The questions with the `chosen` tokens [T] of the context computed afresh, and no others of it."""
        chosen = chosen & (self.blocks >= 0)
        reused = self.blocks >= 0
        whole = bool(chosen[reused].all())  # then what is kept does not matter
        logits, kv = self._dense if whole else self._logits(self.kept if kept is None else kept, chosen)
        dense = self._dense[0]
        best = logits.argmax(1)
        hits = (best == self._gold).tolist()
        right, at = [], 0
        for asked in self.prompt.asked:
            right.append(all(hits[at : at + len(asked.answer)]))
            at += len(asked.answer)
        kl = (dense.log_softmax(1).exp() * (dense.log_softmax(1) - logits.log_softmax(1))).sum(1)
        dirty = self.blocks[chosen].unique().numel() / self.blocks[reused].unique().numel()
        return Answered(right, best == dense.argmax(1), kl, float(chosen[reused].float().mean()), dirty, kv)

    def _logits(self, kept: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Of what predicts each answer token; and the context's KV."""
        room = kept.new_zeros(*kept.shape[:2], len(self._tail), *kept.shape[3:])
        context, total = len(self._context), len(self._tokens)
        where = [*chosen.nonzero().flatten().tolist(), *range(context, total)]
        visible = torch.ones(len(where), total, dtype=torch.bool)
        visible[len(where) - len(self._tail) :] = self._visible
        moved = torch.zeros(len(where), dtype=torch.long)
        moved[len(where) - len(self._tail) :] = self._moved
        forward = self._engine.refresh(
            self._tokens, torch.cat([kept, room], dim=2), where, last=len(self._tail), visible=visible, moved=moved
        )
        return forward.logits[self._rows].float(), forward.kv[:, :, :context]

    def _layout(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the questions: who sees what, how far each is from its place, where answers are predicted, the answers."""
        context, at = len(self._context), 0
        visible = torch.zeros(len(self._tail), context + len(self._tail), dtype=torch.bool)
        visible[:, :context] = True
        rows: list[int] = []
        gold: list[int] = []
        moved: list[int] = []
        for asked in self.prompt.asked:
            size = len(asked.question) + len(asked.answer)
            visible[at : at + size, context + at : context + at + size] = True
            moved += [-at] * size
            first = at + len(asked.question) - 1
            rows += range(first, first + len(asked.answer))
            gold += asked.answer
            at += size
        device = self._engine.device
        return visible, torch.tensor(moved), torch.tensor(rows, device=device), torch.tensor(gold, device=device)


def _blocks(prompt: Prompt, device: torch.device) -> Tensor:
    found, first = [-1] * len(prompt.own), 0
    for segment in prompt.segments:
        found += [first + at // BLOCK_TOKENS for at in range(len(segment))]
        first = found[-1] + 1
    return torch.tensor(found, device=device)


@dataclass(slots=True)
class Score:
    """Sums over prompts of one way."""

    right: dict[str, int]
    asked: dict[str, int]
    tokens: int = 0
    agree: int = 0
    kl: float = 0.0
    prompts: int = 0
    refreshed: float = 0.0
    dirty: float = 0.0

    @classmethod
    def new(cls) -> Score:
        """Of nothing."""
        return cls({}, {})

    def add(self, prompt: Prompt, answered: Answered) -> None:
        """One more prompt."""
        for asked, right in zip(prompt.asked, answered.right, strict=True):
            self.right[asked.kind] = self.right.get(asked.kind, 0) + right
            self.asked[asked.kind] = self.asked.get(asked.kind, 0) + 1
        self.tokens += len(answered.kl)
        self.agree += int(answered.agree.sum())
        self.kl += float(answered.kl.sum())
        self.prompts += 1
        self.refreshed += answered.refreshed
        self.dirty += answered.dirty

    def merge(self, other: Score) -> None:
        """Those of another as well."""
        for kind, asked in other.asked.items():
            self.right[kind] = self.right.get(kind, 0) + other.right[kind]
            self.asked[kind] = self.asked.get(kind, 0) + asked
        self.tokens += other.tokens
        self.agree += other.agree
        self.kl += other.kl
        self.prompts += other.prompts
        self.refreshed += other.refreshed
        self.dirty += other.dirty

    def accuracy(self, kinds: Sequence[str] = ()) -> float:
        """Share of questions answered right: of these kinds, or of all."""
        kinds = kinds or list(self.asked)
        return sum(self.right.get(kind, 0) for kind in kinds) / max(1, sum(self.asked.get(kind, 0) for kind in kinds))

    def fields(self) -> dict[str, float]:
        """For `beside` of a row."""
        return {
            **{f"accuracy_{kind}": self.accuracy([kind]) for kind in sorted(self.asked)},
            "agreement": self.agree / max(1, self.tokens),
            "kl": self.kl / max(1, self.tokens),
            "refreshed": self.refreshed / max(1, self.prompts),
            "f": self.dirty / max(1, self.prompts),
        }
