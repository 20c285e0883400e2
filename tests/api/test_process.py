"""The server as a process: readiness, health, reflection, metrics, drain, refusals, an independent client."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import directory_pb2_grpc as rpc
from tests.api.client import StreamClient, content

SERVICE = "homenode_api.v1.DirectoryService"
WAIT_S = 30


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HOMENODE_")}


def _command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "homenode_directory", "--store", "memory://", "--listen", "127.0.0.1:0", *flags]


class Process:
    """A running server; `log` is what it wrote to standard error, after it ended."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            _command("--metrics", "127.0.0.1:0", *flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        assert self.process.stdout is not None
        words = dict(word.split("=") for word in self.process.stdout.readline().split()[1:])
        self.address, self.metrics = f"127.0.0.1:{words['port']}", f"http://127.0.0.1:{words['metrics_port']}"

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Signal, wait, return the log."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=WAIT_S)
        return log


@contextmanager
def running(*flags: str) -> Iterator[Process]:
    """A server that is killed at the end if it still runs."""
    server = Process(*flags)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_health_reflection_and_metrics() -> None:
    with running() as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICE):
                checked = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=WAIT_S)
                assert checked.status == health_pb2.HealthCheckResponse.SERVING
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
            await reflection.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            names = [one.name for one in (await reflection.read()).list_services_response.service]
            assert SERVICE in names
            await reflection.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE))
            raw = (await reflection.read()).file_descriptor_response.file_descriptor_proto[0]
            assert "DirectoryService" in [s.name for s in descriptor_pb2.FileDescriptorProto.FromString(raw).service]
            reflection.cancel()

            stub = rpc.DirectoryServiceStub(channel)
            opened = await stub.OpenSession(pb.OpenSessionRequest(workspace="secret-workspace"))
            await stub.Commit(
                pb.CommitRequest(
                    session_id=opened.session_id, request_id=1, key="secret-key", any=True, content=content(b"secret")
                )
            )
            held = pb.AcquireRequest(session_id=opened.session_id, request_id=2, key="secret-key", lease_id="L")
            await stub.Acquire(held)
        status, text = await asyncio.to_thread(_get, server.metrics + "/metrics")
        assert status == 200
        assert 'homenode_requests_total{operation="commit",outcome="ok"} 1.0' in text
        assert 'homenode_request_seconds_bucket{le="+Inf",operation="commit"} 1.0' in text
        assert {line.split("_")[0] for line in text.splitlines() if line[0] != "#"} == {"homenode", "process"}
        assert "homenode_leases 1.0" in text and "homenode_commits_total 1.0" in text
        assert 'homenode_store_seconds_count{kind="commit"}' in text
        assert "secret" not in text
        assert await asyncio.to_thread(_get, server.metrics + "/healthz") == (200, "ok\n")
        assert (await asyncio.to_thread(_get, server.metrics + "/etc/passwd"))[0] == 404
        log = await asyncio.to_thread(server.end)
        assert server.process.returncode == 0
        lines = [json.loads(line) for line in log.splitlines()]
        assert [line["message"] for line in lines] == ["serving", "stopping", "stopped"]
        assert "secret" not in log


async def test_sigterm_tells_streams_to_go_and_finishes_what_is_under_way() -> None:
    with running("--drain-ms", "3000") as server:
        channel = grpc.aio.insecure_channel(server.address)
        stub = rpc.DirectoryServiceStub(channel)
        opened = await stub.OpenSession(pb.OpenSessionRequest(workspace="main"))
        stream = StreamClient(stub)
        await stream.attach(opened.session_id)
        server.process.send_signal(signal.SIGTERM)
        draining = await stream.event("draining", 0)
        assert 0 < draining.within_ms <= 3000
        # What is sent before the client goes is still answered.
        await stream.send(
            pb.Operation(session=1, request_id=9, commit=pb.CommitRequest(key="k", any=True, content=content(b"late")))
        )
        assert (await stream.answer(9)).commit.version.n == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.OpenSession(pb.OpenSessionRequest(workspace="main"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await stream.call.done_writing()
        while await stream.read():
            pass
        await channel.close()
        assert await asyncio.to_thread(server.process.wait, WAIT_S) == 0


def test_sigint_ends_it_too() -> None:
    with running("--drain-ms", "100") as server:
        server.end(signal.SIGINT)
        assert server.process.returncode == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--listen", "0.0.0.0:0"), "--insecure-listen"),
        (("--metrics", "0.0.0.0:0"), "--insecure-listen"),
        (("--listen", "nowhere"), "host:port"),
        (("--listen", "127.0.0.1:99999"), "host:port"),
        (("--listen", "203.0.113.7:0", "--insecure-listen"), "cannot listen"),
        (("--store", "mysql://x"), "store"),
        (("--store", "sqlite:///"), "sqlite:///FILE"),
        (("--term-ms", "5"), "--term-ms must be 1000 to 60000, not 5"),
        (("--term-ms", "soon"), "--term-ms must be a whole number"),
        (("--log-level", "loud"), "--log-level must be one of"),
        (("--config", "/no/such/file.toml"), "cannot read /no/such/file.toml"),
        (("--log-archive", "/no/such/folder/archive"), "there is no folder"),
        (("--log-archive", "/etc/passwd"), "log_archive"),
        (("--log-archive", "/proc/archive"), "log_archive"),  # root may write there, and nobody can
        (("--wait-replicas", "1"), "a memory store has no replicas to wait for"),
        (("--tls-cert", "/no/such/cert.pem"), "--tls-key"),
        (("--tls-cert", "/no/such/cert.pem", "--tls-key", "/no/key.pem"), "cannot read"),
    ],
)
def test_what_it_refuses_to_start_with(flags: tuple[str, ...], says: str) -> None:
    command = _command("--metrics", "off", *flags)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, env=_environment(), check=False)
    assert ended.returncode == 2, ended
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("homenode: ") and says in last
    assert "Traceback" not in ended.stderr


def test_slices_that_a_store_does_not_take_are_told(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/one.sqlite3"
    with running("--store", store, "--slices", "4") as server:
        assert "slices is ignored" not in server.end()
    for flags, told in (((), False), (("--slices", "4"), False), (("--slices", "16"), True)):
        with running("--store", store, *flags) as server:
            assert ("slices is ignored" in server.end()) is told


def test_a_second_server_on_the_port_or_file_says_so(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/one.sqlite3"
    with running("--store", store) as server:
        for flags, code, says in (
            (("--listen", server.address), 2, "in use"),
            (("--store", store), 1, "homenode"),
            (("--metrics", server.metrics.removeprefix("http://")), 2, "cannot listen"),
        ):
            command = _command("--metrics", "off", *flags)
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=WAIT_S, env=_environment(), check=False
            )
            assert ended.returncode == code and says in ended.stderr.splitlines()[-1], ended.stderr


def test_another_number_of_slices_than_the_stores_is_said_to_be_ignored(tmp_path: Path) -> None:
    store = ("--store", f"sqlite:///{tmp_path}/one.sqlite3")
    logs = [Process(*store, "--slices", slices).end() for slices in ("4", "4", "8")]
    assert ["another number of slices" in log for log in logs] == [False, False, True]


def test_tls_with_client_certificates(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )
    files = ["--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(cert)]
    with running("--listen", "0.0.0.0:0", *files) as server:
        port = server.address.rpartition(":")[2]
        full = grpc.ssl_channel_credentials(cert.read_bytes(), key.read_bytes(), cert.read_bytes())
        with grpc.secure_channel(f"localhost:{port}", full) as channel:
            opened = rpc.DirectoryServiceStub(channel).OpenSession(pb.OpenSessionRequest(workspace="m"), timeout=WAIT_S)
            assert opened.session_id
        bare = grpc.ssl_channel_credentials(cert.read_bytes())
        with grpc.secure_channel(f"localhost:{port}", bare) as channel, pytest.raises(grpc.RpcError):
            rpc.DirectoryServiceStub(channel).OpenSession(pb.OpenSessionRequest(workspace="m"), timeout=5)


@pytest.mark.node
def test_an_independent_client(repo_root: Path) -> None:
    with running() as server:
        script = Path(__file__).parent / "node_client.js"
        ended = subprocess.run(
            ["node", str(script), str(repo_root / "proto"), server.address],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        found = json.loads(ended.stdout)
    assert found == {
        "created": 1,
        "cacheable": True,
        "bookmark": 42,
        "invalidated": 2,
        "changes": [3],
        "refused": {"code": grpc.StatusCode.ALREADY_EXISTS.value[0], "details": "the artifact exists", "rich": 1},
        "encoding": "CONTENT_ENCODING_SNAPSHOT",
        "listed": ["from/node"],
    }


@pytest.mark.redis
def test_a_server_with_another_term_than_its_peer_does_not_start(redis_url: str) -> None:
    with running("--store", redis_url):
        other = subprocess.run(
            _command("--store", redis_url, "--metrics", "off", "--term-ms", "5000"),
            capture_output=True,
            text=True,
            env=_environment(),
            timeout=WAIT_S,
        )
    assert other.returncode == 2
    assert "has --term-ms 10000, this one --term-ms 5000" in other.stderr.splitlines()[-1]
