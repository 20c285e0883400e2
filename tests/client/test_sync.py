"""The blocking calls: from threads, and beside a running event loop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import homenode


@pytest.fixture
def url(short_tmp: Path) -> str:
    return f"embedded://{short_tmp}/sync.sqlite3"


def test_the_same_calls_block(url: str) -> None:
    with homenode.connect_sync(url, agent="planner") as hn:
        assert hn.read("plan.md", default="# Plan").text == "# Plan"
        with hn.write("plan.md", create=True) as draft:
            draft.text += "- ship it"
        plan = hn.read("plan.md")
        assert hn.read_cached("plan.md") is plan
        critic = hn.agent("critic")
        assert critic.read_cached("plan.md") is plan
        with pytest.raises(homenode.VersionConflict):
            critic.put("plan.md", "x", base=homenode.ABSENT)
        assert critic.edit("plan.md", str.upper).text == "- SHIP IT"
        change = hn.read("plan.md", since=plan.version).change
        assert change is not None
        assert change.kind in ("change", "full")
        assert [stat.key for stat in hn.list()] == ["plan.md"]
        assert len(hn.history("plan.md")) == 2
        assert hn.stat("plan.md").version == hn.read("plan.md").version
        with hn.lease("plan.md") as lease:
            assert lease.state == "M"
            lease.commit("three")
        with hn.step():
            pass
        with hn.watch() as events:
            hn.delete("plan.md", base=homenode.ANY)
            assert next(events).kind == "delete"
        assert hn.stats().hits > 0


def test_an_error_in_the_block_releases_and_passes_on(url: str) -> None:
    with homenode.connect_sync(url, agent="a") as hn:
        hn.put("k", "one")
        with pytest.raises(ZeroDivisionError):
            with hn.write("k") as draft:
                draft.text = str(1 / 0)
        assert hn.stat("k").holder == ""


def test_threads_share_a_connection(url: str) -> None:
    with homenode.connect_sync(url, agent="a") as hn:

        def work(i: int) -> None:
            agent = hn.agent(f"t{i}")
            for _ in range(5):
                agent.edit("n", lambda n: n + 1, kind="json", default=0, timeout_ms=60_000)
                agent.read("n")
                agent.read_cached("n")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert hn.read("n", max_age_ms=0).json == 40


async def test_blocking_calls_work_beside_a_running_loop_as_in_a_notebook(url: str) -> None:
    with homenode.connect_sync(url, agent="a") as hn:
        hn.put("k", "one")
        assert hn.read("k").text == "one"


def test_closed_is_closed(url: str) -> None:
    hn = homenode.connect_sync(url, agent="a")
    hn.put("k", "one")
    hn.close()
    hn.close()
    assert hn.read_cached("k") is None
    with pytest.raises(homenode.Unavailable):
        hn.read("k")
    with homenode.connect_sync(url, agent="b") as again:
        assert again.read("k").text == "one"
