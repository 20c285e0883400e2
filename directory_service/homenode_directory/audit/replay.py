"""`homenode replay`: a whole log through the auditor, with figures, and one artifact's history in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from homenode_directory.audit.items import Gap, Item, Logged, Renewed
from homenode_directory.audit.rules import Auditor, Violation
from homenode_directory.audit.words import clock, sentences
from homenode_directory.protocol import effects
from homenode_directory.store.fields import split_artifact


@dataclass(frozen=True, slots=True)
class Told:
    """A line of an artifact's history."""

    at_ms: int
    artifact: str
    where: str
    text: str


@dataclass(slots=True)
class Summary:
    """What a log holds."""

    entries: int = 0
    slices: set[int] = field(default_factory=set)
    events: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    incarnations: int = 0
    missing: int = 0  # entries in gaps that the archive names
    first_ms: int = 0
    last_ms: int = 0

    def add(self, item: Item) -> None:
        """Count an item."""
        if isinstance(item, Gap):
            self.missing += item.last - item.first + 1
        elif isinstance(item, Renewed):
            self.incarnations += 1
        else:
            self._logged(item)

    def _logged(self, item: Logged) -> None:
        self.entries += 1
        self.slices.add(item.slice)
        at_ms = item.record.at_ms
        self.first_ms = min(self.first_ms or at_ms, at_ms)
        self.last_ms = max(self.last_ms, at_ms)
        for event in item.record.events:
            self.events[type(event).__name__.lower()] += 1
            if isinstance(event, effects.Inv):
                self.events["deletions" if event.content is None else "commits"] += 1
            elif isinstance(event, effects.Ended):
                self.causes[event.cause.value] += 1

    def text(self) -> str:
        """For people."""
        if not self.entries:
            return "the log is empty"
        leases = ", ".join(f"{count} {cause}" for cause, count in sorted(self.causes.items()))
        ended = f" (ended: {leases})" if leases else ""
        gaps = f"; {self.missing} entries are missing, knowingly" if self.missing else ""
        events = self.events
        return (
            f"{self.entries} entries of {len(self.slices)} slices, "
            f"{clock(self.first_ms)} to {clock(self.last_ms)} UTC: "
            f"{events['commits']} commits, {events['deletions']} deletions, {events['granted']} write leases{ended}, "
            f"{events['shared']} copies, {self.incarnations} incarnations{gaps}"
        )


class Replay:
    """Takes a log's items in order.

    Args:
        key: an artifact whose history is told, in any workspace unless `workspace` names one; "": none.
        tell: gets its lines.
    """

    def __init__(self, *, key: str = "", workspace: str = "", tell: Callable[[Told], None] = lambda told: None) -> None:
        self.auditor = Auditor()
        self.summary = Summary()
        self._key = key
        self._workspace = workspace
        self._tell = tell
        self._slices: set[int] = set()  # in which the artifact was seen

    def see(self, item: Item) -> None:
        """The next item."""
        for told in self._told(item):
            self._tell(told)
        found = self.auditor.found
        self.auditor.see(item)
        self.summary.add(item)
        if self._key and self.auditor.found > found and self.auditor.violations:
            last = self.auditor.violations[-1]
            if last.where == item.where and self._meant(last.artifact):
                self._tell(Told(0, last.artifact, item.where, f"VIOLATION ({last.rule}): {last.text}"))

    @property
    def violations(self) -> list[Violation]:
        """What must not be."""
        return self.auditor.violations

    def _meant(self, artifact: str) -> bool:
        if not self._key or not artifact.endswith(self._key):
            return False
        place, key = split_artifact(artifact)
        return key == self._key and self._workspace in ("", place.workspace)

    def _told(self, item: Item) -> Iterator[Told]:
        if not self._key:
            return
        if isinstance(item, Logged):
            record = item.record
            if self._meant(record.artifact):
                self._slices.add(item.slice)
                known = self.auditor.state(item.slice, record.artifact)
                for text in sentences(item, known):
                    yield Told(record.at_ms, record.artifact, item.where, text)
        elif item.slice in self._slices:
            if isinstance(item, Gap):
                text = f"entries {item.first} to {item.last} are missing: {item.why}"
            else:
                text = f"the store's memory is incarnation {item.number} from here on"
            yield Told(0, "", item.where, text)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        summary = self.summary
        return {
            "entries": summary.entries,
            "slices": len(summary.slices),
            "events": dict(summary.events),
            "leases_ended": dict(summary.causes),
            "incarnations": summary.incarnations,
            "missing": summary.missing,
            "first_ms": summary.first_ms,
            "last_ms": summary.last_ms,
            "violations_found": self.auditor.found,
            "violations": [
                {"rule": v.rule, "artifact": v.artifact, "where": v.where, "text": v.text} for v in self.violations
            ],
        }
