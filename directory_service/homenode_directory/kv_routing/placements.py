"""The placement index: which worker holds KV of which artifact version, from the workers' own streams.

Each stream's events carry the worker's epoch (its process) and a dense sequence. A hole, or a piece of a snapshot out
of its place, makes the worker *behind*: what is known of it stays, what it tells is ignored, and a snapshot is asked
for, which replaces everything. A worker starts behind.

`invalidate` is called where a commit's log entry is applied, before anybody hears of the commit. It remembers the
version as the artifact's floor, so that what a worker tells later of an older one, which it computed meanwhile, is
ignored.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from homenode_directory.clock import Clock
from homenode_directory.kv_routing.model import Event, Holding, Load, Removed, Snapshot, Stored, TierChanged
from homenode_directory.observer import SILENT, Observer
from homenode_directory.place import Place
from homenode_directory.protocol.model import NO_VERSION, Version

SPECULATED_MAX = 1_024
SPECULATED_MS = 50.0
"""A request that was sent to a worker is not in a Load that comes sooner."""


class StaleEpoch(Exception):
    """A worker of that name was heard of with a later epoch: this is a process that should be gone."""


class Crowded(Exception):
    """No more workers are taken."""


class Outcome(StrEnum):
    """What became of an event."""

    APPLIED = "applied"
    REPEATED = "repeated"  # it was applied before
    BEHIND = "behind"  # ignored until a snapshot comes
    GONE = "gone"  # the stream is not the worker's any more


@dataclass(frozen=True, slots=True)
class Bounds:
    """Most of what is kept."""

    workers: int = 1_024
    holdings: int = 65_536  # of one worker
    floors: int = 65_536
    epochs: int = 4_096


@dataclass(frozen=True, slots=True)
class Hello:
    """Who a worker is. `address`: where callers reach it; `model` and `fingerprint`: what it computes with."""

    place: Place
    name: str
    epoch: int
    address: str = ""
    fingerprint: str = ""
    model: str = ""
    tokens_max: int = 0
    token_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Routed:
    """A request that was sent to a worker and is in no Load of it yet; at `until_ms` it is surely answered."""

    at_ms: float
    until_ms: float
    tokens: int
    decoded: int
    parts: frozenset[tuple[str, Version]]


@dataclass(slots=True, eq=False)
class Worker:
    """One worker as its stream tells of it. `ask` is called when a snapshot is wanted, and when it is gone: another
    stream has its name, or with `lost` the directory's memory changed."""

    hello: Hello
    ask: Callable[[], None]
    heard_ms: float
    load: Load = field(default_factory=Load)
    holdings: dict[str, Holding] = field(default_factory=dict)
    routed: deque[Routed] = field(default_factory=lambda: deque(maxlen=SPECULATED_MAX))
    behind: bool = True
    gone: bool = False
    lost: bool = False
    expected: int = 0  # the next sequence; 0: any
    collected: dict[str, Holding] | None = None  # of a snapshot under way

    @property
    def requests(self) -> int:
        """Requests that it has, as far as is known."""
        return self.load.running + self.load.queued + len(self.routed)


class Placements:
    """See the module. All of it runs on the event loop's thread, and nothing of it waits."""

    def __init__(self, clock: Clock, bounds: Bounds | None = None, observer: Observer = SILENT) -> None:
        self.clock = clock
        self._bounds = bounds or Bounds()
        self._observer = observer
        self._workers: dict[tuple[Place, str], Worker] = {}
        self._epochs: OrderedDict[tuple[Place, str], int] = OrderedDict()
        self._floors: OrderedDict[str, Version] = OrderedDict()
        self._held: dict[str, dict[Version, dict[Worker, dict[str, Holding]]]] = {}  # by artifact

    # --- workers ----------------------------------------------------------------------------------------------------

    def join(self, hello: Hello, ask: Callable[[], None]) -> Worker:
        """A worker's stream begins; one of the same name ends. Raises StaleEpoch, Crowded."""
        name = hello.place, hello.name
        if hello.epoch < self._epochs.get(name, 0):
            raise StaleEpoch(f"a later process of the worker {hello.name!r} was here")
        if name not in self._workers and len(self._workers) >= self._bounds.workers:
            raise Crowded("too many workers")
        former = self._workers.get(name)
        if former is not None:
            self.leave(former)
        _keep(self._epochs, name, hello.epoch, self._bounds.epochs)
        worker = self._workers[name] = Worker(hello, ask, self.clock())
        self._measure()
        ask()
        return worker

    def leave(self, worker: Worker, *, lost: bool = False) -> None:
        """A worker's stream is over, and so is all that it holds."""
        if not worker.gone:
            worker.gone, worker.lost = True, lost
            del self._workers[worker.hello.place, worker.hello.name]
            self._drop(worker, list(worker.holdings.values()))
            self._measure()
            worker.ask()

    def workers(self, place: Place) -> Iterator[Worker]:
        """Those of a workspace."""
        return (worker for worker in self._workers.values() if worker.hello.place == place)

    def everyone(self) -> list[Worker]:
        """All of them."""
        return list(self._workers.values())

    @property
    def size(self) -> int:
        """How many holdings are known."""
        return sum(len(worker.holdings) for worker in self._workers.values())

    # --- what they tell ---------------------------------------------------------------------------------------------

    def apply(self, worker: Worker, sequence: int, event: Event) -> Outcome:
        """Take the event with that number. A hole asks for a snapshot, once."""
        if worker.gone:
            return Outcome.GONE
        worker.heard_ms = self.clock()
        if isinstance(event, Load):  # whole in itself, whatever was missed
            self._loaded(worker, event)
        if sequence < worker.expected:
            return Outcome.REPEATED
        hole = worker.expected not in (0, sequence)
        worker.expected = sequence + 1
        if isinstance(event, Snapshot) and event.first:
            worker.behind, worker.collected = False, {}
        elif worker.behind:
            return Outcome.BEHIND
        elif hole or _out_of_place(worker, event):
            self._lose(worker)
            return Outcome.BEHIND
        self._take(worker, event)
        return Outcome.APPLIED

    def _take(self, worker: Worker, event: Event) -> None:
        if isinstance(event, Snapshot):
            self._collect(worker, event)
        elif isinstance(event, Stored):
            self._put(worker, event.holding)
        elif isinstance(event, Removed):
            self._drop(worker, [h for h in (worker.holdings.get(event.digest),) if h is not None])
        elif isinstance(event, TierChanged):
            found = worker.holdings.get(event.digest)
            if found is not None:
                self._put(
                    worker,
                    Holding(found.digest, found.artifact, found.version, found.tokens, event.tier, found.provenance),
                )

    def _loaded(self, worker: Worker, load: Load) -> None:
        worker.load = load
        now = self.clock()
        while worker.routed and now - worker.routed[0].at_ms >= SPECULATED_MS:
            worker.routed.popleft()

    def _lose(self, worker: Worker) -> None:
        worker.behind, worker.collected = True, None
        self._observer.placed("gap")
        worker.ask()

    def _collect(self, worker: Worker, piece: Snapshot) -> None:
        collected = worker.collected
        assert collected is not None
        for holding in piece.holdings:
            if len(collected) < self._bounds.holdings:
                collected[holding.digest] = holding
        if piece.last:
            worker.collected = None
            self._drop(worker, list(worker.holdings.values()))
            for holding in collected.values():
                self._put(worker, holding)
            self._observer.placed("snapshot")

    # --- the index --------------------------------------------------------------------------------------------------

    def holders(self, fingerprint: str, artifact: str, version: Version) -> dict[Worker, Holding]:
        """Who holds that version, each with the best that it has; `fingerprint` "": whatever they compute with."""
        at = self._held.get(artifact, {}).get(version, {})
        return {
            worker: min(held.values(), key=_rank)
            for worker, held in at.items()
            if not fingerprint or worker.hello.fingerprint == fingerprint
        }

    def held_by(self, worker: Worker, artifact: str, version: Version) -> Holding | None:
        """The best that a worker has of that version."""
        held = self._held.get(artifact, {}).get(version, {}).get(worker)
        return min(held.values(), key=_rank) if held else None

    def dead(self, artifact: str, version: Version) -> bool:
        """Whether that version is known here to be superseded."""
        return version < self._floors.get(artifact, NO_VERSION)

    def invalidate(self, artifact: str, version: Version) -> None:
        """`version` is committed: whatever is held of older ones leaves routing now."""
        if not self._workers:
            return
        if version <= self._floors.get(artifact, NO_VERSION):
            return
        _keep(self._floors, artifact, version, self._bounds.floors)
        at = self._held.get(artifact)
        if at is None:
            return
        gone = 0
        for old in [v for v in at if v < version]:
            for worker, held in list(at[old].items()):
                gone += len(held)
                self._drop(worker, list(held.values()))
        self._observer.placed("invalidated", gone)

    def forget(self, mine: Callable[[Place], bool]) -> None:
        """Commits in some workspaces may have been missed, or the store's memory is another: nothing known of their
        artifacts holds any more, floors included, and their workers are asked."""
        for artifact in [a for a in self._floors if mine(_place(a))]:
            del self._floors[artifact]
        for worker in [w for w in self._workers.values() if mine(w.hello.place)]:
            self._drop(worker, list(worker.holdings.values()))
            self._lose(worker)

    def _put(self, worker: Worker, holding: Holding) -> None:
        known = worker.holdings.get(holding.digest)
        if known is not None:
            self._drop(worker, [known])
        if self.dead(holding.artifact, holding.version):
            self._observer.placed("ignored")
        elif len(worker.holdings) >= self._bounds.holdings:
            self._observer.placed("refused")
        else:
            worker.holdings[holding.digest] = holding
            versions = self._held.setdefault(holding.artifact, {})
            versions.setdefault(holding.version, {}).setdefault(worker, {})[holding.digest] = holding

    def _drop(self, worker: Worker, holdings: list[Holding]) -> None:
        for holding in holdings:
            del worker.holdings[holding.digest]
            versions = self._held[holding.artifact]
            at = versions[holding.version]
            del at[worker][holding.digest]
            if not at[worker]:
                del at[worker]
            if not at:
                del versions[holding.version]
            if not versions:
                del self._held[holding.artifact]

    def _measure(self) -> None:
        self._observer.gauge("kv_workers", len(self._workers))


def _out_of_place(worker: Worker, event: Event) -> bool:
    """A further piece of no snapshot, or a change between its pieces."""
    if isinstance(event, Snapshot):
        return worker.collected is None
    return worker.collected is not None and not isinstance(event, Load)


def _rank(holding: Holding) -> tuple[int, int]:
    return holding.tier, -holding.tokens


def _place(artifact: str) -> Place:
    tenant, workspace, _ = artifact.split("/", 2)
    return Place(tenant, workspace)


def _keep(kept: OrderedDict, key: object, value: object, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
