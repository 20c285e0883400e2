"""The address for Prometheus and for load balancers that speak HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import CollectorRegistry

REQUEST_BYTES_MAX = 8_192
REQUEST_WAIT_S = 5.0
CONNECTIONS_MAX = 32


class MetricsServer:
    """Serves GET /metrics and GET /healthz over HTTP/1.1, one request a connection."""

    def __init__(
        self, registry: CollectorRegistry, healthy: Callable[[], bool], refresh: Callable[[], None] = lambda: None
    ) -> None:
        """`refresh` is called before the metrics are read, for levels that nobody tells of when they change."""
        self._registry = registry
        self._healthy = healthy
        self._refresh = refresh
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=REQUEST_BYTES_MAX)
        actual: int = self._server.sockets[0].getsockname()[1]
        return actual

    async def close(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_MAX:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_WAIT_S)
                writer.write(self._response(head))
                await asyncio.wait_for(writer.drain(), REQUEST_WAIT_S)
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # an unfinished or oversize request gets no answer
        finally:
            self._connections -= 1
            writer.close()

    def _response(self, head: bytes) -> bytes:
        line, _, headers = head.partition(b"\r\n")
        request = line.split(b" ")
        path = request[1].split(b"?")[0] if len(request) == 3 and request[0] == b"GET" else b""
        if path == b"/metrics":
            self._refresh()
            return _http("200 OK", *_exposed(self._registry, headers))
        if path == b"/healthz":
            healthy = self._healthy()
            status, text = ("200 OK", b"ok\n") if healthy else ("503 Service Unavailable", b"stopping\n")
            return _http(status, "text/plain", text)
        return _http("404 Not Found", "text/plain", b"there are /metrics and /healthz\n")


def _exposed(registry: CollectorRegistry, headers: bytes) -> tuple[str, bytes]:
    """The metrics in the form that the request accepts: OpenMetrics, which has exemplars, or the text format."""
    for line in headers.lower().split(b"\r\n"):
        if line.startswith(b"accept:") and b"application/openmetrics-text" in line:
            return openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest(registry)
    return CONTENT_TYPE_LATEST, generate_latest(registry)


def _http(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
