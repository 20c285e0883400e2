"""Loads on etcd from Python, and the native one."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.etcd import EtcdClient, Message, get_request, nested_swaps, touch_request
from tests.bench.homenode_load import body
from tests.bench.load import Loops, Operation


async def get(address: str, clients: int, own: bool = False) -> Loops:
    """Linearizable reads of 1 KiB; a key each."""

    async def make(client: EtcdClient, number: int) -> Operation:
        key = f"get/{number}".encode()
        await client.put(key, body(number).encode())

        async def one() -> None:
            await client.get(key)

        return one

    return Loops([await make(EtcdClient(address, own=own), n) for n in range(clients)])


async def swap(address: str, clients: int, own: bool = False) -> Loops:
    """Compare-and-set of 1 KiB; a key each."""

    async def make(client: EtcdClient, number: int) -> Operation:
        key, value = f"swap/{number}".encode(), body(number).encode()
        await client.put(key, value)
        _, revision = await client.get(key)

        async def one() -> None:
            nonlocal revision
            revision = await client.swap(key, revision, value)
            assert revision

        return one

    return Loops([await make(EtcdClient(address, own=own), n) for n in range(clients)])


async def hot(address: str, clients: int) -> Loops:
    """Everybody adds one to the same key, again until it holds."""
    key = b"hot"

    def make(client: EtcdClient) -> Operation:
        async def add() -> None:
            value, revision = await client.get(key)
            while not await client.swap(key, revision, str(int(value) + 1).encode()):
                value, revision = await client.get(key)

        return add

    made = [EtcdClient(address) for _ in range(clients)]
    await made[0].put(key, b"0")
    return Loops([make(client) for client in made])


async def batch(address: str, clients: int, batch: int = 64) -> Loops:
    """`clients` at once, each sending transactions that nest `batch` compare-and-sets of 1 KiB."""

    async def make(client: EtcdClient, number: int) -> Operation:
        keys = [f"batch/{number}/{i}".encode() for i in range(batch)]
        values = [body(i).encode() for i in range(batch)]
        for key, value in zip(keys, values, strict=True):
            await client.put(key, value)
        revisions = [(await client.get(key))[1] for key in keys]

        async def one() -> None:
            nonlocal revisions
            request = nested_swaps(list(zip(keys, revisions, values, strict=True)))
            revision = await client.nested(request)
            assert revision
            revisions = [revision] * batch

        return one

    found = await asyncio.gather(*(make(EtcdClient(address), n) for n in range(clients)))
    return Loops(list(found), weight=batch)


# --- native -----------------------------------------------------------------------------------------------------------

_METHODS = {"get": "Range", "swap": "Txn"}


class NativeLoad:
    """h2load (nghttp2, in C) with one prepared gRPC message, which every request repeats.

    get: a linearizable Range of one key. swap: a Txn that compares and puts 1 KiB; because the message is always the
    same, it compares that the key exists, which holds each time, instead of a revision: etcd does the same work.

    Args:
        kind: get or swap.
        address: etcd's.
        clients: requests under way, over `connections` connections.
    """

    def __init__(self, kind: str, address: str, clients: int, folder: Path, *, connections: int = 1) -> None:
        key = b"native"
        asyncio.run(_prepared(address, key))
        requests: Mapping[str, Message] = {
            "get": get_request(key),
            "swap": touch_request(key, body(0).encode()),
        }
        message: bytes = requests[kind].SerializeToString()
        self._file = folder / f"h2load-{kind}"
        self._file.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
        self._url = f"http://{address}/etcdserverpb.KV/{_METHODS[kind]}"
        self._clients = clients
        self._connections = connections

    def words(self, seconds: float) -> list[str]:
        """The command line of one round."""
        return [
            "h2load", "-c", str(self._connections), "-m", str(self._clients // self._connections), "-t", "1",
            "-D", f"{max(1, round(seconds))}", "--warm-up-time", "0", "-d", str(self._file),
            "-H", "content-type: application/grpc", "-H", "te: trailers", self._url,
        ]  # fmt: skip

    def read(self, output: str) -> dict[str, float]:
        """Figures from what h2load prints."""
        seconds, per_s = _found(r"finished in ([\d.]+)s, ([\d.]+) req/s", output)
        succeeded, failed = _found(r"(\d+) succeeded, (\d+) failed", output)
        if failed or not succeeded:
            raise RuntimeError(f"h2load: {int(failed)} requests failed")
        mean_ms = self._clients / per_s * 1e3 if per_s else 0.0
        return {"n": succeeded, "per_s": succeeded / seconds, "p50_ms": mean_ms, "p99_ms": 0.0}


async def _prepared(address: str, key: bytes) -> None:
    """The key exists, and both messages do what they are to do."""
    client, value = EtcdClient(address), body(0).encode()
    await client.put(key, value)
    _, revision = await client.get(key)
    assert await client.transact(touch_request(key, value)) > revision
    await client.close()


def _found(pattern: str, output: str) -> tuple[Any, ...]:
    match = re.search(pattern, output)
    if match is None:
        raise RuntimeError(f"h2load has said something else:\n{output[-800:]}")
    return tuple(float(part) for part in match.groups())
