"""Examples as tensors: ids, positions, which ids are to be predicted, and which segment each token belongs to."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from homenode_kv.demo.examples import Example, Question, words
from homenode_kv.demo.tokenizer import AGENTS, DIGITS, FILLERS, KEYS, PAD_ID, VALUES, encode

_FILLER_IDS = frozenset(encode(words(FILLERS)))
_KEYS = torch.tensor(encode(words(KEYS)))
_NAMES = torch.tensor(encode(words(KEYS + AGENTS)))
_SAID = torch.tensor(encode(words(KEYS + AGENTS + VALUES + DIGITS)))
_ALSO = encode("also ")[0]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of prompts, padded on the right; all fields are [rows, tokens].

    answers: the token at this place is predicted from what is before it, and counts. segments: 0 is the prefix, 1
    and up the blocks, -1 the questions with their answers, -2 padding. named: what a token of a block says something
    of, by its id; 0 where it says nothing.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    answers: torch.Tensor
    segments: torch.Tensor
    named: torch.Tensor

    def isolated_mask(self, rows: torch.Tensor) -> torch.Tensor:
        """A causal mask [rows, 1, tokens, tokens], True = sees; in chosen rows segments do not see each other.

        Questions see everything before them. Rows that are not chosen get the plain causal mask.
        """
        tokens = self.ids.shape[1]
        causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        own = self.segments[:, :, None] == self.segments[:, None, :]
        free = (self.segments < 0)[:, :, None] | ~rows[:, None, None]
        return (causal & (own | free))[:, None]


@dataclass(frozen=True, slots=True)
class _Row:
    ids: list[int]
    positions: list[int]
    answers: list[bool]
    segments: list[int]


def make_batch(
    rows: Sequence[tuple[Example, Sequence[Question]]], *, skips: random.Random | None = None, most_skipped: int = 0
) -> Batch:
    """A batch of prompts, each with its questions and answers one after the other.

    `skips`: positions jump ahead before some filler words, by at most `most_skipped` in a row altogether, so that short
    prompts teach the distances of long ones. A distance within a fact never changes.
    """
    made = [_row(example, questions, skips, most_skipped) for example, questions in rows]
    width = max(len(row.ids) for row in made)

    def padded(field: str, pad: int, kind: torch.dtype) -> torch.Tensor:
        values = [getattr(row, field) for row in made]
        return torch.tensor([value + [pad] * (width - len(value)) for value in values], dtype=kind)

    ids, segments = padded("ids", PAD_ID, torch.long), padded("segments", -2, torch.long)
    return Batch(
        ids, padded("positions", 0, torch.long), padded("answers", 0, torch.bool), segments, _named(ids, segments)
    )


def _named(ids: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """For what follows a key or an agent: that name. For the value of an `also`: the last key before the block."""
    before = ids.roll(1, 1)
    same = (segments == segments.roll(1, 1)) & (segments > 0)
    same[:, 0] = False
    said = torch.isin(ids, _SAID) & torch.isin(before, _NAMES)
    said &= ~(torch.isin(ids, _KEYS) & ~torch.isin(before, _KEYS))
    named = torch.where(same & said, before, PAD_ID)
    starts = torch.where(segments != segments.roll(1, 1), torch.arange(ids.shape[1]), 0).cummax(1).values
    bound = same & (ids.roll(2, 1) == _ALSO)
    return torch.where(bound, ids.gather(1, (starts - 1).clamp_min(0)), named)


def _row(example: Example, questions: Sequence[Question], skips: random.Random | None, most_skipped: int) -> _Row:
    row = _Row([], [], [], [])

    def add(text: str, segment: int, answer: bool = False) -> None:
        ids = encode(text)
        row.ids.extend(ids)
        row.answers.extend([answer] * len(ids))
        row.segments.extend([segment] * len(ids))

    for at, text in enumerate(example.segments()):
        add(text, at)
    for question in questions:
        add(question.text, -1)
        add(question.answer, -1, answer=True)
    row.positions.extend(_positions(row.ids, skips, most_skipped))
    return row


def _positions(ids: list[int], skips: random.Random | None, most_skipped: int) -> list[int]:
    jump = [0] * len(ids)
    places = [at for at, one in enumerate(ids) if one in _FILLER_IDS]
    if skips is not None and places and most_skipped:
        for _ in range(min(4, len(places))):
            jump[skips.choice(places)] += skips.randrange(most_skipped // 4)
    found, shift = [], 0
    for at, more in enumerate(jump):
        shift += more
        found.append(at + shift)
    return found
