"""What the KV tier refuses, each refusal with its fields. A miss is not an error: it is `None`."""

from __future__ import annotations


class KvError(Exception):
    """Anything that the KV tier refuses. Messages carry no content of artifacts and no token."""


class UnsupportedModel(KvError):
    """The model's attention is not one whose keys can be moved."""


class UnsupportedRope(UnsupportedModel):
    """The rotary embedding changes with the length of the prompt, or is not known.

    Attributes:
        kind: `rope_type` of the model's configuration.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class OutOfMemory(KvError):
    """No room, even after everything that may be evicted was.

    Attributes:
        needed_blocks: what was asked for.
        free_blocks: what is free.
        held_blocks: what cannot be evicted, being pinned or in use.
    """

    def __init__(self, needed_blocks: int, free_blocks: int, held_blocks: int) -> None:
        super().__init__(f"{needed_blocks} blocks needed, {free_blocks} free, {held_blocks} pinned or in use")
        self.needed_blocks = needed_blocks
        self.free_blocks = free_blocks
        self.held_blocks = held_blocks


class PromptTooLong(KvError):
    """More tokens than positions over which the model attends to everything.

    Attributes:
        tokens: length of the prompt.
        tokens_max: the model's limit: its positions, or its sliding window where that is smaller.
    """

    def __init__(self, tokens: int, tokens_max: int) -> None:
        super().__init__(f"{tokens} tokens; the model takes {tokens_max}")
        self.tokens = tokens
        self.tokens_max = tokens_max


class InvalidTokens(KvError):
    """Token ids that the model does not have, or none where some are needed."""


class WrongShape(KvError):
    """A tensor is not of the pool's or the model's shape."""


class NotABase(KvError):
    """Approximate KV was offered as the base of a segment."""


class NotExact(KvError):
    """KV that is not exact was offered to the index of exact prefixes."""


class InUse(KvError):
    """What is pinned, or the master of living mirrors, cannot be dropped."""


class NoSuchRound(KvError):
    """The round was never begun, or is over."""


class RoundRefused(KvError):
    """A round that cannot be: another one of the same name, a member that is not of it or joined before."""


class TooManyRounds(RoundRefused):
    """As many rounds are open as may be."""


def no_memory(failure: BaseException) -> bool:
    """Whether machine or device had no memory, for a tensor too; of a CPU torch says so by its message alone."""
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return True
    return isinstance(failure, RuntimeError) and "can't allocate memory" in str(failure)
