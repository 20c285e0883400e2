"""Random histories: of a register that some clients use at once, and the same with something wrong in it.

Each operation takes effect at a random moment between its start and its end; some of those of which the client never
heard take effect later, or never. What is wrong is small: a version, a time, a base, a content, a line that is missing.

No history has both a delete of unknown outcome and somebody who saw nothing, not even a deletion: there the zone check
accepts what the search may refuse.
"""

from __future__ import annotations

import random
from dataclasses import replace

from homenode.history.operations import Kind, Operation
from homenode.versions import ABSENT, ANY, Base, Version

KEY = "k"


class Register:
    """The artifact as it is; versions count up and never come back."""

    def __init__(self, rng: random.Random, contents: int) -> None:
        self.rng = rng
        self.contents = contents
        self.version: Version | None = None
        self.present = False
        self.traced = False  # whether a deleted artifact's record is still there
        self.hash = ""
        self.incarnation = 1
        self.n = 0

    def next(self) -> Version:
        """The next version."""
        if self.rng.random() < 0.05:
            self.incarnation += 1
        self.n += 1
        return Version(self.incarnation, self.n)

    def write(self, base: Version | Base, hash_: str | None) -> tuple[Version | None, str]:
        """Compare and set: the version now, and why it was refused, or ""."""
        shown = self.version if self.present or self.traced else None
        if base is ABSENT and self.present:
            return shown, "AlreadyExists"
        if isinstance(base, Version) and (base != self.version or not (self.present or self.traced)):
            return shown, "VersionConflict"
        if hash_ is None and not self.present:
            return shown, "NotFound"
        self.version, self.present, self.hash, self.traced = self.next(), hash_ is not None, hash_ or "", True
        return self.version, ""


def honest(rng: random.Random, size: int, clients: int) -> list[Operation]:
    """A history that is linearizable, because it happened."""
    register = Register(rng, contents=rng.choice((2, 1_000)))
    moments: list[tuple[int, int, int, str]] = []  # effect, start, end, agent
    for client in range(clients):
        now = rng.randrange(10)
        for _ in range(size // clients):
            start = now + rng.randrange(1, 8)
            end = start + rng.randrange(0, 12)
            unknown = rng.random() < 0.12
            effect = rng.randrange(start, end + 1) if not unknown else start + rng.choice((0, 3, 10, 40, 10_000))
            moments.append((effect, start, -1 if unknown else end, f"c{client}"))
            now = end
    forgets = rng.random() < 0.3  # a record that is forgotten, or deletes of unknown outcome, but not both
    seen: dict[str, list[tuple[int, Version]]] = {}  # agent -> when it had seen which version
    found = []
    for effect, start, end, agent in sorted(moments):
        if forgets and not register.present and rng.random() < 0.3:
            register.traced = False
        last = max((start_ for _, start_, _, _ in moments), default=0)
        deletes = rng.random() < 0.3 and not (forgets and end < 0)
        happens = effect <= last + 50
        found.append(_operation(rng, register, seen, start, end, agent, deletes=deletes, happens=happens))
    rng.shuffle(found)
    return [operation for operation in found if not (operation.unknown and not operation.writes)]


def _operation(
    rng: random.Random,
    register: Register,
    seen: dict[str, list[tuple[int, Version]]],
    start: int,
    end: int,
    agent: str,
    *,
    deletes: bool,
    happens: bool,
) -> Operation:
    made = Operation(Kind.READ, KEY, agent, agent, start, None if end < 0 else end, asked="fresh")
    if rng.random() < 0.5 and end >= 0:
        if not register.present:
            return replace(made, absent=True, version=register.version if register.traced else None, refused="NotFound")
        assert register.version is not None
        seen.setdefault(agent, []).append((end, register.version))
        return replace(made, version=register.version, hash=register.hash)
    base: Version | Base = rng.choice((ANY, ABSENT, ANY))
    before = [version for when, version in seen.get(agent, ()) if when <= start]
    if before and rng.random() < 0.6:
        base = before[-1]
    hash_ = None if deletes else f"h{rng.randrange(register.contents)}"
    made = replace(made, kind=Kind.DELETE if deletes else Kind.WRITE, base=base, hash=hash_ or "", asked="")
    if not happens:
        return made
    version, refused = register.write(base, hash_)
    if end < 0:
        return made
    if version is not None and (refused or not deletes):
        seen.setdefault(agent, []).append((end, version))
    return replace(made, version=version, refused=refused, absent=version is None or refused == "NotFound")


def corrupt(rng: random.Random, history: list[Operation]) -> list[Operation]:
    """The same history with one to three small faults; it may still be linearizable."""
    found = list(history)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not found:
            break
        i = rng.randrange(len(found))
        one = found[i]
        others = [o.version for o in found if o.version is not None]
        fault = rng.randrange(8)
        if fault == 0 and others:
            found[i] = replace(one, version=rng.choice(others))
        elif fault == 1 and one.version is not None:
            found[i] = replace(one, version=Version(one.version.incarnation, one.version.n + rng.choice((-1, 1, 2))))
        elif fault == 2 and one.end_ns is not None:
            shift = rng.choice((-20, -8, -3, 3, 8, 20))
            found[i] = replace(one, start_ns=one.start_ns + shift, end_ns=one.end_ns + shift)
        elif fault == 3 and one.end_ns is not None:
            found[i] = replace(one, end_ns=one.start_ns)
        elif fault == 4:
            del found[i]
        elif fault == 5 and one.writes and others:
            found[i] = replace(one, base=rng.choice((rng.choice(others), ANY, ABSENT)))
        elif fault == 6 and one.hash:
            found[i] = replace(one, hash=f"h{rng.randrange(3)}")
        elif fault == 7 and one.done:
            found[i] = replace(one, end_ns=None, version=None, absent=False)
    unseen = any(one.kind is Kind.DELETE and one.unknown for one in found)
    found = [one for one in found if not (unseen and one.absent and one.version is None)]
    return [one for one in found if not (one.done and one.version is None)]
