"""Logs that no directory could have written: each kind spoils a sound run in every place where that must show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.spec.trace_module import Event, Line, Run

FOREIGN = "s99"  # a session that is live and has asked for nothing

Spoil = Callable[[Run], Iterator[Run]]
SPOILS: dict[str, Spoil] = {}


def _spoils(spoil: Spoil) -> Spoil:
    SPOILS[spoil.__name__.lstrip("_")] = spoil
    return spoil


def spoilt(run: Run, each: int) -> Iterator[Run]:
    """At most `each` corrupted runs of every kind, spread over the run."""
    for name, spoil in SPOILS.items():
        found = list(spoil(run))
        for n, bad in enumerate(found[:: max(1, -(-len(found) // each))]):
            yield replace(bad, name=f"{run.name}/{name}.{n}")


def _events(run: Run, *kinds: str) -> Iterator[tuple[int, int, Line, Event]]:
    for i, line in enumerate(run.lines):
        for j, event in enumerate(line.events):
            if event.kind in kinds:
                yield i, j, line, event


def _later(run: Run, i: int, key: str) -> list[Event]:
    return [event for line in run.lines[i + 1 :] if line.key == key for event in line.events]


def _renumber(run: Run) -> Run:
    for n, line in enumerate(run.lines, 1):
        line.sequence = n
    return run


def _copy(run: Run) -> Run:
    bad = run.copy()
    bad.born[FOREIGN] = max(run.born.values(), default=1)
    return bad


def _change(run: Run, i: int, j: int, **fields: object) -> Run:
    bad = _copy(run)
    bad.lines[i].events[j] = replace(bad.lines[i].events[j], **fields)  # type: ignore[arg-type]
    return bad


def _has_content(run: Run, i: int, key: str) -> bool:
    """Whether the artifact existed before line `i`."""
    said = [event for line in run.lines[:i] if line.key == key for event in line.events]
    return next((event.what is not None for event in reversed(said) if event.kind in ("Inv", "Published")), False)


# --- the log as a whole ---------------------------------------------------------------------------------------------


@_spoils
def entry_missing(run: Run) -> Iterator[Run]:
    for i in range(len(run.lines) - 1):
        bad = _copy(run)
        del bad.lines[i]
        yield bad


@_spoils
def entry_twice(run: Run) -> Iterator[Run]:
    for i, line in enumerate(run.lines):
        bad = _copy(run)
        bad.lines.insert(i + 1, replace(bad.lines[i], rev=line.rev))
        yield _renumber(bad)


@_spoils
def entries_swapped(run: Run) -> Iterator[Run]:
    """A lease's end, or a commit under it, comes before its grant."""
    for i, _, line, event in _events(run, "Granted"):
        following = next((k for k in range(i + 1, len(run.lines)) if run.lines[k].key == line.key), None)
        if following is None:
            continue
        needs = [e for e in run.lines[following].events if e.lease == event.what or _lease(e) == event.what]
        if needs and len(line.events) == 1:
            bad = _copy(run)
            bad.lines[i].events, bad.lines[following].events = bad.lines[following].events, bad.lines[i].events
            bad.lines[i].keep, bad.lines[following].keep = bad.lines[following].keep, bad.lines[i].keep
            yield bad


def _lease(event: Event) -> str:
    return event.what[0] if event.kind == "Ended" and isinstance(event.what, tuple) else ""


@_spoils
def incarnation_lowered(run: Run) -> Iterator[Run]:
    for i, (before, line) in enumerate(zip(run.lines, run.lines[1:], strict=False), 1):
        if before.incarnation == line.incarnation > 1:
            bad = _copy(run)
            bad.lines[i].incarnation -= 1
            yield bad


# --- versions and fences --------------------------------------------------------------------------------------------


@_spoils
def commit_missing(run: Run) -> Iterator[Run]:
    """The sequence hides it, the versions do not."""
    for i, _, line, event in _events(run, "Inv"):
        later = [e for e in _later(run, i, line.key) if e.kind == "Inv"]
        if later and event.what is not None and _has_content(run, i, line.key) and len(line.events) == 1:
            bad = _copy(run)
            del bad.lines[i]
            yield _renumber(bad)


@_spoils
def version_raised(run: Run) -> Iterator[Run]:
    for i, j, _, event in _events(run, "Inv", "Prepared", "Published"):
        yield _change(run, i, j, version=(event.version[0], event.version[1] + 1))


@_spoils
def version_lowered(run: Run) -> Iterator[Run]:
    for i, j, _, event in _events(run, "Inv", "Prepared", "Published"):
        yield _change(run, i, j, version=(event.version[0], event.version[1] - 1))


@_spoils
def older_version_shared(run: Run) -> Iterator[Run]:
    for i, j, _, event in _events(run, "Shared"):
        yield _change(run, i, j, version=(0, event.version[1] - 1))


@_spoils
def fence_lowered(run: Run) -> Iterator[Run]:
    for i, j, line, event in _events(run, "Inv", "Prepared", "Granted", "Ended"):
        first = not any(e.fence for earlier in run.lines[:i] if earlier.key == line.key for e in earlier.events)
        if not first and (_has_content(run, i, line.key) or j):
            yield _change(run, i, j, fence=event.fence - 1)


# --- who ------------------------------------------------------------------------------------------------------------


@_spoils
def foreign_holder_ends(run: Run) -> Iterator[Run]:
    for i, j, _, _ in _events(run, "Ended"):
        yield _change(run, i, j, session=FOREIGN)


@_spoils
def foreign_holder_commits(run: Run) -> Iterator[Run]:
    for i, j, _, event in _events(run, "Inv", "Prepared"):
        if event.lease:
            yield _change(run, i, j, session=FOREIGN)


@_spoils
def commit_past_the_holder(run: Run) -> Iterator[Run]:
    for i, j, _, event in _events(run, "Inv", "Prepared"):
        if event.lease:
            yield _change(run, i, j, lease="")


@_spoils
def granted_while_held(run: Run) -> Iterator[Run]:
    """The end of a lease is not told, and the next one is granted."""
    for i, j, line, _ in _events(run, "Ended"):
        if any(event.kind == "Granted" for event in line.events[j + 1 :]):
            bad = _copy(run)
            del bad.lines[i].events[j]
            yield bad


@_spoils
def dropped_without_a_copy(run: Run) -> Iterator[Run]:
    for i, j, _, _ in _events(run, "Dropped"):
        yield _change(run, i, j, session=FOREIGN)


@_spoils
def dead_session_acts(run: Run) -> Iterator[Run]:
    over: set[str] = set()
    for i, line in enumerate(run.lines):
        for j, event in enumerate(line.events):
            if event.kind == "Ended" and isinstance(event.what, tuple) and event.what[1] == "session_lost":
                over.add(event.session)
            elif event.kind == "Shared" and over:
                yield _change(run, i, j, session=min(over))


@_spoils
def answered_twice(run: Run) -> Iterator[Run]:
    answered: list[Event] = []
    for i, j, _, event in _events(run, "Granted", "Refused"):
        before = [old for old in answered if old.session == event.session]
        if event.request and before:
            yield _change(run, i, j, request=before[0].request)
        if event.request and event.kind == "Granted":
            answered.append(event)


# --- strict ---------------------------------------------------------------------------------------------------------


@_spoils
def published_unprepared(run: Run) -> Iterator[Run]:
    for i, _, line, _ in _events(run, "Prepared"):
        if len(line.events) == 1 and any(event.kind == "Published" for event in _later(run, i, line.key)):
            bad = _copy(run)
            del bad.lines[i]
            yield _renumber(bad)


@_spoils
def published_early(run: Run) -> Iterator[Run]:
    """Before the deadline, and somebody has not acknowledged."""
    waits: dict[str, tuple[set[str], int]] = {}
    for i, line in enumerate(run.lines):
        for event in line.events:
            if event.kind == "Prepared":
                waits[line.key] = set(line.waits), line.until_ms
            elif event.kind == "Dropped" and line.key in waits:
                waits[line.key][0].discard(event.session)
            elif event.kind == "Published" and waits.get(line.key, (set(), 0))[0]:
                bad = _copy(run)
                bad.lines[i].now_ms = waits[line.key][1] - 1
                yield bad


@_spoils
def published_without_an_ack(run: Run) -> Iterator[Run]:
    """The acknowledgement that lets a version be published before the deadline is not told."""
    for i, j, line, event in _events(run, "Dropped"):
        if any(later.kind == "Published" for later in line.events[j + 1 :]):
            rounds = [old for old in run.lines[:i] if old.key == line.key and old.until_ms]
            if rounds and event.session in rounds[-1].waits and line.now_ms < rounds[-1].until_ms:
                bad = _copy(run)
                del bad.lines[i].events[j]
                yield bad


@_spoils
def foreigner_waited_for(run: Run) -> Iterator[Run]:
    for i, _, line, _ in _events(run, "Prepared"):
        if line.waits:
            bad = _copy(run)
            bad.lines[i].waits.append(FOREIGN)
            yield bad


@_spoils
def sharer_not_waited_for(run: Run) -> Iterator[Run]:
    for i, _, line, _ in _events(run, "Prepared"):
        for session in line.waits:
            later = [event for rest in run.lines[i + 1 :] for event in rest.events if event.session == session]
            # A lease that comes out of the queue says nothing: who gives it may not have heard of the session's end.
            if any(e.kind in ("Shared", "Inv", "Prepared") or (e.kind == "Granted" and not e.request) for e in later):
                bad = _copy(run)
                bad.lines[i].waits.remove(session)
                yield bad


@_spoils
def published_at_once(run: Run) -> Iterator[Run]:
    """A strict commit that waits for nobody although copies are out."""
    for i, j, line, _ in _events(run, "Prepared"):
        if line.waits:
            bad = _change(run, i, j, kind="Inv")
            bad.lines[i].waits = []
            yield bad


@_spoils
def inherited_at_once(run: Run) -> Iterator[Run]:
    """An artifact takes its prefix's level over while copies are out, and nobody is waited for."""
    for i, j, line, event in _events(run, "Prepared"):
        rest = [later for later in run.lines[i + 1 :] if later.key == line.key]
        levels = [event.what for later in rest for event in later.events if event.kind == "PolicySet"]
        if not event.session and line.waits and levels:
            bad = _copy(run)
            bad.lines[i].events[j] = Event("PolicySet", what=levels[0])
            bad.lines[i].waits = []
            yield bad
