"""Versions and bases: what a write may say that it replaces."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal, NamedTuple

from homenode_api.v1 import types_pb2 as t


class Version(NamedTuple):
    """A committed content of an artifact: ordered, never reused, not even after delete and recreate.

    `incarnation` names the directory's memory, `n` counts the artifact's commits. `str()` and `parse` are inverse.
    """

    incarnation: int
    n: int

    def __str__(self) -> str:
        return f"{self.incarnation}.{self.n}"

    @classmethod
    def parse(cls, text: str) -> Version:
        """The version that `str()` wrote. Raises ValueError."""
        incarnation, dot, n = text.partition(".")
        if not (dot and incarnation.isdecimal() and n.isdecimal()):
            raise ValueError(f"not a version: {text!r}")
        return cls(int(incarnation), int(n))


class Position(NamedTuple):
    """A place in a workspace's log."""

    incarnation: int
    sequence: int


class Base(Enum):
    """Bases of a write that are not versions."""

    ABSENT = "absent"
    ANY = "any"

    def __repr__(self) -> str:
        return f"homenode.{self.name}"


#: As `base`: the artifact must not exist.
ABSENT: Final[Literal[Base.ABSENT]] = Base.ABSENT
#: As `base`: overwrite whatever is there.
ANY: Final[Literal[Base.ANY]] = Base.ANY


def version_of(message: t.Version) -> Version:
    """From the wire."""
    return Version(message.incarnation, message.n)


def position_of(message: t.Position) -> Position:
    """From the wire."""
    return Position(message.incarnation, message.sequence)
