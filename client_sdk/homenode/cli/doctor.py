"""doctor: is this deployment well, end to end, and what to do where it is not."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from homenode.cli.exits import Exit
from homenode.cli.output import Output
from homenode.cli.session import Commands, connected, credentials, installed_version
from homenode.errors import DeadlineExceeded, HomenodeError, InvalidArgument, Overloaded, SessionLost, Unavailable

OK, NOTE, WARN, FAULT = "ok", "note", "warn", "FAULT"
CALLS = 20
CLOCK_WARN_MS = 1_000
TICK_MS = 300  # the directory reads the store's clock in ticks
SLOW_MS = 50
SEEN_S = 10.0


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    doctor = commands.add_parser(
        "doctor",
        parents=[common],
        help="check a deployment end to end, and say what to do",
        description="Reaches the directory, measures latency and clocks, writes, reads and invalidates a scratch "
        "artifact that it removes, and with --store looks at the store itself. Exit code 1 where there is a fault; "
        "warnings do not count.",
    )
    doctor.add_argument("--store", metavar="URL", help="the directory's store: redis://…, rediss://…, sqlite:///FILE")
    doctor.add_argument("--metrics", metavar="URL", help="default: port 7401 of the directory's host; off: do not look")
    doctor.set_defaults(run=run_doctor)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `advice` says what to do, "" where there is nothing to do."""

    check: str
    level: str
    found: str
    advice: str = ""


async def run_doctor(args: argparse.Namespace, out: Output) -> int:
    """`doctor`: findings as they come."""
    findings = []
    async for finding in examine(args):
        findings.append(finding)
        if not out.json:
            out.line(f"{finding.level:<5}  {finding.check}: {finding.found}")
            if finding.advice:
                out.line(f"       -> {finding.advice}")
    faults = sum(finding.level == FAULT for finding in findings)
    warnings = sum(finding.level == WARN for finding in findings)
    if out.json:
        fields = ("check", "level", "found", "advice")
        out.value({"findings": [{name: getattr(f, name) for name in fields} for f in findings], "faults": faults})
    else:
        out.line(f"\n{faults} faults, {warnings} warnings in {len(findings)} checks")
    return Exit.ERROR if faults else Exit.OK


async def examine(args: argparse.Namespace) -> AsyncIterator[Finding]:
    """All findings, in order; the rest of the directory's part is left out where it cannot be reached."""
    reached = True
    try:
        for finding in await _service(args):
            yield finding
        async for finding in _probe(args):
            yield finding
    except InvalidArgument:
        raise
    except HomenodeError as error:
        reached = False
        yield Finding("directory", FAULT, f"{type(error).__name__}: {error.message}", _advice(args, error))
    if reached and args.metrics != "off":
        yield await _metrics(args)
    if args.store:
        from homenode.cli.doctor_store import examine_store

        async for finding in examine_store(args.store):
            yield finding


def _advice(args: argparse.Namespace, error: HomenodeError) -> str:
    if isinstance(error, Overloaded):
        return "the server turns requests away: see its load, or raise --streams-max and --stream-in-flight"
    if isinstance(error, DeadlineExceeded):
        return "does the server's store answer? say --store URL to look at it; or see the server's log"
    if isinstance(error, Unavailable):
        return (
            f"is a server running behind {args.url}? `homenode serve` starts one on 127.0.0.1:7400. If it runs: see "
            "the host, port and firewall, whether it speaks TLS (--tls-ca), and whether its store answers (--store)"
        )
    return "see the server's log at the time of this call"


async def _service(args: argparse.Namespace) -> list[Finding]:
    """Reachability, version, limits and latency, by plain calls."""
    from homenode.grpc_transport import GrpcTransport
    from homenode.transport import parse
    from homenode_api.v1 import directory_pb2 as pb

    target = parse(args.url)
    if target.embedded:
        return [Finding("directory", NOTE, f"embedded in this process: {target.path or 'memory'}")]
    transport = GrpcTransport(target.hosts[:1], credentials=credentials(args))
    try:
        began = time.monotonic()
        request = pb.OpenSessionRequest(workspace=target.workspace, name="doctor")
        opened = await transport.call("OpenSession", request, args.timeout)
        first_ms = (time.monotonic() - began) * 1000
        took = []
        for _ in range(CALLS):
            began = time.monotonic()
            await transport.call("KeepAlive", pb.KeepAliveRequest(session_id=opened.session_id), args.timeout)
            took.append((time.monotonic() - began) * 1000)
        findings = [Finding("directory", OK, f"{target.hosts[0]} answers; first call after {first_ms:.0f} ms")]
        findings += [await _other(args, host, opened.session_id) for host in target.hosts[1:]]
        await transport.call("CloseSession", pb.CloseSessionRequest(session_id=opened.session_id), args.timeout)
    finally:
        await transport.close()
    findings.append(_versions(opened.server_version, installed_version()))
    limits = opened.limits
    findings.append(
        Finding(
            "limits",
            OK,
            f"artifacts to {limits.artifact_bytes:,} bytes, keys to {limits.key_bytes} bytes, "
            f"{limits.in_flight_operations} operations in flight; lease term {opened.term_ms} ms, "
            f"reads at most {opened.max_age_ms} ms old, session lives {opened.ttl_ms} ms",
        )
    )
    took.sort()
    median, most = took[len(took) // 2], took[-1]
    slow = median > SLOW_MS
    advice = "every miss and every write costs this much: bring agents and server nearer together" if slow else ""
    findings.append(
        Finding("latency", WARN if slow else OK, f"median {median:.1f} ms, most {most:.1f} ms of {CALLS} calls", advice)
    )
    return findings


async def _other(args: argparse.Namespace, host: str, session_id: str) -> Finding:
    """Another server of the address: it answers, and knows the session that the first one has opened."""
    from homenode.grpc_transport import GrpcTransport
    from homenode_api.v1 import directory_pb2 as pb

    transport = GrpcTransport([host], credentials=credentials(args))
    try:
        await transport.call("KeepAlive", pb.KeepAliveRequest(session_id=session_id), args.timeout)
    except SessionLost:
        advice = "name only servers over one store in an address; agents would see two directories"
        return Finding("directory", FAULT, f"{host} has another store than the first server", advice)
    except HomenodeError as error:
        return Finding("directory", WARN, f"{host}: {type(error).__name__}: {error.message}", "clients use the others")
    finally:
        await transport.close()
    return Finding("directory", OK, f"{host} answers, over the same store")


def _versions(server: str, client: str) -> Finding:
    if not server:
        return Finding("version", NOTE, f"the server does not say; client {client}")
    same = server.split(".")[:2] == client.split(".")[:2]
    advice = "" if same else "use the same minor version on both sides; server first"
    return Finding("version", OK if same else WARN, f"server {server}, client {client}", advice)


async def _probe(args: argparse.Namespace) -> AsyncIterator[Finding]:
    """Write, read, change and delete a scratch artifact over two sessions."""
    import homenode

    key = f".doctor/{secrets.token_hex(8)}"
    began = time.monotonic()
    async with connected(args, agent="doctor-writer") as writer, connected(args, agent="doctor-reader") as reader:
        yield Finding("stream", OK, f"two sessions confirmed by a bookmark after {_since(began):.0f} ms")
        local_before = time.time() * 1000
        await writer.put(key, "1", base=homenode.ABSENT)
        try:
            local_after = time.time() * 1000
            yield Finding("write", OK, f"a commit took {local_after - local_before:.1f} ms")
            committed_ms = (await reader.read(key)).committed_at_ms
            yield _clock(committed_ms, local_before, local_after)
            yield await _invalidation(writer, reader, key)
        finally:
            await writer.delete(key, base=homenode.ANY)
        try:
            await reader.read(key, max_age_ms=0)
            yield Finding(
                "delete", FAULT, "a deleted artifact can still be read", "keep the server's log and report this"
            )
        except homenode.NotFound:
            yield Finding("delete", OK, f"the scratch artifact {key} is gone")


def _since(began: float) -> float:
    return (time.monotonic() - began) * 1000


def _clock(store_ms: int, before_ms: float, after_ms: float) -> Finding:
    """The store's clock was read between `before_ms` and `after_ms` of ours."""
    off_ms = store_ms - after_ms if store_ms > after_ms else min(0.0, store_ms - before_ms + 1)
    agrees = abs(off_ms) <= TICK_MS
    found = (
        "the store's clock agrees with ours" if agrees else f"the store's clock differs by about {abs(off_ms):.0f} ms"
    )
    if abs(off_ms) > CLOCK_WARN_MS:
        return Finding(
            "clock", WARN, found, "leases do not depend on it, but times shown do: set up NTP on both machines"
        )
    return Finding("clock", OK, found)


async def _invalidation(writer: Any, reader: Any, key: str) -> Finding:
    """How soon a session that holds a copy gets the next version. A cached copy must go by itself."""
    cached = reader.read_cached(key) is not None
    began = time.monotonic()
    await writer.put(key, "2")
    deadline = began + SEEN_S
    while time.monotonic() < deadline:
        if (await reader.read(key)).text == "2":
            took = f"{_since(began):.1f} ms after a commit was sent, another session was given it"
            if cached:
                return Finding("invalidation", OK, took)
            return Finding("invalidation", WARN, f"{took}, but its copy was not cacheable", "see the artifact's policy")
        await asyncio.sleep(0.001)
    return Finding(
        "invalidation",
        FAULT,
        f"a cached copy was still served {SEEN_S:g} s after the commit",
        "does anything between client and server hold streams back (a proxy that buffers)?",
    )


async def _metrics(args: argparse.Namespace) -> Finding:
    from homenode.cli.metrics import addresses, fetch

    address = next(iter(addresses(args.url, args.metrics)), "")
    if not address:
        return Finding("metrics", NOTE, "none: the directory is embedded")
    try:
        metrics = await asyncio.to_thread(fetch, address)
    except OSError as error:
        level = WARN if args.metrics else NOTE
        return Finding(
            "metrics", level, f"nothing at {address} ({error})", "say --metrics URL, or off, if it is elsewhere"
        )
    resyncs = metrics.total("homenode_resyncs_total")
    lag = [
        head - metrics.by("homenode_log_delivered", "slice").get(slice_, head)
        for slice_, head in metrics.by("homenode_log_head", "slice").items()
    ]
    return Finding(
        "metrics",
        OK,
        f"{address}: {metrics.total('homenode_sessions'):.0f} sessions, {resyncs:.0f} resyncs, "
        f"delivery at most {max([0.0, *lag]):.0f} log entries behind",
    )
