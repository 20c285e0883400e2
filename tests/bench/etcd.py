"""etcd as a peer: its process, and the calls of its v3 API that the benchmarks need, over grpc.aio.

The messages are declared here field by field (numbers are those of etcd's published API), so that no generated code of
another project is needed.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.support.ports import HOST, free_port

_BYTES, _INT, _ENUM, _BOOL, _MESSAGE = 12, 3, 5, 8, 11
_ONE, _MANY = 1, 3

#: message -> [(field, number, type, label, message type)]
_MESSAGES: dict[str, list[tuple[str, int, int, int, str]]] = {
    "KeyValue": [("mod_revision", 3, _INT, _ONE, ""), ("value", 5, _BYTES, _ONE, "")],
    "RangeRequest": [("key", 1, _BYTES, _ONE, "")],
    "RangeResponse": [("kvs", 2, _MESSAGE, _MANY, "KeyValue"), ("count", 4, _INT, _ONE, "")],
    "PutRequest": [("key", 1, _BYTES, _ONE, ""), ("value", 2, _BYTES, _ONE, "")],
    "PutResponse": [],
    "Compare": [
        ("result", 1, _ENUM, _ONE, ""),
        ("target", 2, _ENUM, _ONE, ""),
        ("key", 3, _BYTES, _ONE, ""),
        ("version", 4, _INT, _ONE, ""),
        ("mod_revision", 6, _INT, _ONE, ""),
    ],
    "RequestOp": [
        ("request_put", 2, _MESSAGE, _ONE, "PutRequest"),
        ("request_txn", 4, _MESSAGE, _ONE, "TxnRequest"),
    ],
    "ResponseOp": [("response_txn", 4, _MESSAGE, _ONE, "TxnResponse")],
    "Header": [("revision", 3, _INT, _ONE, "")],
    "TxnRequest": [("compare", 1, _MESSAGE, _MANY, "Compare"), ("success", 2, _MESSAGE, _MANY, "RequestOp")],
    "TxnResponse": [
        ("header", 1, _MESSAGE, _ONE, "Header"),
        ("succeeded", 2, _BOOL, _ONE, ""),
        ("responses", 3, _MESSAGE, _MANY, "ResponseOp"),
    ],
    "WatchCreateRequest": [("key", 1, _BYTES, _ONE, "")],
    "WatchRequest": [("create_request", 1, _MESSAGE, _ONE, "WatchCreateRequest")],
    "Event": [("kv", 2, _MESSAGE, _ONE, "KeyValue")],
    "WatchResponse": [
        ("watch_id", 2, _INT, _ONE, ""),
        ("created", 3, _BOOL, _ONE, ""),
        ("events", 11, _MESSAGE, _MANY, "Event"),
    ],
}
# Of Compare: result and target. A bare `version` or `mod_revision` of a oneof's member that is 0 is left out, as etcd's
# own clients do.
_EQUAL, _GREATER = 0, 1
_VERSION, _MOD = 0, 2

Message = Any


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="etcd_peer.proto", package="peer", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, label, type_name in fields:
            one = message.field.add(name=field, number=number, type=kind, label=label)
            if type_name:
                one.type_name = f".peer.{type_name}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"peer.{name}")) for name in _MESSAGES}


M = _messages()


def get_request(key: bytes) -> Message:
    """A linearizable read."""
    return M["RangeRequest"](key=key)


def swap_request(key: bytes, revision: int, value: bytes) -> Message:
    """Write if the key was last written by `revision`."""
    compare = M["Compare"](result=_EQUAL, target=_MOD, key=key, mod_revision=revision)
    put = M["RequestOp"](request_put=M["PutRequest"](key=key, value=value))
    return M["TxnRequest"](compare=[compare], success=[put])


def touch_request(key: bytes, value: bytes) -> Message:
    """Write if the key exists."""
    compare = M["Compare"](result=_GREATER, target=_VERSION, key=key, version=0)
    put = M["RequestOp"](request_put=M["PutRequest"](key=key, value=value))
    return M["TxnRequest"](compare=[compare], success=[put])


def nested_swaps(swaps: Sequence[tuple[bytes, int, bytes]]) -> Message:
    """One transaction of many independent compare-and-sets: (key, revision, value) each."""
    return M["TxnRequest"](success=[M["RequestOp"](request_txn=swap_request(*swap)) for swap in swaps])


class EtcdClient:
    """One client; with `own` over a connection of its own, else over the one that all others of the process share."""

    def __init__(self, address: str, *, own: bool = False) -> None:
        self._channel = grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", int(own))])
        self._range = self._call("Range", "RangeResponse")
        self._put = self._call("Put", "PutResponse")
        self._txn = self._call("Txn", "TxnResponse")

    def _call(self, method: str, response: str) -> Any:
        return self._channel.unary_unary(
            f"/etcdserverpb.KV/{method}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=M[response].FromString,
        )

    async def put(self, key: bytes, value: bytes) -> None:
        """Write without a condition."""
        await self._put(M["PutRequest"](key=key, value=value))

    async def get(self, key: bytes) -> tuple[bytes, int]:
        """A linearizable read: the value and the revision that wrote it."""
        kv = (await self._range(get_request(key))).kvs[0]
        return kv.value, kv.mod_revision

    async def swap(self, key: bytes, revision: int, value: bytes) -> int:
        """Write if the key was last written by `revision`; returns the new revision, or 0 if it was not."""
        return await self.transact(swap_request(key, revision, value))

    async def transact(self, request: Message) -> int:
        """Send a transaction; returns the new revision, or 0 if its comparison did not hold."""
        done = await self._txn(request)
        return done.header.revision if done.succeeded else 0

    async def nested(self, request: Message) -> int:
        """Send `nested_swaps`; returns the new revision, or 0 if one of them did not hold."""
        done = await self._txn(request)
        return done.header.revision if all(part.response_txn.succeeded for part in done.responses) else 0

    def watch(self) -> grpc.aio.StreamStreamCall:
        """A stream of watches: WatchRequest in, WatchResponse out."""
        return self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=M["WatchResponse"].FromString,
        )()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


class EtcdProcess:
    """A single-node etcd on loopback, with its data on this disk."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("etcd")
        if binary is None:
            raise RuntimeError("etcd is not on PATH: run `make bench`, which installs it, or install etcd-server")
        self.port = free_port()
        peer = f"http://{HOST}:{free_port()}"
        client = f"http://{HOST}:{self.port}"
        self._process = subprocess.Popen(
            [
                binary, "--data-dir", str(folder), "--logger", "zap", "--log-level", "error",
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", f"default={peer}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def address(self) -> str:
        """host:port of the client API."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Until it answers."""
        until = time.monotonic() + timeout_s
        channel = grpc.insecure_channel(self.address)
        try:
            grpc.channel_ready_future(channel).result(timeout=max(0.1, until - time.monotonic()))
        finally:
            channel.close()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
