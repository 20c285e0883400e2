"""Agents in a process of their own: `python -m tests.observe.agent ROLE URL …`.

Each says "ready" and does one thing for each line that it reads.
"""

from __future__ import annotations

import asyncio
import json
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


async def holder(url: str) -> None:
    """Holds a write lease for a second, and is killed meanwhile."""
    async with homenode.connect(url, agent="holder") as hn, hn.write("secret-key", create=True, ttl_ms=1_000):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def worker(url: str, number: str) -> None:
    """At a line, does all sorts of things, and says how often it did what."""
    async with homenode.connect(url, agent=f"worker {number}") as hn, homenode.connect(url, agent="other") as other:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        done = dict.fromkeys(("commits", "told", "conflicts", "leases"), 0)
        for n in range(10):
            key = f"worker-{number}/{n % 3}"
            artifact = await hn.put(key, f"{n}" * 400)
            done["commits"], done["told"] = done["commits"] + 1, done["told"] + (n >= 3)  # the other one has a copy
            await other.read(key)
            for _ in range(100):
                other.read_cached(key)
            await hn.put(key, f"{n}" * 400 + "!")
            done["commits"], done["told"] = done["commits"] + 1, done["told"] + 1
            await other.read(key, since=artifact.version)
            try:
                await hn.put(key, "late", base=artifact.version)
            except homenode.VersionConflict:
                done["conflicts"] += 1
        async with hn.write(f"worker-{number}/lease", create=True) as draft:
            draft.text = "under a lease"
        done["commits"], done["leases"] = done["commits"] + 1, done["leases"] + 1
        for agent in (hn, other):
            stats = agent.stats()
            for name in ("hits", "misses", "stale", "hit_bytes", "tokens_hit", "tokens_delta", "tokens_unchanged"):
                done[name] = done.get(name, 0) + getattr(stats, name)
    print(json.dumps(done), flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def crowd(url: str, keys: str, agents: str) -> None:
    """At a line, works under so many names."""
    async with homenode.connect(url, agent="crowd") as hn:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for start in range(0, int(keys), 100):
            await asyncio.gather(*(hn.put(f"secret-{n}", str(n), base=homenode.ANY) for n in range(start, start + 100)))
        for n in range(int(agents)):
            await hn.agent(f"secret agent {n}").read(f"secret-{n}")
    for n in range(20):
        async with homenode.connect(url, agent=f"secret agent {n}") as hn:
            await hn.read("secret-1")
    print("done", flush=True)
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
    asyncio.run(
        {
            "reader": reader,
            "writer": writer,
            "application": application,
            "worker": worker,
            "crowd": crowd,
            "holder": holder,
        }[sys.argv[1]](*sys.argv[2:])
    )
