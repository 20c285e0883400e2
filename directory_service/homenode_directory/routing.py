"""The routing index beside the log: what is committed leaves it in the commit itself.

What this process commits is applied before any answer to it is out; other processes' commits as their log entries are
read, which goes on for every slice in which a worker is. A server that hears late names nobody's dead version all the
same: it answers for the versions that it is asked about, and those come from coherent reads.
"""

from __future__ import annotations

from collections.abc import Callable

from homenode_directory.clock import Clock
from homenode_directory.incarnations import Incarnations
from homenode_directory.kv_routing.placements import Hello, Placements, Worker
from homenode_directory.kv_routing.router import Choice, NoWorker, Router, Wanted
from homenode_directory.observer import Observer
from homenode_directory.place import Place
from homenode_directory.protocol.effects import Inv, Published
from homenode_directory.slice import Deliver
from homenode_directory.store.base import Incarnation, Store
from homenode_directory.store.fields import LogRecord
from homenode_directory.tail import Tail


class Routing:
    """Workers of this server, and whom prompts are sent to.

    Args:
        store: says how many slices there are, once it is open.
        tail: follows the logs; it asks `follows` whether a slice's is wanted here.
    """

    def __init__(self, clock: Clock, store: Store, tail: Tail, incarnations: Incarnations, observer: Observer) -> None:
        self.placements = Placements(clock, observer=observer)
        self._router = Router(self.placements)
        self._store = store
        self._tail = tail
        self._observer = observer
        self._followed: dict[int, int] = {}  # slice -> workers
        incarnations.listeners.append(self._new_incarnation)

    # --- workers ----------------------------------------------------------------------------------------------------

    async def join(self, hello: Hello, ask: Callable[[], None]) -> Worker:
        """A worker's stream begins. Raises StaleEpoch, Crowded, StoreError."""
        slice_ = hello.place.slice_of(self._store.slices)
        await self._tail.cursor(slice_)  # nothing is missed from here on
        worker = self.placements.join(hello, ask)
        self._followed[slice_] = self._followed.get(slice_, 0) + 1
        return worker

    def left(self, worker: Worker) -> None:
        """The stream of a worker that had joined is over."""
        slice_ = worker.hello.place.slice_of(self._store.slices)
        self._followed[slice_] -= 1
        if not self._followed[slice_]:
            del self._followed[slice_]
        self.placements.leave(worker)

    def route(self, wanted: Wanted) -> Choice:
        """See `Router.route`."""
        try:
            choice = self._router.route(wanted)
        except NoWorker:
            self._observer.routed("none", 0, 0)
            raise
        cached = choice.cost.exact + choice.cost.approximate
        computed = max(0, sum(part.tokens for part in wanted.parts) - cached)
        self._observer.routed(choice.how, cached, computed)
        return choice

    def measure(self) -> None:
        """Tell the observer how much is known."""
        self._observer.gauge("kv_holdings", self.placements.size)

    # --- the log ----------------------------------------------------------------------------------------------------

    def follows(self, slice_: int) -> bool:
        """Whether the slice's log is wanted here."""
        return slice_ in self._followed

    def committing(self, deliver: Deliver) -> Deliver:
        """`deliver`, behind the index: it hears of every commit of this process before its answers leave."""

        def committed(slice_: int, incarnation: int, entries: list[tuple[int, LogRecord]]) -> None:
            if slice_ in self._followed:
                for _, record in entries:
                    for event in record.events:
                        if type(event) is Inv or type(event) is Published:
                            self.superseded(record.artifact, event)
            deliver(slice_, incarnation, entries)

        return committed

    def superseded(self, artifact: str, event: Inv | Published) -> None:
        """The log says that a version is committed; one that is only prepared is not read by anybody yet."""
        if not (type(event) is Inv and event.prepared):
            self.placements.invalidate(artifact, event.version)

    def missed(self, slice_: int) -> None:
        """Entries of the slice's log are gone unread."""
        self.placements.forget(lambda place: self._lies_in(place, slice_))

    def _new_incarnation(self, slice_: int, incarnation: Incarnation) -> None:
        """The slice's memory is another: the sessions of its workers are over, and so are their streams."""
        self.missed(slice_)
        for worker in self.placements.everyone():
            if self._lies_in(worker.hello.place, slice_):
                self.placements.leave(worker, lost=True)

    def _lies_in(self, place: Place, slice_: int) -> bool:
        return place.slice_of(self._store.slices) == slice_
