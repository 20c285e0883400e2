"""One trace from an agent's commit to the others' invalidations; what goes wrong with traces harms nobody."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from homenode_api.traces import parse
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import directory_pb2_grpc as rpc
from homenode_directory.store.base import Commit
from homenode_directory.store.fields import LogRecord, decode_log, encode_log, traced
from tests.api.client import content
from tests.observe.agent import SECRET
from tests.observe.collector import Collector
from tests.observe.conftest import WAIT_S, Agents, Serve
from tests.support.ports import free_port, wait_until

ALL = ("--trace-ratio", "1")


def test_one_trace_goes_from_a_commit_to_each_sharers_invalidation(
    serve: Serve, agent: Agents, collector: Collector
) -> None:
    sends = {"HOMENODE_OTLP_ENDPOINT": collector.endpoint}
    served = serve("--otlp-endpoint", collector.endpoint, "--trace-ratio", "0")
    application = agent("application", served.url, collector.endpoint)
    readers = [agent("reader", served.url, **sends) for _ in range(2)]
    application.say()
    application.hears()
    for reader in readers:
        reader.say()
        assert reader.hears() == "done"
    for process in (application, *readers):
        process.end()
    text = served.scrape("application/openmetrics-text")
    served.process.end()
    wait_until(lambda: len(collector.named("homenode invalidate")) >= 2, what="the readers' spans")

    (run,) = collector.named("agent run")
    commits = [span for span in collector.named("homenode commit") if span.trace == run.trace]
    assert [span.parent for span in commits] == [run.id, run.id]
    served_commits = {span.parent: span for span in collector.named("directory commit")}
    batches = {span.parent: span for span in collector.named("store commit")}
    assert [served_commits[span.id].service for span in commits] == ["homenode-directory"] * 2
    second = served_commits[commits[1].id]
    assert second.trace == run.trace and batches[second.id].trace == run.trace
    assert second.attributes["homenode.operation"] == "commit" and second.attributes["homenode.outcome"] == "ok"
    assert batches[second.id].attributes["homenode.batch_size"] >= 1
    assert second.attributes["homenode.slice"] == batches[second.id].attributes["homenode.slice"]
    invalidated = collector.named("homenode invalidate")
    assert [(span.trace, span.parent) for span in invalidated] == [(run.trace, second.id)] * 2
    assert {span.service for span in invalidated} == {"homenode-agent"}
    assert f'# {{trace_id="{run.trace}"}}' in text, "an exemplar names the trace"
    told = repr(collector.spans)
    assert "secret" not in told and SECRET not in told


@pytest.mark.redis
def test_a_sharer_on_another_server_is_in_the_trace(
    serve: Serve, agent: Agents, collector: Collector, redis_url: str
) -> None:
    sends = {"HOMENODE_OTLP_ENDPOINT": collector.endpoint}
    first = serve("--otlp-endpoint", collector.endpoint, "--trace-ratio", "0", store=redis_url)
    second = serve(store=redis_url)  # records nothing itself, and passes the context on
    writer = agent("writer", first.url, HOMENODE_TRACE_RATIO="1", **sends)
    reader = agent("reader", second.url, HOMENODE_TRACE_RATIO="0", **sends)
    writer.say()
    writer.hears()
    reader.say()
    assert reader.hears() == "done"
    for process in (reader, writer):
        process.end()
    first.process.end()
    wait_until(lambda: collector.named("homenode invalidate"), what="the reader's span")
    commits = {span.id: span for span in collector.named("directory commit")}
    for invalidated in collector.named("homenode invalidate"):
        assert commits[invalidated.parent].trace == invalidated.trace


def test_calls_carry_the_context_as_metadata_and_garbage_is_none(serve: Serve, collector: Collector) -> None:
    served = serve("--otlp-endpoint", collector.endpoint, "--trace-ratio", "0")
    trace, parent = "1" * 32, "2" * 16
    with grpc.insecure_channel(served.url.removeprefix("homenode://").partition("/")[0]) as channel:
        stub = rpc.DirectoryServiceStub(channel)
        session = stub.OpenSession(pb.OpenSessionRequest(workspace="main"), timeout=WAIT_S).session_id

        def commit(number: int, *metadata: tuple[str, str]) -> None:
            request = pb.CommitRequest(session_id=session, request_id=number, key="secret-key", any=True)
            request.content.CopyFrom(content(SECRET.encode()))
            stub.Commit(request, metadata=metadata, timeout=WAIT_S)

        commit(1, ("traceparent", f"00-{trace}-{parent}-01"))
        commit(2, ("traceparent", f"00-{trace}-{parent}-00"))  # its caller records nothing
        commit(3, ("traceparent", "garbage"), ("traceparent", "x" * 4_000))
        commit(4)

        attach = pb.Operation(session=1, request_id=9, attach=pb.Attach(session_id=session))
        operations = [
            pb.Operation(session=1, request_id=10 + n, stat=pb.StatRequest(key="secret-key"), traceparent=garbage)
            for n, garbage in enumerate(("garbage", "x" * 100_000, "\x00", f"00-{trace}-{parent}-01"))
        ]
        frames = stub.Session(iter([pb.SessionRequest(operations=[attach, *operations])]), timeout=WAIT_S)
        answers = [item.answer for frame in frames for item in frame.items if item.HasField("answer")]
        assert [answer.WhichOneof("what") for answer in answers] == ["attach", *["stat"] * 4]
    served.process.end()
    assert {span.trace for span in collector.spans} == {trace}
    (committed,) = collector.named("directory commit")
    (looked,) = collector.named("directory stat")
    assert (committed.parent, looked.parent) == (parent, parent)
    assert "secret" not in repr(collector.spans)


def test_a_log_entry_has_a_context_only_where_it_is_recorded() -> None:
    record = LogRecord("default/main/k", 3, (), 7, 5)
    plain, context = encode_log(record), f"00-{'1' * 32}-{'2' * 16}-01"
    assert plain == b'["default/main/k",3,[],7,5]' and decode_log(plain) == record
    commit = Commit(log=(plain,))
    traced(commit, context)
    (data,) = commit.log
    assert decode_log(data) == replace(record, trace=context) == commit.said[0]


def test_hits_are_not_traced_and_what_the_caller_leaves_out_is_a_matter_of_the_ratio(
    serve: Serve, agent: Agents, collector: Collector
) -> None:
    served = serve("--otlp-endpoint", collector.endpoint, *ALL, "--trace-keys")
    writer = agent("writer", served.url)  # traces nothing itself
    writer.end()
    served.process.end()
    assert {span.service for span in collector.spans} == {"homenode-directory"}
    commits = collector.named("directory commit")
    assert [(span.parent, span.attributes["homenode.key"]) for span in commits] == [("", "secret-key")] * 2
    assert len({span.trace for span in commits}) == 2


@pytest.mark.parametrize("way", ["gone", "silent"])
def test_a_dead_collector_neither_slows_nor_stops_a_server(serve: Serve, agent: Agents, way: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as hole:  # takes connections and never answers
        port = free_port() if way == "gone" else hole.getsockname()[1]
        served = serve("--otlp-endpoint", f"http://127.0.0.1:{port}", *ALL)
        writer = agent("writer", served.url, HOMENODE_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
        writer.say()
        assert writer.hears()
        writer.end()
        assert served.value("homenode_commits_total") == 2
        log = served.process.end()
    assert "Traceback" not in log and log.count("opentelemetry") <= 3


def test_without_the_extra_a_server_says_so_in_one_line_and_serves(
    serve: Serve, agent: Agents, tmp_path: object
) -> None:
    hidden = f"{tmp_path}/opentelemetry.py"
    with open(hidden, "w") as module:
        module.write("raise ImportError('not installed')\n")
    endpoint = "http://127.0.0.1:4317"
    served = serve("--otlp-endpoint", endpoint, PYTHONPATH=str(tmp_path))
    writer = agent("writer", served.url, PYTHONPATH=str(tmp_path), HOMENODE_OTLP_ENDPOINT=endpoint)
    assert writer.end().count("homenode[otel]") == 1
    assert served.process.end().count("homenode[otel]") == 1


@pytest.mark.parametrize(
    "text",
    [
        "", "garbage", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "00-" + "1" * 32 + "-" + "0" * 16 + "-01",
        "00-" + "1" * 32 + "-" + "1" * 16 + "-01\n", "00-" + "G" * 32 + "-" + "1" * 16 + "-01", "1" * 100_000,
        "ff-" + "1" * 32 + "-" + "1" * 16 + "-01", "00-" + "A" * 32 + "-" + "1" * 16 + "-01", "\x00" * 55,
    ],
)  # fmt: skip
def test_what_is_no_trace_context_is_none(text: str) -> None:
    assert parse(text) is None


def test_a_trace_context_is_taken_apart() -> None:
    context = parse("00-" + "0" * 31 + "a" + "-" + "0" * 15 + "b" + "-03")
    assert context == (10, 11, True)
    unsampled = parse("00-" + "1" * 32 + "-" + "1" * 16 + "-00")
    assert unsampled is not None and not unsampled.sampled
