"""What agents do, over an embedded directory and over a real server process."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

import homenode
from homenode import ABSENT, ANY, edits
from tests.client.conftest import ServerFactory
from tests.client.scripted import until


async def test_read_write_put_and_what_changed_since(url: str) -> None:
    async with homenode.connect(url, agent="planner") as hn:
        plan = await hn.read("plan.md", default="# Plan")
        assert (plan.text, plan.version, plan.exists) == ("# Plan", None, False)
        async with hn.write("plan.md", create=True) as draft:
            assert draft.text == ""
            draft.text = plan.text + "\n"
            draft.text += "- ship it\n"
        first = await hn.read("plan.md")
        assert first.text == "# Plan\n- ship it\n"
        assert first.level == "lazy"
        assert first.age_ms < 3_000
        unchanged = await hn.read("plan.md", since=first.version)
        assert unchanged.change is not None
        assert (unchanged.change.kind, unchanged.change.tokens) == ("unchanged", 0)
        long = first.text + "".join(f"- step {i}\n" for i in range(200))
        second = await hn.put("plan.md", long)
        await hn.put("plan.md", long.replace("- step 100\n", "- step one hundred\n"))
        changed = await hn.read("plan.md", since=second.version)
        assert changed.change is not None
        assert changed.change.kind == "change"
        assert changed.change.tokens < changed.change.full_tokens / 4
        assert homenode.apply_change(long, changed.change) == changed.text
        assert (await hn.read("plan.md", version=first.version)).text == first.text


async def test_an_access_shows_what_the_agents_context_lacks(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:

        async def shown(mode: str) -> tuple[str, str, int]:
            change = (await b.read("long.md", access=mode)).change
            assert change is not None
            return change.kind, change.text, change.tokens

        lines = [f"- step {i}\n" for i in range(200)]
        text = "".join(lines)
        whole = (len(text) + 3) // 4
        await a.put("long.md", text)
        assert await shown("conditional") == ("full", text, whole)
        assert await shown("conditional") == ("unchanged", "", 0)
        kind, pointer, tokens = await shown("pointer")
        assert (kind, tokens) == ("pointer", 8) and pointer.startswith("long.md@")
        assert await shown("always_read") == ("full", text, whole)
        before = b.stats()
        lines[100] = "- step one hundred\n"
        await a.put("long.md", "".join(lines))
        await until(lambda: b.read_cached("long.md") is None)
        for mode in ("pointer", "always_read"):
            kind, change, tokens = await shown(mode)
            assert (kind == "full") == (mode == "always_read")
            assert "- step one hundred" in change and (tokens < whole / 4) == (kind == "change")
        after = b.stats()
        assert after.tokens_shown - before.tokens_shown < whole * 1.25
        assert after.tokens_delta > before.tokens_delta
        for wrong in ({"access": "sometimes"}, {"access": "pointer", "since": (await a.read("long.md")).version}):
            with pytest.raises(homenode.InvalidArgument):
                await b.read("long.md", **wrong)


async def test_what_becomes_text_is_shown_and_what_is_none_is_counted(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        for old, new, text in (
            (b"\xff", "now a text", "now a text"),
            ("a text", b"\xff" * 40, ""),
            (b"\xff", b"\xfe", ""),
        ):
            before = await a.put("k", old, base=ANY)
            size = len((await a.put("k", new)).bytes)
            change = (await a.read("k", since=before.version)).change
            assert change == homenode.Change("full", text, (size + 3) // 4, (size + 3) // 4)


async def test_a_text_at_hand_is_shown_whole_where_the_earlier_one_cannot_be_had(server_factory: ServerFactory) -> None:
    server = await server_factory(max_age_ms=60_000).start()
    async with homenode.connect(server.url, agent="a") as a, homenode.connect(server.url, agent="b") as b:
        before = await a.put("k", "one\n" * 100)
        await a.put("k", "one\n" * 100 + "two\n")
        await b.read("k")
        server.pause()
        change = (await b.read("k", since=before.version, timeout_ms=300)).change
        assert change is not None and change.kind == "full" and change.text.endswith("two\n")
        server.go_on()


async def test_others_go_on_while_a_large_change_is_described(short_tmp: Any) -> None:
    async with homenode.connect(f"embedded://{short_tmp}/large.sqlite3", agent="a") as a:
        text = "".join(f"line {number} of text\n" for number in range(300_000))
        before = await a.put("large", text)
        await a.put("large", f"put in{text}the end")
        await a.read("large")
        turns = 0

        async def go_on() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        going_on = asyncio.ensure_future(go_on())
        change = (await a.read("large", since=before.version)).change
        going_on.cancel()
        assert change is not None and change.tokens < 100 and turns > 3


async def test_a_commit_ends_the_copies_of_others_and_they_fetch_a_patch(url: str) -> None:
    text = os.urandom(16_000).hex()
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("big.txt", text)
        assert (await b.read("big.txt")).text == text
        assert b.read_cached("big.txt") is not None
        before = b.stats()
        await a.put("big.txt", text[:9_000] + "!" + text[9_000:])
        await until(lambda: b.read_cached("big.txt") is None)
        assert (await b.read("big.txt")).text[9_000] == "!"
        after = b.stats()
        assert 0 < after.patch_bytes - before.patch_bytes < 1_024
        assert after.fetched_bytes - before.fetched_bytes == after.patch_bytes - before.patch_bytes
        assert a.stats().sent_bytes < len(text)


async def test_a_commit_knows_when_it_was_committed(url: str) -> None:
    async with homenode.connect(url, agent="writer") as hn:
        made = [await hn.put("put", "1", base=ABSENT), await hn.edit("edit", lambda text: text + "1", default="")]
        async with hn.write("draft", create=True) as draft:
            draft.text = "1"
        made.append(await hn.read("draft"))
        made += (await hn.commit_many({"a": "1", "b": "1"}, base={"a": ABSENT, "b": ABSENT})).values()
        large = await hn.upload("large", b"1" * 2_000_000, base=ABSENT)
        assert large.committed_at_ms == (await hn.stat("large")).committed_at_ms > 0
        for artifact in made:
            assert artifact.committed_at_ms == (await hn.stat(artifact.key)).committed_at_ms > 0, artifact.key
        again = await hn.put("put", "2")
        assert again.committed_at_ms >= made[0].committed_at_ms
        assert (await hn.read("put")).committed_at_ms == again.committed_at_ms, "also from its own copy"


async def test_put_compares_with_what_the_agent_saw(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        b, c = a.agent("b"), a.agent("c")
        v1 = await a.put("k", "one")
        with pytest.raises(homenode.AlreadyExists) as exists:
            await b.put("k", "blind")
        assert exists.value.current == v1.version
        assert (await b.read("k")).text == "one"
        v2 = await b.put("k", "two")
        with pytest.raises(homenode.VersionConflict) as conflict:
            await a.put("k", "stale")
        assert (conflict.value.current, conflict.value.base) == (v2.version, v1.version)
        assert (await a.read("k")).text == "two"
        await a.put("k", "three", base=v2.version)
        await c.put("k", "loud", base=ANY)
        with pytest.raises(homenode.AlreadyExists):
            await c.put("k", "x", base=ABSENT)
        with pytest.raises(homenode.InvalidArgument):
            await c.put("k", "x", base="1.2")  # type: ignore[arg-type]


async def test_no_two_leases_have_one_id(url: str) -> None:
    """Or a writer that woke up late would be told how somebody else's lease ended."""
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        assert len({hn._core.session.new_lease_id() for hn in (a, b) for _ in range(3)}) == 6


async def test_a_draft_rests_on_the_version_under_its_lease(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        old = await a.put("k", "one")
        await b.put("k", "two", base=ANY)
        with pytest.raises(homenode.VersionConflict):
            async with a.write("k") as draft:
                draft.text = old.text + " and more"
        async with a.write("k") as draft:
            draft.text += " and more"
        assert draft.committed is not None
        assert (await b.read("k", max_age_ms=0)).text == "two and more"
        async with a.write("k") as draft:  # what this agent saw last is what is under the lease
            draft.text = "rewritten"
        with pytest.raises(homenode.AlreadyExists):
            async with b.agent("fresh").write("k") as draft:
                draft.text = "never looked"
        with pytest.raises(homenode.NotFound):
            async with a.write("none"):
                pass


async def test_a_draft_that_is_left_alone_or_fails_commits_nothing(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        first = await a.put("k", {"n": 1}, metadata={"by": "a"}, tags=["x"])
        async with a.write("k") as draft:
            assert draft.json == {"n": 1}
        with pytest.raises(RuntimeError):
            async with a.write("k") as draft:
                draft.json["n"] = 2
                raise RuntimeError("thrown away")
        assert (await a.stat("k")).version == first.version
        assert (await a.stat("k")).holder == ""
        async with a.write("k") as draft:
            draft.json["n"] = 2
            draft.tags.append("y")
        after = await a.read("k")
        assert (after.json, dict(after.metadata), after.tags) == ({"n": 2}, {"by": "a"}, ("x", "y"))
        assert after.media_type == "application/json"


async def test_one_writer_at_a_time_in_order(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        await a.put("k", "")
        agents = [a.agent(f"w{i}") for i in range(8)]

        async def append(hn: homenode.Homenode) -> None:
            async with hn.write("k", wait_ms=20_000) as draft:
                draft.text += hn.name + "\n"

        await asyncio.gather(*(append(hn) for hn in agents))
        lines = (await a.read("k", max_age_ms=0)).text.split()
        assert sorted(lines) == sorted(hn.name for hn in agents)


async def test_a_held_artifact_denies_others_and_says_who(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("k", "one")
        async with a.lease("k", "write", ttl_ms=5_000) as lease:
            assert isinstance(lease, homenode.WriteLease)
            assert lease.state == "M"
            assert 0 < lease.remaining_ms < 5_000
            with pytest.raises(homenode.LeaseDenied) as denied:
                await b.lease("k", "write")
            assert denied.value.holder == a.session_id
            assert denied.value.retry_after > 0
            with pytest.raises(homenode.LeaseDenied):
                await b.put("k", "no", base=(await b.read("k")).version)
            fence = lease.fence
            await lease.commit("two")
            assert lease.fence > fence
            await lease.commit("three")
        assert lease.state == "I"
        assert (await b.read("k", max_age_ms=0)).text == "three"
        async with b.lease("k", "read") as copy:
            assert (copy.state, copy.fence) == ("S", 0)
            assert copy.remaining_ms > 0


async def test_concurrent_edits_lose_nothing(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        agents = [hn.agent(f"{hn.name}{i}") for hn in (a, b) for i in range(4)]

        async def count(hn: homenode.Homenode) -> None:
            for _ in range(5):
                await hn.edit("n", lambda n: n + 1, kind="json", default=0, timeout_ms=60_000)

        await asyncio.gather(*(count(hn) for hn in agents))
        assert (await a.read("n", max_age_ms=0)).json == 40


async def test_an_edit_in_turn_makes_anew_what_is_gone_since_it_was_seen(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        b = a.agent("b")
        await a.put("k", "x")
        await b.delete("k", base=homenode.ANY)
        a._view.found_busy("k", a.clock() + 60 * 10**9)  # as after a conflict
        assert (await a.edit("k", lambda text: text + "y", default="")).text == "y"


async def test_edit_takes_coroutines_and_gives_up_in_the_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "QUEUE_MS", 50)
    async with homenode.connect(url, agent="a") as a:
        await a.put("k", "x")

        async def longer(text: str) -> str:
            await asyncio.sleep(0)
            return text + "y"

        assert (await a.edit("k", longer)).text == "xy"
        with pytest.raises(homenode.NotFound):
            await a.edit("none", longer)
        async with a.agent("other").lease("k"):
            with pytest.raises(homenode.LeaseDenied):
                await a.edit("k", longer, attempts=3)
            with pytest.raises((homenode.LeaseDenied, homenode.DeadlineExceeded)):  # as the last try ended
                await a.edit("k", longer, timeout_ms=500)
        with pytest.raises(homenode.InvalidArgument):
            await a.edit("k", len)


async def test_delete_and_recreate_never_reuse_a_version(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        first = await a.put("k", "one")
        await b.read("k")
        gone = await a.delete("k")
        assert first.version is not None
        assert gone > first.version
        await until(lambda: b.read_cached("k") is None)
        with pytest.raises(homenode.NotFound):
            await b.read("k")
        assert (await b.read("k", default="none")).text == "none"
        again = await a.put("k", "one")
        assert again.version is not None
        assert again.version > gone
        with pytest.raises(homenode.VersionConflict):
            await b.put("k", "x", base=first.version)
        with pytest.raises(homenode.InvalidArgument):
            await b.agent("blind").delete("k")
        with pytest.raises(homenode.VersionConflict):
            await b.delete("k", base=first.version)
        await b.delete("k", base=ANY)
        with pytest.raises(homenode.NotFound):
            await a.stat("k")


async def test_questions(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        for i in range(5):
            await a.put(f"notes/{i}.md", f"note {i}", tags=["note"], metadata={"n": str(i)})
        await a.put("other", b"\x00\xff")
        listed = await a.list("notes/")
        assert [stat.key for stat in listed] == [f"notes/{i}.md" for i in range(5)]
        assert [stat.key for stat in await a.list("notes/", limit=2, after="notes/1.md")] == [
            "notes/2.md",
            "notes/3.md",
        ]
        assert (listed[3].metadata, listed[3].tags, listed[3].size) == ({"n": "3"}, ("note",), 6)
        second = await a.put("notes/0.md", "changed")
        history = await a.history("notes/0.md")
        assert history[0].version == second.version
        assert len(history) == 2
        assert history[0].by == a.session_id
        stat = await a.stat("other")
        assert (stat.size, stat.state, stat.sharers) == (2, "E", 1)
        with pytest.raises(homenode.NotFound):
            await a.stat("none")


async def test_watch_sees_changes_and_deletes_in_order(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        async with b.watch("notes/") as events:
            first = await a.put("notes/1", "x")
            await a.put("else", "x")
            second = await a.put("notes/1", "y")
            gone = await a.delete("notes/1")
            async with asyncio.timeout(20):
                seen = [await anext(events) for _ in range(3)]
        assert [(event.kind, event.version) for event in seen] == [
            ("change", first.version), ("change", second.version), ("delete", gone),
        ]  # fmt: skip
        assert {event.key for event in seen} == {"notes/1"}
        assert seen[0].by == a.session_id


async def test_refusals_name_the_artifact_and_say_what_to_do(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        with pytest.raises(homenode.NotFound, match=r"^'plan': there is no such artifact$"):
            await a.read("plan")
        first = await b.put("plan", "1")
        with pytest.raises(homenode.AlreadyExists, match="'plan' exists and this agent has not read it: read it first"):
            await a.put("plan", "2")
        with pytest.raises(homenode.AlreadyExists, match="'plan': the artifact exists"):
            await a.put("plan", "2", base=homenode.ABSENT)
        second = await b.put("plan", "2")
        with pytest.raises(homenode.VersionConflict, match=rf"'plan': .*another version, {second.version}"):
            await a.put("plan", "3", base=first.version)
        with pytest.raises(homenode.InvalidArgument, match=r"^'p{80}…': key is longer"):
            await a.read("p" * 600)


async def test_policies_of_copies(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        await a.put("k", "x")
        await a.set_policy("k", max_reads=2)
        await a.read("k")
        before = a.stats().misses
        for _ in range(6):
            await a.read("k")
        assert a.stats().misses - before == 2
        await a.set_policy("k", max_age_ms=0)
        await a.read("k")
        assert a.read_cached("k") is None
        await a.set_policy("k")
        await a.read("k")
        assert a.read_cached("k") is not None
        assert (await a.read("k", consistency="strict")).level == "strict"
        with pytest.raises(homenode.InvalidArgument):
            await a.read("k", consistency="eventual")


@pytest.mark.parametrize(
    "value", ["", "text", "ü\n\r\n\x00", b"", b"\xff\x00", {"a": [1, None]}, [], 7, 1.5, True, None], ids=repr
)
async def test_values_come_back_as_they_went(short_tmp: Any, value: Any) -> None:
    async with homenode.connect("embedded://", agent="a") as a:
        await a.put("k", value)
        read = await a.agent("b").read("k")
        if isinstance(value, str):
            assert read.text == value
        elif isinstance(value, bytes):
            assert read.bytes == value
        else:
            assert read.json == value
            assert read.media_type == "application/json"
            assert json.loads(read.text) == value


async def test_contents_too_large_for_the_stream_travel_beside_it(url: str) -> None:
    body = os.urandom(3 << 20)
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("big", body)
        assert (await b.read("big")).bytes == body
        changed = body[: 1 << 20] + os.urandom(100_000) + body[1 << 20 :]
        await a.put("big", changed)
        assert (await b.read("big", max_age_ms=0)).bytes == changed
        assert a.stats().sent_bytes < (3 << 20) + 200_000
        with pytest.raises(homenode.TooLarge):
            await a.put("huge", bytes((256 << 20) + 1))


@pytest.mark.parametrize("key", ["", "a\x00b", "x" * 513, "e\u0301", "\ud800"], ids=ascii)
async def test_wrong_names_are_refused(key: str) -> None:
    async with homenode.connect("embedded://", agent="a") as a:
        for call in (a.read, a.stat, a.history, a.lease):
            with pytest.raises(homenode.InvalidArgument):
                await call(key)
        with pytest.raises(homenode.InvalidArgument):
            await a.put(key, "x")


async def test_agents_share_the_cache_and_not_the_view(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        critic = a.agent("critic")
        assert a.agent("critic")._view is critic._view
        await a.put("k", "a" * 400)
        await a.read("k", max_age_ms=0)
        assert (await critic.read("k")).text == "a" * 400
        assert critic.stats().misses == 0
        assert critic.stats().tokens_shown == 100
        for _ in range(3):
            critic.read_cached("k")
        assert critic.stats().hits == 4
        assert critic.stats().tokens_saved == 300


async def test_sixty_four_connections_at_once(url: str) -> None:
    async def work(i: int) -> None:
        async with homenode.connect(url, agent=f"c{i}") as hn:
            await hn.put(f"own/{i}", str(i))
            await hn.edit("shared", lambda text: text + f"{i}\n", default="", timeout_ms=60_000)
            assert (await hn.read(f"own/{i}")).text == str(i)

    await asyncio.gather(*(work(i) for i in range(64)))
    async with homenode.connect(url, agent="end") as hn:
        assert sorted(map(int, (await hn.read("shared")).text.split())) == list(range(64))
        assert len(await hn.list("own/")) == 64


async def test_wrong_arguments_are_refused() -> None:
    async with homenode.connect("embedded://", agent="a") as a:
        await a.put("k", "x")
        wrong = [
            a.read("k", since="1.1"),  # type: ignore[arg-type]
            a.read("k", version=3),  # type: ignore[arg-type]
            a.put("k", object()),  # type: ignore[arg-type]
            a.put("k", {"x": float("nan")}),
            a.put("k", "\ud800"),
            a.put("k", "x", tags="not a list"),
            a.put("k", "x", metadata={"n": 1}),  # type: ignore[dict-item]
            a.put("k", "x", base=7),  # type: ignore[arg-type]
            a.list(limit=0),
            a.read(7),  # type: ignore[arg-type]
            a.set_policy("k", push="everywhere"),
            a.set_policy("k", max_age_ms=-1),
            a.edit("k", str, kind="yaml"),  # type: ignore[arg-type]
            a.edit("k", str, attempts=0),
            a.lease("k", ttl_ms=1)._take(),
            a.lease("k", wait_ms=10**9)._take(),
            a.write("k", ttl_ms=10**7).__aenter__(),
        ]
        for call in wrong:
            with pytest.raises(homenode.InvalidArgument):
                await call
        for name in ("a" * 129, ""):
            with pytest.raises(homenode.InvalidArgument):
                await homenode.connect("embedded://", agent=name)
        with pytest.raises(homenode.InvalidArgument, match="no setting 'colour'; there are timeout_ms"):
            homenode.connect("embedded://", colour="blue")
        with pytest.raises(homenode.InvalidArgument):
            await homenode.connect(None)  # type: ignore[arg-type]
        with pytest.raises(homenode.InvalidArgument):
            a.write("k", wait_ms=-1)
        with pytest.raises(homenode.InvalidArgument):
            a.lease("k", ttl_ms=1.5)  # type: ignore[arg-type]
        with pytest.raises(AttributeError, match="has no attribute 'put'; await it"):
            homenode.connect("embedded://").put  # type: ignore[attr-defined]  # noqa: B018
        with pytest.raises(AttributeError, match="txt"):
            async with a.write("k") as draft:
                draft.txt = "misspelt"  # type: ignore[attr-defined]
        with pytest.raises(homenode.InvalidArgument):
            a.watch("\ud800")
        with pytest.raises(homenode.InvalidArgument):
            a.lease("k", "own")  # type: ignore[arg-type]
