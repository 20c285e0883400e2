"""What a task generates: a private prefix, the agents' blocks, and questions whose answers can be checked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from homenode_kv.demo.tokenizer import AGENTS, FILLERS

MOST_AGENTS = 10
MOST_FACTS = 6
LONGEST_SEGMENT = 8192


class TaskError(ValueError):
    """A task, or a shape of its prompts, that does not exist; the message says what may be asked for."""


class Kind(StrEnum):
    """Whether a question can be answered from one block alone."""

    LOCAL = "local"
    CROSS = "cross"


@dataclass(frozen=True, slots=True)
class Question:
    """A question after the blocks. Both texts end in a space; the answer ends in ". "."""

    text: str
    answer: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Block:
    """What one agent contributes, the same for all readers: one segment of every prompt."""

    agent: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """One agent's prompt: its private prefix, then the blocks in order, then one of the questions."""

    task: str
    prefix: str
    blocks: tuple[Block, ...]
    questions: tuple[Question, ...]

    def segments(self) -> tuple[str, ...]:
        """The texts before the question, in prompt order. Each is tokenised by itself."""
        return (self.prefix, *(block.text for block in self.blocks))


@dataclass(frozen=True, slots=True)
class Shape:
    """How large prompts are. Raises TaskError for what cannot be generated.

    agents: blocks in a prompt, and prompts in a round. facts: facts in a block. questions: per prompt, kinds taking
    turns; None asks every question once. filler: at most so many words between the facts of a block or of a prefix.
    segment_tokens: blocks are filled up to exactly so many tokens instead. corpus: which documents the retrieval task
    draws from; None makes new documents for each prompt.
    """

    agents: int = 3
    facts: int = 4
    questions: int | None = 4
    filler: int = 6
    segment_tokens: int | None = None
    corpus: int | None = None

    def __post_init__(self) -> None:
        _within("agents", self.agents, 2, MOST_AGENTS)
        _within("facts", self.facts, 1, MOST_FACTS)
        if self.questions is not None:
            _within("questions", self.questions, 1, 64)
        _within("filler", self.filler, 0, 256)
        if self.segment_tokens is not None:
            _within("segment_tokens", self.segment_tokens, 32, LONGEST_SEGMENT)


def _within(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise TaskError(f"{name} is a whole number from {least} to {most}, not {value!r}")


def make_block(rng: random.Random, agent: str, items: list[str], shape: Shape) -> Block:
    """A block with these items in order, filler strewn before any of them; it ends in its last item."""
    head = ["agent", agent, ":"]
    used = len(head) + sum(len(item.split()) for item in items)
    filler = rng.randint(0, shape.filler) if shape.segment_tokens is None else shape.segment_tokens - used
    return Block(agent, words([*head, *strewn(rng, items, filler)]))


def make_prefix(rng: random.Random, items: list[str], shape: Shape) -> str:
    """A private prefix that ends in its last item."""
    return words(
        ["you", rng.choice(AGENTS), ":", *strewn(rng, items or [rng.choice(FILLERS)], rng.randint(0, shape.filler))]
    )


def strewn(rng: random.Random, items: list[str], filler: int) -> list[str]:
    """The items with so many filler words before them, each at a place drawn by itself."""
    before = [0] * len(items)
    for _ in range(filler):
        before[rng.randrange(len(items))] += 1
    found: list[str] = []
    for item, count in zip(items, before, strict=True):
        found.extend(rng.choice(FILLERS) for _ in range(count))
        found.append(item)
    return found


def words(items: Sequence[str]) -> str:
    """Words as a text that ends in a space, as the tokenizer wants it."""
    return " ".join(items) + " "


def pick(rng: random.Random, local: list[Question], cross: list[Question], count: int | None) -> tuple[Question, ...]:
    """So many questions, kinds taking turns from a drawn first one, none twice before all were asked; None: all."""
    piles = [rng.sample(local, len(local)), rng.sample(cross, len(cross))]
    if count is None:
        return tuple(rng.sample([*local, *cross], len(local) + len(cross)))
    first = rng.randrange(2)
    return tuple(piles[(first + at) % 2][(at // 2) % len(piles[(first + at) % 2])] for at in range(count))
