"""An end of an HTTP/2 connection on a socket, for asyncio. What one tick of the event loop has to send is one write."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from homenode_api.http2.connection import Connection
from homenode_api.http2.frames import Broken, Code
from homenode_api.http2.grpc import Status, StatusCode

LOG = logging.getLogger("homenode.http2")

JOIN_BYTES = 64 * 1024  # less is copied into one piece for the socket
UNREAD_BYTES_MAX = 4 << 20  # what may wait in the socket's buffer: frames without messages take no window
LINGER_S = 1.0  # for the last frames of a connection


class EndOnSocket(asyncio.Protocol):
    """See the module. Subclasses set `end`, and say what follows when the connection is there, and lost."""

    end: Connection[Any]

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.closing = False
        self._flushing = False

    def made(self, transport: asyncio.Transport) -> bool:
        """The connection is there. False: it is not wanted."""
        raise NotImplementedError

    def gone(self) -> None:
        """The connection is lost; calls are told already."""
        raise NotImplementedError

    # --- of asyncio -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self.transport = transport
        tls = transport.get_extra_info("ssl_object")
        if not self.made(transport) or (tls is not None and tls.selected_alpn_protocol() != "h2"):
            self.closing = True
            transport.abort()
            return
        transport.set_write_buffer_limits(high=self.end.bounds.out_bytes)
        self.wake()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.closing:
            return
        try:
            self.end.receive(data)
        except Broken as broken:
            LOG.debug("the other end broke the protocol", extra={"reason": str(broken)})
            self.close(broken.code)
        except Exception:
            LOG.exception("internal error in a connection")
            self.close(Code.INTERNAL_ERROR)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        return False

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.end.paused = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.end.paused = False
        self.end.pump()

    def connection_lost(self, failure: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.closing = True
        self.end.lost(Status(StatusCode.UNAVAILABLE, "the connection is lost"))
        self.gone()

    # --- out --------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There is something to send: with what else comes in this tick."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what has come together."""
        self._flushing = False
        end, transport = self.end, self.transport
        if transport is None:
            return
        if transport.is_closing():
            end.taken()
            return
        while end.out:
            _write(transport, end.out)
            end.taken()
            self._flushing = True  # what is pumped goes with this loop
            end.pump()
            self._flushing = False
        if end.paused and transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            transport.abort()

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self, code: Code = Code.NO_ERROR) -> None:
        """Say goodbye, and close; calls under way are cut."""
        if self.closing or self.transport is None:
            return
        self.closing = True
        self.end.goodbye(code)
        self.flush()
        self.transport.close()
        self.loop.call_later(LINGER_S, self.transport.abort)
        self.end.lost(Status(StatusCode.UNAVAILABLE, "the connection is closed"))

    def abort(self) -> None:
        """The other end is gone."""
        if self.transport is not None:
            self.transport.abort()


def _write(transport: asyncio.WriteTransport, pieces: list[bytes | memoryview]) -> None:
    """Hand pieces to a transport; small ones as one."""
    if len(pieces) == 1:
        transport.write(pieces[0])
    elif sum(map(len, pieces)) <= JOIN_BYTES:
        transport.write(b"".join(pieces))
    else:
        transport.writelines(pieces)
