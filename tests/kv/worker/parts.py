"""What the tests of the worker start and ask: a model's folder, a worker process, and its calls."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import homenode
from homenode.transport import parse
from homenode_api.v1 import directory_pb2
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_api.v1 import kv_tier_pb2_grpc as rpc
from homenode_api.v1 import types_pb2 as t
from homenode_api.v1.directory_pb2_grpc import DirectoryServiceStub
from tests.kv.models import model

START_S = 120.0
END = "<end>"
HOMENODE = Path(sys.executable).with_name("homenode")


def save_model(folder: Path, **changes: Any) -> Path:
    """A small random model with a tokenizer of bytes, as transformers keeps them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    end = wrapped.eos_token_id
    made = model("llama", vocab_size=300, eos_token_id=end, pad_token_id=end, bos_token_id=None, **changes)
    made.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


class WorkerProcess:
    """`homenode kv serve` as a process of its own."""

    def __init__(self, model: Path, directory: str, folder: Path, *flags: str) -> None:
        self._command = [
            str(HOMENODE), "kv", "serve", "--model", str(model), "--directory", directory,
            "--threads", "1", "--metrics", "127.0.0.1:0", "--json", *flags,
        ]  # fmt: skip
        self._directory = directory
        self._log = folder / "worker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.told: dict[str, Any] = {}

    async def start(self) -> WorkerProcess:
        """Returns when it serves."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, env=environment)
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            line = await asyncio.to_thread(self._process.stdout.readline)
        assert line, f"the worker ended: {self.log}"
        self.told = json.loads(line)
        _DIRECTORIES[self.address] = self._directory
        return self

    @property
    def address(self) -> str:
        return str(self.told["address"])

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """At once, as `kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def stop(self) -> int:
        """By SIGTERM; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, 30)


@dataclass
class Text:
    """What a call of Generate brought."""

    text: str
    tokens: list[int]
    report: pb.GenerateReport
    pieces: int


_DIRECTORIES: dict[str, str] = {}
"""The directory of each worker that was started, by the worker's address."""

_Continue = Callable[[grpc.aio.ClientCallDetails, Any], Any]


class _Session:
    """Names a session of the worker's directory in every request that names none."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._session = ""

    async def named(self, request: Any) -> Any:
        if not getattr(request, "session_id", "?"):
            if not self._session:
                target = parse(_DIRECTORIES[self._address])
                async with grpc.aio.insecure_channel(target.hosts[0]) as channel:
                    opening = directory_pb2.OpenSessionRequest(workspace=target.workspace, ttl_ms=300_000)
                    opened = await DirectoryServiceStub(channel).OpenSession(opening, timeout=10)
                self._session = opened.session_id
            request.session_id = self._session
        return request


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    def __init__(self, session: _Session) -> None:
        self._session = session

    async def intercept_unary_unary(self, go_on: _Continue, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        return await go_on(details, await self._session.named(request))


class _Stream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    def __init__(self, session: _Session) -> None:
        self._session = session

    async def intercept_unary_stream(self, go_on: _Continue, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        return await go_on(details, await self._session.named(request))


class Caller:
    """Calls of one worker; `named`: with a session, where they name none."""

    def __init__(self, address: str, *, named: bool = True) -> None:
        session = _Session(address)
        interceptors = [_Unary(session), _Stream(session)] if named else None
        self._channel = grpc.aio.insecure_channel(address, interceptors=interceptors)
        self.stub = rpc.KvTierServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    def pieces(self, *parts: pb.PromptPart, **fields: Any) -> AsyncIterator[pb.GenerateResponse]:
        return self.stub.Generate(pb.GenerateRequest(parts=parts, **{"tokens_max": 12, **fields}), timeout=60)

    async def generate(self, *parts: pb.PromptPart, **fields: Any) -> Text:
        text, tokens, count, report = "", [], 0, None
        async for response in self.pieces(*parts, **fields):
            if response.HasField("piece"):
                text += response.piece.text
                tokens += response.piece.tokens
                count += 1
            if response.HasField("report"):
                report = response.report
        assert report is not None
        return Text(text, tokens, report, count)

    async def stat(self) -> pb.KvTierServiceStatResponse:
        return await self.stub.Stat(pb.KvTierServiceStatRequest(), timeout=10)


def text(value: str) -> pb.PromptPart:
    return pb.PromptPart(text=value)


def artifact(found: homenode.Artifact, *, with_text: bool = True) -> pb.PromptPart:
    """A part for the artifact as it was read."""
    assert found.version is not None
    part = pb.ArtifactPart(key=found.key, version=t.Version(incarnation=found.version[0], n=found.version[1]))
    if with_text:
        part.text = found.text
    return pb.PromptPart(artifact=part)


def refusal(failure: grpc.aio.AioRpcError) -> t.Error:
    """Our Error in a failed call."""
    from google.rpc import status_pb2

    for key, value in failure.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Is(t.Error.DESCRIPTOR):
                    error = t.Error()
                    detail.Unpack(error)
                    return error
    raise AssertionError(f"no reason in {failure}")
