"""Agents in a process of their own: `python -m tests.observe.agent writer|reader|application URL [COLLECTOR]`.

Each says "ready" and does one thing for each line that it reads.
"""

from __future__ import annotations

import asyncio
import os
import sys

import homenode

SECRET = "the secret content"


async def reader(url: str) -> None:
    """Holds a copy; at a line, waits until it is obsolete and reads the new version."""
    async with homenode.connect(url, agent="reader") as hn:
        seen = await hn.read("secret-key")
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        while (await hn.read("secret-key")).version == seen.version:
            await asyncio.sleep(0.01)
        print("done", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def writer(url: str) -> None:
    """At a line, commits."""
    async with homenode.connect(url, agent="writer") as hn:
        await hn.put("secret-key", SECRET)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print((await hn.put("secret-key", SECRET * 2)).version, flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def application(url: str, collector: str) -> None:
    """As writer, but its spans are under the span of an application with OpenTelemetry of its own."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=collector, insecure=True)))
    trace.set_tracer_provider(provider)
    with trace.get_tracer("framework").start_as_current_span("agent run"):
        await writer(url)


if __name__ == "__main__":
    os.environ.setdefault("HOMENODE_TRACE_RATIO", "1")
    asyncio.run({"reader": reader, "writer": writer, "application": application}[sys.argv[1]](*sys.argv[2:]))
