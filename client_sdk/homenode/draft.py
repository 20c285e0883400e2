"""`async with hn.write(key) as draft`: an artifact under a write lease, until it is committed.

The draft's base is the version read under its lease. What is written must rest on that version: by looking at the
draft (`draft.text += …`, `draft.json["a"] = 1`), or because this agent had seen that very version before. Text computed
from an older read and written without looking again is refused with VersionConflict at commit, so that an agent cannot
undo what it has never seen.
"""

from __future__ import annotations

import builtins
import json
from types import TracebackType
from typing import Any

from homenode.artifact import Artifact
from homenode.core import Core
from homenode.errors import AlreadyExists, HomenodeError, InvalidArgument, VersionConflict
from homenode.lease_handle import WriteLease
from homenode.values import JSON_TYPE, Meta, Value, encode, encode_json
from homenode.versions import Version
from homenode.view import View

_UNSET: Any = object()


class Draft:
    """The next version of an artifact, until it is committed.

    Attributes:
        metadata: values to commit with it, a dict to change in place; `tags` a list, `media_type` a string.
        committed: the artifact that came of it, after the `with` block; None when nothing was written.
    """

    # Without a __dict__, so that a misspelt `draft.txt = …` is an error and not a commit of nothing.
    __slots__ = (
        "_data",
        "_json",
        "_lease",
        "_looked",
        "_meta_before",
        "_seen",
        "_view",
        "committed",
        "media_type",
        "metadata",
        "tags",
    )

    def __init__(self, lease: WriteLease, seen: Version | None, view: View) -> None:
        self._lease = lease
        self._view = view
        self._seen = seen
        self._looked = False
        self._data: bytes | None = None
        self._json: Any = _UNSET
        old = lease.artifact
        self.metadata: dict[str, str] = dict(old.metadata) if old is not None else {}
        self.tags: list[str] = list(old.tags) if old is not None else []
        self.media_type: str = old.media_type if old is not None else ""
        self._meta_before = self._meta()
        self.committed: Artifact | None = None

    @property
    def key(self) -> str:
        """The artifact."""
        return self._lease.key

    @property
    def version(self) -> Version | None:
        """The version under the lease; None where the artifact does not exist yet."""
        return self._lease.version

    @property
    def lease(self) -> WriteLease:
        """The write lease."""
        return self._lease

    def _look(self) -> bytes:
        self._looked = True
        if self._json is not _UNSET:
            return encode_json(self._json)
        if self._data is not None:
            return self._data
        old = self._lease.artifact
        if old is None:
            return b""
        self._view.show(old)
        return old.bytes

    @property
    def bytes(self) -> builtins.bytes:
        """The content; empty where there is none yet."""
        return self._look()

    @bytes.setter
    def bytes(self, value: builtins.bytes) -> None:
        if not isinstance(value, builtins.bytes | bytearray | memoryview):
            raise InvalidArgument(f"draft.bytes takes bytes, not {type(value).__name__}")
        self._data, self._json = builtins.bytes(value), _UNSET

    @property
    def text(self) -> str:
        """The content as UTF-8."""
        return self._look().decode()

    @text.setter
    def text(self, value: str) -> None:
        if not isinstance(value, str):
            raise InvalidArgument(f"draft.text takes a string, not {type(value).__name__}")
        self._data, self._json = encode(value)[0], _UNSET

    @property
    def json(self) -> Any:
        """The content parsed as JSON; None where there is none yet. What is changed in place is committed."""
        data = self._look()
        if self._json is _UNSET:
            self._json = json.loads(data) if data else None
        return self._json

    @json.setter
    def json(self, value: Any) -> None:
        encode_json(value)
        self._json, self._data = value, None
        self.media_type = self.media_type or JSON_TYPE

    def set(self, value: Value) -> None:
        """Text, bytes or a JSON value, by its type."""
        if isinstance(value, str):
            self.text = value
        elif isinstance(value, builtins.bytes | bytearray | memoryview):
            self.bytes = builtins.bytes(value)
        else:
            self.json = value

    def _meta(self) -> Meta:
        return Meta(dict(self.metadata), tuple(self.tags), self.media_type)

    def _written(self) -> builtins.bytes | None:
        """What was written; None when nothing was."""
        if self._json is _UNSET:
            return self._data
        old = self._lease.artifact
        if self._data is None and old is not None and old.bytes and json.loads(old.bytes) == self._json:
            return None  # looked at, and left as it was
        return encode_json(self._json)

    def outcome(self) -> builtins.bytes | None:
        """What to commit; None when nothing was changed. Raises VersionConflict for what was written blindly."""
        data, old = self._written(), self._lease.artifact
        if data is not None and not self._looked and self.version != self._seen:
            refusal = VersionConflict if self._seen is not None else AlreadyExists
            raise refusal(
                f"{self.key!r} is at {self.version}, which this agent has not seen; look at the draft before writing",
                current=self.version,
                base=self._seen,
            )
        if data is None:
            data = old.bytes if old is not None else None
        same = data is None or (old is not None and data == old.bytes)
        return None if same and self._meta() == self._meta_before else data

    async def save(self, timeout_ms: int | None) -> None:
        """Publish what was written, and go on under the lease."""
        data = self.outcome()
        if data is not None:
            self.committed = await self._lease.publish(data, self._meta(), keep=True, timeout_ms=timeout_ms)
            self._data, self._json, self._meta_before = None, _UNSET, self._meta()

    async def commit(self, timeout_ms: int | None) -> None:
        """Publish what was written, and give the lease back."""
        data = self.outcome()
        if data is None:
            await self._lease.release()
            return
        self.committed = await self._lease.publish(data, self._meta(), keep=False, timeout_ms=timeout_ms)


class WriteContext:
    """What `hn.write(…)` gives: commits at the end of the block, releases when it raises."""

    def __init__(
        self, core: Core, view: View, key: str, *, create: bool, ttl_ms: int, wait_ms: int, timeout_ms: int | None
    ) -> None:
        self._core = core
        self._view = view
        self._key = key
        self._create = create
        self._ttl_ms = ttl_ms
        self._wait_ms = wait_ms
        self._timeout_ms = timeout_ms
        self._draft: Draft | None = None

    async def __aenter__(self) -> Draft:
        seen = self._view.version(self._key)
        record, artifact = await self._core.acquire(
            self._key,
            self._view.counters,
            ttl_ms=self._ttl_ms,
            wait_ms=self._wait_ms,
            create=self._create,
            timeout_ms=self._timeout_ms,
        )
        self._draft = Draft(WriteLease(self._core, self._view, record, artifact), seen, self._view)
        return self._draft

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        draft = self._draft
        assert draft is not None
        if error is None:
            try:
                await draft.commit(self._timeout_ms)
            except BaseException:
                draft.lease.release_later()
                raise
        elif isinstance(error, Exception):
            try:
                await draft.lease.release()
            except HomenodeError:
                pass  # it ends with its term; the error of the block is what counts
        else:
            draft.lease.release_later()
