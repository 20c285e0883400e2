"""A worker process: put together, run until a signal, put away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import start_http_server

import homenode
from homenode import Homenode
from homenode.errors import StaleFence
from homenode.transport import Target, parse
from homenode.workers import admission
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_kv import anchors, planner
from homenode_kv.disk import DiskTier
from homenode_kv.ident import digest
from homenode_kv.pages import Pages
from homenode_kv.pool import Pool
from homenode_kv.sheets import sheet_geometry
from homenode_kv.worker import folder, wire
from homenode_kv.worker.artifacts import Holding
from homenode_kv.worker.callers import Callers
from homenode_kv.worker.coherence import Coherence
from homenode_kv.worker.keeper import Keeper
from homenode_kv.worker.models import Loaded, calibration_of, load
from homenode_kv.worker.outputs import BYTES_MAX as OUTPUT_BYTES_MAX
from homenode_kv.worker.outputs import Outputs
from homenode_kv.worker.placement import Placement
from homenode_kv.worker.service import Service
from homenode_kv.worker.turns import Turns
from homenode_kv.worker.worker import Worker

LOG = logging.getLogger("homenode.kv")

MESSAGE_BYTES_MAX = 64 << 20
STREAMS_MAX = 1_024
ASK_S = 2.0  # for who calls


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker runs.

    Attributes:
        listen, advertise: host:port to listen on, and at which callers reach it; "": the former.
        name: of the worker, the same after a restart; "": as it is advertised.
        pool_bytes, host_bytes, disk_bytes: budgets of the tiers. Anchors, and outputs that may be committed yet, take
            up to as much as the first again each, 256 MiB at most.
        mirror_bytes: on the device as well, for what members of rounds differ in.
        disk: folder of the disk tier, the salt and the epoch; None: none of them outlives the process.
        waiting_max: most calls that wait.
        metrics: host:port for Prometheus; "": none.
        error_max: relative deviation of keys above which a block that is reused is computed afresh.
        calibration: file of `homenode kv calibrate`; None: that beside the model, if there is one.
    """

    model: str
    directory: str
    listen: str
    advertise: str = ""
    name: str = ""
    device: str = "cpu"
    dtype: str = ""
    pool_bytes: int = 256 << 20
    mirror_bytes: int = 64 << 20
    host_bytes: int = 0
    disk: Path | None = None
    disk_bytes: int = 1 << 30
    waiting_max: int = 64
    metrics: str = ""
    error_max: float = planner.Settings().error_max
    calibration: Path | None = None
    credentials: ssl.SSLContext | None = None
    certificate: tuple[bytes, bytes] | None = None  # chain and key, PEM
    client_ca: bytes | None = None  # authorities, PEM; callers must show a certificate of theirs
    drain_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Ready:
    """What a worker says when it serves.

    Attributes:
        gamma: up to which anchors are tried; None of a model that needs none.
        calibrated: whether that was found for this model. Otherwise it is the paper's.
    """

    address: str
    metrics: str
    worker: pb.KvWorkerId
    model: pb.KvModel
    gamma: float | None
    calibrated: bool


async def serve(settings: Settings, ready: Callable[[Ready], None]) -> None:
    """Runs a worker until SIGTERM or SIGINT.

    Raises UnsupportedModel, CalibrationError, OSError, HomenodeError where the directory cannot be reached, StaleFence
    where a later worker of the same name has taken its place.
    """
    target = parse(settings.directory)
    with folder.owned(settings.disk):
        loaded = await asyncio.to_thread(load, settings.model, settings.device, settings.dtype)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await _serve(settings, target, loaded, stop, ready)


async def _serve(
    settings: Settings, target: Target, loaded: Loaded, stop: asyncio.Event, ready: Callable[[Ready], None]
) -> None:
    calibrated = calibration_of(loaded, settings.calibration)
    agent = f"kv-worker {settings.name or settings.advertise or settings.listen}"[:100]
    async with homenode.connect(settings.directory, agent=agent, credentials=settings.credentials) as hn:
        server, port = _server(settings)
        address = settings.advertise or f"{settings.listen.rpartition(':')[0]}:{port}"
        identity = pb.KvWorkerId(worker=settings.name or address, epoch=folder.epoch(settings.disk))
        gamma = anchors.Settings().gamma if calibrated is None else calibrated.gamma
        async with _worker(settings, loaded, hn, identity, target.workspace, gamma) as (worker, told):
            metrics = _metrics(settings.metrics, worker)
            placement = Placement(
                target.hosts,
                settings.credentials,
                identity,
                lambda: pb.WorkerHello(session_id=hn.session_id, address=address, model=worker.model),
                worker.load,
            )
            told.append(placement.told)
            loop = asyncio.get_running_loop()
            worker.keeper.anchors.on_change = lambda *told: _soon(loop, partial(placement.anchor, *told))
            worker.keeper.rounds.on_change = lambda *told: _soon(loop, partial(placement.round, *told))
            worker.turns.on_idle = placement.idle
            await _run(
                settings,
                worker,
                server,
                placement,
                stop,
                lambda: ready(
                    Ready(
                        address,
                        metrics,
                        identity,
                        worker.model,
                        None if loaded.isolated else worker.keeper.anchors.settings.gamma,
                        calibrated is not None,
                    )
                ),
            )


async def _run(
    settings: Settings,
    worker: Worker,
    server: grpc.aio.Server,
    placement: Placement,
    stop: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    wire.add(Service(worker), server)
    health_service = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    await server.start()
    for name in ("", wire.SERVICE.full_name):
        await health_service.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        async with asyncio.TaskGroup() as tasks:
            loops = (worker.coherence.run(), placement.run(), worker.rounds.run())
            background = [tasks.create_task(loop) for loop in loops]
            ready()
            await stop.wait()
            worker.draining = True
            await health_service.enter_graceful_shutdown()
            await server.stop(settings.drain_s)
            for task in background:
                task.cancel()
    except ExceptionGroup as group:
        if group.subgroup(StaleFence) is not None:
            raise StaleFence("a later worker of this name is there") from None
        raise
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def _worker(
    settings: Settings, loaded: Loaded, hn: Homenode, identity: pb.KvWorkerId, workspace: str, gamma: float
) -> AsyncIterator[tuple[Worker, list[Callable[[Holding], None]]]]:
    """The worker over its pool; at the end what fits goes to disk. Who joins the list hears of holdings."""
    geometry = loaded.engine.geometry
    _fits(settings, loaded.engine.device.type)
    sheets = sheet_geometry(geometry)
    files = settings.disk / loaded.fingerprint[:32] if settings.disk is not None else None
    pool = Pool(
        Pages(geometry, max(1, settings.pool_bytes // geometry.block_bytes), loaded.engine.device),
        host_bytes_max=settings.host_bytes,
        disk=DiskTier(files, geometry) if files is not None else None,
        disk_bytes_max=settings.disk_bytes,
    )
    loop, listeners = asyncio.get_running_loop(), list[Callable[[Holding], None]]()

    def told(holding: Holding) -> None:
        for listener in listeners:
            loop.call_soon_threadsafe(listener, holding)

    salt = bytes.fromhex(digest([workspace.encode()], salt=folder.secret(settings.disk), person=b"workspace"))
    keeper = Keeper(
        loaded.engine,
        pool,
        loaded.fingerprint,
        salt,
        told,
        Pool(Pages(sheets, max(1, settings.mirror_bytes // sheets.block_bytes), loaded.engine.device)),
        settings=planner.Settings(error_max=settings.error_max),
        anchors=anchors.Settings(gamma=gamma, bytes_max=min(anchors.Settings().bytes_max, settings.pool_bytes)),
        isolated=loaded.isolated,
    )
    turns = Turns(settings.waiting_max)
    coherence = Coherence(hn, keeper, turns, loaded.tokenizer)
    callers = Callers(lambda session: admission(hn, session, ASK_S))
    worker = Worker(
        loaded,
        identity,
        keeper,
        turns,
        coherence,
        callers,
        _version(),
        Outputs(min(OUTPUT_BYTES_MAX, settings.pool_bytes)),
    )
    keeper.on_superseded = worker.metrics.superseded
    try:
        yield worker, listeners
    finally:
        listeners.clear()
        await turns.run(keeper.close)
        await turns.run(pool.flush)
        turns.close()


def _fits(settings: Settings, device: str) -> None:
    """Raises OSError where budgets are beyond the machine's memory: pages are taken at once, and used later."""
    wanted = settings.host_bytes + (settings.pool_bytes + settings.mirror_bytes if device == "cpu" else 0)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if wanted > there:
        raise OSError(f"budgets of {wanted >> 20} MiB, and this machine has {there >> 20} MiB of memory")


def _soon(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(what)


def _server(settings: Settings) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_concurrent_streams", STREAMS_MAX),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=STREAMS_MAX,
    )
    try:
        if settings.certificate is None:
            port = server.add_insecure_port(settings.listen)
        else:
            chain, key = settings.certificate
            shown = settings.client_ca is not None
            credentials = grpc.ssl_server_credentials([(key, chain)], settings.client_ca, require_client_auth=shown)
            port = server.add_secure_port(settings.listen, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {settings.listen}") from error
    return server, port


def _metrics(address: str, worker: Worker) -> str:
    if not address:
        return ""
    host, _, port = address.rpartition(":")
    server, _ = start_http_server(int(port), addr=host.strip("[]"), registry=worker.metrics.registry)
    return f"http://{host}:{server.server_port}/metrics"


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("homenode")
    except importlib.metadata.PackageNotFoundError:
        return ""
