"""Names beside ids, refusals counted, and what must not get in."""

from __future__ import annotations

import logging

import pytest

import homenode
from homenode_directory import config
from homenode_directory.telemetry.metrics import Prometheus


async def test_people_see_names_beside_ids(url: str) -> None:
    async with homenode.connect(url, agent="planner") as a, homenode.connect(url, agent="critic") as b:
        await a.put("plan", "v1")
        async with a.lease("plan"):
            stat = await b.stat("plan")
            assert (stat.holder, stat.holder_name) == (a.session_id, "planner")
            assert [one.holder_name for one in await b.list()] == ["planner"]
            with pytest.raises(homenode.LeaseDenied) as denied:
                await b.put("plan", "v2", base=homenode.ANY)
            assert (denied.value.holder, denied.value.holder_name) == (a.session_id, "planner")
            assert "planner" in str(denied.value)
            with pytest.raises(homenode.LeaseDenied) as many:
                await b.commit_many({"plan": "v2"}, base=homenode.ANY)
            refusal = many.value.refusals["plan"]
            assert isinstance(refusal, homenode.LeaseDenied) and refusal.holder_name == "planner"
            await a.gate(["plan"])
        assert (await b.history("plan"))[0].by_name == "planner"
        async with b.watch("plan") as events:
            await a.put("plan", "v2")
            event = await anext(events)
        assert (event.by, event.by_name) == (a.session_id, "planner")


async def test_an_agent_counts_what_was_refused_to_it(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        first = await a.put("plan", "v1")
        for _ in range(2):
            with pytest.raises(homenode.AlreadyExists):
                await b.put("plan", "v2")
        with pytest.raises(homenode.VersionConflict):
            await b.commit_many({"plan": "v2"}, base={"plan": homenode.Version(1, 1)})
        async with a.lease("plan"):
            with pytest.raises(homenode.LeaseDenied):
                await b.lease("plan")
        await a.put("plan", "v3")
        with pytest.raises(homenode.GateClosed):
            await b.gate([first])
        counted = {"AlreadyExists": 2, "VersionConflict": 1, "LeaseDenied": 1, "GateClosed": 1}
        assert b.stats().refusals == counted
        assert b.agent("another").stats().refusals == a.stats().refusals == {}


async def test_a_victim_learns_why_everywhere(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        await a.put("plan", "v1")
        lease = await a.lease("plan", ttl_ms=1_000)
        assert isinstance(lease, homenode.WriteLease)
        token = lease.record
        await lease.release()
        token.cause = None  # as if the release had not been heard of here
        with pytest.raises(homenode.StaleFence) as stale:
            await lease.commit("late")
        assert stale.value.cause == "released"
        assert stale.value.current is not None
        with pytest.raises(homenode.LeaseLost) as lost:
            await lease.commit("later still")
        assert lost.value.cause == "released"


@pytest.mark.parametrize("key", ["a\u202eb", "\u200fx", "a\u2066b", "x\u061c"])
async def test_names_that_show_as_others_are_refused(url: str, key: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        with pytest.raises(homenode.InvalidArgument):
            await a.put(key, "x")


async def test_lone_surrogates_in_metadata_are_refused(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        for wrong in ({"metadata": {"k": "\ud800"}}, {"metadata": {"\ud800": "v"}}, {"tags": ["\udfff"]}):
            with pytest.raises(homenode.InvalidArgument):
                await a.put("plan", "x", **wrong)  # type: ignore[arg-type]
        with pytest.raises(homenode.InvalidArgument):
            await a.put("plan", "x", media_type="\ud800")


def test_refusals_are_counted_by_reason_and_operation() -> None:
    observer = Prometheus()
    observer.request("commit", "ok", 0.1)
    observer.request("commit", "version_conflict", 0.1)
    observer.request("commit", "version_conflict", 0.1)
    labels = {"reason": "version_conflict", "operation": "commit"}
    assert observer.registry.get_sample_value("homenode_refusals_total", labels) == 2
    assert (
        observer.registry.get_sample_value("homenode_refusals_total", {"reason": "ok", "operation": "commit"}) is None
    )


def test_a_misspelt_variable_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="homenode.config"):
        config.load(environ={"HOMENODE_KEEP_VERSION": "3", "HOMENODE_URL": "x", "HOMENODE_SLICES": "4"})
    assert [record.getMessage() for record in caplog.records] == [
        "there is no setting HOMENODE_KEEP_VERSION; is HOMENODE_KEEP_VERSIONS meant?"
    ]
