"""A prompt as the worker computes it: pieces of tokens, of which some are artifacts at a version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from homenode_kv.errors import InvalidTokens, PromptTooLong
from homenode_kv.ident import Version

PARTS_MAX = 1_024


@dataclass(frozen=True)
class Piece:
    """A part of a prompt, tokenised by itself; `artifact` is "" for text that is none."""

    tokens: tuple[int, ...]
    artifact: str = ""
    version: Version | None = None


@dataclass(frozen=True)
class Prompt:
    """What the model continues: the tokens that every prompt begins with, then the pieces."""

    lead: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @cached_property
    def tokens(self) -> list[int]:
        """All of it."""
        return [*self.lead, *(token for piece in self.pieces for token in piece.tokens)]

    def placed(self) -> Iterator[tuple[int, Piece]]:
        """Each piece and where it begins."""
        start = len(self.lead)
        for piece in self.pieces:
            yield start, piece
            start += len(piece.tokens)

    def check(self, tokens_max: int, vocabulary: int) -> None:
        """Raises PromptTooLong, InvalidTokens."""
        if len(self.tokens) > tokens_max:
            raise PromptTooLong(len(self.tokens), tokens_max)
        if not self.tokens:
            raise InvalidTokens("the prompt is empty")
        if not 0 <= min(self.tokens) <= max(self.tokens) < vocabulary:
            raise InvalidTokens(f"token ids of this model are 0 to {vocabulary - 1}")
