"""What agents have saved, for people to look at: by artifact and agent, by hour and day, bounded."""

from __future__ import annotations

import asyncio
import json

import pytest

import homenode
from homenode.cli.main import main
from homenode.cli.metrics import fetch
from homenode.view import Counters
from homenode_directory.api.savings import ENTRIES_MAX, LINES_MAX, PLACES_MAX, QUARTER_MS, Ledger
from homenode_directory.observer import Saved
from homenode_directory.place import Place
from tests.observe.conftest import Serve

MAIN, OTHER = Place("default", "main"), Place("default", "other")
HOUR_MS = 4 * QUARTER_MS


class Clock:
    """Of a ledger, moved by hand."""

    def __init__(self) -> None:
        self.now_ms = 10_000.0

    def __call__(self) -> float:
        return self.now_ms


def saved(key: str, tokens: int, *, agent: str = "a", strategy: str = "lazy") -> Saved:
    return Saved(agent, key, strategy, (tokens, 0, 0, 4 * tokens))


def test_an_hour_and_a_day_are_told_and_then_forgotten() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ledger.note(MAIN, [saved("plan", 3), saved("plan", 4), saved("notes", 50)])
    ledger.note(OTHER, [saved("plan", 1_000)])
    clock.now_ms += HOUR_MS
    ledger.note(MAIN, [saved("plan", 5)])
    told = ledger.told(MAIN)
    assert [(one.key, one.tokens_hit, one.bytes_hit) for one in told.hour] == [("plan", 5, 20)]
    assert [(one.key, one.tokens_hit) for one in told.day] == [("notes", 50), ("plan", 12)]
    assert told.counted_ms == HOUR_MS
    clock.now_ms += 24 * HOUR_MS
    ledger.note(MAIN, [])
    assert not ledger.told(MAIN).day and len(ledger._quarters) == 1


def test_whoever_names_everything_fills_no_more_than_there_is_room_for() -> None:
    ledger = Ledger(Clock())
    for place in range(2 * PLACES_MAX):
        for n in range(10):
            ledger.note(Place("default", str(place)), [saved(f"k{n}", 1)])
    assert sum(map(len, ledger._quarters.values())) <= ENTRIES_MAX + PLACES_MAX
    few = Ledger(Clock())
    few.note(MAIN, [saved(f"k{n}", 1, strategy=("lazy", "eager")[n % 2]) for n in range(3 * ENTRIES_MAX)])
    told = few.told(MAIN).day
    assert len(told) <= LINES_MAX and sum(one.tokens_hit for one in told) == 3 * ENTRIES_MAX


async def work(url: str) -> Counters:
    async with homenode.connect(url, agent="reader") as hn:
        await hn.put("plan", "text " * 400)
        await hn.put("notes", "text " * 40)
        await hn.set_policy("plan", push="sharers")
        for _ in range(20):
            await hn.read("plan")
            await hn.read("notes")
        await hn.read("plan", max_age_ms=0)
        return hn.stats()


def test_a_running_directory_tells_them(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    served = serve(HOMENODE_METRICS_WORKSPACES="main,side")
    counters = asyncio.run(work(served.url))
    assert main(["savings", "--url", served.url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    hour = {one["key"]: one for one in told["hour"]}
    assert told["hour"] == told["day"] and told["servers"] == 1 and not told["silent"]
    assert {(key, one["agent"], one["strategy"]) for key, one in hour.items()} == {
        ("plan", "reader", "eager"), ("notes", "reader", "lazy"),
    }  # fmt: skip
    assert sum(one["tokens"] for one in hour.values()) == counters.tokens_saved > 0
    assert sum(one["bytes_hit"] for one in hour.values()) == counters.hit_bytes
    metrics = fetch(served.metrics)
    where = {"workspace": "main", "strategy": "eager"}
    assert metrics.total("homenode_tokens_saved_total", **where) == hour["plan"]["tokens"]
    assert main(["savings", "--url", served.url, "--by", "agent"]) == 0
    said = capsys.readouterr().out
    assert "reader" in said and "plan" not in said and f"{counters.tokens_saved:,} tokens" in said
    elsewhere = served.url.replace("/main", "/elsewhere")
    assert main(["savings", "--url", elsewhere, "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["day"], "each workspace sees its own"


def test_programs_ask_as_people_do(serve: Serve) -> None:
    served = serve()
    counters = asyncio.run(work(served.url))

    async def ask() -> homenode.Savings:
        async with homenode.connect(served.url, agent="judge") as hn:
            return await hn.savings()

    told = asyncio.run(ask())
    assert told.hour == told.day and told.counted_ms > 0
    assert sum(one.tokens for one in told.hour) == counters.tokens_saved > 0
    assert {(one.key, one.agent, one.strategy) for one in told.hour} == {
        ("plan", "reader", "eager"), ("notes", "reader", "lazy"),
    }  # fmt: skip
    with homenode.connect_sync(served.url, agent="judge") as hn:
        assert hn.savings().hour == told.hour


def test_no_server_no_savings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["savings", "--url", "homenode://127.0.0.1:1/main", "--timeout", "1"]) == 5
    assert capsys.readouterr().err
