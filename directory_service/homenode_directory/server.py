"""Composition root: settings → store → content → directory → delivery → sweeper → api.

`build` makes everything below the transport, for a server process as for `embedded://` and the simulation.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from homenode_api.chunks import PIECE_MAX_BYTES
from homenode_directory import slice as slices
from homenode_directory.agreement import Agreement
from homenode_directory.api.bodies import Bodies
from homenode_directory.api.calls import Calls
from homenode_directory.api.endpoint import Endpoint
from homenode_directory.api.hub import Hub
from homenode_directory.api.liveness import Liveness
from homenode_directory.api.outbox import QueueBounds
from homenode_directory.api.parts import Parts, StreamLimits
from homenode_directory.api.push import Pusher
from homenode_directory.api.transfers import Transfers
from homenode_directory.api.validate import Bounds
from homenode_directory.audit.archive import SUFFIX
from homenode_directory.audit.exporter import Exporter
from homenode_directory.audit.trimming import Keep
from homenode_directory.clock import Clock, monotonic_ms
from homenode_directory.config import Settings, store_url
from homenode_directory.content.large import LargeContents
from homenode_directory.content.retention import RetentionPolicy
from homenode_directory.content.service import ContentStore
from homenode_directory.delivery import Delivery
from homenode_directory.directory import Directory
from homenode_directory.directory import Settings as DirectorySettings
from homenode_directory.errors import ConfigError
from homenode_directory.incarnations import Incarnations
from homenode_directory.mistakes import Mistakes
from homenode_directory.observer import SILENT, Observer
from homenode_directory.pins import Pins
from homenode_directory.prefixes import Prefixes
from homenode_directory.protocol.effects import Ended
from homenode_directory.protocol.facts import Terms
from homenode_directory.protocol.model import Level, Policy
from homenode_directory.routing import Routing
from homenode_directory.savings import Ledger
from homenode_directory.slice import Deliver, Limits
from homenode_directory.store.base import Store, StoreError
from homenode_directory.store.blobs import StoredBlobs
from homenode_directory.store.fields import LogRecord
from homenode_directory.store.memory_store import DEFAULT_SLICES
from homenode_directory.store.open import open_store
from homenode_directory.sweeper import Rounds, Sweeper
from homenode_directory.together import Joint
from homenode_directory.tracing import Tracer

if TYPE_CHECKING:
    pass

LOG = logging.getLogger("homenode.server")

AGREED = ("consistency", "term_ms", "max_age_ms")  # must be alike on all servers over one store
COLLECT_IDLE_MS = 3_600_000
COLLECT_MAX = 256
RESOLVE_MARGIN_MS = 5_000
LOOP_LOOK_S = 0.25
REPLICAS_S = 15.0  # a server that starts waits so long for replicas that it is to wait for
RETRY_WINDOW_MS = 60_000  # a deleted artifact is remembered for a lease term and this


def installed_version() -> str:
    """The version of the distribution, "" where it is not installed, with `+compiled` where the hot path is."""
    try:
        version = metadata.version("homenode")
    except metadata.PackageNotFoundError:
        return ""
    return version if slices.__file__.endswith(".py") else f"{version}+compiled"


@dataclass(frozen=True, slots=True)
class Server:
    """A directory at work, without a transport. Use it as an async context manager's body: `start`, then `close`."""

    store: Store
    directory: Directory
    delivery: Delivery
    sweeper: Sweeper
    endpoint: Endpoint
    executor: ThreadPoolExecutor | None
    agreement: Agreement
    exporter: Exporter | None = None
    pusher: Pusher | None = None

    async def start(self, *, agree: bool = False, replicas: int = 0) -> None:
        """Open the store and begin to work.

        `agree`: first compare settings with those of other servers over the store, which may take a lease's time.
        `replicas`: first wait until the store has so many, for commits wait for them.

        Raises StoreError; ConfigError where settings differ, or the log archive cannot be written.
        """
        await self.store.open()
        try:
            await await_replicas(self.store, replicas)
            if self.exporter is not None:
                await self.exporter.open()
            if agree:
                await self.agreement.reach()
        except BaseException:
            await self.store.close()
            raise
        await self.directory.look_at_store()
        self.delivery.start()
        self.sweeper.start()
        self.endpoint.parts.savings.start()
        if self.exporter is not None:
            self.exporter.start()

    async def close(self) -> None:
        """Finish what is under way and release the store; nothing acknowledged is lost."""
        await self.agreement.close()
        await self.sweeper.close()
        await self.endpoint.parts.savings.close()
        if self.pusher is not None:
            await self.pusher.close()
        await self.directory.close()
        await self.delivery.close()
        if self.exporter is not None:
            await self.exporter.close()
        if self.executor is not None:
            self.executor.shutdown(wait=True, cancel_futures=True)
        await self.store.close()


def store_of(settings: Settings) -> Store:
    """The store that the settings name, not open yet. Raises ConfigError."""
    try:
        return open_store(
            store_url(settings),
            slices=settings.slices or DEFAULT_SLICES,
            log_max=2 * settings.log_keep,
            wait_replicas=settings.wait_replicas,
        )
    except StoreError as error:
        raise ConfigError(f"store: {error}") from None


def build(
    settings: Settings,
    *,
    store: Store | None = None,
    observer: Observer = SILENT,
    tracer: Tracer | None = None,
    clock: Clock = monotonic_ms,
    ids: Callable[[], str] = lambda: secrets.token_urlsafe(12),
    threads: int = 2,
    alone: bool = False,
) -> Server:
    """Put a directory together. Nothing runs and no store is open before `Server.start`.

    Args:
        store: instead of the one that the settings name.
        tracer: records operations; None: nobody asks for that.
        clock: local milliseconds that never go back.
        ids: makes unguessable ids of [A-Za-z0-9_-].
        threads: for work on contents; 0: in place, which keeps simulations deterministic.
        alone: all sessions live in this process, and the store's memory is as old as it.

    Raises:
        ConfigError: the settings name no store.
    """
    store = store or store_of(settings)
    incarnations = Incarnations(store)
    incarnations.listeners.append(lambda slice_, incarnation: observer.incarnation())
    executor = ThreadPoolExecutor(threads, thread_name_prefix="content") if threads else None
    blobs = StoredBlobs(store, incarnations, clock=clock)
    content = ContentStore(
        blobs,
        max_bytes=min(settings.artifact_bytes_max, PIECE_MAX_BYTES),
        cache_bytes=settings.cache_bytes,
        executor=executor,
        budget_bytes=settings.work_bytes,
    )
    large = LargeContents(content, blobs, cache_bytes=settings.cache_bytes // 2)
    mistakes = Mistakes(observer)
    delivery = Delivery(store, incarnations, observer=observer, mistakes=mistakes)
    terms = Terms(
        tombstone_ms=settings.term_ms + RETRY_WINDOW_MS,
        lease_ms=settings.term_ms,
        max_age_ms=settings.max_age_ms,
        alone=alone,
        waiters_max=settings.waiters_max,
    )
    routing = Routing(clock, store, delivery.tail, incarnations, observer)
    limits = Limits(history_look_every=1) if settings.keep_age_ms else Limits()
    directory = Directory(
        store,
        incarnations,
        clock=clock,
        ids=ids,
        deliver=routing.committing(_counting_ends(observer, delivery.committed)),
        shared=delivery.shared_by,
        follow=delivery.tail.follow,
        settings=DirectorySettings(
            result_retention_ms=settings.result_retention_ms,
            resolve_wait_ms=terms.quiet_ms + RESOLVE_MARGIN_MS,
            terms=terms,
            default=Policy(Level(settings.consistency)),
            limits=limits,
        ),
        observer=observer,
        tracer=tracer,
    )
    delivery.answered, delivery.superseded = directory.answered, routing.superseded

    def unheard(slice_: int) -> None:
        directory.unheard(slice_)
        routing.missed(slice_)

    delivery.unheard = unheard
    delivery.tail.awaited = lambda slice_: directory.awaited(slice_) or routing.follows(slice_)
    exporter = _exporter(settings, store, observer, mistakes)
    pins = Pins(directory, Joint(directory))
    prefixes = Prefixes(directory, Joint(directory))
    savings = Ledger(directory, ids, mistakes)
    sweeper = Sweeper(
        directory,
        mistakes=mistakes,
        collect=lambda slice_: blobs.collect(slice_, COLLECT_IDLE_MS, COLLECT_MAX),
        reap=pins.reap,
        inherit=prefixes.sweep,
        forget=savings.forget,
        rounds=Rounds(log=Keep(settings.log_keep, settings.log_keep_ms), retention=retention_of(settings)),
        exported=exporter.exported if exporter is not None else lambda slice_: None,
    )
    parts = _parts(settings, store, directory, delivery, content, large, observer, clock, pins, prefixes, savings)
    parts = replace(parts, tracer=tracer)
    pusher = Pusher(parts.calls, Bodies(content, store, parts.bounds, observer), observer)
    delivery.pushing = pusher.push
    agreed = {name: getattr(settings, name) for name in AGREED}
    agreement = Agreement(store, incarnations, agreed, max(settings.term_ms, settings.max_age_ms))
    return Server(
        store,
        directory,
        delivery,
        sweeper,
        Endpoint(parts, routing),
        executor,
        agreement,
        exporter,
        pusher,
    )


def _counting_ends(observer: Observer, deliver: Deliver) -> Deliver:
    """Tell the observer which write leases ended in what this process has committed."""
    if observer is SILENT:
        return deliver

    def committed(slice_: int, incarnation: int, entries: list[tuple[int, LogRecord]]) -> None:
        for _, record in entries:
            for event in record.events:
                if type(event) is Ended:
                    observer.lease_ended(event.cause.value)
        deliver(slice_, incarnation, entries)

    return committed


def _exporter(settings: Settings, store: Store, observer: Observer, mistakes: Mistakes) -> Exporter | None:
    if not settings.log_archive:
        return None
    path = Path(settings.log_archive).absolute()
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise ConfigError(f"log_archive: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"log_archive: nothing can be written in {folder}")
    if path.exists() and not path.is_dir() and path.suffix != SUFFIX:
        raise ConfigError(f"log_archive: {path} is neither a folder nor a file whose name ends in {SUFFIX}")
    return Exporter(store, settings.log_archive, observer=observer, mistakes=mistakes)


def retention_of(settings: Settings) -> RetentionPolicy:
    """How much history is kept; it is cut when half as much again, at most 8 versions more, has come."""
    slack = min(8, settings.keep_versions // 2)
    return RetentionPolicy(settings.keep_versions, slack, settings.keep_age_ms or None)


def _parts(
    settings: Settings,
    store: Store,
    directory: Directory,
    delivery: Delivery,
    content: ContentStore,
    large: LargeContents,
    observer: Observer,
    clock: Clock,
    pins: Pins,
    prefixes: Prefixes,
    savings: Ledger,
) -> Parts:
    bounds = Bounds(
        term_ms=settings.term_ms,
        session_ttl_ms=settings.session_ttl_ms,
        artifact_bytes=settings.artifact_bytes_max,
    )
    bodies = Bodies(content, store, bounds, observer)
    transfers = Transfers(content, large, store, bounds, observer, transfer_bytes=settings.work_bytes)
    queues = QueueBounds(
        session_events=settings.queue_events,
        session_bytes=settings.queue_bytes,
        stream_events=16 * settings.queue_events,
        stream_bytes=16 * settings.queue_bytes,
    )
    return Parts(
        directory=directory,
        delivery=delivery,
        transfers=transfers,
        calls=Calls(directory, delivery, bodies, bounds, observer, pins, prefixes),
        liveness=Liveness(directory, settings.session_ttl_ms),
        hub=Hub(observer, settings.streams_max),
        observer=observer,
        clock=clock,
        savings=savings,
        bounds=bounds,
        limits=StreamLimits(in_flight=settings.stream_in_flight, stream_sessions=settings.stream_sessions),
        queues=queues,
        max_age_ms=settings.max_age_ms,
        bookmark_ms=settings.bookmark_ms,
        server_version=installed_version(),
        consistency=settings.consistency,
    )


async def await_replicas(store: Store, wanted: int, within_s: float = REPLICAS_S) -> None:
    """Return when the store has the replicas that commits wait for. Raises StoreError where they do not come.

    Without them no commit would ever be answered, and no read.
    """
    deadline, told = monotonic_ms() + 1_000 * within_s, False
    while wanted and (have := (await store.condition()).replicas) < wanted:
        if monotonic_ms() >= deadline:
            raise StoreError(f"wait_replicas is {wanted}, but the Redis has {have} replicas: nothing could be answered")
        if not told:
            LOG.warning("waiting for replicas", extra={"wait_replicas": wanted, "replicas": have, "for_s": within_s})
            told = True
        await asyncio.sleep(LOOP_LOOK_S)
