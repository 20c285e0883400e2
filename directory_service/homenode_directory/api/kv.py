"""KvRoutingService: streams of KV workers, where to send a prompt, and who may call a worker."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator

from homenode_api.v1 import kv_tier_pb2 as kv
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import validate, wire
from homenode_directory.api.confirmed import Confirmed
from homenode_directory.api.errors import Rejected, invalid, outcome_of, rejected
from homenode_directory.api.parts import Parts
from homenode_directory.kv_routing.model import (
    Event,
    Holding,
    Load,
    Noted,
    Part,
    Provenance,
    Removed,
    Snapshot,
    Stored,
    Tier,
    TierChanged,
)
from homenode_directory.kv_routing.placements import Crowded, Hello, Outcome, StaleEpoch, Worker
from homenode_directory.kv_routing.router import Found, NoWorker, Wanted
from homenode_directory.kv_routing.score import Cost
from homenode_directory.place import Place
from homenode_directory.routing import Routing
from homenode_directory.store import fields

DIGEST_MAX = 128
PARTS_MAX = 1_024
EXCLUDE_MAX = 64
SILENT_S = 60.0
CONFIRM_S = 30.0
RATE_MIN = 1e-3  # a second
_PROVENANCES = {
    kv.KV_KIND_EXACT: Provenance.EXACT,
    kv.KV_KIND_EXACT_BY_MASK: Provenance.EXACT_BY_MASK,
    kv.KV_KIND_APPROXIMATE: Provenance.APPROXIMATE,
}


class PlacementCall:
    """One worker's stream. What it is to be told is coalesced: the last sequence, one wish for a snapshot, the end."""

    def __init__(self, parts: Parts, routing: Routing) -> None:
        self._parts = parts
        self._routing = routing
        self._worker: Worker | None = None
        self._session = ""
        self._place = Place("", "")
        self._confirmed_s = 0.0
        self._applied = self._told = 0
        self._wanted = False
        self._end: t.Error | None = None
        self._over = False
        self._wake = asyncio.Event()

    # --- hub.Owner --------------------------------------------------------------------------------------------------

    def evict(self, session: str) -> None:
        """See `hub.Owner`: it carries no session's events."""

    def load(self) -> tuple[int, int, float]:
        """See `hub.Owner`."""
        return 0, 0, 0.0

    def drain(self, within_ms: int) -> None:
        """See `hub.Owner`."""
        self._stop(t.Error(reason=t.ERROR_REASON_UNAVAILABLE, message="the server is about to stop"))

    # --- the call ---------------------------------------------------------------------------------------------------

    async def responses(
        self, requests: AsyncIterator[kv.PlacementRequest]
    ) -> AsyncGenerator[kv.PlacementResponse, None]:
        """The call's answers, until the worker or its right to tell is gone."""
        hub = self._parts.hub
        hub.enter(self)
        reading = asyncio.ensure_future(self._read(requests))
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._wanted:
                    self._wanted = False
                    yield kv.PlacementResponse(snapshot_wanted=True)
                if self._applied > self._told:
                    self._told = self._applied
                    yield kv.PlacementResponse(applied=self._told)
                if self._end is not None:
                    yield kv.PlacementResponse(refused=self._end)
                    return
                if self._over:
                    await reading
                    return
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reading
            if self._worker is not None:
                self._routing.left(self._worker)
            hub.leave(self)

    async def _read(self, requests: AsyncIterator[kv.PlacementRequest]) -> None:
        """Take what comes. A refusal is told; what breaks the contract ends the call with its error."""
        try:
            while True:
                async with asyncio.timeout(SILENT_S):
                    request = await anext(requests, None)
                if request is None:
                    return
                for event in request.events:
                    await self._take(event)
        except Rejected as refusal:
            if refusal.error.reason == t.ERROR_REASON_INVALID_ARGUMENT:
                raise
            self._stop(refusal.error)
        finally:
            self._over = True
            self._wake.set()

    async def _take(self, event: kv.PlacementEvent) -> None:
        sequence = validate.exact(event.sequence, "sequence")
        if self._worker is None:
            self._worker = await self._hello(event)
            self._worker.expected = sequence + 1
            return
        hello = self._worker.hello
        if event.worker != hello.name or event.epoch != hello.epoch or event.HasField("hello"):
            raise invalid("a stream has one worker, which says hello once")
        if event.HasField("load"):
            await self._confirm()
        if self._routing.placements.apply(self._worker, sequence, _event(event, self._place, hello)) is Outcome.GONE:
            self._look()
            return
        self._applied = max(self._applied, sequence)
        self._wake.set()

    async def _hello(self, event: kv.PlacementEvent) -> Worker:
        if not event.HasField("hello"):
            raise invalid("the first event must be hello")
        m = event.hello
        self._session = m.session_id
        self._place = validate.session(self._parts.tenant, m.session_id)
        await self._confirm()
        hello = Hello(
            self._place,
            validate.text(event.worker, "worker", validate.NAME_MAX),
            validate.exact(event.epoch, "epoch"),
            validate.text(m.address, "address", validate.NAME_MAX),
            validate.text(m.model.fingerprint, "model.fingerprint", validate.NAME_MAX),
            validate.text(m.model.name, "model.name", validate.KEY_BYTES_MAX),
            m.model.tokens_max,
            m.model.token_bytes,
        )
        try:
            return await self._routing.join(hello, self._look)
        except StaleEpoch as stale:
            raise rejected(t.ERROR_REASON_STALE_FENCE, str(stale)) from None
        except Crowded as crowded:
            raise rejected(t.ERROR_REASON_OVERLOADED, str(crowded), retry_after_ms=5_000) from None

    async def _confirm(self) -> None:
        """The session must be live; looked at now and then."""
        now_s = asyncio.get_running_loop().time()
        if not self._confirmed_s or now_s - self._confirmed_s >= CONFIRM_S:
            wire.alive(await self._parts.directory.confirm_session(self._place, self._session))
            self._confirmed_s = now_s

    def _look(self) -> None:
        """The index wants something of the worker, or has done with it."""
        worker = self._worker
        if worker is None or not worker.gone:
            self._wanted = True
        elif worker.lost:
            self._stop(t.Error(reason=t.ERROR_REASON_SESSION_LOST, message="the directory's memory changed"))
        else:
            self._stop(t.Error(reason=t.ERROR_REASON_STALE_FENCE, message="the worker has come again"))
        self._wake.set()

    def _stop(self, end: t.Error) -> None:
        self._end = self._end or end
        self._wake.set()


class KvEndpoint:
    """The methods of KvRoutingService, on messages. Refusals and failures are exceptions (see `errors.error_of`)."""

    def __init__(self, parts: Parts, routing: Routing) -> None:
        self._parts = parts
        self.routing = routing
        self._confirmed = Confirmed(parts.directory, parts.clock)

    def placement(self, requests: AsyncIterator[kv.PlacementRequest]) -> AsyncGenerator[kv.PlacementResponse, None]:
        """A worker's stream. Raises Rejected."""
        self.require_room()
        return PlacementCall(self._parts, self.routing).responses(requests)

    def require_room(self) -> None:
        """Raises Rejected where no further stream is taken."""
        hub = self._parts.hub
        if hub.draining:
            raise rejected(t.ERROR_REASON_UNAVAILABLE, "the server is about to stop")
        if hub.full:
            raise rejected(t.ERROR_REASON_OVERLOADED, "too many streams are open", retry_after_ms=1_000)

    async def route(self, m: kv.RouteRequest) -> kv.RouteResponse:
        """Where to send a prompt. Raises Rejected."""
        started, outcome = self._parts.clock(), "ok"
        try:
            return await self._route(m)
        except BaseException as failure:
            outcome = outcome_of(failure)
            raise
        finally:
            self._parts.observer.request("route", outcome, (self._parts.clock() - started) / 1_000)

    async def _route(self, m: kv.RouteRequest) -> kv.RouteResponse:
        place = validate.session(self._parts.tenant, m.session_id)
        if len(m.parts) > PARTS_MAX or len(m.exclude) > EXCLUDE_MAX:
            raise invalid(f"at most {PARTS_MAX} parts, and {EXCLUDE_MAX} workers to exclude")
        wanted = Wanted(
            place,
            [_part(part, place) for part in m.parts],
            caller=m.session_id,
            model=validate.text(m.model, "model", validate.KEY_BYTES_MAX, empty=True),
            exact=m.demand.exact or (m.demand.judge and not m.demand.HasField("error_max")),
            round=validate.text(m.round_id, "round_id", validate.NAME_MAX, empty=True),
            avoid=frozenset(m.exclude),
            tokens_max=m.tokens_max,
        )
        await self._confirmed.alive(place, m.session_id)
        try:
            choice = self.routing.route(wanted)
        except NoWorker as nobody:
            refusal = rejected(t.ERROR_REASON_NO_WORKER, str(nobody), retry_after_ms=500)
            refusal.error.workers.CopyFrom(_found(nobody.found))
            raise refusal from None
        return kv.RouteResponse(
            choice=_candidate(choice.worker, choice.cost),
            alternatives=[_candidate(worker, cost) for worker, cost in choice.others],
            dead_parts=choice.dead,
        )

    async def admit(self, m: kv.AdmitRequest) -> kv.AdmitResponse:
        """Whether the caller of a worker may use what that holds. Raises Rejected where the asking session may not."""
        place = validate.session(self._parts.tenant, m.session_id)
        caller = validate.session(self._parts.tenant, m.caller)
        await self._confirmed.alive(place, m.session_id)
        if caller != place:
            return kv.AdmitResponse(admission=kv.ADMISSION_OTHER_WORKSPACE)
        try:
            await self._confirmed.alive(place, m.caller)
        except Rejected as over:
            if over.error.reason != t.ERROR_REASON_SESSION_LOST:
                raise
            return kv.AdmitResponse(admission=kv.ADMISSION_SESSION_OVER)
        return kv.AdmitResponse(admission=kv.ADMISSION_GRANTED)


# --- translation ------------------------------------------------------------------------------------------------------


def _candidate(worker: Worker, cost: Cost) -> kv.RouteCandidate:
    hello = worker.hello
    return kv.RouteCandidate(
        worker=kv.KvWorkerId(worker=hello.name, epoch=hello.epoch),
        address=hello.address,
        model=kv.KvModel(
            name=hello.model,
            fingerprint=hello.fingerprint,
            tokens_max=hello.tokens_max,
            token_bytes=hello.token_bytes,
        ),
        predicted_ms=cost.ms,
        exact_tokens=cost.exact,
        approximate_tokens=cost.approximate,
    )


def _found(found: Found) -> t.WorkersFound:
    """The workers that could not serve a prompt."""
    return t.WorkersFound(
        known=found.known,
        other_model=found.other_model,
        excluded=found.excluded,
        draining=found.draining,
        silent=found.silent,
    )


def _part(m: kv.RoutePart, place: Place) -> Part:
    if not m.key:
        return Part(m.tokens)
    return Part(m.tokens, fields.artifact_of(place, validate.key(m.key)), wire.version_in(m.version))


def _event(m: kv.PlacementEvent, place: Place, hello: Hello) -> Event:
    what = m.WhichOneof("what")
    if what == "stored" and m.stored.key:  # what belongs to no artifact is nobody's to ask for
        return Stored(_holding(m.stored, place))
    if what == "removed":
        return Removed(_digest(m.removed.digest))
    if what == "tier_changed":
        return TierChanged(_digest(m.tier_changed.digest), _tier(m.tier_changed.tier))
    if what == "snapshot":
        held = tuple(_holding(one, place) for one in m.snapshot.stored if one.key)
        return Snapshot(held, m.snapshot.first, m.snapshot.last)
    if what == "load":
        return _load(m.load, hello)
    return Noted()


def _holding(m: kv.KvStored, place: Place) -> Holding:
    provenance = _PROVENANCES.get(m.provenance.kind, Provenance.APPROXIMATE)
    if m.provenance.own_decode:
        provenance = Provenance.APPROXIMATE
    artifact = fields.artifact_of(place, validate.key(m.key))
    return Holding(_digest(m.digest), artifact, wire.version_in(m.version), m.tokens, _tier(m.tier), provenance)


def _digest(value: str) -> str:
    return validate.text(value, "digest", DIGEST_MAX)


def _tier(value: int) -> Tier:
    try:
        return Tier(value)
    except ValueError:
        raise invalid("tier has an unknown value") from None


def _load(m: kv.WorkerLoad, hello: Hello) -> Load:
    reload = {}
    if hello.token_bytes:
        speeds = {Tier.HOST: _rate(m.host_bytes_per_s), Tier.DISK: _rate(m.disk_bytes_per_s)}
        reload = {tier: speed / hello.token_bytes / 1_000 for tier, speed in speeds.items() if speed > 0}
    prefill, decode = _rate(m.prefill_tokens_per_s), _rate(m.decode_tokens_per_s)
    room = sum(tier.bytes_max for tier in m.tiers if tier.tier == kv.KV_TIER_DEVICE)
    return Load(
        running=m.running,
        queued=m.queued,
        queued_tokens=m.queued_tokens,
        decoding=m.running,
        room_tokens=room // hello.token_bytes if hello.token_bytes else 0,
        prefill_tokens_per_ms=prefill / 1_000,
        decode_ms_per_token=1_000 / decode if decode else 0.0,
        reload=reload,
        draining=m.draining,
    )


def _rate(value: float) -> float:
    """A speed as costs are reckoned with: finite, and 0 where it is as good as unknown."""
    if not math.isfinite(value):
        raise invalid("a rate is a finite number")
    return value if value >= RATE_MIN else 0.0
