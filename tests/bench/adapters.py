"""`python -m tests.bench.adapters`: a hit through each adapter beside the framework's own store in memory.

Wall time of one call, median over rounds that take turns, in microseconds. AutoGen and CrewAI are measured where
`make test-adapters` made their environments.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import homenode

ROOT = Path(__file__).resolve().parents[2]
TEXT = "a paragraph that every agent needs and nobody changes. " * 10
ITEMS = 10

Call = Callable[[], Any]


def main() -> None:
    """Measure what is installed here, then what has an environment of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.adapters", description=__doc__)
    parser.add_argument("--calls", type=int, default=500, help="in each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--here", action="store_true", help="in this environment alone")
    args = parser.parse_args()
    if not args.here:
        print(f"{'a hit, us':60} {'ours':>8} {'beside':>8} {'ratio':>7}", flush=True)
    for module, measure in MEASURED.items():
        if importlib.util.find_spec(module) is not None:
            measure(args.calls, args.rounds)
    if not args.here:
        again = ["-m", "tests.bench.adapters", "--here", "--calls", str(args.calls), "--rounds", str(args.rounds)]
        for python in sorted(ROOT.glob(".adapters/*/bin/python")):
            subprocess.run([python, *again], cwd=ROOT, check=True)


def show(name: str, ours: list[float], theirs: list[float]) -> None:
    """One row."""
    us, beside = statistics.median(ours) * 1e6, statistics.median(theirs) * 1e6
    print(f"{name:60} {us:8.1f} {beside:8.1f} {us / beside:7.2g}", flush=True)


def called(call: Call, calls: int) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls


async def awaited(call: Callable[[], Awaitable[Any]], calls: int) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    for _ in range(calls):
        await call()
    return (time.perf_counter() - started) / calls


def langgraph(calls: int, rounds: int) -> None:
    """The value of an item."""
    from langgraph.store.memory import InMemoryStore

    from homenode.adapters.langgraph import HomenodeStore

    theirs = InMemoryStore()
    with HomenodeStore("embedded://") as ours:
        for store in (ours, theirs):
            store.put(("team",), "plan", {"text": TEXT})
            assert store.get(("team",), "plan").value == {"text": TEXT}  # type: ignore[union-attr]
        taken = [
            (called(lambda: ours.get(("team",), "plan"), calls), called(lambda: theirs.get(("team",), "plan"), calls))
            for _ in range(rounds)
        ]
    show("HomenodeStore.get / InMemoryStore.get", *map(list, zip(*taken, strict=True)))


def openai_agents(calls: int, rounds: int) -> None:
    """All items of a conversation."""
    from agents import SQLiteSession

    from homenode.adapters.openai_agents import HomenodeSession

    async def measure() -> list[tuple[float, float]]:
        async with homenode.connect("embedded://") as hn:
            ours, theirs = HomenodeSession("chat", hn), SQLiteSession("chat", ":memory:")
            for session in (ours, theirs):
                await session.add_items([{"role": "user", "content": TEXT} for _ in range(ITEMS)])
            assert await ours.get_items() == await theirs.get_items()
            taken = [
                (await awaited(ours.get_items, calls), await awaited(theirs.get_items, calls)) for _ in range(rounds)
            ]
            theirs.close()
            return taken

    taken = asyncio.run(measure())
    name = f"HomenodeSession.get_items / SQLiteSession(:memory:), {ITEMS} items"
    show(name, *map(list, zip(*taken, strict=True)))


def autogen(calls: int, rounds: int) -> None:
    """All contents of a memory."""
    from autogen_core.memory import ListMemory, MemoryContent

    from homenode.adapters.autogen import HomenodeMemory

    async def measure() -> list[tuple[float, float]]:
        ours, theirs = HomenodeMemory("embedded://"), ListMemory()
        for memory in (ours, theirs):
            for _ in range(ITEMS):
                await memory.add(MemoryContent(content=TEXT, mime_type="text/plain"))
        assert (await ours.query("")).results == (await theirs.query("")).results
        taken = [
            (await awaited(lambda: ours.query(""), calls), await awaited(lambda: theirs.query(""), calls))
            for _ in range(rounds)
        ]
        await ours.close()
        return taken

    taken = asyncio.run(measure())
    show(f"HomenodeMemory.query / ListMemory.query, {ITEMS} contents", *map(list, zip(*taken, strict=True)))


def crewai(calls: int, rounds: int) -> None:
    """One record. CrewAI has no storage in memory: its own is LanceDB in a folder."""
    from crewai.memory.storage.lancedb_storage import LanceDBStorage
    from crewai.memory.types import MemoryRecord

    from homenode.adapters.crewai import HomenodeStorage

    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = HomenodeStorage("embedded://"), LanceDBStorage(folder)
        for storage in (ours, theirs):
            storage.save([MemoryRecord(id="plan", content=TEXT, embedding=[1.0, 0.0])])
            assert storage.get_record("plan").content == TEXT  # type: ignore[union-attr]
        few = max(1, calls // 10)
        taken = [
            (called(lambda: ours.get_record("plan"), calls), called(lambda: theirs.get_record("plan"), few))
            for _ in range(rounds)
        ]
        ours.close()
    show("HomenodeStorage.get_record / LanceDBStorage.get_record", *map(list, zip(*taken, strict=True)))


MEASURED: dict[str, Callable[[int, int], None]] = {
    "langgraph": langgraph,
    "agents": openai_agents,
    "autogen_core": autogen,
    "crewai": crewai,
}

if __name__ == "__main__":
    main()
