"""What one agent was shown. The session's cache holds bytes; a view holds which versions this agent's context has."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from homenode.artifact import NEVER, NO_COPY, Artifact
from homenode.change import Change, ChangeKind, TokenCounter
from homenode.versions import Version

SHOWN_MAX = 65_536
SAVED_MAX = 1_024
STEPS_MAX = 4_096
BUSY_MAX = 1_024


@dataclass(slots=True)
class Counters:
    """Of one agent. Tokens as the connection's token counter counts.

    Attributes:
        hits: reads served from the cache; misses: reads that asked the directory; stale: of these, those that were
            refused because only a copy that was too old was at hand.
        hit_bytes: bytes of contents that hits did not fetch.
        revalidated: misses that found the bytes at hand already.
        fetched_bytes: bytes of contents that came over the wire, patches included; patch_bytes: of patches alone.
        sent_bytes: bytes of contents that were sent.
        refusals: how many writes, leases and gates were refused or failed, by the name of the error.
        pushed_bytes: bytes of contents that came by themselves, to all agents of the connection (policy `push`).
        tokens_shown: of what reads gave this agent that it had not been shown in that version.
        tokens_saved: of what it did not have to be shown again: hits, unchanged versions, and changes instead of
            whole texts; tokens_hit, tokens_unchanged, tokens_delta: each of them alone.
    """

    hits: int = 0
    misses: int = 0
    stale: int = 0
    hit_bytes: int = 0
    revalidated: int = 0
    fetched_bytes: int = 0
    patch_bytes: int = 0
    sent_bytes: int = 0
    tokens_shown: int = 0
    tokens_hit: int = 0
    tokens_delta: int = 0
    tokens_unchanged: int = 0
    pushed_bytes: int = 0
    refusals: dict[str, int] = field(default_factory=dict)

    @property
    def tokens_saved(self) -> int:
        """See the class."""
        return self.tokens_hit + self.tokens_delta + self.tokens_unchanged

    def refused(self, failure: Exception) -> None:
        """A write, lease or gate of this agent was refused, or failed."""
        kind = type(failure).__name__
        self.refusals[kind] = self.refusals.get(kind, 0) + 1


class Saved:
    """What an agent was not shown again, nor fetched, of one artifact since that was last told; as in Counters."""

    __slots__ = ("bytes_hit", "tokens_delta", "tokens_hit", "tokens_unchanged")

    def __init__(self) -> None:
        self.tokens_hit = self.tokens_delta = self.tokens_unchanged = self.bytes_hit = 0

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.tokens_hit + self.tokens_delta + self.tokens_unchanged

    def add(self, other: Saved) -> None:
        """Both together."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Shown:
    """What an agent was shown last of one artifact. `hot` may be served again while its window is open."""

    __slots__ = ("artifact", "hits", "hot")

    def __init__(self, artifact: Artifact) -> None:
        self.hits = 0
        self.show(artifact)

    def show(self, artifact: Artifact) -> None:
        """The agent is shown this now."""
        self.artifact = artifact
        plain = artifact.reads_left is None and artifact.max_steps is None
        self.hot = artifact if plain else NO_COPY
        if plain and artifact.window is not NEVER:
            artifact.viewers.append(self)

    @property
    def version(self) -> Version:
        """The version that was shown."""
        version = self.artifact.version
        assert version is not None
        return version


class View:
    """One agent's view.

    Args:
        agent: its name.
        count_tokens: counts the tokens of a text.
    """

    def __init__(self, agent: str, count_tokens: TokenCounter) -> None:
        self.agent = agent
        self.count_tokens = count_tokens
        self.counters = Counters()
        self.shown: dict[str, Shown] = {}  # a plain dict: its look-up is what a hit costs
        self.saved: dict[str, Saved] = {}  # by key; "": those for which there was no room
        self._busy: dict[str, int] = {}
        self._steps: deque[int] = deque(maxlen=STEPS_MAX)

    def hit(self, artifact: Artifact) -> None:
        """A read is served from the cache by the long way."""
        self.counters.hits += 1
        self.counters.hit_bytes += len(artifact.bytes)
        self._saved(artifact.key).bytes_hit += len(artifact.bytes)

    def show(self, artifact: Artifact, *, hit: bool = False) -> None:
        """The agent reads `artifact` in full. `hit`: it came from the cache."""
        shown = self.shown.get(artifact.key)
        tokens = artifact.tokens(self.count_tokens)
        if shown is None or shown.version != artifact.version:
            self.counters.tokens_shown += tokens
        elif hit:
            self.counters.tokens_hit += tokens
            self._saved(artifact.key).tokens_hit += tokens
        else:
            self.counters.tokens_unchanged += tokens
            self._saved(artifact.key).tokens_unchanged += tokens
        self._set(artifact, shown)

    def show_change(self, artifact: Artifact, change: Change) -> None:
        """The agent, which has seen some version, is shown what changed."""
        self.counters.tokens_shown += change.tokens
        saved = max(0, artifact.tokens(self.count_tokens) - change.tokens)
        if change.kind in (ChangeKind.UNCHANGED, ChangeKind.POINTER):
            self.counters.tokens_unchanged += saved
            self._saved(artifact.key).tokens_unchanged += saved
        elif saved:
            self.counters.tokens_delta += saved
            self._saved(artifact.key).tokens_delta += saved
        self._set(artifact, self.shown.get(artifact.key))

    def wrote(self, artifact: Artifact) -> None:
        """The agent has written `artifact` itself: it knows it."""
        self._set(artifact, self.shown.get(artifact.key))

    def forget(self, key: str) -> None:
        """There is no such artifact (any more)."""
        shown = self.shown.pop(key, None)
        if shown is not None:
            self._fold(shown)

    def version(self, key: str) -> Version | None:
        """The version of `key` that this agent saw last; None where it saw none."""
        shown = self.shown.get(key)
        return shown.version if shown is not None else None

    def _set(self, artifact: Artifact, shown: Shown | None) -> None:
        artifact = artifact.light
        if shown is None:
            self.shown[artifact.key] = Shown(artifact)
            if len(self.shown) > SHOWN_MAX:
                self._fold(self.shown.pop(next(iter(self.shown))))
        elif shown.artifact is not artifact:
            self._fold(shown)
            shown.show(artifact)

    def _fold(self, shown: Shown) -> None:
        """Count the hits that were only noted."""
        if not shown.hits:
            return
        shown.artifact.used = True
        hits, shown.hits = shown.hits, 0
        self.counters.hits += hits
        size, tokens = hits * len(shown.artifact.bytes), hits * shown.artifact.tokens(self.count_tokens)
        self.counters.hit_bytes += size
        self.counters.tokens_hit += tokens
        saved = self._saved(shown.artifact.key)
        saved.bytes_hit += size
        saved.tokens_hit += tokens

    def _saved(self, key: str) -> Saved:
        saved = self.saved.get(key)
        if saved is None:
            saved = self.saved.setdefault(key if len(self.saved) < SAVED_MAX else "", Saved())
        return saved

    def folded(self) -> Counters:
        """The counters themselves, up to now."""
        for shown in list(self.shown.values()):
            if shown.hits:
                self._fold(shown)
        return self.counters

    def totals(self) -> Counters:
        """A copy of the counters, up to now."""
        return replace(self.folded(), refusals=dict(self.counters.refusals))

    def is_busy(self, key: str, now_ns: int) -> bool:
        """Whether others were found editing `key` too, not long ago."""
        return self._busy.get(key, 0) > now_ns

    def found_busy(self, key: str, until_ns: int) -> None:
        """Others edit `key` too; that counts until `until_ns`."""
        self._busy.pop(key, None)
        self._busy[key] = until_ns
        if len(self._busy) > BUSY_MAX:
            del self._busy[next(iter(self._busy))]

    # --- steps --------------------------------------------------------------------------------------------------------

    def begin_step(self, now_ns: int) -> None:
        """The agent begins another step."""
        self._steps.append(now_ns)

    @property
    def steps_known(self) -> bool:
        """Whether this agent marks its steps at all."""
        return bool(self._steps)

    def within_steps(self, moment_ns: int, limit: int) -> bool:
        """Whether at most `limit` steps began after `moment_ns`. So many are not remembered as STEPS_MAX: of a greater
        limit, a smaller one serves."""
        limit = min(limit, STEPS_MAX - 1)
        return len(self._steps) <= limit or self._steps[-1 - limit] <= moment_ns
