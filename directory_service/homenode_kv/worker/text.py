"""Between text and tokens: a model's tokenizer, and pieces of text as tokens come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: A character spans at most so many tokens; after that its bytes are shown as what they are, replaced.
_OPEN_MAX = 8
_REPLACED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer.

    Attributes:
        digest: names it in the model's fingerprint.
        encode: tokens of a text, without special ones, so that segments can be tokenised apart.
        decode: the text of tokens.
        begin: what every prompt begins with.
        ends: tokens that end a text.
        longest: most characters that one token stands for; 0: not known.
    """

    digest: str
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    begin: tuple[int, ...] = ()
    ends: frozenset[int] = frozenset()
    longest: int = 0


class Pieces:
    """Text of tokens as they come, whole characters only."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._context = self._shown = 0  # a token's text may depend on the one before it

    def add(self, token: int) -> str:
        """What `token` adds to the text; "" while a character is not whole."""
        self._tokens.append(token)
        return self._next(len(self._tokens) - self._shown >= _OPEN_MAX)

    def rest(self) -> str:
        """What was held back, at the end."""
        return self._next(True)

    def _next(self, whole: bool) -> str:
        before = self._decode(self._tokens[self._context : self._shown])
        now = self._decode(self._tokens[self._context :])
        if now.endswith(_REPLACED) and not whole:
            return ""
        self._context, self._shown = self._shown, len(self._tokens)
        return now[len(before) :]
