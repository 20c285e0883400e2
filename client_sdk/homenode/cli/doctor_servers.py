"""The doctor's look at each server by itself: reachability, certificate, latency, and whether all are alike."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from homenode.cli.findings import FAULT, NOTE, OK, WARN, Finding
from homenode.cli.session import credentials, installed_version
from homenode.errors import DeadlineExceeded, HomenodeError, Overloaded, SessionLost, Unavailable

CALLS = 20
SLOW_MS = 50
CONNECT_S = 3.0
CERTIFICATE_DAYS = 30
RENEW = "renew it, then restart the servers one by one: they read it when they start"
ALIKE = ("consistency", "term_ms", "max_age_ms")


@dataclass(slots=True)
class Server:
    """What one server says of itself when a session is opened."""

    host: str
    opened: Any
    first_ms: float
    took_ms: list[float] = field(default_factory=list)

    def setting(self, name: str) -> str:
        """A setting that all servers must have alike; "" where an older server does not tell it."""
        value = getattr(self.opened, name)
        return ({1: "lazy", 2: "strict"}.get(value, "") if name == "consistency" else str(value)) or ""


async def look(args: argparse.Namespace, host: str, workspace: str) -> Server:
    """Open a session at this server, call it a few times, close the session. Raises HomenodeError."""
    from homenode.grpc_transport import GrpcTransport
    from homenode_api.v1 import directory_pb2 as pb

    transport = GrpcTransport([host], credentials=credentials(args))
    try:
        began = time.monotonic()
        request = pb.OpenSessionRequest(workspace=workspace, name="doctor")
        opened = await transport.call("OpenSession", request, args.timeout)
        server = Server(host, opened, _since(began))
        alive = pb.KeepAliveRequest(session_id=opened.session_id)
        for _ in range(CALLS):
            began = time.monotonic()
            await transport.call("KeepAlive", alive, args.timeout)
            server.took_ms.append(_since(began))
        server.took_ms.sort()
        return server
    finally:
        await transport.close()


async def knows(args: argparse.Namespace, host: str, session_id: str, *, close: bool) -> bool:
    """Whether a server knows a session that another one has opened: they have one store. Raises HomenodeError."""
    from homenode.grpc_transport import GrpcTransport
    from homenode_api.v1 import directory_pb2 as pb

    transport = GrpcTransport([host], credentials=credentials(args))
    try:
        await transport.call("KeepAlive", pb.KeepAliveRequest(session_id=session_id), args.timeout)
        if close:
            await transport.call("CloseSession", pb.CloseSessionRequest(session_id=session_id), args.timeout)
        return True
    except SessionLost:
        return False
    finally:
        await transport.close()


async def examine(args: argparse.Namespace, hosts: Sequence[str], workspace: str) -> AsyncIterator[Finding]:
    """Findings about every server of the address, and about all of them together."""
    if args.tls_ca:
        for host in hosts:
            yield await asyncio.to_thread(certificate, args, host)
    looks = await asyncio.gather(*(look(args, host, workspace) for host in hosts), return_exceptions=True)
    servers = []
    for host, found in zip(hosts, looks, strict=True):
        if isinstance(found, Server):
            servers.append(found)
            yield Finding("directory", OK, f"{host} answers; first call after {found.first_ms:.0f} ms", host=host)
        elif isinstance(found, HomenodeError):
            alone = len(hosts) == 1 or not any(isinstance(other, Server) for other in looks)
            yield await _unreached(args, host, found, FAULT if alone else WARN)
        elif isinstance(found, BaseException):
            raise found
    for server in servers:
        yield _latency(server)
    if servers:
        yield _limits(servers[0])
        yield _versions(servers)
        yield agreement(servers)
        for finding in _level(servers[0]):
            yield finding
    async for finding in _together(args, servers):
        yield finding


async def _together(args: argparse.Namespace, servers: Sequence[Server]) -> AsyncIterator[Finding]:
    """Whether they have one store; then the sessions that looked at them are closed."""
    for other in servers[1:]:
        first = servers[0]
        with contextlib.suppress(Unavailable, DeadlineExceeded, Overloaded):
            if not await knows(args, other.host, first.opened.session_id, close=False):
                advice = "name only servers over one store in an address; agents would see two directories"
                found = f"{other.host} has another store than {first.host}"
                yield Finding("directory", FAULT, found, advice, other.host)
    for server in servers:
        with contextlib.suppress(HomenodeError):
            await knows(args, server.host, server.opened.session_id, close=True)


def _level(server: Server) -> list[Finding]:
    """Whether the servers can keep what is asked of them."""
    from homenode_api.v1 import types_pb2 as t

    if server.opened.strongest != t.CONSISTENCY_LAZY:
        return []
    strict = server.setting("consistency") == "strict"
    advice = "--wait-replicas N on all servers, with all replicas of the Redis; --store URL says how many there are"
    return [Finding("level", FAULT if strict else NOTE, "strict artifacts are refused over this store", advice)]


def agreement(servers: Sequence[Server]) -> Finding:
    """Settings that must be alike on all servers over one store."""
    told = {name: {server.host: server.setting(name) for server in servers} for name in ALIKE}
    apart = [name for name, values in told.items() if len(set(values.values()) - {""}) > 1]
    if apart:
        flags = "; ".join(
            f"--{name.replace('_', '-')}: " + ", ".join(f"{host} {value}" for host, value in told[name].items())
            for name in apart
        )
        advice = "give all servers the same, with all of them stopped: promises rest on it"
        return Finding("settings", FAULT, f"servers differ in {flags}", advice)
    shared = " ".join(f"{name}={next(iter(values.values())) or 'not told'}" for name, values in told.items())
    return Finding("settings", OK, f"alike on all {len(servers)} servers: {shared}" if len(servers) > 1 else shared)


async def _unreached(args: argparse.Namespace, host: str, error: HomenodeError, level: str) -> Finding:
    found = f"{host}: {type(error).__name__}: {error.message}"
    if isinstance(error, Overloaded):
        advice = "the server turns requests away: see its load, or raise --streams-max and --stream-in-flight"
    elif isinstance(error, DeadlineExceeded):
        advice = "does the server's store answer? say --store URL to look at it; or see the server's log"
    elif isinstance(error, Unavailable):
        advice = await asyncio.to_thread(_why_unavailable, args, host)
    else:
        advice = "see the server's log at the time of this call"
    return Finding("directory", level, found, advice, host)


def _why_unavailable(args: argparse.Namespace, host: str) -> str:
    name, _, port = host.rpartition(":")
    try:
        with socket.create_connection((name.strip("[]"), int(port)), CONNECT_S):
            pass
    except socket.gaierror:
        return f"the name {name} is not known here: correct it, or see DNS"
    except ConnectionRefusedError:
        return f"nothing listens on {host}: start a server (`homenode serve --listen {host}`), or correct the port"
    except OSError as error:
        return f"{host} cannot be reached ({error.strerror or error}): see the network and the firewall"
    tls = "does the server speak plain text (leave --tls-ca out)?" if args.tls_ca else "does it speak TLS (--tls-ca)?"
    return f"something listens on {host}: {tls} Is it a directory, does it drain, does its store answer (--store)?"


def certificate(args: argparse.Namespace, host: str) -> Finding:
    """Whether the server's certificate is trusted, and for how long."""
    name, _, port = host.rpartition(":")
    name = name.strip("[]")
    try:
        context = ssl.create_default_context(cafile=args.tls_ca)
        context.set_alpn_protocols(["h2"])
        if args.tls_cert:
            context.load_cert_chain(args.tls_cert, args.tls_key)
        with socket.create_connection((name, int(port)), CONNECT_S) as plain:
            with context.wrap_socket(plain, server_hostname=name) as secure:
                until = ssl.cert_time_to_seconds(str((secure.getpeercert() or {}).get("notAfter", "")))
    except ssl.SSLCertVerificationError as error:
        advice = "give the authority that signed it with --tls-ca; the certificate must name the host of the address"
        advice = RENEW if "expired" in error.verify_message else advice
        return Finding("certificate", FAULT, f"{host}: {error.verify_message}", advice, host)
    except (OSError, ValueError) as error:  # also SSLError
        return Finding("certificate", NOTE, f"{host}: not seen ({error})", "see the finding about the directory", host)
    days = (until - time.time()) / 86_400
    level = OK if days >= CERTIFICATE_DAYS else WARN if days > 0 else FAULT
    advice = "" if level == OK else RENEW
    return Finding("certificate", level, f"{host}: valid for {days:.0f} more days", advice, host)


def _latency(server: Server) -> Finding:
    median, most = server.took_ms[len(server.took_ms) // 2], server.took_ms[-1]
    slow = median > SLOW_MS
    advice = "every miss and every write costs this much: bring agents and server nearer together" if slow else ""
    found = f"{server.host}: median {median:.1f} ms, most {most:.1f} ms of {CALLS} calls"
    return Finding("latency", WARN if slow else OK, found, advice, server.host)


def _limits(server: Server) -> Finding:
    opened, limits = server.opened, server.opened.limits
    found = (
        f"artifacts to {limits.artifact_bytes:,} bytes, keys to {limits.key_bytes} bytes, "
        f"{limits.in_flight_operations} operations in flight; lease term {opened.term_ms} ms, "
        f"reads at most {opened.max_age_ms} ms old, session lives {opened.ttl_ms} ms"
    )
    return Finding("limits", OK, found)


def _versions(servers: Sequence[Server]) -> Finding:
    client = installed_version()
    told = {server.host: server.opened.server_version for server in servers}
    known = set(told.values()) - {""}
    if not known:
        return Finding("version", NOTE, f"no server says; client {client}")
    shown = ", ".join(sorted(known)) if len(known) == 1 else ", ".join(f"{host} {v}" for host, v in told.items())
    if len(known) > 1:
        return Finding("version", WARN, f"servers {shown}; client {client}", "finish the upgrade (deploy/upgrade.md)")
    same = next(iter(known)).split(".")[:2] == client.split(".")[:2]
    advice = "" if same else "use the same minor version on both sides; server first"
    return Finding("version", OK if same else WARN, f"server {shown}, client {client}", advice)


def _since(began: float) -> float:
    return (time.monotonic() - began) * 1000
