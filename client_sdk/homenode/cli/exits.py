"""Exit codes, and which error ends in which. They are part of the interface: scripts rely on them."""

from __future__ import annotations

from enum import IntEnum

from homenode import errors


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    MISSING_EXTRA = 6
    UNKNOWN = 7
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "done (also: watch, top, serve or demo ended with Ctrl-C)",
    Exit.ERROR: "refused or failed for another reason; doctor found a fault; a verdict of the demo failed",
    Exit.USAGE: "the command line, an address, a key or a setting makes no sense",
    Exit.NOT_FOUND: "there is no such artifact or version",
    Exit.CONFLICT: "the artifact is at another version, exists already, or another writer holds it",
    Exit.UNAVAILABLE: "the directory cannot be reached, is overloaded, or did not answer in time",
    Exit.MISSING_EXTRA: "a part that this command needs is not installed; the message says which",
    Exit.UNKNOWN: "the outcome of a write is unknown: it may have happened",
    Exit.INTERRUPTED: "interrupted",
}

_OF_ERROR: tuple[tuple[type[errors.HomenodeError], Exit], ...] = (
    (errors.NotFound, Exit.NOT_FOUND),
    (errors.VersionConflict, Exit.CONFLICT),
    (errors.LeaseLost, Exit.CONFLICT),
    (errors.LeaseDenied, Exit.CONFLICT),
    (errors.InvalidArgument, Exit.USAGE),
    (errors.Unknown, Exit.UNKNOWN),
    (errors.Unavailable, Exit.UNAVAILABLE),
    (errors.Overloaded, Exit.UNAVAILABLE),
    (errors.DeadlineExceeded, Exit.UNAVAILABLE),
    (errors.Stale, Exit.UNAVAILABLE),
)


class CliError(Exception):
    """A command ends with this line and code. `fields` go into the JSON form of the error."""

    def __init__(self, message: str, code: Exit = Exit.ERROR, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.fields = fields


def exit_of(error: errors.HomenodeError) -> Exit:
    """The exit code of an error of the SDK."""
    return next((code for kind, code in _OF_ERROR if isinstance(error, kind)), Exit.ERROR)


def fields_of(error: Exception) -> dict[str, object]:
    """The error's own fields that say something, for programs; versions as text."""
    found = error.fields if isinstance(error, CliError) else vars(error)
    return {
        name: str(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if name not in ("message", "code") and value not in (None, "", 0)
    }


def epilog() -> str:
    """The table of exit codes for `--help`."""
    return "exit codes:\n" + "\n".join(f"  {code.value:<4} {meaning}" for code, meaning in MEANINGS.items())
