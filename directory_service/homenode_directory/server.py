"""Composition root: settings → store → content → directory → delivery → sweeper → api → metrics.

`build` makes everything below the transport, for a server as for `embedded://` and the simulation. `run_server` is
what `homenode serve` runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
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
from homenode_directory.config import OFF, Settings, hide_password, store_url
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
    from homenode_directory.api.servicer import KvMethods
    from homenode_directory.telemetry.metrics import Prometheus
    from homenode_directory.telemetry.traces import Spans

LOG = logging.getLogger("homenode.server")

AGREED = ("consistency", "term_ms", "max_age_ms")  # must be alike on all servers over one store
COLLECT_IDLE_MS = 3_600_000
COLLECT_MAX = 256
RESOLVE_MARGIN_MS = 5_000
LOOP_LOOK_S = 0.25
STORE_LOOK_S = 10.0
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
    savings = Ledger(directory, ids)
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


@dataclass(frozen=True, slots=True)
class Sibling:
    """One of the processes that share a port. `index`: path of the socket at which number 0 keeps the routing index."""

    number: int
    index: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The server serves: ports as bound (0 where metrics are off); `more_metrics`: those of further workers."""

    port: int
    metrics_port: int
    more_metrics: tuple[int, ...] = ()


async def run_server(
    settings: Settings,
    ready: Callable[[Ready], None] = lambda ready: None,
    *,
    stop: asyncio.Event | None = None,
    sibling: Sibling | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT (or `stop`), then drain; a second signal ends at once.

    `sibling`: which of the processes this is that share the port.

    Raises:
        ConfigError: an address, a TLS file or the store's address cannot be used, or another server over the store has
            other settings where they must be alike.
        StoreError: the store cannot be opened, StoreLocked where another process has it; or it does not have the
            replicas that commits are to wait for.
    """
    from homenode_directory.api.server import ApiServer, Listen, require_safe, split_address
    from homenode_directory.telemetry.http import MetricsServer
    from homenode_directory.telemetry.metrics import Prometheus
    from homenode_directory.telemetry.timed_store import TimedStore

    stop = stop or asyncio.Event()
    differing: list[ConfigError] = []

    def differs(error: ConfigError) -> None:
        LOG.error("stopping: %s", error)
        differing.append(error)
        stop.set()

    if settings.metrics != OFF:
        require_safe(settings.metrics, "the metrics address", secure=False, insecure_wanted=settings.insecure_listen)
    observer = Prometheus(installed_version(), settings.metrics_workspaces.split(","))
    tracer = _tracer(settings)
    store = TimedStore(store_of(settings), observer, monotonic_ms)
    server = build(settings, store=store, observer=observer, tracer=tracer)
    hub = server.endpoint.parts.hub
    listen = Listen(
        settings.listen,
        settings.insecure_listen,
        settings.tls_cert,
        settings.tls_key,
        settings.tls_client_ca,
        share_port=settings.workers > 1,
    )
    async with contextlib.AsyncExitStack() as cleanup:
        if tracer is not None:
            cleanup.push_async_callback(asyncio.to_thread, tracer.close)
        kv = await _routing_among(server.endpoint, sibling, cleanup) if sibling is not None else None
        api = ApiServer(server.endpoint, listen, kv)
        cleanup.push_async_callback(api.stop)
        await server.start(agree=True, replicas=settings.wait_replicas)
        cleanup.push_async_callback(server.close)
        server.agreement.start(differs)
        if settings.slices not in (0, server.store.slices):
            said = "the store has another number of slices, fixed when it was made; slices is ignored"
            LOG.warning(said, extra={"slices": settings.slices, "of_the_store": server.store.slices})

        def refresh() -> None:
            hub.measure()
            server.endpoint.kv.routing.measure()
            observer.gauge("leases", server.directory.leases())

        for watcher in (_watch_loop(observer), _ask_store(server.store, observer)):
            cleanup.callback(asyncio.ensure_future(watcher).cancel)
        metrics = MetricsServer(observer.registry, lambda: not hub.draining, refresh)
        metrics_port = await _start_metrics(metrics, settings, split_address) if settings.metrics != OFF else 0
        cleanup.push_async_callback(metrics.close)
        await api.start()
        on_signals(stop)
        LOG.info("serving", extra={"address": settings.listen, "store": hide_password(settings.store)})
        ready(Ready(api.port, metrics_port))
        await stop.wait()
        LOG.info("stopping")
        await api.drain(settings.drain_ms)
    LOG.info("stopped")
    if differing:
        raise differing[0]


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


async def _routing_among(endpoint: Endpoint, sibling: Sibling, cleanup: contextlib.AsyncExitStack) -> KvMethods:
    """The one routing index of processes that share a port: kept here, or asked."""
    from homenode_directory.api.kv_relay import Index, KvRelay

    if sibling.number:
        relay = KvRelay(endpoint.kv, endpoint.parts.hub, sibling.index)
        cleanup.push_async_callback(relay.close)
        return relay
    index = Index(endpoint.kv, sibling.index)
    cleanup.push_async_callback(index.stop)
    await index.start()
    return endpoint.kv


async def _ask_store(store: Store, observer: Prometheus) -> None:
    """Ask the store for its condition now and then; what it said last stands while it does not answer."""
    while True:
        with contextlib.suppress(StoreError):
            found = await store.condition()
            observer.gauge("store_memory_bytes", found.memory_bytes)
            observer.gauge("store_memory_limit_bytes", found.memory_limit_bytes)
            observer.gauge("store_persistence_ok", found.persistence_ok)
            observer.gauge("store_replicas", found.replicas)
        await asyncio.sleep(STORE_LOOK_S)


async def _watch_loop(observer: Prometheus) -> None:
    """Measure how late the event loop comes to a timer."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOP_LOOK_S
        await asyncio.sleep(LOOP_LOOK_S)
        observer.loop_lag(max(0.0, loop.time() - due))


def _tracer(settings: Settings) -> Spans | None:
    """What makes spans, where they are asked for and OpenTelemetry is installed. Raises ConfigError."""
    if not settings.otlp_endpoint:
        return None
    from homenode_api.traces import TracesMissing
    from homenode_directory.telemetry.traces import Spans

    try:
        return Spans(settings.otlp_endpoint, settings.trace_ratio, settings.trace_keys, installed_version())
    except TracesMissing as missing:
        LOG.warning("%s", missing)
        return None
    except ValueError as error:
        raise ConfigError(f"otlp_endpoint: {error}") from None


async def _start_metrics(metrics: object, settings: Settings, split: Callable[[str], tuple[str, int]]) -> int:
    try:
        port: int = await metrics.start(*split(settings.metrics))  # type: ignore[attr-defined]
    except OSError as error:
        raise ConfigError(f"cannot listen on {settings.metrics}: {error.strerror or error}") from None
    return port


def on_signals(stop: asyncio.Event) -> None:
    """Let SIGTERM and SIGINT set `stop`, each once."""
    loop = asyncio.get_running_loop()

    def handle(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)  # the next one takes its default effect
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
            loop.add_signal_handler(number, handle, number)


def main(
    settings: Settings, ready: Callable[[Ready], None] = lambda ready: None, *, sibling: Sibling | None = None
) -> int:
    """Run a server with logs and uvloop where present; returns the exit status, after printing what was wrong."""
    import sys

    from homenode_directory.telemetry.logs import set_up_logs

    set_up_logs(settings.log_level, settings.log_format, sibling.number if sibling is not None else None)
    _quiet_collector()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run_server(settings, ready, sibling=sibling))
    except (ConfigError, StoreError) as error:
        print(f"homenode: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _quiet_collector() -> None:
    """Look for cycles less often: almost nothing here makes any, and the default spends a fifth of the time on it."""
    import gc

    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
