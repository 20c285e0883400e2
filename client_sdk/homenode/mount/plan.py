"""What a file and its artifact need: a table over three facts."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from homenode.versions import Version


class Remote(NamedTuple):
    """An artifact as committed."""

    version: Version
    hash: bytes


class Action(StrEnum):
    """What is to be done with one file."""

    NOTHING = "nothing"
    AGREE = "agree"  # both sides have the same: it is the base now
    PUSH = "push"  # the file is new, or changed: commit it over the base
    DELETE = "delete"  # the file is gone: delete the artifact at the base
    PULL = "pull"  # the artifact is new, or changed: it takes the file's place
    REMOVE = "remove"  # the artifact is gone: so is the file
    CONFLICT = "conflict"  # both changed: the file's content is kept beside, then as PULL
    RESTORE = "restore"  # the artifact is gone, but the file changed: it becomes an artifact anew


def plan(base: Remote | None, file: bytes | None, artifact: Remote | None) -> Action:
    """What to do, given the base, the file's hash and the artifact; None: there is none of it."""
    if artifact is None:
        return _without_artifact(base, file)
    if file == artifact.hash:
        return Action.NOTHING if base == artifact else Action.AGREE
    if base is None:
        return Action.PULL if file is None else Action.CONFLICT
    file_changed = file != base.hash
    if artifact.version == base.version:
        return (Action.DELETE if file is None else Action.PUSH) if file_changed else Action.NOTHING
    # The artifact moved. A file that is gone is not an edit that could be lost.
    return Action.CONFLICT if file_changed and file is not None else Action.PULL


def _without_artifact(base: Remote | None, file: bytes | None) -> Action:
    if file is None:
        return Action.NOTHING if base is None else Action.AGREE
    if base is None:
        return Action.PUSH
    return Action.REMOVE if file == base.hash else Action.RESTORE
