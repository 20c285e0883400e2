"""What clients were told, held against what is there in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults.processes import Record

ACKED, UNKNOWN, REFUSED = "acked", "unknown", "refused"

Version = tuple[int, int]


@dataclass(slots=True)
class Ledger:
    """Every effect that was tried, by how it ended."""

    records: list[Record] = field(default_factory=list)

    def add(self, records: Iterable[Record]) -> None:
        """More of them."""
        self.records.extend(records)

    def tags(self, end: str, key: str) -> list[str]:
        """The effects on `key` that ended so."""
        return [record["tag"] for record in self.records if record.get("end") == end and record["key"] == key]

    def count(self, end: str) -> int:
        """How many effects ended so."""
        return sum(1 for record in self.records if record.get("end") == end)

    def by_path(self) -> str:
        """How many were acknowledged on each write path, and how many ended how, for the report."""
        paths = Counter(record["path"] for record in self.records if record.get("end") == ACKED)
        ends = Counter(record["end"] for record in self.records if "end" in record)
        refusals = Counter(record["error"] for record in self.records if record.get("end") == REFUSED)
        return f"{dict(ends)}, acknowledged by path {dict(sorted(paths.items()))}, refusals {dict(refusals)}"

    def check_counter(self, key: str, final: int) -> None:
        """No increment lost, none done twice."""
        acked, unknown = len(self.tags(ACKED, key)), len(self.tags(UNKNOWN, key))
        assert acked <= final <= acked + unknown, f"{key} is {final}; acknowledged {acked}, unknown {unknown}"

    def check_lines(self, key: str, lines: list[str]) -> None:
        """Every acknowledged line once, an unknown one at most once, and no other; in the order of their versions."""
        acked, unknown = set(self.tags(ACKED, key)), set(self.tags(UNKNOWN, key))
        twice = [line for line, count in Counter(lines).items() if count > 1]
        assert not twice, f"written twice: {twice}"
        assert not acked - set(lines), f"acknowledged, and not there: {sorted(acked - set(lines))}"
        assert not set(lines) - acked - unknown, f"refused, and there: {sorted(set(lines) - acked - unknown)}"
        by_version = sorted(
            (record["version"], record["tag"])
            for record in self.records
            if record.get("end") == ACKED and record["key"] == key and record["version"]
        )
        there = set(lines)
        in_order = [tag for _, tag in by_version if tag in there]
        assert in_order == [line for line in lines if line in set(in_order)], "lines are not in order of versions"

    def check_versions(self) -> None:
        """A version has one content for ever, and was acknowledged to one writer."""
        check_versions(self.records)
        effects = Counter(
            (record["key"], *record["version"])
            for record in self.records
            if record.get("end") == ACKED and record["version"]
        )
        twice = [version for version, count in effects.items() if count > 1]
        assert not twice, f"acknowledged to two writers: {twice}"


def check_versions(records: Iterable[Record]) -> int:
    """(key, version) → hash is a function; returns how many versions there were."""
    hashes: dict[tuple[str, int, int], str] = {}
    for record in records:
        if record.get("version") and "hash" in record:
            name = (record["key"], *record["version"])
            assert hashes.setdefault(name, record["hash"]) == record["hash"], f"{name} was used for two contents"
    return len(hashes)
