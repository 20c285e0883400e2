"""Reading, as one agent: from the cache while it may serve, from the directory else."""

from __future__ import annotations

import asyncio
from typing import Any

from homenode.artifact import STRICT, Artifact
from homenode.change import Access, Change, ChangeKind, describe, pointer
from homenode.clock import NS_PER_MS
from homenode.core import Core
from homenode.errors import (
    DeadlineExceeded,
    HomenodeError,
    InvalidArgument,
    NotFound,
    Overloaded,
    Stale,
    Unavailable,
)
from homenode.values import Meta, Value, consistency, encode
from homenode.versions import Version
from homenode.view import View

_NO_ANSWER = (Unavailable, DeadlineExceeded, Overloaded)
_AT_ONCE_BYTES = 4 << 20  # what is compared where it stands, for about 10 ms; pings and other agents wait meanwhile
#: As `default`: there is none, a missing artifact raises NotFound.
NO_DEFAULT: Any = object()


class Reads:
    """The reading half of `homenode.Homenode`.

    The first lines of `read_cached` and `read` are the hit path: one look-up, one clock read, one comparison. Whatever
    forbids to serve a copy has closed its window (see `cache`).
    """

    def __init__(self, core: Core, view: View, views: dict[str, View], *, owner: bool) -> None:
        self._core = core
        self._view = view
        self._views = views
        self._owner = owner
        self._shown = view.shown
        self._now = core.clock

    def read_cached(self, key: str) -> Artifact | None:
        """The artifact, if this process may serve it right now; else None. Never waits."""
        try:
            shown = self._shown[key]
        except KeyError:
            return self._serve(key)
        if self._now() < shown.hot.window.until_ns:
            shown.hits += 1
            return shown.hot
        return self._serve(key)

    def hot(self, key: str) -> Artifact | None:
        """As `read_cached`, but only what this agent was shown already; safe in any thread."""
        shown = self._shown.get(key)
        if shown is not None:
            copy = shown.hot
            if self._now() < copy.window.until_ns:
                shown.hits += 1
                return copy
        return None

    async def read(
        self,
        key: str,
        *,
        default: Value = NO_DEFAULT,
        since: Version | None = None,
        version: Version | None = None,
        max_age_ms: int | None = None,
        consistency: str | None = None,
        access: str | None = None,
        timeout_ms: int | None = None,
    ) -> Artifact:
        """The artifact: from here while the copy is fresh, else from the directory.

        Args:
            key: its name.
            default: stands for an artifact that does not exist; its version is None.
            since: a version that this agent has seen; the answer's `change` says what to show it.
            version: an earlier version, as long as it is retained.
            max_age_ms: greatest age of a copy for this read; 0 asks the directory.
            consistency: "strict" asks for a linearizable read whatever the artifact's policy: of a strict artifact as
                always, of a lazy one a load that is not kept. "lazy" asks for no more than the policy gives.
            access: instead of `since`, for an agent whose context keeps what it was shown: the answer's `change` then
                says what to show it now. "conditional": the change since the version that it was shown last, or the
                full text, or nothing; "pointer": the same, but a reference of 8 tokens instead of nothing;
                "always_read": the full text each time.

        The artifact's `level` says what the read was. Raises NotFound, Stale (only an older copy is at hand and the
        directory cannot be asked), Unsupported (no strict read can be given), HomenodeError.
        """
        if since is None and version is None and max_age_ms is None and consistency is None and access is None:
            try:
                shown = self._shown[key]
                if self._now() < shown.hot.window.until_ns:
                    shown.hits += 1
                    return shown.hot
            except KeyError:
                pass
        try:
            mode = _access(access, since, version)
            return await self._read(key, since, version, max_age_ms, consistency, mode, timeout_ms)
        except NotFound:
            if version is None:
                self._view.forget(key)
            if default is NO_DEFAULT:
                raise
            data, media_type = encode(default)
            return self._core.make(key, None, data, b"", Meta(media_type=media_type), fetched_ns=self._now())

    async def _read(
        self,
        key: str,
        since: Version | None,
        version: Version | None,
        max_age_ms: int | None,
        level: str | None,
        access: Access | None,
        timeout_ms: int | None,
    ) -> Artifact:
        if not isinstance(since, Version | None) or not isinstance(version, Version | None):
            raise InvalidArgument(f"not a version: {since if version is None else version!r}")
        if version is not None:
            return await self._core.fetch(key, self._view.counters, version=version, timeout_ms=timeout_ms)
        wanted = consistency(level)
        artifact = self._allowed(key, max_age_ms, level)
        if artifact is None:
            try:
                if max_age_ms is None and level is None and timeout_ms is None:
                    artifact = await self._core.fetch_together(key, self._view.counters)
                    if not self._check_steps(artifact):  # whoever asked for it did so too many of our steps ago
                        artifact = await self._core.fetch(key, self._view.counters)
                else:
                    artifact = await self._core.fetch(key, self._view.counters, level=wanted, timeout_ms=timeout_ms)
            except (Unavailable, DeadlineExceeded) as failure:
                self._fail_closed(key, max_age_ms, failure)
                raise
            self._check_steps(artifact)
            hit = False
        else:
            self._view.hit(artifact)
            hit = True
        if since is None and access is None:
            self._view.show(artifact, hit=hit)
            return artifact
        change = await self._shown_for(artifact, since, access, timeout_ms)
        self._view.show_change(artifact, change)
        return artifact.with_change(change)

    def _allowed(self, key: str, max_age_ms: int | None, level: str | None = None) -> Artifact | None:
        """The copy, if every limit allows to serve it."""
        now_ns = self._now()
        copy = self._core.cache.copy(key)
        if copy is None or (level == STRICT != copy.level):
            return None
        if max_age_ms is not None and now_ns - copy.window.confirmed_ns >= max_age_ms * NS_PER_MS:
            return None
        if not self._check_steps(copy):
            return None
        return self._core.cache.serve(key, now_ns)

    def _check_steps(self, copy: Artifact) -> bool:
        """Whether the agent may use the copy at its present step."""
        if copy.max_steps is None:
            return True
        if not self._view.steps_known:
            raise InvalidArgument(
                f"{copy.key!r} has max_steps, and this agent marks no steps: read it inside `async with hn.step():`"
            )
        known_ns = max(copy.fetched_ns, copy.window.confirmed_ns)  # when it was the committed version, for sure
        return self._view.within_steps(known_ns, copy.max_steps)

    def _serve(self, key: str) -> Artifact | None:
        artifact = self._allowed(key, None)
        if artifact is not None:
            self._view.hit(artifact)
            self._view.show(artifact, hit=True)
        return artifact

    def _fail_closed(self, key: str, max_age_ms: int | None, failure: HomenodeError) -> None:
        copy = self._core.cache.copy(key)
        if copy is not None:
            self._view.counters.stale += 1
            age_ms = int(copy.age_ms)
            allowed = self._core.max_age_ms if max_age_ms is None else max_age_ms
            message = f"the copy of {key!r} may be {age_ms} ms old and the directory cannot be asked: {failure}"
            raise Stale(message, age_ms=age_ms, max_age_ms=allowed) from failure

    async def _shown_for(
        self, artifact: Artifact, since: Version | None, access: Access | None, timeout_ms: int | None
    ) -> Change:
        count = self._view.count_tokens
        if access is not None:
            since = None if access is Access.ALWAYS_READ else self._view.version(artifact.key)
        if since is None:
            return self._full(artifact)
        change = await self._change(artifact, since, timeout_ms)
        if access is Access.POINTER and change.kind is ChangeKind.UNCHANGED:
            assert artifact.version is not None
            return pointer(f"{artifact.key}@{artifact.version.n}", change.full_tokens, count)
        return change

    async def _change(self, artifact: Artifact, since: Version, timeout_ms: int | None) -> Change:
        count = self._view.count_tokens
        full_tokens = artifact.tokens(count)
        if artifact.version == since:
            return Change(ChangeKind.UNCHANGED, "", 0, full_tokens)
        hash = self._core.cache.hash_at(artifact.key, since)
        old = self._core.cache.content(hash) if hash is not None else None
        try:
            if old is None:
                earlier = await self._core.fetch(
                    artifact.key, self._view.counters, version=since, timeout_ms=timeout_ms
                )
                old = earlier.bytes
            if len(old) + len(artifact.bytes) <= _AT_ONCE_BYTES:
                return describe(old.decode(), artifact.text, count)
            return await asyncio.to_thread(lambda: describe(old.decode(), artifact.text, count))
        except (UnicodeDecodeError, NotFound, *_NO_ANSWER):  # no text, not retained any more, or not to be had now
            return self._full(artifact)

    def _full(self, artifact: Artifact) -> Change:
        """All of it; what is no text is only counted."""
        tokens = artifact.tokens(self._view.count_tokens)
        try:
            return Change(ChangeKind.FULL, artifact.text, tokens, tokens)
        except UnicodeDecodeError:
            return Change(ChangeKind.FULL, "", tokens, tokens)


def _access(mode: str | None, since: Version | None, version: Version | None) -> Access | None:
    if mode is None:
        return None
    if since is not None or version is not None:
        raise InvalidArgument("access goes by what the agent was shown; since and version name a version")
    try:
        return Access(mode)
    except ValueError:
        raise InvalidArgument(f"access is one of {', '.join(Access)}, not {mode!r}") from None
