"""One server process: from its settings to the signal that ends it. `server.build` makes what it serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from homenode_directory.api.endpoint import Endpoint
from homenode_directory.clock import monotonic_ms
from homenode_directory.config import OFF, Settings, hide_password
from homenode_directory.errors import ConfigError
from homenode_directory.server import build, installed_version, store_of
from homenode_directory.store.base import Store, StoreError

if TYPE_CHECKING:
    from homenode_directory.api.servicer import KvMethods
    from homenode_directory.telemetry.metrics import Prometheus
    from homenode_directory.telemetry.traces import Spans

LOG = logging.getLogger("homenode.server")

LOOP_LOOK_S = 0.25
STORE_LOOK_S = 10.0


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
