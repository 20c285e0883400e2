"""How the protocol's types are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value(kind: type[T]) -> type[T]:
    """A dataclass of values that are never changed once made, which the type checker holds.

    At run time nothing is frozen: every judgement makes some ten of these, and a frozen one costs three times as much.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)
