"""What a read gives: an artifact at one version, with the permission to serve it again.

The public face of an `Artifact` never changes. Its `window` does: it is the permission of the session's cache to serve
this very object once more, and the cache takes it away (see `cache`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from homenode.change import estimate_tokens
from homenode.clock import NS_PER_MS, Clock
from homenode.versions import Version
from homenode_api.chunks import PIECE_MAX_BYTES

if TYPE_CHECKING:
    from homenode.change import Change, TokenCounter

LAZY = "lazy"
STRICT = "strict"

_NO_VALUES: Mapping[str, str] = MappingProxyType({})


class Window:
    """Until when copies may be served: while `clock() < until_ns`. Shared by all copies of one greatest age.

    `confirmed_ns` is the send time of the last ping whose echo came back: everything committed before that moment
    is known here.
    """

    __slots__ = ("confirmed_ns", "max_age_ns", "until_ns")

    def __init__(self, max_age_ns: int) -> None:
        self.max_age_ns = max_age_ns
        self.confirmed_ns = -1
        self.until_ns = -1


#: The window of what must not be served again. Nothing opens it.
NEVER = Window(0)


class Viewer(Protocol):
    """Somebody who serves himself; a hit does no more than raise `hits`."""

    hits: int


class Artifact:
    """An artifact as committed in `version`.

    Attributes:
        key: its name.
        version: which commit this is; None for a `default` that stands for an artifact that does not exist.
        bytes: the content.
        hash: SHA-256 of the content, 32 bytes.
        metadata: what the committer said about it, read-only.
        tags: labels of the committer.
        media_type: such as "application/json"; "" where not said.
        committed_at_ms: when it was committed, on the store's clock, in Unix milliseconds.
        level: "lazy" or "strict": what this read is guaranteed to be.
        change: for a read with `since`: what to show to an agent that has seen that version; else None.
    """

    __slots__ = (
        "_clock",
        "_text",
        "_tokens",
        "bytes",
        "change",
        "committed_at_ms",
        "fetched_ns",
        "hash",
        "hits_seen",
        "key",
        "level",
        "max_steps",
        "media_type",
        "metadata",
        "reads_left",
        "tags",
        "used",
        "version",
        "viewers",
        "window",
    )

    def __init__(
        self,
        key: str,
        version: Version | None,
        data: bytes,
        *,
        clock: Clock,
        hash: bytes = b"",
        metadata: Mapping[str, str] = _NO_VALUES,
        tags: tuple[str, ...] = (),
        media_type: str = "",
        committed_at_ms: int = 0,
        level: str = LAZY,
        fetched_ns: int = 0,
    ) -> None:
        self.key = key
        self.version = version
        self.bytes = data
        self.hash = hash
        self.metadata = metadata
        self.tags = tags
        self.media_type = media_type
        self.committed_at_ms = committed_at_ms
        self.level = level
        self.change: Change | None = None
        self.window = NEVER
        self.fetched_ns = fetched_ns
        self.used = False
        self.viewers: list[Viewer] = []
        self.hits_seen = 0
        self.reads_left: int | None = None
        self.max_steps: int | None = None
        self._clock = clock
        self._text: str | None = None
        self._tokens: int | None = None

    @property
    def exists(self) -> bool:
        """False for a `default` that stands for an artifact that does not exist."""
        return self.version is not None

    @property
    def text(self) -> str:
        """The content as UTF-8. Raises UnicodeDecodeError for other bytes."""
        if self._text is None:
            self._text = self.bytes.decode()
        return self._text

    @property
    def json(self) -> Any:
        """The content parsed as JSON, a fresh value at each access. Raises ValueError."""
        return json.loads(self.bytes)

    @property
    def age_ms(self) -> float:
        """How long ago, at most, this was the committed version, by this process's own clock."""
        current_ns = max(self.fetched_ns, self.window.confirmed_ns)
        return max(0.0, (self._clock() - current_ns) / NS_PER_MS)

    def tokens(self, count: TokenCounter) -> int:
        """Tokens of the whole text, counted once; what is not text, or is large, counts 4 bytes a token."""
        if self._tokens is None:
            self._tokens = (len(self.bytes) + 3) // 4  # which is what `estimate_tokens` says of it
            if count is not estimate_tokens and len(self.bytes) <= PIECE_MAX_BYTES:
                try:
                    self._tokens = count(self.text)
                except UnicodeDecodeError:
                    pass
        return self._tokens

    def with_change(self, change: Change) -> Artifact:
        """The same version, for one reader, with what to show it. Its age goes on from now; it is not served again."""
        twin = self._twin(self.bytes)
        twin.change = change
        return twin

    @property
    def light(self) -> Artifact:
        """This, or where it is large and not kept in the cache, its twin without bytes, for who only needs the rest."""
        if len(self.bytes) <= PIECE_MAX_BYTES or self.window is not NEVER:
            return self
        twin = self._twin(b"")
        twin._tokens = len(self.bytes) // 4
        return twin

    def _twin(self, data: bytes) -> Artifact:
        return Artifact(
            self.key,
            self.version,
            data,
            clock=self._clock,
            hash=self.hash,
            metadata=self.metadata,
            tags=self.tags,
            media_type=self.media_type,
            committed_at_ms=self.committed_at_ms,
            level=self.level,
            fetched_ns=max(self.fetched_ns, self.window.confirmed_ns),
        )

    def __repr__(self) -> str:
        return f"<Artifact {self.key!r} at {self.version}, {len(self.bytes)} bytes>"


#: Fills places where a copy is expected and none may be served.
NO_COPY = Artifact("", None, b"", clock=lambda: 0)
