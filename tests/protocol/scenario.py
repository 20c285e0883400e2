"""Scenarios as text: commands, and under `----` what they answered.

    at 5000                      time, store milliseconds
    default strict               default policy of the workspace
    dead A,B                     sessions known to be over
    floor 7                      the slice's floor
    incarnation 2
    quarantine 7000              until when no strict version is published
    weak it has replicas         why strict cannot be kept over the store
    gets A [noshare] [strict]
    getm A L1 ttl=10000 [wait=5000] [create] [request=1] [digest=x]
    commit A base=absent|any|INC.N [content=h|delete] [lease=L1 fence=3] [keep] [request=2]
    put A [lease=L1]             also: ack A,B n=2 fence=3; renew A L1 ttl=; expire; end A [cause=]; policy A strict
    inherit strict|none          what its prefix says, for an artifact that exists
    prefix strict                what is known of its prefix, for one that gets content

Each event is judged and applied to the scenario's one entry; stored results are kept and found again, as the store
would. The text after `----` is the decision and the entry.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from homenode_directory.protocol.effects import Decision, Denial, Result, Waiting
from homenode_directory.protocol.events import (
    Base,
    Commit,
    EndSession,
    Event,
    Expire,
    GetM,
    GetS,
    Handoff,
    Inherit,
    InvAck,
    Put,
    Renew,
    SetPolicy,
)
from homenode_directory.protocol.facts import Facts, Terms
from homenode_directory.protocol.model import ABSENT_ENTRY, Cause, Content, Entry, Level, Policy, Version
from homenode_directory.protocol.transitions import check, step

TERMS = Terms(tombstone_ms=60_000, waiters_max=2, lease_ms=4_000, late_ms=20, max_age_ms=3_000)
"""A strict round lasts at most 20 + 4,080 + 1,000 ms."""


@dataclass
class Scenario:
    """The state that commands work on."""

    entry: Entry = ABSENT_ENTRY
    now_ms: int = 1_000
    incarnation: int = 1
    floor: int = 0
    default: Policy = Policy()
    prefix: Policy | None = None
    dead: frozenset[str] = frozenset()
    quarantine: int = 0
    weak: str = ""
    stored: dict[tuple[str, int], Result] = field(default_factory=dict)

    def run(self, line: str) -> str:
        """Carry out a command; returns what to expect of it."""
        name, *words = line.split()
        settings = {"at", "default", "dead", "floor", "incarnation", "prefix", "quarantine", "weak"}
        if name in settings:
            self._set(name, " ".join(words))
            return "ok"
        given = {word.partition("=")[0]: word.partition("=")[2] for word in words[1:]}
        event = _event(name, words[0] if words else "", words[1] if len(words) > 1 else "", given)
        return self._judge(event, int(given.get("request", 0)), given.get("digest", "d"))

    def _set(self, name: str, value: str = "") -> None:
        if name == "at":
            self.now_ms = int(value)
        elif name == "default":
            self.default = Policy(Level(value))
        elif name == "prefix":
            self.prefix = Policy(Level(value))
        elif name == "dead":
            self.dead = frozenset(value.split(","))
        elif name == "weak":
            self.weak = value
        else:
            setattr(self, name, int(value))

    def _judge(self, event: Event, request: int, digest: str) -> str:
        stored = self.stored.get((getattr(event, "session", ""), request))
        facts = Facts(
            now_ms=self.now_ms, now_max_ms=self.now_ms, incarnation=self.incarnation, request=request, digest=digest,
            stored=stored, floor=self.floor, dead=self.dead, quarantine_ms=self.quarantine, weakness=self.weak,
            default=self.default, terms=TERMS,
        )  # fmt: skip
        if self.entry.content is None:  # as the directory does before it judges
            self.entry = replace(self.entry, inherited=self.prefix)
        decision = step(self.entry, event, facts)
        for result in decision.results:
            assert (result.session, result.request) not in self.stored, "a second answer to one request"
            self.stored[result.session, result.request] = result
        changed = decision.entry is not self.entry
        self.entry = decision.entry if decision.entry is not None else ABSENT_ENTRY
        if decision.entry is None:
            self.floor = decision.floor
        check(self.entry)
        return "\n".join([*_told(decision), _describe(decision.entry) if changed else "unchanged"])


def _event(name: str, who: str, second: str, given: dict[str, str]) -> Event:
    if name == "gets":
        return GetS(who, share="noshare" not in given, strict="strict" in given)
    if name == "getm":
        return GetM(who, second, int(given["ttl"]), int(given.get("wait", 0)), "create" in given)
    if name == "commit":
        content = None if "delete" in given else Content(given["content"], 1)
        lease, fence = given.get("lease", ""), int(given.get("fence", 0))
        return Commit(who, content, _base(given["base"]), lease, fence, "keep" in given)
    if name == "put":
        return Put(who, given.get("lease", ""))
    if name == "ack":
        return InvAck(tuple(who.split(",")), int(given["n"]), int(given["fence"]))
    if name == "renew":
        return Renew(who, second, int(given["ttl"]))
    if name == "expire":
        return Expire()
    if name == "end":
        return EndSession(who, Cause(given.get("cause", "session_lost")))
    if name == "handoff":
        return Handoff(who, second, int(given["fence"]), given["to"], int(given["ttl"]), given.get("agent", ""))
    if name == "policy":
        return SetPolicy(who, None if second == "none" else Policy(Level(second)))
    if name == "inherit":
        return Inherit(None if who == "none" else Policy(Level(who)))
    raise ValueError(f"no such command: {name}")


def _base(text: str) -> Version | Base:
    if text in ("absent", "any"):
        return Base(text)
    incarnation, n = text.split(".")
    return Version(int(incarnation), int(n))


def _told(decision: Decision) -> list[str]:
    answer = decision.answer
    lines = []
    if isinstance(answer, Denial):
        lines.append(f"denied: {answer.reason}" + _fields(answer, "current", "holder", "retry_after_ms", "cause"))
    elif isinstance(answer, Waiting):
        lines.append("waiting")
    elif answer is not None:
        lines.append(f"{type(answer).__name__.lower()}:" + _fields(answer))
    lines += [f"log: {type(event).__name__}{_fields(event)}" for event in decision.log]
    lines += [
        f"result: {result.session}/{result.request} {type(result.answer).__name__}"
        + (f" {result.answer.reason}" if isinstance(result.answer, Denial) else "")
        for result in decision.results
    ]
    guards = _fields(decision.guards)
    return [*lines, f"guards:{guards}"] if guards else lines


def _describe(entry: Entry | None) -> str:
    if entry is None:
        return "entry: dropped"
    parts = [f"entry: {entry.state} {_text(entry.version)} fence {entry.fence}"]
    if entry.content is not None:
        parts.append(f"content {entry.content.hash}")
    if (holder := entry.holder) is not None:
        parts.append(f"holder {holder.session}/{holder.lease}#{holder.fence} until {holder.deadline_ms}")
    if entry.waiters:
        queue = " ".join(f"{w.session}/{w.lease}@{w.deadline_ms}" for w in entry.waiters)
        parts.append(f"waiters {queue}")
    if (pending := entry.pending) is not None:
        waits = ",".join(pending.waits) or "nobody"
        policy = f" policy {_text(pending.policy)}" if pending.sets_policy or pending.inherits else ""
        parts.append(
            f"pending {_text(pending.version)}#{pending.fence}{policy} waits for {waits} until {pending.until_ms}"
        )
    if entry.sharers:
        parts.append("sharers " + " ".join(f"{session}={n}" for session, n in sorted(entry.sharers.items())))
    if entry.tombstone_ms:
        parts.append(f"tombstone until {entry.tombstone_ms}")
    return ", ".join(parts)


def _fields(value: Any, *names: str) -> str:
    """The fields that differ from what says nothing."""
    chosen = names or [f.name for f in fields(value)]
    given = [(name, getattr(value, name)) for name in chosen]
    return "".join(f" {name}={_text(v)}" for name, v in given if v not in (None, "", 0, (), False))


def _text(value: Any) -> str:
    if isinstance(value, Version):
        return f"{value.incarnation}.{value.n}"
    if isinstance(value, Content):
        return value.hash
    if isinstance(value, Policy):
        return str(value.level)
    if isinstance(value, tuple):
        return ",".join(_text(v) for v in value) if not value or not isinstance(value[0], tuple) else str(dict(value))
    return str(value)
