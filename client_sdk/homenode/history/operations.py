"""The form of a history: one operation of one agent on one artifact, with when it began and ended.

A history is JSON lines. Reads are one line when they end. Writes are two: one before they are sent, one when their
outcome is known, so that a write whose process died is there all the same, with an outcome that nobody knows.

  {"history":1,"boot":"…","process":"3f9a21c4","at_ms":…}                                        begins each process
  {"kind":"hit","key":"plan.md","agent":"a","session":"main~…","start":1,"end":2,"version":"17.3","level":"lazy","hash":"…"}
  {"kind":"read",…,"asked":"strict","absent":true}                                              there was none
  {"kind":"write","id":"3f9a21c4.1",…,"start":3,"base":"17.3","hash":"…","lease":true}          also "delete", "policy"
  {"id":"3f9a21c4.1","end":9,"version":"17.4"}      or "refused":"VersionConflict" with the version that it named
  {"stopped":"the history is full","process":"3f9a21c4"}                    what follows is not recorded: no history

Times are nanoseconds of the boot-time clock, which the processes of one machine share. There is no content, only
hashes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from homenode.versions import Base, Version

SUFFIX = ".jsonl"


class Kind(StrEnum):
    """What an operation is. A hit is a read that the cache answered without asking anybody.

    A change of policy may make a version, with the content that is there; nobody is told which.
    """

    HIT = "hit"
    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        end_ns: None where the outcome is unknown: it may have taken effect at any time since, or never.
        version: seen by a read, made by a write, named by a refusal as the one that is there; None: none was named.
        absent: a read, or a refusal, found no artifact; `version` is then that of its deletion, if it was named.
        base: what a write was to replace.
        refused: the error's name; the operation took no effect.
        asked: how a read was asked for: "strict", "fresh" (no copy would do), or "".
        hash: of the content, as hex, shortened; "" where not known.
        prefix: of a change of policy, that `key` is a prefix, and all artifacts under it are meant.
    """

    kind: Kind
    key: str
    agent: str
    session: str
    start_ns: int
    end_ns: int | None
    version: Version | None = None
    absent: bool = False
    base: Version | Base | None = None
    refused: str = ""
    level: str = ""
    asked: str = ""
    hash: str = ""
    lease: bool = False
    prefix: bool = False

    @property
    def workspace(self) -> str:
        """The one that the session belongs to: its id begins with it."""
        return self.session.rpartition("~")[0]

    @property
    def writes(self) -> bool:
        """Whether it is to change the content."""
        return self.kind in (Kind.WRITE, Kind.DELETE)

    @property
    def unknown(self) -> bool:
        """Whether nobody knows what became of it."""
        return self.end_ns is None

    @property
    def maybe(self) -> bool:
        """Whether it may have made a version that it does not name."""
        return (self.writes and self.unknown) or (self.kind is Kind.POLICY and not self.refused)

    @property
    def done(self) -> bool:
        """Whether it is a write that took effect."""
        return self.writes and not self.refused and not self.unknown

    def __str__(self) -> str:
        what = f"{self.kind} of {self.version.n}" if self.version else f"{self.kind} of nothing"
        if self.writes:
            base = self.base.n if isinstance(self.base, Version) else self.base.value if self.base else "?"
            what = f"{self.kind} of {self.version.n if self.version else 'an unknown version'} over {base}"
        end = "…" if self.end_ns is None else f"{self.end_ns / 1e9:.6f}"
        refused = f" refused ({self.refused})" if self.refused else ""
        return f"{self.agent}: {what}{refused} [{self.start_ns / 1e9:.6f}, {end}] s"


class BadHistory(Exception):
    """The file is not a history, or not a whole one."""


def read_history(paths: Iterable[Path]) -> list[Operation]:
    """The operations of history files, or of folders of them, by their start.

    A last line that was being written when its process died is left out. Raises BadHistory, OSError.
    """
    reader = _Reader()
    for path in paths:
        for file in sorted(path.glob("*" + SUFFIX)) if path.is_dir() else [path]:
            reader.file(file)
    return reader.operations()


def from_lines(lines: Iterable[dict[str, Any]]) -> list[Operation]:
    """The operations that parsed lines tell of, by their start. Raises BadHistory, ValueError, KeyError."""
    reader = _Reader()
    for line in lines:
        reader.line(line)
    return reader.operations()


class _Reader:
    def __init__(self) -> None:
        self.done: list[Operation] = []
        self.open: dict[str, Operation] = {}
        self.boot = ""
        self.stopped = ""

    def file(self, path: Path) -> None:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    if line.strip():
                        self.line(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise BadHistory(f"{path.name}:{number}: not a line of a history: {error}") from None

    def operations(self) -> list[Operation]:
        if self.stopped:
            raise BadHistory(f"recording ended early: {self.stopped}")
        return sorted([*self.done, *self.open.values()], key=lambda operation: operation.start_ns)

    def line(self, said: dict[str, Any]) -> None:
        if "kind" in said:
            operation = _operation(said)
            if "id" in said:
                self.open[said["id"]] = operation
            else:
                self.done.append(operation)
        elif "id" in said:
            self.done.append(_ended(self.open.pop(said["id"]), said))
        elif "history" in said:
            if said["history"] != 1 or self.boot not in ("", said["boot"]):
                raise BadHistory("another format, or of another machine: its clock is another one")
            self.boot = said["boot"]
        else:
            self.stopped = str(said["stopped"])


def _operation(said: dict[str, Any]) -> Operation:
    kind = Kind(said["kind"])
    return Operation(
        kind,
        said["key"],
        said["agent"],
        said["session"],
        int(said["start"]),
        said.get("end"),
        version=_version(said.get("version")),
        absent=bool(said.get("absent")),
        base=_base(said["base"]) if "base" in said else None,
        refused=said.get("refused", ""),
        level=said.get("level", ""),
        asked=said.get("asked", ""),
        hash=said.get("hash", ""),
        lease=bool(said.get("lease")),
        prefix=bool(said.get("prefix")),
    )


def _ended(begun: Operation, said: dict[str, Any]) -> Operation:
    return replace(
        begun,
        end_ns=int(said["end"]),
        version=_version(said.get("version")),
        absent=bool(said.get("absent")),
        refused=said.get("refused", ""),
        level=said.get("level", ""),
        hash=said.get("hash", begun.hash),
    )


def _version(text: str | None) -> Version | None:
    return Version.parse(text) if text is not None else None


def _base(text: str) -> Version | Base:
    return Base(text) if text in ("absent", "any") else Version.parse(text)


def by_artifact(operations: Iterable[Operation]) -> dict[tuple[str, str], list[Operation]]:
    """The operations of each artifact, by workspace and key, in their order; those on prefixes with all under them."""
    found: dict[tuple[str, str], list[Operation]] = {}
    of_prefixes: list[Operation] = []
    for operation in operations:
        if operation.prefix:
            of_prefixes.append(operation)
        else:
            found.setdefault((operation.workspace, operation.key), []).append(operation)
    for (workspace, key), own in found.items():
        more = [one for one in of_prefixes if one.workspace == workspace and key.startswith(one.key)]
        if more:
            own.extend(more)
            own.sort(key=lambda operation: operation.start_ns)
    return found


def linear(operations: Iterable[Operation]) -> Iterator[Operation]:
    """Those that are promised to be linearizable: writes, refusals, and reads that are strict or took no copy."""
    for operation in operations:
        if operation.writes or operation.maybe or operation.level == "strict" or operation.asked:
            yield operation
