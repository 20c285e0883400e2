"""The directory's own script, repeated natively: what the store could do if nothing stood before it.

redis-benchmark would be the natural tool, but cannot send words with zero bytes, which the script's packed words have.
"""

from __future__ import annotations

import re
import selectors
import socket
import threading
import time
from codecs import escape_decode

import hiredis
import redis

from tests.bench.load import latencies
from tests.bench.running import Load
from tests.support.ports import HOST

CONNECTIONS, PIPELINE = 8, 64
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')


def captured(port: int, load: Load) -> list[bytes]:
    """One call of the script as a running directory makes it while one session acquires.

    A reader that is a sharer already changes nothing, so the same words succeed again and again. Raises RuntimeError
    where they do not.
    """
    seen: list[bytes] = []
    with socket.create_connection((HOST, port)) as monitor:
        monitor.sendall(b"MONITOR\r\n")
        monitor.settimeout(20)
        worker = threading.Thread(target=load.measure, args=(0.5,))
        worker.start()
        buffer = b""
        while len(seen) < 50:
            buffer += monitor.recv(1 << 16)
            *lines, buffer = buffer.split(b"\r\n")
            seen += [line for line in lines if b'"EVALSHA"' in line]
        worker.join()
    words = [bytes(escape_decode(word)[0]) for word in _WORD.findall(seen[-1])]
    with redis.Redis(host=HOST, port=port) as client:
        reply = client.execute_command(*words)
    if not (isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], int)):
        raise RuntimeError("the script's call cannot be repeated: it was refused")
    return words


class Replay:
    """One call again and again, `PIPELINE` at once on each of `CONNECTIONS`; prepared bytes, replies only counted."""

    def __init__(self, port: int, words: list[bytes]) -> None:
        call = hiredis.pack_command(tuple(words))
        self._batch = call * PIPELINE
        with socket.create_connection((HOST, port)) as probe:
            probe.sendall(call)
            self._reply_lines = probe.recv(1 << 12).count(b"\n")  # the log's head in it grows
        self._sockets = [socket.create_connection((HOST, port)) for _ in range(CONNECTIONS)]

    async def measure(self, seconds: float) -> dict[str, float]:
        """See `load.Measurable`."""
        took_s: list[float] = []
        whole = self._reply_lines * PIPELINE
        with selectors.DefaultSelector() as selector:
            for connection in self._sockets:
                selector.register(connection, selectors.EVENT_READ, [0, time.perf_counter()])
                connection.sendall(self._batch)
            started = time.perf_counter()
            until = started + seconds
            under_way = len(self._sockets)
            while under_way:
                for found, _ in selector.select():
                    state = found.data
                    state[0] += found.fileobj.recv(1 << 16).count(b"\n")  # type: ignore[union-attr]
                    if state[0] < whole:
                        continue
                    now = time.perf_counter()
                    took_s.append(now - state[1])
                    state[0], state[1] = state[0] - whole, now
                    if now < until:
                        found.fileobj.sendall(self._batch)  # type: ignore[union-attr]
                    else:
                        selector.unregister(found.fileobj)
                        under_way -= 1
        n = len(took_s) * PIPELINE
        return {"n": n, "per_s": n / (time.perf_counter() - started), **latencies(took_s)}


async def replay(address: str, clients: int, redis_port: int, words: list[str]) -> Replay:
    """`words` in hexadecimal."""
    return Replay(redis_port, [bytes.fromhex(word) for word in words])
