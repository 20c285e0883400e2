"""A log entry in words, for people who ask what happened to an artifact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from homenode_directory.audit.items import Logged
from homenode_directory.audit.rules import Known
from homenode_directory.protocol import effects
from homenode_directory.protocol.effects import LogEvent
from homenode_directory.protocol.model import Cause, Content

ENDS = {
    Cause.RELEASED: "gave the write lease back",
    Cause.EXPIRED: "lost the write lease: it was not renewed in time",
    Cause.REVOKED: "lost the write lease: it was revoked",
    Cause.SESSION_LOST: "lost the write lease: its session is over",
    Cause.HANDED_OFF: "handed the write lease over",
}
NAMES_MAX = 5


def clock(ms: int) -> str:
    """A time of the store's clock, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ms // 1_000)) + f".{ms % 1_000:03d}"


def sentences(item: Logged, known: Known) -> Iterator[str]:
    """What each event of an entry says; `known` is the artifact before the entry."""
    for event in item.record.events:
        yield WORDS[type(event)](event, known, item)


def _names(sessions: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(sessions[:NAMES_MAX])
    return shown if len(sessions) <= NAMES_MAX else f"{shown} and {len(sessions) - NAMES_MAX} more"


def _content(content: Content | None) -> str:
    return f"{content.size} bytes, {content.hash[:8]}" if content is not None else ""


def _inv(event: LogEvent, known: Known, item: Logged) -> str:
    assert isinstance(event, effects.Inv)
    how = f"under the write lease {event.lease}" if event.lease else "without a lease"
    number = event.version.n
    done = "deleted it" if event.content is None else "committed"
    text = f"v{number}: {event.session or 'the directory'} {done} {how}"
    if event.content is not None:
        text += f" ({_content(event.content)})"
    if event.prepared:
        whom = _names(event.waits) if event.waits else "the end of the quarantine"
        return f"{text}; prepared, waits for {whom}, at most until {clock(event.until_ms)[11:]}"
    others = sorted(session for session, n in known.sharers.items() if n < number and session != event.session)
    return f"{text}; obsolete for {_names(others)}" if others else text


def _published(event: LogEvent, known: Known, item: Logged) -> str:
    assert isinstance(event, effects.Published)
    waits = known.pending.waits if known.pending is not None else ()
    now = [who for other in item.record.events if isinstance(other, effects.Dropped) for who in other.sessions]
    silent = [session for session in waits if session not in known.dropped and session not in now]
    why = f"; {_names(silent)} did not answer, and the copy is dead by now" if silent else ""
    return f"v{event.version.n}: published for {event.session or 'the directory'}{why}"


def _granted(event: LogEvent, known: Known, item: Logged) -> str:
    assert isinstance(event, effects.Granted)
    waited = ", which had waited for it" if event.request else ""
    waited += f", from {event.by}" if event.by else ""
    if not event.lease:  # handed to one that has not acquired it yet
        return f"the write lease is kept for {event.session}{waited} (token {event.fence})"
    return f"the write lease {event.lease} went to {event.session}{waited} (token {event.fence})"


def _ended(event: LogEvent, known: Known, item: Logged) -> str:
    assert isinstance(event, effects.Ended)
    how, lease = ENDS[event.cause], f"{event.lease}; " if event.lease else ""
    if not lease and event.cause is Cause.HANDED_OFF:
        how = "acquired the write lease that was kept for it"
    return f"{event.session} {how} ({lease}tokens below {event.fence} are refused)"


def _shared(event: LogEvent, known: Known, item: Logged) -> str:
    assert isinstance(event, effects.Shared)
    return f"{event.session} took a copy of v{event.n}"


def _dropped(event: LogEvent, known: Known, item: Logged) -> str:
    assert isinstance(event, effects.Dropped)
    return f"{_names(event.sessions)} dropped the copy" + ("" if len(event.sessions) == 1 else " each")


def _refused(event: LogEvent, known: Known, item: Logged) -> str:
    assert isinstance(event, effects.Refused)
    return f"{event.session} waited for the write lease in vain (request {event.request})"


def _policy(event: LogEvent, known: Known, item: Logged) -> str:
    assert isinstance(event, effects.PolicySet)
    policy = event.policy
    if policy is None:
        return "its own policy was removed; the default holds"
    bounds = {"max_age_ms": policy.max_age_ms, "max_reads": policy.max_reads, "max_steps": policy.max_steps}
    said = "".join(f", {name} {value}" for name, value in bounds.items() if value is not None)
    level = policy.level.value if policy.level is not None else "level by default"
    whose = " of its prefix" if event.inherited else ""
    return f"policy{whose}: {level}, push {policy.push.value}{said}"


WORDS: dict[type[LogEvent], Callable[[LogEvent, Known, Logged], str]] = {
    effects.Inv: _inv,
    effects.Shared: _shared,
    effects.Granted: _granted,
    effects.Ended: _ended,
    effects.Refused: _refused,
    effects.Published: _published,
    effects.Dropped: _dropped,
    effects.PolicySet: _policy,
}
