"""An entry in the making: what `transitions` writes while it judges one event."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from homenode_directory.protocol.effects import (
    Answer,
    Decision,
    Denial,
    Done,
    Ended,
    Grant,
    Granted,
    Guards,
    LogEvent,
    PolicySet,
    Published,
    Refused,
    Result,
)
from homenode_directory.protocol.facts import Facts, level_of
from homenode_directory.protocol.model import (
    RESERVED,
    Cause,
    Content,
    Entry,
    Holder,
    Level,
    Over,
    Pending,
    Policy,
    Push,
    Version,
    Waiter,
    why_ended,
)


class Draft:
    """A mutable copy of an entry with the log, results and guards collected so far.

    Small verbs that several rules share live here; which of them apply, and when, is said in `transitions`.
    """

    __slots__ = (
        "before_ms", "calm_guard", "changed", "committed_ms", "content", "content_guard", "ended", "facts", "fence",
        "floor", "holder", "inherited", "live", "log", "moved", "old", "outlast_ms", "pending", "policies_guard",
        "policy", "results", "sharers", "strict", "tombstone_ms", "version", "waiters",
    )  # fmt: skip

    def __init__(self, entry: Entry, facts: Facts) -> None:
        self.old = entry
        self.facts = facts
        self.changed = False
        fresh = entry.rev == 0
        self.floor: int | None = facts.floor if fresh else None  # guard of a creation
        self.version = Version(0, facts.floor) if fresh else entry.version
        self.fence = facts.floor if fresh else entry.fence
        self.content = entry.content
        self.committed_ms = entry.committed_ms
        self.holder = entry.holder
        self.waiters = entry.waiters
        self.pending: Pending | None = entry.pending
        self.sharers = entry.sharers
        self.policy = entry.policy
        self.inherited = entry.inherited
        # Whether commits must wait for the copies of others. Most rules ask several times, and few change it.
        self.strict = level_of(entry.nearest, facts.default) is Level.STRICT
        self.outlast_ms = entry.outlast_ms
        self.tombstone_ms = entry.tombstone_ms
        self.ended = entry.ended
        self.log: list[LogEvent] = []
        self.results: list[Result] = []
        self.live: list[str] = []
        self.moved: dict[str, None] = {}  # sessions that joined, left or moved on among the sharers
        self.before_ms = 0
        self.content_guard = ""
        self.calm_guard = False  # whether the commit compares the slice's quarantine with the one judged on
        self.policies_guard = False  # and the policies of prefixes

    @property
    def nearest(self) -> Policy | None:
        """See `Entry`."""
        return self.policy or self.inherited

    def level_of(self, policy: Policy | None) -> Level:
        """The level that a policy asks for."""
        return level_of(policy, self.facts.default)

    @property
    def current(self) -> Version | None:
        """The committed version, as denials name it; None where nothing was ever committed."""
        return self.version if self.version.incarnation else None

    @property
    def level(self) -> Level:
        """What reads and commits of the artifact are, over this store."""
        return Level.STRICT if self.strict and not self.facts.weakness else Level.LAZY

    @property
    def calm(self) -> bool:
        """Whether the slice's quarantine is over, so that strict versions may be published."""
        return self.facts.now_ms >= self.facts.quarantine_ms

    @property
    def cacheable(self) -> bool:
        """Whether copies of the committed version may be kept."""
        return self.pending is None and (self.calm or not self.strict)

    def copies(self) -> tuple[str, ...]:
        """Sessions that may hold copies, sorted. One that is over has dropped them, or cannot serve them any more."""
        return tuple(sorted(session for session in self.sharers if session not in self.facts.dead))

    def not_after(self, ms: int) -> None:
        """The commit holds only while the store's clock is below `ms`."""
        self.before_ms = min(ms, self.before_ms or ms)

    def share(self, session: str) -> bool:
        """Note that `session` may hold the committed version; False if that was known."""
        if self.sharers.get(session) == self.version.n:
            return False
        # `|` copies a proxy's dictionary as a whole; `{**proxy}` asks it for each key, a hundred times as long.
        joined: dict[str, int] = self.sharers | {session: self.version.n}  # type: ignore[operator]
        self.sharers = MappingProxyType(joined)
        self.moved[session] = None
        self.changed = True
        return True

    def unshare(self, gone: Callable[[str, int], bool]) -> tuple[str, ...]:
        """Remove the sharers that `gone` names; returns them, sorted."""
        dropped = tuple(sorted(s for s, n in self.sharers.items() if gone(s, n)))
        if dropped:
            left: dict[str, int] = self.sharers | {}  # type: ignore[operator]
            for session in dropped:
                del left[session]
            self.sharers = MappingProxyType(left)
            self.moved.update(dict.fromkeys(dropped))
            self.changed = True
        return dropped

    def raise_fence(self) -> int:
        """Start a new round: every older token and ack is stale from here on."""
        self.fence += 1
        self.changed = True
        return self.fence

    def end_lease(self, cause: Cause) -> None:
        """Take the write lease away and remember why."""
        holder = self.holder
        assert holder is not None
        self.raise_fence()
        self.holder = None
        self.ended = (*self.ended, Over(holder.lease, cause, holder.session))[-self.facts.terms.ended_max :]
        self.log.append(Ended(holder.session, holder.lease, self.fence, cause))

    def cause_of(self, session: str, lease: str) -> Cause | None:
        """Why a session's lease ended, as far as it is remembered."""
        return why_ended(self.ended, session, lease)

    def give_lease(
        self, session: str, lease: str, ttl_ms: int, request: int = 0, by: str = "", agent: str = ""
    ) -> Grant:
        """Make `session` the holder; its copy of the committed version, if there is one, counts as shared."""
        fence = self.raise_fence()
        self.holder = Holder(session, lease, fence, self.facts.now_max_ms + ttl_ms, ttl_ms)
        self.tombstone_ms = 0
        if self.content is not None:
            self.share(session)
        reserved_ms = ttl_ms if lease == RESERVED else 0
        self.log.append(Granted(session, lease, fence, request, by, agent, reserved_ms))
        self.live.append(session)
        return self.grant(fence, ttl_ms)

    def grant(self, fence: int = 0, ttl_ms: int = 0) -> Grant:
        """The answer that carries the committed version."""
        return Grant(
            version=self.version,
            content=self.content,
            committed_ms=self.committed_ms,
            level=self.level,
            cacheable=self.cacheable,
            policy=self.nearest,
            fence=fence,
            ttl_ms=ttl_ms,
        )

    def store_result(self, session: str, request: int, digest: str, answer: Grant | Done | Denial) -> None:
        """Keep the answer of an effectful request with the transition."""
        if request:
            self.results.append(Result(session, request, digest, answer))

    def refuse_waiter(self, waiter: Waiter, denial: Denial) -> None:
        """A queued request gets its denial."""
        self.changed = True
        self.store_result(waiter.session, waiter.request, waiter.digest, denial)
        self.log.append(Refused(waiter.session, waiter.request))

    def done(self, fence: int = 0, ttl_ms: int = 0) -> Done:
        """The answer to an effect."""
        return Done(self.version, fence, ttl_ms, self.level, self.committed_ms)

    @property
    def pushes(self) -> tuple[Push | None, str]:
        """Whether a version's content follows by itself, and which content it replaces."""
        push = (self.nearest or self.facts.default).push
        if push is Push.NONE or self.content is None:
            return None, ""
        return push, self.old.content.hash if self.old.content is not None else ""

    def publish(self, pending: Pending) -> None:
        """A prepared version becomes the committed one. Only its committer may hold a copy of it; none is older."""
        self.changed = self.calm_guard = True
        self.pending = None
        self.come_to_be(pending.content)
        self.version, self.content = pending.version, pending.content
        self.committed_ms = max(self.committed_ms, self.facts.now_ms)
        self.unshare(lambda _, n: n < pending.version.n)
        self.outlast_ms = 0
        if pending.sets_policy:
            self.set_policy(pending.policy, self.inherited)
        elif pending.inherits:
            self.set_policy(self.policy, pending.policy)
        if self.content is not None and pending.shares and pending.session not in self.facts.dead:
            self.share(pending.session)
        kept = 0
        holder = self.holder
        if holder is not None and holder.session == pending.session:
            if pending.keep:
                kept = self.raise_fence()
                self.holder = Holder(holder.session, holder.lease, kept, holder.deadline_ms, holder.ttl_ms)
            else:
                self.end_lease(Cause.RELEASED)
        done = self.done(kept, self.holder.ttl_ms if kept and self.holder else 0)
        self.store_result(pending.session, pending.request, pending.digest, done)
        self.log.append(Published(self.version, self.content, pending.session, pending.request, *self.pushes))

    def set_policy(self, policy: Policy | None, inherited: Policy | None) -> None:
        """Change the artifact's own policy, or the one that it inherits."""
        before = self.nearest
        self.policy, self.inherited = policy, inherited
        self.strict = self.level_of(self.nearest) is Level.STRICT
        self.changed = True
        if self.nearest != before:
            self.log.append(PolicySet(self.nearest, policy is None and inherited is not None))

    def come_to_be(self, content: Content | None) -> None:
        """The artifact is about to have `content`. If it had none, it inherits what the directory knew when it judged,
        and the log says so."""
        if self.content is not None or content is None:
            return
        self.policies_guard = True
        if self.policy is None and self.inherited is not None:
            self.log.append(PolicySet(self.inherited, inherited=True))

    def decide(self, answer: Answer | None) -> Decision:
        """Close the draft."""
        guards = Guards(
            live=tuple(self.live) if len(self.live) < 2 else tuple(dict.fromkeys(self.live)),
            before_ms=self.before_ms,
            floor=self.floor if self.changed else None,
            content=self.content_guard,
            calm=self.calm_guard,
            policies=self.policies_guard,
        )
        log, results = tuple(self.log), tuple(self.results)
        if not self.changed:
            return Decision(self.old, answer, log, results, guards)
        entry = Entry(
            rev=(self.old.rev or self.facts.floor) + 1,  # never one that a dropped record had
            version=self.version,
            fence=self.fence,
            content=self.content,
            committed_ms=self.committed_ms,
            holder=self.holder,
            waiters=self.waiters,
            pending=self.pending,
            sharers=self.sharers,
            policy=self.policy,
            outlast_ms=self.outlast_ms,
            tombstone_ms=self.tombstone_ms,
            ended=self.ended,
            inherited=self.inherited,
        )
        return Decision(entry, answer, log, results, guards, moved=tuple(self.moved))
