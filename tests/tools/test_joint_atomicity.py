"""Joint commits and cuts over every store: whoever looks sees all of a joint commit, or none of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import pytest

from homenode_directory.errors import Contended
from homenode_directory.place import Position
from homenode_directory.protocol.effects import Denial, DoneMany, Reason
from homenode_directory.protocol.events import Base, Commit, GetM
from homenode_directory.protocol.model import Level, Policy, Version
from homenode_directory.store import fields
from homenode_directory.together import Cut, Request
from tests.tools.conftest import PLACE, Inside, Open

KEYS = ("a", "b", "c", "d", "e")


async def start(inside: Inside, session: str, fresh: Callable[[], int]) -> None:
    """Every key exists."""
    content = await inside.content(b"start")
    commits = [(key, Commit(session, content, Base.ABSENT)) for key in KEYS]
    reply = await inside.joint.commit_many(PLACE, commits, Request(session, fresh(), "start"))
    assert isinstance(reply.answer, DoneMany)


async def cut_of(inside: Inside, session: str, keys: tuple[str, ...] = KEYS) -> Cut:
    cut = await inside.joint.cut(PLACE, session, keys)
    assert isinstance(cut, Cut), cut
    return cut


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_concurrent_joint_commits_never_interleave_in_part(
    inside: Open, fresh: Callable[[], int], seed: int
) -> None:
    rng = random.Random(seed)
    servers = [await inside(), await inside()]
    sessions = [await server.session() for server in servers]
    await start(servers[0], sessions[0], fresh)
    contents = [await servers[0].content(b"%d" % n) for n in range(40)]
    done: list[dict[str, Version]] = []
    refused: list[Denial] = []
    cuts: list[Cut] = []

    async def write(n: int) -> None:
        server, session = servers[n % 2], sessions[n % 2]
        keys = rng.sample(KEYS, rng.randint(1, 4))
        base: dict[str, Version | Base] = dict.fromkeys(keys, Base.ANY)
        if rng.random() < 0.7:
            seen = await cut_of(server, session)
            base = {key: entry.version for key, entry in zip(KEYS, seen.entries, strict=True)}
        commits = [(key, Commit(session, contents[n], base[key])) for key in keys]
        try:
            reply = await server.joint.commit_many(PLACE, commits, Request(session, fresh(), f"w{n}"))
        except Contended:
            return
        if isinstance(reply.answer, DoneMany):
            assert {item.key for item in reply.answer.items} == set(keys)
            done.append({item.key: item.version for item in reply.answer.items})
        else:
            assert isinstance(reply.answer, Denial) and reply.answer.reason is Reason.VERSION_CONFLICT
            assert {refusal.key for refusal in reply.answer.keys} <= set(keys)
            assert all(refusal.current is not None for refusal in reply.answer.keys)
            refused.append(reply.answer)

    async def alone(n: int) -> None:
        """Ordinary commits get in between."""
        key = rng.choice(KEYS)
        event = Commit(sessions[n % 2], contents[n], Base.ANY)
        with contextlib.suppress(Contended):
            await servers[n % 2].directory.request(PLACE, key, event, fresh(), f"a{n}")

    async def look(n: int) -> None:
        await asyncio.sleep(0)
        cuts.append(await cut_of(servers[n % 2], sessions[n % 2]))

    for first in range(0, 40, 10):
        work = [*map(write, range(first, first + 10)), *map(alone, range(first, first + 3)), *map(look, range(8))]
        rng.shuffle(work)
        await asyncio.gather(*work)
    cuts.append(await cut_of(servers[0], sessions[0]))
    assert done and cuts
    for cut in cuts:
        at = {key: entry.version for key, entry in zip(KEYS, cut.entries, strict=True)}
        for versions in done:
            reached = {at[key] >= version for key, version in versions.items()}
            assert len(reached) == 1, f"a cut shows part of a joint commit: {at} and {versions}"
    numbers = [version for versions in done for version in versions.items()]
    assert len(numbers) == len(set(numbers)), "two joint commits got one version"


async def test_a_cut_of_another_server_compares_every_artifact(inside: Open, fresh: Callable[[], int]) -> None:
    server, other = await inside(), await inside()
    session = await server.session()
    await start(server, session, fresh)
    before = await cut_of(other, session)
    content = await server.content(b"new")
    for keys in (("b", "c"), ("e",), ("a", "d")):
        commits = [(key, Commit(session, content, Base.ANY)) for key in keys]
        reply = await server.joint.commit_many(PLACE, commits, Request(session, fresh(), "".join(keys)))
        assert isinstance(reply.answer, DoneMany)
        cut = await cut_of(other, session)
        changed = {key for key, old, new in zip(KEYS, before.entries, cut.entries, strict=True) if new != old}
        assert changed == set(keys)
        assert cut.as_of == reply.as_of
        before = cut


async def test_the_log_has_a_joint_commit_in_one_piece(inside: Open, fresh: Callable[[], int]) -> None:
    server = await inside()
    session = await server.session()
    content = await server.content(b"x")
    await start(server, session, fresh)
    replies = await asyncio.gather(
        *(
            server.joint.commit_many(
                PLACE,
                [(key, Commit(session, content, Base.ANY)) for key in keys],
                Request(session, fresh(), "".join(keys)),
            )
            for keys in (("a", "b", "c"), ("c", "d"), ("b", "e"))
        )
    )
    entries, _ = await server.server.store.read_log(server.slice_.number, 0, 1_000)
    artifacts = {sequence: fields.split_artifact(fields.decode_log(data).artifact)[1] for sequence, data in entries}
    for reply, keys in zip(replies, ("abc", "cd", "be"), strict=True):
        last = reply.as_of.sequence
        assert "".join(artifacts[last - len(keys) + 1 + i] for i in range(len(keys))) == keys


async def test_one_refusal_refuses_all_and_names_each(inside: Open, fresh: Callable[[], int]) -> None:
    server = await inside()
    mine, other = await server.session(), await server.session()
    await start(server, mine, fresh)
    content = await server.content(b"new")
    before = await cut_of(server, mine)
    await server.directory.request(PLACE, "b", GetM(other, "L", 10_000), fresh(), "lease")
    stale = Version(before.entries[0].version.incarnation, 99)
    commits = [
        ("a", Commit(mine, content, before.entries[0].version)),
        ("b", Commit(mine, content, before.entries[1].version)),
        ("c", Commit(mine, content, stale)),
        ("new", Commit(mine, content, Base.ABSENT)),
    ]
    request = Request(mine, fresh(), "many")
    reply = await server.joint.commit_many(PLACE, commits, request)
    assert isinstance(reply.answer, Denial)
    assert reply.answer.reason is Reason.VERSION_CONFLICT, "the mismatch is named before the holder"
    by_key = {refusal.key: refusal for refusal in reply.answer.keys}
    assert {key: refusal.reason for key, refusal in by_key.items()} == {
        "b": Reason.HELD,
        "c": Reason.VERSION_CONFLICT,
    }
    assert by_key["b"].holder == other
    assert by_key["c"].current == before.entries[2].version
    after = await cut_of(server, mine, (*KEYS, "new"))
    assert [entry.version for entry in after.entries[:5]] == [entry.version for entry in before.entries]
    assert not after.entries[5].exists
    again = await server.joint.commit_many(PLACE, commits, request)
    assert again.answer == reply.answer, "a refusal is remembered too"
    assert again.as_of == Position(reply.as_of.incarnation, 0)


async def test_a_joint_commit_takes_effect_once(inside: Open, fresh: Callable[[], int]) -> None:
    server, other = await inside(), await inside()
    session = await server.session()
    await start(server, session, fresh)
    content = await server.content(b"once")
    request = Request(session, fresh(), "once")
    commits = [(key, Commit(session, content, Base.ANY)) for key in ("a", "b")]
    first = await server.joint.commit_many(PLACE, commits, request)
    again = await asyncio.gather(*(one.joint.commit_many(PLACE, commits, request) for one in (server, other)))
    assert [reply.answer for reply in again] == [first.answer] * 2
    assert isinstance(first.answer, DoneMany)
    cut = await cut_of(server, session, ("a", "b"))
    assert [entry.version for entry in cut.entries] == [item.version for item in first.answer.items]
    wrong = await server.joint.commit_many(PLACE, commits, Request(session, request.number, "another"))
    assert isinstance(wrong.answer, Denial) and wrong.answer.reason is Reason.INVALID_ARGUMENT


async def test_a_strict_artifact_is_refused(inside: Open, fresh: Callable[[], int]) -> None:
    from homenode_directory.protocol.together import commit_many

    server = await inside()
    session = await server.session()
    await start(server, session, fresh)
    cut = await cut_of(server, session, ("a", "b"))
    from dataclasses import replace

    from homenode_directory.protocol.facts import Facts

    strict = replace(cut.entries[0], policy=Policy(level=Level.STRICT))
    event = Commit(session, None, Base.ANY)
    facts = Facts(cut.now_ms, 1, cut.now_ms)
    judged = commit_many([("a", strict, event), ("b", cut.entries[1], event)], facts)
    assert judged.decisions == ()
    assert isinstance(judged.answer, Denial) and judged.answer.reason is Reason.UNSUPPORTED
    assert [refusal.key for refusal in judged.answer.keys] == ["a"]


async def test_a_dead_session_commits_nothing(inside: Open, fresh: Callable[[], int]) -> None:
    server, other = await inside(), await inside()
    session, watching = await server.session(), await server.session()
    await start(server, session, fresh)
    content = await server.content(b"late")
    await other.directory.end_session(PLACE, session)  # this server has not heard of it
    commits = [(key, Commit(session, content, Base.ANY)) for key in KEYS]
    before = await cut_of(server, watching)
    reply = await server.joint.commit_many(PLACE, commits, Request(session, fresh(), "late"))
    assert isinstance(reply.answer, Denial) and reply.answer.reason is Reason.SESSION_LOST
    assert [entry.version for entry in (await cut_of(server, watching)).entries] == [
        entry.version for entry in before.entries
    ]
