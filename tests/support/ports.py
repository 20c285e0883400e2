"""Loopback ports and waiting, with deadlines instead of sleeps."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

HOST = "127.0.0.1"
POLL_S = 0.02


def free_port() -> int:
    """A TCP port on loopback that the kernel gives to nobody who does not name it, for the next minute.

    A connection to it is left behind in TIME_WAIT: the kernel then chooses the port neither for `bind` to port 0 nor
    for `connect`, and a server that names it (with SO_REUSEADDR, as all do) gets it. So tests that run beside each
    other, and the connections that they make, stay out of each other's way.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, 0))
        listener.listen(1)
        port: int = listener.getsockname()[1]
        with socket.create_connection((HOST, port)):
            accepted, _ = listener.accept()
            accepted.close()  # who closes first is left in TIME_WAIT
        return port


def wait_until(condition: Callable[[], object], *, timeout_s: float = 20.0, what: str = "condition") -> None:
    """Polls until `condition()` is true; raises `TimeoutError` naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(POLL_S)


async def wait_until_async(
    condition: Callable[[], object | Awaitable[object]], *, timeout_s: float = 20.0, what: str = "condition"
) -> None:
    """`wait_until` for coroutines: yields to the event loop between polls; `condition` may be async."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = condition()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(POLL_S)


def accepts_connections(port: int, host: str = HOST) -> bool:
    """Whether something accepts a TCP connection there now."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False
