"""The demo model's tokenizer: one id per known word, bytes for all other text. Any text comes back as it was.

A word's id stands for the word with the space after it. So segments that end in a space can be tokenised apart and
joined: encode(a + b) == encode(a) + encode(b).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

KEYS = tuple(f"k{i}" for i in range(128))
VALUES = tuple(f"v{i}" for i in range(64))
FILLERS = tuple(f"w{i}" for i in range(64))
AGENTS = tuple(f"a{i}" for i in range(16))
DIGITS = tuple(f"n{i}" for i in range(10))
MARKS = ("you", "agent", ":", "also", "ask", "follow", "add", "hand", "sum", "def", "edit", "run", ".")

PAD_ID = 0
_BYTES_FROM = 1
_WORDS_FROM = _BYTES_FROM + 256
_WORDS = MARKS + KEYS + VALUES + FILLERS + AGENTS + DIGITS
_ID_OF = {f"{word} ": _WORDS_FROM + at for at, word in enumerate(_WORDS)}
_TEXT_OF = [b""] + [bytes([value]) for value in range(256)] + [f"{word} ".encode() for word in _WORDS]
_PIECE = re.compile(r"[^ ]* |[^ ]+")

VOCABULARY = len(_TEXT_OF)
END_ID = _ID_OF[". "]
"""The word that ends an answer."""


def encode(text: str) -> list[int]:
    """The ids of a text; nothing is added before or after it."""
    ids: list[int] = []
    for piece in _PIECE.findall(text):
        known = _ID_OF.get(piece)
        if known is not None:
            ids.append(known)
        else:
            ids.extend(_BYTES_FROM + value for value in piece.encode())
    return ids


def decode(ids: Iterable[int]) -> str:
    """The text of ids. Bytes that are no UTF-8 become U+FFFD; raises ValueError for an id outside the vocabulary."""
    found = []
    for one in ids:
        if not 0 <= one < VOCABULARY:
            raise ValueError(f"token id {one} is outside the vocabulary of {VOCABULARY}")
        found.append(_TEXT_OF[one])
    return b"".join(found).decode(errors="replace")
