"""The texts of a simulation: lines of hexadecimal digits, and what a write does to them.

Random digits are the hard case: nothing in them compresses well or is repeated by chance. `corpus` has real edits.
"""

from __future__ import annotations

import random
from collections.abc import Callable

LINE = 64  # characters, the newline included
BLOCK_LINES = 8


def fresh(rng: random.Random, size: int) -> str:
    """A text of `size` characters."""
    digits = rng.randbytes(size // 2 + 1).hex()
    return "\n".join(digits[i : i + LINE - 1] for i in range(0, size, LINE - 1))[: size - 1] + "\n"


def whole(rng: random.Random, text: str) -> str:
    """Nothing stays."""
    return fresh(rng, len(text))


def append(rng: random.Random, text: str) -> str:
    """One more line at the end."""
    return text + fresh(rng, LINE)


def one_line(rng: random.Random, text: str) -> str:
    """One line becomes another."""
    return _replace(rng, text, 1)


def one_block(rng: random.Random, text: str, lines: int = BLOCK_LINES) -> str:
    """A block of neighbouring lines, a paragraph or a function, becomes another."""
    return _replace(rng, text, lines)


def _replace(rng: random.Random, text: str, count: int) -> str:
    lines = text.splitlines(keepends=True)
    count = min(count, len(lines))
    start = rng.randrange(len(lines) - count + 1)
    old = sum(map(len, lines[start : start + count]))
    return "".join([*lines[:start], fresh(rng, old), *lines[start + count :]])


Edit = Callable[..., str]
#: The edit model of real texts.
HISTORY = "history"
BLOCK = "one_block"
EDITS: dict[str, Edit] = {"whole": whole, "append": append, "one_line": one_line, BLOCK: one_block}
