"""What is promised of every artifact, lazy ones too, held against a history.

- a session never sees versions go back, and sees its own writes;
- what is read was written before, with this content;
- a read gives a version that was superseded at most `max_age` before the read began;
- no update is lost: a write replaces exactly the version it says, and no version is replaced twice;
- an effect is done once: there is no version that nobody wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from homenode.history.operations import Kind, Operation
from homenode.history.zones import Finding
from homenode.versions import Version


@dataclass(frozen=True, slots=True)
class Stale:
    """A read whose version was superseded `age_ns` before it began."""

    read: Operation
    age_ns: int


def backwards(operations: Sequence[Operation]) -> Iterator[Finding]:
    """Sessions that saw an older version of an artifact than before. Takes the operations on one artifact."""
    by_session: dict[str, list[Operation]] = {}
    for one in operations:
        if one.version is not None and not one.unknown and one.session:
            by_session.setdefault(one.session, []).append(one)
    for mine in by_session.values():
        ends = sorted(mine, key=lambda one: one.end_ns or 0)
        newest: Operation | None = None
        i = 0
        for one in sorted(mine, key=lambda one: one.start_ns):
            while i < len(ends) and (ends[i].end_ns or 0) < one.start_ns:
                if newest is None or _version(ends[i]) > _version(newest):
                    newest = ends[i]
                i += 1
            if newest is not None and _version(one) < _version(newest):
                yield Finding("went back", one.key, f"{one} after {newest}")


def stale(operations: Sequence[Operation]) -> Iterator[Stale]:
    """Reads of versions that were superseded when they began. Takes the operations on one artifact."""
    shown: dict[Version, int] = {}  # version -> when it was surely there
    for one in operations:
        if one.version is not None and one.end_ns is not None:
            shown[one.version] = min(one.end_ns, shown.get(one.version, one.end_ns))
    superseded: dict[Version, int] = {}
    first: int | None = None
    for version in sorted(shown, reverse=True):
        if first is not None:
            superseded[version] = first
        first = shown[version] if first is None else min(first, shown[version])
    for one in operations:
        if one.kind in (Kind.HIT, Kind.READ) and one.version in superseded:
            age_ns = one.start_ns - superseded[one.version]
            if age_ns > 0:
                yield Stale(one, age_ns)


def invented(operations: Sequence[Operation], *, all_writers: bool = True) -> Iterator[Finding]:
    """Reads of what nobody had written. Takes the operations on one artifact."""
    done = {one.version: one for one in operations if one.done and one.version is not None}
    unknown = [one for one in operations if one.maybe]
    contents: dict[Version, Operation] = {}
    for one in operations:
        if one.kind not in (Kind.HIT, Kind.READ) or one.version is None or one.refused or one.end_ns is None:
            continue
        first = contents.setdefault(one.version, one)
        if first.hash != one.hash:
            yield Finding("reuse", one.key, f"one version with two contents: {first}; {one}")
        write = done.get(one.version)
        if write is None:
            maybe = any(u.start_ns <= one.end_ns and u.hash in ("", one.hash) for u in unknown)
            if all_writers and not maybe:
                yield Finding("never written", one.key, f"nobody wrote what was seen: {one}")
        elif one.end_ns < write.start_ns or (write.hash and one.hash and write.hash != one.hash):
            yield Finding("never written", one.key, f"{one} before, or of another content than, {write}")


def lost(operations: Iterable[Operation], *, all_writers: bool = True) -> Iterator[Finding]:
    """Updates that were lost, or done more than once. Takes the operations on one artifact."""
    done: dict[Version, Operation] = {}
    over: dict[Version, Operation] = {}
    key, unknown = "", 0
    for one in operations:
        key, unknown = one.key, unknown + one.maybe
        if not one.done or one.version is None:
            continue
        if one.version in done:
            yield Finding("twice", key, f"one version for two writes: {done[one.version]}; {one}")
        done[one.version] = one
        if not isinstance(one.base, Version):
            continue
        if one.version.n != one.base.n + 1:
            yield Finding("lost update", key, f"{one} does not follow what it replaces")
        if one.base in over:
            yield Finding("lost update", key, f"two writes over one version: {over[one.base]}; {one}")
        over[one.base] = one
    if all_writers:
        yield from _nobody_wrote(key, done, unknown)


def _nobody_wrote(key: str, done: dict[Version, Operation], unknown: int) -> Iterator[Finding]:
    """More numbers are missing than there are writes of unknown outcome. After a deletion numbers may jump."""
    missing: Counter[str] = Counter()
    before: Operation | None = None
    for version in sorted(done):
        if before is not None and before.kind is not Kind.DELETE and before.version is not None:
            if before.version.incarnation == version.incarnation and version.n > before.version.n + 1:
                missing[f"{before.version.n + 1} to {version.n - 1}"] += version.n - before.version.n - 1
        before = done[version]
    if missing.total() > unknown:
        ranges = ", ".join(list(missing)[:5])
        yield Finding("twice", key, f"nobody wrote {ranges}, and only {unknown} writes have an unknown outcome")


def _version(one: Operation) -> Version:
    assert one.version is not None
    return one.version
