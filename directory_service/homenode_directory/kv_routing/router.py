"""Who should serve a prompt: the cheapest worker, with bounds on how much of a crowd one may draw.

Until a worker's next Load, what was sent to it counts as its load and as held by it, for as long as it may take. A
worker that leads the least busy one by more than LEAD_MAX requests gets no more, whatever it holds. Among equals who
holds most serves, then the hash of the prompt's artifacts decides, so that the same artifacts meet the same worker,
whatever their versions. A prompt that names a superseded version is answered and counts as nobody's load: no worker
takes it.

The members of a round go to one worker while it has room; then a group begins at another.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from homenode_directory.kv_routing.model import Holding, Part
from homenode_directory.kv_routing.placements import Placements, Routed, Worker
from homenode_directory.kv_routing.score import DECODED, Cost, cost
from homenode_directory.place import Place

LEAD_MAX = 8  # requests
SILENT_MAX_MS = 5_000.0
LASTS_MS = (50.0, 5_000.0)  # how long a request counts that no Load has told of
EQUAL = 0.01  # of a cost
ROUNDS_MAX = 4_096
OTHERS_MAX = 3
GROUP_MAX = 32  # members of a round at one worker


@dataclass(frozen=True, slots=True)
class Found:
    """The workers of a workspace that cannot serve a prompt, by the first reason that holds for each."""

    known: int = 0
    other_model: int = 0
    excluded: int = 0
    draining: int = 0
    silent: int = 0


class NoWorker(Exception):
    """Nobody can serve the prompt; the message says why, `found` who is there."""

    def __init__(self, message: str, found: Found) -> None:
        super().__init__(message)
        self.found = found


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be served.

    Attributes:
        caller: whoever asks; its prompts without artifacts go to the same worker.
        model: its name or its fingerprint; "": any.
        round: members of a round name the same.
        avoid: names of workers that failed.
        tokens_max: tokens that will be written, about; 0: nobody knows.
    """

    place: Place
    parts: Sequence[Part]
    caller: str = ""
    model: str = ""
    exact: bool = False
    round: str = ""
    avoid: Collection[str] = ()
    tokens_max: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer, and the next best. `dead`: places of parts whose version is superseded; `how` is for metrics: held,
    cold, spread, round."""

    worker: Worker
    cost: Cost
    others: tuple[tuple[Worker, Cost], ...]
    dead: tuple[int, ...]
    how: str


@dataclass(slots=True)
class _Group:
    worker: Worker
    members: int = 0
    tokens: int = 0

    @property
    def open(self) -> bool:
        """Whether one more has room."""
        room = self.worker.load.room_tokens
        return not self.worker.gone and self.members < GROUP_MAX and (not room or self.tokens < room)


class Router:
    """Routes prompts by what `placements` knows."""

    def __init__(self, placements: Placements) -> None:
        self._placements = placements
        self._rounds: OrderedDict[tuple[Place, str], list[_Group]] = OrderedDict()

    def route(self, wanted: Wanted) -> Choice:
        """The worker for a prompt, which counts as its load from now on. Raises NoWorker."""
        workers = self._able(wanted)
        wanted = replace(wanted, parts=[self._counted(part) for part in wanted.parts])
        parts = wanted.parts
        dead = tuple(i for i, p in enumerate(parts) if p.artifact and self._placements.dead(p.artifact, p.version))
        held = {worker: self._held(worker, parts) for worker in workers}
        group = self._group(wanted, workers) if wanted.round else None
        if group is not None:
            worker, how = group.worker, "round"
        else:
            worker, how = self._choose(wanted, workers, held)
        found = cost(worker, parts, held[worker], exact=wanted.exact)
        if not dead:  # else no worker takes it: the caller reads again, and asks again
            tokens = max(0, sum(part.tokens for part in parts) - found.cached)
            if wanted.round:
                self._joined(wanted, worker, group, tokens)
            self._sent(wanted, worker, found, tokens)
        return Choice(worker, found, self._next_best(wanted, worker, held), dead, how)

    def _sent(self, wanted: Wanted, worker: Worker, found: Cost, tokens: int) -> None:
        """The prompt is the worker's load from now on, for as long as it may take."""
        named = frozenset((part.artifact, part.version) for part in wanted.parts if part.artifact)
        now, decoded = self._placements.clock(), min(DECODED, wanted.tokens_max or DECODED)
        lasts_ms = 2 * (found.ms + (wanted.tokens_max or DECODED) * worker.load.decode_ms_per_token)
        until_ms = now + min(max(lasts_ms, LASTS_MS[0]), LASTS_MS[1])
        worker.routed.append(Routed(now, until_ms, tokens, decoded, named))

    def _able(self, wanted: Wanted) -> list[Worker]:
        here = list(self._placements.workers(wanted.place))
        now = self._placements.clock()
        fitting = [w for w in here if wanted.model in ("", w.hello.model, w.hello.fingerprint)]
        tried = [w for w in fitting if w.hello.name not in wanted.avoid]
        taking = [w for w in tried if not w.load.draining]
        able = [w for w in taking if now - w.heard_ms < SILENT_MAX_MS]
        if not able:
            left = [len(group) for group in (here, fitting, tried, taking, able)]
            raise _nobody(Found(len(here), *(before - after for before, after in itertools.pairwise(left))))
        for worker in able:
            for routed in [one for one in worker.routed if one.until_ms <= now]:
                worker.routed.remove(routed)
        return able

    def _counted(self, part: Part) -> Part:
        """With as many tokens as who holds it has counted, rather than the caller's estimate."""
        holders = self._placements.holders("", part.artifact, part.version) if part.artifact else {}
        known = next(iter(holders.values()), None)
        return Part(known.tokens, part.artifact, part.version) if known is not None else part

    def _held(self, worker: Worker, parts: Sequence[Part]) -> list[Holding | None]:
        found: list[Holding | None] = []
        for part in parts:
            named, holding = (part.artifact, part.version), None
            if part.artifact and not self._placements.dead(*named):
                holding = self._placements.held_by(worker, *named)
                if holding is None and any(named in routed.parts for routed in worker.routed):
                    holding = Holding("", *named, part.tokens)
            found.append(holding)
        return found

    def _choose(
        self, wanted: Wanted, workers: list[Worker], held: dict[Worker, list[Holding | None]]
    ) -> tuple[Worker, str]:
        best = self._cheapest(wanted, workers, held)
        limit = min(worker.requests for worker in workers) + LEAD_MAX
        if best.requests > limit:
            return self._cheapest(wanted, [w for w in workers if w.requests <= limit], held), "spread"
        return best, "held" if any(held[best]) else "cold"

    def _cheapest(self, wanted: Wanted, workers: list[Worker], held: dict[Worker, list[Holding | None]]) -> Worker:
        costs = {w: cost(w, wanted.parts, held[w], exact=wanted.exact) for w in workers}
        limit = min(found.ms for found in costs.values()) * (1 + EQUAL)
        equal = [worker for worker in workers if costs[worker].ms <= limit]
        named = sorted({part.artifact for part in wanted.parts if part.artifact}) or [wanted.caller]
        return max(equal, key=lambda worker: (costs[worker].cached, _weight(worker.hello.name, named)))

    def _next_best(
        self, wanted: Wanted, worker: Worker, held: dict[Worker, list[Holding | None]]
    ) -> tuple[tuple[Worker, Cost], ...]:
        others = [(w, cost(w, wanted.parts, held[w], exact=wanted.exact)) for w in held if w is not worker]
        return tuple(sorted(others, key=lambda other: other[1].ms)[:OTHERS_MAX])

    # --- rounds -----------------------------------------------------------------------------------------------------

    def _group(self, wanted: Wanted, workers: list[Worker]) -> _Group | None:
        """The round's group that has room for one more. One that is full, or whose worker is gone, is forgotten."""
        named = wanted.place, wanted.round
        if named not in self._rounds:
            return None
        groups = self._rounds[named] = [group for group in self._rounds[named] if group.open]
        return next((group for group in groups if group.worker in workers), None)

    def _joined(self, wanted: Wanted, worker: Worker, group: _Group | None, tokens: int) -> None:
        named = wanted.place, wanted.round
        groups = self._rounds.setdefault(named, [])
        self._rounds.move_to_end(named)
        if group is None:
            group = _Group(worker)
            groups.append(group)
        group.members += 1
        group.tokens += tokens
        while len(self._rounds) > ROUNDS_MAX:
            self._rounds.popitem(last=False)


def _nobody(found: Found) -> NoWorker:
    if not found.known:
        return NoWorker("no KV worker serves this workspace: start one with `homenode kv serve`", found)
    if found.other_model == found.known:
        return NoWorker("no KV worker of this workspace has that model", found)
    counts = {"avoided": found.excluded, "draining": found.draining, "silent": found.silent}
    why = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return NoWorker(f"no KV worker of this workspace can serve the prompt: {why}", found)


def _weight(worker: str, named: Sequence[str]) -> bytes:
    """Rendezvous hashing: the highest weight wins, and a worker that comes or goes moves only what is its own."""
    return hashlib.blake2b("\0".join((worker, *named)).encode(), digest_size=8).digest()
