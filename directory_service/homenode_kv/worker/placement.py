"""What the directory is told of this worker: a stream to each of its servers, for each keeps its index in memory.

A stream begins with hello; the directory asks for a snapshot, and from then on hears of every change. Events wait in a
bounded queue: a server that does not take them gets a snapshot in their place. Nothing depends on it but where prompts
are sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence

from homenode.channel import Call, Channel
from homenode.errors import HomenodeError, InvalidArgument, StaleFence, Unsupported, from_wire
from homenode_api.http2.connection import Bounds
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_kv.costs import Tier
from homenode_kv.provenance import Kind, Provenance
from homenode_kv.worker.artifacts import Holding

LOG = logging.getLogger("homenode.kv")

METHOD = f"/{pb.DESCRIPTOR.services_by_name['KvRoutingService'].full_name}/Placement"
QUEUE_MAX = 4_096
BATCH_MAX = 256
PAGE = 500
LOAD_S = 0.25  # looked at as often, told when it changed
LOAD_MAX_S = 1.0  # told in any case
AGAIN_S = (0.2, 1.0)  # a directory that comes back finds nobody to send prompts to until then
WITHOUT_ROUTING_S = 30.0

TIERS = {Tier.DEVICE: pb.KV_TIER_DEVICE, Tier.HOST: pb.KV_TIER_HOST, Tier.DISK: pb.KV_TIER_DISK}
KINDS = {
    Kind.EXACT: pb.KV_KIND_EXACT,
    Kind.EXACT_BY_MASK: pb.KV_KIND_EXACT_BY_MASK,
    Kind.APPROXIMATE: pb.KV_KIND_APPROXIMATE,
}


def provenance_of(provenance: Provenance) -> pb.KvProvenance:
    """A provenance as a message."""
    message = pb.KvProvenance(kind=KINDS[provenance.kind], own_decode=provenance.own_decode)
    if provenance.kind is Kind.APPROXIMATE and provenance.error != float("inf"):
        message.error = provenance.error
    return message


def stored_of(holding: Holding) -> pb.KvStored:
    """A holding as a message."""
    assert holding.tier is not None
    stored = pb.KvStored(
        digest=holding.digest,
        key=holding.artifact,
        tokens=holding.tokens,
        tier=TIERS[holding.tier],
        provenance=provenance_of(holding.provenance),
    )
    stored.version.incarnation, stored.version.n = holding.version.incarnation, holding.version.n
    return stored


class Placement:
    """All streams of a worker.

    Args:
        hosts: `host:port` of the directory's servers.
        identity: of this worker.
        hello, load: what is told of it now.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        credentials: ssl.SSLContext | None,
        identity: pb.KvWorkerId,
        hello: Callable[[], pb.WorkerHello],
        load: Callable[[], pb.WorkerLoad],
    ) -> None:
        self.identity = identity
        self.hello = hello
        self.load = load
        self.kept: dict[str, Holding] = {}
        self._feeds = [_Feed(self, host, credentials) for host in hosts]

    def told(self, holding: Holding) -> None:
        """An artifact version came, moved or went. In the event loop."""
        before = self.kept.pop(holding.digest, None)
        if holding.tier is None:
            event = pb.PlacementEvent(removed=pb.KvRemoved(digest=holding.digest))
        elif before is not None and before.provenance == holding.provenance:
            event = pb.PlacementEvent(tier_changed=pb.KvTierChanged(digest=holding.digest, tier=TIERS[holding.tier]))
        else:
            event = pb.PlacementEvent(stored=stored_of(holding))
        if holding.tier is not None:
            self.kept[holding.digest] = holding
        if before is not None or holding.tier is not None:
            self.tell(event)

    def anchor(self, slot: str, name: str, tokens: int, added: bool) -> None:
        """An anchor came or went. In the event loop."""
        if added:
            self.tell(pb.PlacementEvent(anchor_added=pb.KvAnchorAdded(slot=slot, digest=name, tokens=tokens)))
        else:
            self.tell(pb.PlacementEvent(anchor_evicted=pb.KvAnchorEvicted(slot=slot, digest=name)))

    def round(self, round_id: str, master: str, mirrors: int) -> None:
        """What is kept of a round. In the event loop."""
        changed = pb.KvMasterChanged(round_id=round_id, member=master, mirrors=mirrors)
        self.tell(pb.PlacementEvent(master_changed=changed))

    def idle(self) -> None:
        """The worker has nothing to do: told at once, or the next prompt of who was just answered seems to have to
        wait, and goes to a worker that holds none of it. In the event loop."""
        for feed in self._feeds:
            feed.tell_load()

    def tell(self, event: pb.PlacementEvent) -> None:
        """Any other event, to all servers."""
        for feed in self._feeds:
            feed.push(event)

    async def run(self) -> None:
        """Tells until cancelled. Raises StaleFence where a later worker of this name is there."""
        async with asyncio.TaskGroup() as tasks:
            for feed in self._feeds:
                tasks.create_task(feed.run())

    @property
    def attached(self) -> int:
        """How many servers hear of this worker now."""
        return sum(feed.attached for feed in self._feeds)


class _Feed:
    """The stream to one server."""

    def __init__(self, placement: Placement, host: str, credentials: ssl.SSLContext | None) -> None:
        self._placement = placement
        self._host = host
        self._channel = Channel(host, credentials, Bounds())
        self._events: deque[pb.PlacementEvent] = deque()
        self._wake = asyncio.Event()
        self._sequence = 0
        self._snapshot_wanted = False
        self._load_told = (b"", 0.0)
        self._load_due = False
        self.attached = False

    def push(self, event: pb.PlacementEvent) -> None:
        """An event for this server; of too many only a snapshot remains."""
        if not self.attached:
            return  # the snapshot that follows has it
        if len(self._events) >= QUEUE_MAX:
            self._events.clear()
            self._snapshot_wanted = True
        self._events.append(event)
        self._wake.set()

    def tell_load(self) -> None:
        """If it is not what was told, without the usual pause."""
        self._load_due = True
        self._wake.set()

    async def run(self) -> None:
        pause_s = AGAIN_S[0]
        try:
            while True:
                began = time.monotonic()
                try:
                    await self._stream()
                    wait_s = AGAIN_S[0]
                except StaleFence:
                    raise
                except Unsupported:
                    wait_s = WITHOUT_ROUTING_S
                except InvalidArgument as refusal:  # and always will be: people must know
                    LOG.warning("%s takes no word of this worker: %s", self._host, refusal)
                    wait_s = WITHOUT_ROUTING_S
                except HomenodeError as failure:
                    LOG.debug("placement at %s: %s", self._host, failure)
                    pause_s = AGAIN_S[0] if time.monotonic() - began > AGAIN_S[1] else min(AGAIN_S[1], 2 * pause_s)
                    wait_s = pause_s
                await asyncio.sleep(wait_s)
        finally:
            await self._channel.close()

    async def _stream(self) -> None:
        call = self._channel.open(METHOD)
        self._events.clear()
        self._sequence, self._snapshot_wanted, self._load_told, self.attached = 0, False, (b"", 0.0), True
        reader = asyncio.ensure_future(self._read(call))
        try:
            await self._send(call, [pb.PlacementEvent(hello=self._placement.hello())])
            while not reader.done():
                if events := self._next():
                    await self._send(call, events)
                    continue
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOAD_S):
                        await self._wake.wait()
            await reader
        finally:
            self.attached = False
            reader.cancel()
            call.cancel()
            with contextlib.suppress(HomenodeError, asyncio.CancelledError):
                await reader

    def _next(self) -> list[pb.PlacementEvent]:
        events: list[pb.PlacementEvent] = []
        if self._snapshot_wanted:
            self._snapshot_wanted = False
            self._events.clear()
            return self._snapshot()
        while self._events and len(events) < BATCH_MAX:
            events.append(self._events.popleft())
        load, now = self._placement.load(), time.monotonic()
        told, at = self._load_told
        written = load.SerializeToString()
        due, self._load_due = self._load_due or now - at >= LOAD_S, False
        if now - at >= LOAD_MAX_S or (written != told and due):
            self._load_told = written, now
            events.append(pb.PlacementEvent(load=load))
        return events

    def _snapshot(self) -> list[pb.PlacementEvent]:
        stored = [stored_of(holding) for holding in self._placement.kept.values()]
        pages = [stored[at : at + PAGE] for at in range(0, len(stored), PAGE)] or [[]]
        return [
            pb.PlacementEvent(snapshot=pb.PlacementSnapshot(stored=page, first=at == 0, last=at == len(pages) - 1))
            for at, page in enumerate(pages)
        ]

    async def _send(self, call: Call, events: list[pb.PlacementEvent]) -> None:
        request = pb.PlacementRequest()
        for event in events:
            self._sequence += 1
            numbered = request.events.add()
            numbered.CopyFrom(event)
            numbered.worker, numbered.epoch = self._placement.identity.worker, self._placement.identity.epoch
            numbered.sequence = self._sequence
        await call.write(request.SerializeToString())

    async def _read(self, call: Call) -> None:
        while (data := await call.read()) is not None:
            response = pb.PlacementResponse.FromString(data)
            if response.HasField("refused"):
                raise from_wire(response.refused)
            if response.snapshot_wanted:
                self._snapshot_wanted = True
                self._wake.set()
