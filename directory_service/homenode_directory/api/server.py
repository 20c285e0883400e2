"""The gRPC server: ports, limits, health, reflection, drain."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from homenode_directory.api.endpoint import Endpoint
from homenode_directory.api.interceptors import Guard
from homenode_directory.api.servicer import SERVICE, handlers
from homenode_directory.errors import ConfigError

LOG = logging.getLogger("homenode.api")

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


def _options(listen: Listen) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", int(listen.share_port)),  # else a second server on the port is a mistake
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", listen.connection_streams),
        ("grpc.max_connection_age_ms", listen.connection_age_s * 1_000),
        ("grpc.max_connection_age_grace_ms", 60_000),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 4),
        # One stalled stream may hold so much in gRPC, beside the one frame that waits to be taken.
        ("grpc.http2.write_buffer_size", 64 * 1024),
    ]


def _credentials(listen: Listen) -> grpc.ServerCredentials | None:
    if not (listen.tls_cert or listen.tls_key or listen.tls_client_ca):
        return None
    if not (listen.tls_cert and listen.tls_key):
        raise ConfigError("TLS needs both --tls-cert and --tls-key")

    def content(path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None

    roots = content(listen.tls_client_ca) if listen.tls_client_ca else None
    pair = (content(listen.tls_key), content(listen.tls_cert))
    return grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=roots is not None)


class ApiServer:
    """DirectoryService, health and reflection on one address."""

    def __init__(self, endpoint: Endpoint, listen: Listen) -> None:
        """Raises ConfigError for an address or TLS files that cannot serve."""
        self._endpoint = endpoint
        self._listen = listen
        credentials = _credentials(listen)
        require_safe(listen.address, "the address", secure=credentials is not None, insecure_wanted=listen.insecure)
        self._server = grpc.aio.server(
            interceptors=[Guard()], options=_options(listen), maximum_concurrent_rpcs=listen.calls_max
        )
        self._server.add_generic_rpc_handlers((handlers(endpoint),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.port = self._bind(credentials)

    def _bind(self, credentials: grpc.ServerCredentials | None) -> int:
        address = self._listen.address
        try:
            if credentials is not None:
                port = self._server.add_secure_port(address, credentials)
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if not port:
            raise ConfigError(f"cannot listen on {address}: it is in use, or no address of this machine")
        return port

    async def start(self) -> None:
        """Serve from now on."""
        await self._server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, within_ms: int) -> None:
        """Take no new work, tell streams to go, wait for what is under way; at most `within_ms`, then cut."""
        await self._health.enter_graceful_shutdown()
        await self._endpoint.parts.hub.drain(within_ms)
        await self._server.stop(1.0)

    async def stop(self) -> None:
        """Stop now."""
        await self._server.stop(None)
