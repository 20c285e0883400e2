"""The gRPC server: ports, limits, health, reflection, drain."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from homenode_api.http2.connection import Bounds
from homenode_directory.api.endpoint import Endpoint
from homenode_directory.api.http2.link import Times
from homenode_directory.api.http2.server import Http2Server
from homenode_directory.api.servicer import KV_SERVICE, SERVICE, KvMethods, handlers, kv_handlers
from homenode_directory.errors import ConfigError

MESSAGE_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Listen:
    """Where and how to listen. Empty TLS paths: no TLS; `tls_client_ca`: clients must show a certificate."""

    address: str = "127.0.0.1:7400"
    insecure: bool = False  # plain text beyond loopback is wanted
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    connection_streams: int = 1_024
    connection_age_s: int = 4 * 3_600
    calls_max: int = 16_384
    connections_max: int = 16_384
    share_port: bool = False  # several processes listen on the address


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port"; IPv6 in brackets. Raises ConfigError."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(f"not an address: {address!r}; say host:port, such as 127.0.0.1:7400")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host, _ = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_safe(address: str, what: str, *, secure: bool, insecure_wanted: bool) -> None:
    """Refuse plain text on an address that other machines reach, unless that is said aloud. Raises ConfigError."""
    if not secure and not insecure_wanted and not is_loopback(address):
        raise ConfigError(
            f"{what} {address} can be reached from other machines and is not encrypted; "
            "give --tls-cert and --tls-key, or say --insecure-listen"
        )


def _tls(listen: Listen) -> ssl.SSLContext | None:
    if not (listen.tls_cert or listen.tls_key or listen.tls_client_ca):
        return None
    if not (listen.tls_cert and listen.tls_key):
        raise ConfigError("TLS needs both --tls-cert and --tls-key")
    for path in filter(None, (listen.tls_cert, listen.tls_key, listen.tls_client_ca)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(listen.tls_cert, listen.tls_key, password=_no_password)
        if listen.tls_client_ca:
            context.load_verify_locations(listen.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"the TLS files cannot be used: {getattr(error, 'reason', None) or error}") from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


class ApiServer:
    """DirectoryService, KvRoutingService, health and reflection on one address."""

    def __init__(self, endpoint: Endpoint, listen: Listen, kv: KvMethods | None = None) -> None:
        """`kv`: KvRoutingService where it is not the endpoint's own. Raises ConfigError for an address or TLS files
        that cannot serve."""
        self._endpoint = endpoint
        self._listen = listen
        tls = _tls(listen)
        require_safe(listen.address, "the address", secure=tls is not None, insecure_wanted=listen.insecure)
        self._server = Http2Server(
            Bounds(streams=listen.connection_streams, message_bytes=MESSAGE_BYTES_MAX),
            Times(age=listen.connection_age_s),
            calls_max=listen.calls_max,
            connections_max=listen.connections_max,
            tls=tls,
        )
        self._server.add_generic_rpc_handlers((handlers(endpoint), kv_handlers(kv or endpoint.kv)))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, KV_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(names), self._server
        )
        self.port = self._bind()

    def _bind(self) -> int:
        address = self._listen.address
        kind, _, path = address.partition(":")
        try:
            if kind in ("unix", "unix-abstract"):
                return self._server.bind_unix("@" + path if kind == "unix-abstract" else path)
            return self._server.bind(*split_address(address), share_port=self._listen.share_port)
        except OSError:
            raise ConfigError(f"cannot listen on {address}: it is in use, or no address of this machine") from None

    async def start(self) -> None:
        """Serve from now on."""
        await self._server.start()
        for name in ("", SERVICE, KV_SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, within_ms: int) -> None:
        """Take no new work, tell streams to go, wait for what is under way; at most `within_ms`, then cut."""
        await self._health.enter_graceful_shutdown()
        await self._endpoint.parts.hub.drain(within_ms)
        await self._server.stop(1.0)

    async def stop(self) -> None:
        """Stop now."""
        await self._server.stop(0)
