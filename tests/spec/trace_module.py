"""Slice logs as TLA+ data for `tla/Trace.tla`.

A run is what one slice's log says, from its first entry: lines of events, with names made short (`s1`, `k1`, `l1`, `c1`
for sessions, artifacts, leases and contents), incarnations counted from 1 and times from the first entry's. TLA+ has no
use for the originals, and its integers have 32 bits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from homenode_directory.audit.items import Gap, Item, Logged, Renewed
from homenode_directory.protocol import effects
from homenode_directory.protocol.model import RESERVED, Cause, Content, Level, Version
from homenode_directory.store.fields import LogRecord

NO_VERSION = (0, 0)


@dataclass(slots=True)
class Event:
    """One event in the shape of `Entry!Event`. `what` is a content, a lease, a level, or (lease, cause)."""

    kind: str
    session: str = ""
    version: tuple[int, int] = NO_VERSION
    fence: int = 0
    what: str | tuple[str, str] | None = None
    request: int = 0
    lease: str = ""


@dataclass(slots=True)
class Line:
    """One log entry. `keep`: whether a commit in it keeps its lease; `waits`, `until_ms`: whom a prepared
    commit waits for, and how long."""

    sequence: int
    key: str
    rev: int
    now_ms: int
    incarnation: int
    events: list[Event]
    keep: bool = True
    waits: list[str] = field(default_factory=list)
    until_ms: int = 0


@dataclass(slots=True)
class Run:
    """A slice's log. `born`: the incarnation that each session began in. `of`: the sound run that it spoils."""

    name: str
    lines: list[Line]
    born: dict[str, int]
    level: Level = Level.LAZY
    of: Run | None = None

    @property
    def sound(self) -> bool:
        """Whether it must be accepted."""
        return self.of is None

    def copy(self) -> Run:
        """A copy to be spoilt."""
        return replace(self, lines=copy.deepcopy(self.lines), born=dict(self.born), of=self)


class Names:
    """Short names, by first appearance."""

    def __init__(self, prefix: str, fixed: Mapping[str, str] = MappingProxyType({})) -> None:
        self._prefix = prefix
        self._known = dict(fixed)

    def __call__(self, name: str) -> str:
        return self._known.setdefault(name, f"{self._prefix}{len(self._known) + 1}")


def split(items: Iterable[Item]) -> Iterator[list[Logged]]:
    """The logs in a stream of items: one for each slice and each memory that it had, from the first entry on.

    Where a store came back with less, what it had lost ends one log, and another goes on from what it kept. A log
    whose beginning is gone is left out.
    """
    logs: dict[int, list[Logged]] = {}
    for item in items:
        if isinstance(item, Gap):
            logs.pop(item.slice, None)
        elif isinstance(item, Renewed):
            log = logs.get(item.slice, [])
            kept = [logged for logged in log if logged.sequence <= item.after]
            if len(kept) < len(log):
                yield log
            logs[item.slice] = kept
        else:
            logs.setdefault(item.slice, []).append(item)
    yield from logs.values()


def runs_of(name: str, items: Iterable[Item], level: Level = Level.LAZY) -> list[Run]:
    """The runs that a stream of items tells of."""
    whole = [log for log in split(items) if log and log[0].sequence == 1]
    return [run_of(name if len(whole) == 1 else f"{name}.{n}", log, level) for n, log in enumerate(whole, 1)]


def run_of(name: str, log: Sequence[Logged], level: Level = Level.LAZY) -> Run:
    """One log as a run."""
    maker = _Maker(log, level)
    lines = [maker.line(logged) for logged in log]
    return Run(name, lines, maker.born, level)


class _Maker:
    def __init__(self, log: Sequence[Logged], level: Level) -> None:
        self._level = level
        self.born: dict[str, int] = {}
        self._sessions, self._keys = Names("s", {"": ""}), Names("k")
        self._leases, self._contents = Names("l", {RESERVED: ""}), Names("c")
        self._requests: dict[tuple[str, int], int] = {}
        self._incarnations = sorted({logged.record.incarnation for logged in log})
        self._start_ms = min(logged.record.at_ms for logged in log) - 1
        self._published = {
            (logged.record.artifact, event.version): (event, logged.record)
            for logged in log
            for event in logged.record.events
            if isinstance(event, effects.Published)
        }

    def line(self, logged: Logged) -> Line:
        record = logged.record
        incarnation = self._incarnations.index(record.incarnation) + 1
        line = Line(
            logged.sequence, self._keys(record.artifact), record.rev, record.at_ms - self._start_ms, incarnation, []
        )
        for event in record.events:
            line.events.extend(self._events(event, record, line))
        for event in line.events:
            if event.session:
                self.born.setdefault(event.session, incarnation)
        return line

    def _events(self, event: effects.LogEvent, record: LogRecord, line: Line) -> Iterator[Event]:
        match event:
            case effects.Inv():
                yield self._inv(event, record, line)
            case effects.Shared(session, n):
                yield Event("Shared", self._sessions(session), (0, n))
            case effects.Granted(session=session, lease=lease, fence=fence, request=request):
                yield Event("Granted", self._sessions(session), NO_VERSION, fence, self._leases(lease),
                            self._request(session, request))  # fmt: skip
            case effects.Ended(session, lease, fence, cause):
                yield Event("Ended", self._sessions(session), NO_VERSION, fence, (self._leases(lease), cause.value))
            case effects.Refused(session, request):
                yield Event("Refused", self._sessions(session), request=self._request(session, request))
            case effects.Published(version, content, session, request):
                yield Event("Published", self._sessions(session), self._version(version), 0, self._content(content),
                            self._request(session, request))  # fmt: skip
            case effects.Dropped(sessions):
                for session in sessions:
                    yield Event("Dropped", self._sessions(session))
            case effects.PolicySet(policy):
                level = policy.level if policy is not None else None
                # Of what comes to be, it is the first that is said: TLA+ takes the beginning's fence from there.
                first = record.events[1] if event is record.events[0] and len(record.events) > 1 else None
                fence = first.fence if event.inherited and isinstance(first, effects.Inv) else 0
                yield Event("PolicySet", fence=fence, what=(level or self._level).value)

    def _inv(self, event: effects.Inv, record: LogRecord, line: Line) -> Event:
        made = Event(
            "Prepared" if event.prepared else "Inv", self._sessions(event.session), self._version(event.version),
            event.fence, self._content(event.content), lease=self._leases(event.lease),
        )  # fmt: skip
        ended = record
        if event.prepared:
            line.waits = [self._sessions(session) for session in event.waits]
            line.until_ms = event.until_ms - self._start_ms
            published, ended = self._published.get((record.artifact, event.version), (None, record))
            made.request = self._request(published.session, published.request) if published is not None else 0
        line.keep = not any(
            isinstance(other, effects.Ended) and (other.lease, other.cause) == (event.lease, Cause.RELEASED)
            for other in ended.events
        )
        return made

    def _version(self, version: Version) -> tuple[int, int]:
        return self._incarnations.index(version.incarnation) + 1, version.n

    def _content(self, content: Content | None) -> str | None:
        return self._contents(content.hash) if content is not None else None

    def _request(self, session: str, request: int) -> int:
        return self._requests.setdefault((session, request), len(self._requests) + 1) if request else 0


# --- text -----------------------------------------------------------------------------------------------------------


def module(name: str, runs: Sequence[Run]) -> str:
    """A TLA+ module with these runs, for `Trace.cfg`. A spoilt run stands behind the sound one that it comes from."""
    events = [event for run in runs for line in run.lines for event in line.events]
    sessions = {event.session for event in events} | {s for run in runs for s in run.born} - {""}
    keys = {line.key for run in runs for line in run.lines}
    number = {run.name: n for n, run in enumerate(runs, 1)}
    parts = [f"---- MODULE {name} ----", "EXTENDS Trace"]
    for run in runs:
        text = _run(run) if run.of is None else _spoilt(run, run.of, f"Run{number[run.of.name]}")
        parts.append(f"Run{number[run.name]} == {text}")
    all_runs = ", ".join(f"Run{n}" for n in range(1, len(runs) + 1))
    parts.append(f"ASSUME TLCSet(Register, <<{all_runs}>>)")
    parts.append(f"TheSessions == {_set(sessions - {''})}")
    parts.append(f"TheArtifacts == {_set(keys)}")
    return "\n".join([*parts, "====", ""])


def _set(names: Iterable[str]) -> str:
    return "{" + ", ".join(map(_text, sorted(names))) + "}"


def _born(run: Run) -> str:
    return "{" + ", ".join(f"<<{_text(session)}, {number}>>" for session, number in run.born.items()) + "}"


def _run(run: Run) -> str:
    lines = ",\n".join(_line(line) for line in run.lines)
    return f"ARun({_text(run.name)}, TRUE, {_text(run.level.value)}, {_born(run)}, <<\n{lines}>>)"


def _spoilt(run: Run, sound: Run, base: str) -> str:
    """The run as what differs from the sound one: lines between a beginning and an end that both have."""
    begin = 0
    while begin < min(len(run.lines), len(sound.lines)) and run.lines[begin] == sound.lines[begin]:
        begin += 1
    longer = len(run.lines) - len(sound.lines)
    shift = run.lines[-1].sequence - sound.lines[-1].sequence
    end = 0
    while end < min(len(run.lines), len(sound.lines)) - begin:
        line = run.lines[-1 - end]
        if replace(line, sequence=line.sequence - shift) != sound.lines[-1 - end]:
            break
        end += 1
    between = ",\n".join(_line(line) for line in run.lines[begin : len(run.lines) - end])
    rest = len(run.lines) - end - longer
    return f"Spoilt({_text(run.name)}, {base}, {_born(run)}, {begin}, <<\n{between}>>, {rest}, {shift})"


def _line(line: Line) -> str:
    events = ", ".join(_event(event) for event in line.events)
    return (
        f" ALine({line.sequence}, {_text(line.key)}, {line.rev}, {line.now_ms}, {line.incarnation}, "
        f"{'TRUE' if line.keep else 'FALSE'}, {_set(line.waits)}, {line.until_ms}, <<{events}>>)"
    )


def _event(event: Event) -> str:
    version = f"<<{event.version[0]}, {event.version[1]}>>"
    return (
        f"AnEvent({_text(event.kind)}, {_text(event.session)}, {version}, {event.fence}, {_text(event.what)}, "
        f"{event.request}, {_text(event.lease)})"
    )


def _text(value: str | tuple[str, str] | None) -> str:
    if value is None:
        return "None"
    if isinstance(value, tuple):
        return f"<<{_text(value[0])}, {_text(value[1])}>>"
    return f'"{value}"'
