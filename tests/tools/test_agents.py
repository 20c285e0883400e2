"""Snapshots, joint commits and gates as agents use them, over every store."""

from __future__ import annotations

import asyncio
import os

import pytest

import homenode
from homenode import ABSENT, ANY, DELETE
from tests.client.scripted import until


async def test_a_snapshot_is_one_moment_and_stays(url: str) -> None:
    large = os.urandom(40_000).hex()
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.commit_many({"plan": "v1", "large": large, "data": {"n": 1}})
        async with b.snapshot(["plan", "large", "data", "none"]) as snap:
            for n in range(2, 30):
                await a.put("plan", f"v{n}")
            await a.put("large", "small now")
            await a.delete("data")
            assert snap["plan"].text == "v1"
            assert snap["large"].text == large
            assert snap["data"].json == {"n": 1}
            assert snap.missing == ("none",)
            assert "none" not in snap and list(snap) == ["plan", "large", "data"] and len(snap) == 3
            with pytest.raises(homenode.NotFound):
                snap["none"]
            assert snap.versions["plan"].n == 1
            assert snap["plan"].version == snap.versions["plan"]
        assert snap["plan"].text == "v1"
        assert (await b.read("plan")).text == "v29"


async def test_a_snapshot_is_read_late_and_by_others_of_the_workspace(url: str) -> None:
    large = os.urandom(40_000).hex()
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.commit_many({"n/1": "one", "n/2": large, "other": "-"})
        snap = await b.snapshot(prefix="n/", load=False)
        for n in range(12):
            await a.put("n/1", f"later {n}")
        await a.delete("n/2")
        with pytest.raises(homenode.InvalidArgument):
            snap["n/1"]
        assert snap.keys() == ["n/1", "n/2"]
        assert (await snap.read("n/1")).text == "one"
        assert (await snap.read("n/2")).text == large
        fetched = await a._core.fetch("n/2", a._view.counters, version=snap.versions["n/2"], snapshot=snap.id)
        assert fetched.text == large
        await snap.release()
        await snap.release()
        with pytest.raises(homenode.NotFound):
            await a._core.fetch("n/1", a._view.counters, version=snap.versions["n/1"], snapshot=snap.id)
        again = await b.snapshot(["n/1"], load=False)
        with pytest.raises(homenode.InvalidArgument):  # only who took it may release it
            await a._core.ask("release_snapshot", homenode.snapshot.pb.ReleaseSnapshotRequest(snapshot=again.id))
        assert (await again.read("n/1")).text == "later 11"


async def test_an_agent_that_has_seen_newer_does_not_go_back(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        b = a.agent("b")
        await a.put("k", "one")
        async with b.snapshot(["k"]) as snap:
            await a.put("k", "two")
            assert (await b.read("k")).text == "two"
            assert snap["k"].text == "one"
            await b.put("k", "three")  # on what it has seen last, which is two
        c = a.agent("c")
        async with c.snapshot(["k"]) as snap:
            assert snap["k"].text == "three"
        await c.put("k", "four")  # it has seen three in the snapshot


@pytest.mark.parametrize("wrong", [{}, {"keys": ["a"], "prefix": "a"}, {"keys": "abc"}, {"keys": []}])
async def test_a_snapshot_says_what_it_is_of(url: str, wrong: dict[str, object]) -> None:
    async with homenode.connect(url, agent="a") as a:
        with pytest.raises(homenode.InvalidArgument):
            await a.snapshot(**wrong)  # type: ignore[arg-type]
        with pytest.raises(homenode.InvalidArgument):
            await a.snapshot(["k", "k"])
        with pytest.raises(homenode.InvalidArgument):
            await a.snapshot(["k"], ttl_ms=1)
        with pytest.raises(homenode.InvalidArgument):
            await a.snapshot([f"{n}" for n in range(300)])


async def test_a_joint_commit_is_all_or_nothing(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        first = await a.commit_many({"x": "x1", "y": {"y": 1}, "z": b"\x00\xff"})
        assert [artifact.version and artifact.version.n for artifact in first.values()] == [1, 1, 1]
        assert (await b.read("y")).json == {"y": 1}
        assert (await b.read("y")).media_type == "application/json"
        await b.put("x", "b's", base=ANY)
        with pytest.raises(homenode.VersionConflict) as conflict:
            await a.commit_many({"x": "x2", "y": {"y": 2}, "new": "n"})
        assert set(conflict.value.refusals) == {"x"}
        refusal = conflict.value.refusals["x"]
        assert isinstance(refusal, homenode.VersionConflict)
        assert (refusal.current.n if refusal.current else 0, refusal.base) == (2, first["x"].version)
        assert (await a.stat("y")).version.n == 1
        with pytest.raises(homenode.NotFound):
            await a.stat("new")
        assert (await a.read("x")).text == "b's"
        second = await a.commit_many({"x": "x3", "y": DELETE, "new": "n"})
        assert second["x"].version is not None and second["x"].version.n == 3
        assert [stat.key for stat in await b.list()] == ["new", "x", "z"]
        with pytest.raises(homenode.AlreadyExists):
            await b.agent("blind").commit_many({"x": "-", "fresh": "-"})
        await b.agent("loud").commit_many({"x": "loud", "fresh": "-"}, base={"x": ANY, "fresh": ABSENT})
        assert (await a.read("x", max_age_ms=0)).text == "loud"


async def test_a_joint_commit_ends_the_copies_of_others_and_keeps_its_own(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.commit_many({"x": "1", "y": "1"})
        assert (await b.read("x")).text + (await b.read("y")).text == "11"
        assert b.read_cached("x") is not None
        assert (await a.read("x")).text + (await a.read("y")).text == "11"
        await a.commit_many({"x": "2", "y": "2"})
        assert (await a.read("x")).text + (await a.read("y")).text == "22"
        await until(lambda: b.read_cached("x") is None and b.read_cached("y") is None)
        assert (await b.read("x")).text + (await b.read("y")).text == "22"


async def test_a_joint_commit_meets_and_uses_leases(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.commit_many({"x": "1", "y": "1"})
        async with b.lease("x") as lease:
            with pytest.raises(homenode.LeaseDenied) as denied:
                await a.commit_many({"x": "2", "y": "2"})
            refusal = denied.value.refusals["x"]
            assert isinstance(refusal, homenode.LeaseDenied) and refusal.holder == b.session_id
            await b.read("y")
            fence = lease.fence
            await b.commit_many({"x": "3", "y": "3"}, leases=[lease])  # type: ignore[list-item]
            assert lease.state == "M" and lease.fence > fence
            assert isinstance(lease, homenode.WriteLease)
            await lease.commit("4")
            with pytest.raises(homenode.InvalidArgument):
                await b.commit_many({"y": "4"}, leases=[lease])
        with pytest.raises((homenode.StaleFence, homenode.LeaseLost)) as lost:
            await b.commit_many({"x": "5"}, leases=[lease])
        assert lost.value.cause == "released"
        assert (await a.read("x", max_age_ms=0)).text == "4"


async def test_large_and_many_contents_in_a_joint_commit(url: str) -> None:
    texts = {f"k{n}": os.urandom(20_000).hex() for n in range(8)}
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.commit_many(texts)
        before = a.stats().sent_bytes
        await a.commit_many({key: text[:-1] + "!" for key, text in texts.items()})
        assert a.stats().sent_bytes - before < 8 * 1_024, "patches go where there is a base"
        assert (await b.read("k7")).text.endswith("!")
        with pytest.raises(homenode.InvalidArgument):
            await a.commit_many({f"n{n}": "" for n in range(65)})
        with pytest.raises(homenode.InvalidArgument):
            await a.commit_many({})


async def test_the_gate_says_what_does_not_hold(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        done = await a.commit_many({"x": "1", "y": "1", "z": "1"})
        missing = await a.read("none", default="")
        gate = await a.gate([done["x"], "y", ("z", done["z"].version), missing])
        assert gate.as_of.sequence >= 3 and not gate.writers
        await b.put("x", "2", base=ANY)
        await b.delete("y", base=ANY)
        await b.put("none", "now", base=ABSENT)
        with pytest.raises(homenode.GateClosed) as closed:
            await a.gate([done["x"], ("y", done["y"].version), "z", missing])
        reasons = closed.value.reasons
        assert {key: reason.kind for key, reason in reasons.items()} == {"x": "moved", "y": "deleted", "none": "moved"}
        assert reasons["x"].read == done["x"].version
        assert reasons["x"].current is not None and reasons["x"].current.n == 2
        assert reasons["none"].read is None and reasons["none"].current is not None
        assert "'x' moved from" in str(closed.value)
        with pytest.raises(homenode.InvalidArgument):
            await a.gate(["never read"])
        with pytest.raises(homenode.InvalidArgument):
            await a.gate([])


async def test_the_gate_asks_about_leases(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.commit_many({"x": "1", "y": "1"})
        async with b.lease("x") as lease:
            gate = await a.gate(["x", "y"])
            assert set(gate.writers) == {"x"}, "somebody is about to write it"
            assert isinstance(lease, homenode.WriteLease)
            mine = await b.gate([lease])
            assert dict(mine.tokens) == {"x": lease.token} and not mine.writers
            await lease.commit("2")
            assert (await b.gate([lease])).tokens["x"] == lease.token
        with pytest.raises(homenode.GateClosed) as closed:
            await b.gate([lease])
        assert (closed.value.reasons["x"].kind, closed.value.reasons["x"].cause) == ("lease_lost", "released")
        async with b.write("y") as draft:
            await b.gate([draft])
            assert (await a.gate(["y"])).writers


async def test_the_gate_asks_though_a_copy_is_at_hand(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("x", "1")
        read = await b.read("x")
        versions = []
        for n in range(20):
            await a.put("x", f"{n}")
            with pytest.raises(homenode.GateClosed):
                await b.gate([read])
            read = await b.read("x", max_age_ms=0)
            versions.append((await b.gate([read])).as_of)
        assert versions == sorted(versions)


def test_blocking_calls_do_the_same(short_tmp: object) -> None:
    with homenode.connect_sync(f"embedded://{short_tmp}/sync.sqlite3", agent="a") as a:
        a.commit_many({"x": "1", "y": "1"})
        with a.snapshot(["x", "none"]) as snap:
            a.put("x", "2")
            assert (snap["x"].text, snap.missing, list(snap), "x" in snap, len(snap)) == (
                "1",
                ("none",),
                ["x"],
                True,
                1,
            )
            assert snap.read("x").text == "1"
        with a.lease("x") as lease:
            a.commit_many({"x": "3"}, leases=[lease])
            assert a.gate([lease, "y"]).tokens["x"] == lease.token
        with pytest.raises(homenode.GateClosed):
            a.gate([("x", None)])


async def test_snapshots_and_joint_commits_go_on_through_lost_streams(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        await a.commit_many({"x": "0", "y": "0"})

        async def disturb() -> None:
            for _ in range(5):
                await asyncio.sleep(0.03)
                a._core.session.link.restart()

        task = asyncio.ensure_future(disturb())
        for n in range(1, 25):
            done = await a.commit_many({"x": f"{n}", "y": f"{n}"})
            assert done["x"].version is not None and done["x"].version.n == n + 1, (
                "one effect, however often it is sent"
            )
            async with a.snapshot(["x", "y"]) as snap:
                assert (snap["x"].text, snap["y"].text) == (f"{n}", f"{n}")
        await task
