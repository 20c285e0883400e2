"""Failures of the directory: what cannot be answered, as opposed to a denial, which is an answer."""

from __future__ import annotations


class DirectoryError(Exception):
    """Base of all failures. The text is for operators; callers see only what `api.errors` says of the class."""


class Unavailable(DirectoryError):
    """The store cannot be reached or has changed under us. The same request id may be sent again."""


class OutcomeUnknown(DirectoryError):
    """The store failed during the request; it may have taken effect. The same request id resolves it."""


class Overloaded(DirectoryError):
    """A bounded queue is full."""

    def __init__(self, message: str = "overloaded", *, retry_after_ms: int = 100) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class Full(DirectoryError):
    """The store has no room; nothing took effect."""


class Contended(DirectoryError):
    """Other writers were faster in every round; nothing took effect."""


class ConfigError(DirectoryError):
    """A setting is wrong. The text names the setting, its source and what is allowed, and is shown as it is."""
