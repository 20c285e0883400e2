"""What agents have saved, for people to look at: by artifact and agent, by hour and day, through kills and restarts."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

import homenode
from homenode.cli.main import main
from homenode.cli.metrics import fetch
from homenode.view import Counters
from tests.observe.conftest import WAIT_S, Serve


async def work(url: str, *, create: bool = True) -> Counters:
    async with homenode.connect(url, agent="reader") as hn:
        if create:
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
    assert told["hour"] == told["day"] and told["counted_s"] >= 0
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
    assert told.hour == told.day and 0 <= told.counted_ms < 3_700_000
    assert sum(one.tokens for one in told.hour) == counters.tokens_saved > 0
    assert {(one.key, one.agent, one.strategy) for one in told.hour} == {
        ("plan", "reader", "eager"), ("notes", "reader", "lazy"),
    }  # fmt: skip
    with homenode.connect_sync(served.url, agent="judge") as hn:
        assert hn.savings().hour == told.hour


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def test_a_server_that_is_killed_takes_no_savings_with_it(
    serve: Serve, short_tmp: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    store = request.getfixturevalue("redis_url") if kind == "redis" else f"sqlite:///{short_tmp}/s.sqlite3"
    first = serve(store=store)
    saved = asyncio.run(work(first.url)).tokens_saved
    assert asyncio.run(told(first.url)) == saved > 0
    first.process.process.kill()
    first.process.process.wait()
    second = serve(store=store)
    assert asyncio.run(told(second.url)) == saved, "what was told before the kill"
    saved += asyncio.run(work(second.url, create=False)).tokens_saved
    if kind == "redis":
        third = serve(store=store)  # asks the store, and is told what the second writes by itself
        until = time.monotonic() + WAIT_S
        while asyncio.run(told(third.url)) != saved:
            assert time.monotonic() < until
            time.sleep(0.1)
        second.process.process.kill()
        assert asyncio.run(told(third.url)) == saved, "of all servers exactly once"
    else:
        assert asyncio.run(told(second.url)) == saved


async def told(url: str) -> int:
    """Tokens of the last day, for which both spans are the same here."""
    async with homenode.connect(url, agent="judge") as hn:
        savings = await hn.savings()
        assert savings.hour == savings.day
        return sum(one.tokens for one in savings.day)


def test_no_server_no_savings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["savings", "--url", "homenode://127.0.0.1:1/main", "--timeout", "1"]) == 5
    assert capsys.readouterr().err
