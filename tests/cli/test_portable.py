"""export and import: what comes back is what went in, and a file that makes no sense changes nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
import json
import os
import random
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

import homenode
from homenode.cli import export as export_module
from homenode.cli.portable import BadFile, Entry, Reader, Writer
from tests.cli.conftest import Cli, Served, spawn, start_server, stop
from tests.client.server_process import ServerProcess
from tests.support.ports import wait_until_async

pytestmark = pytest.mark.xdist_group("portable")

TERM = ("--term-ms", "1000")  # strict artifacts wait for a term after a start
LARGE = random.Random(7).randbytes(5 << 20) + bytes(3 << 20)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of these tests' own."""
    served = start_server("--store", f"sqlite:///{tmp_path_factory.mktemp('served') / 'directory.sqlite3'}", *TERM)
    yield served
    stop(served.process)


async def fill(url: str) -> None:
    """Small and large, text and bytes, with metadata, policies, versions; strict and lazy."""
    async with homenode.connect(url, agent="filler") as hn:
        await hn.put("empty", b"")
        await hn.put("notes/ü €.md", "first", metadata={"author": "Zoë"}, tags=["a", "b"], media_type="text/markdown")
        await hn.put("notes/ü €.md", "second")
        await hn.put("strict.md", "agreed")
        await hn.set_policy("strict.md", consistency="strict")
        await hn.put("pushed.json", {"a": [1, None]})
        await hn.set_policy("pushed.json", push="sharers", max_age_ms=500, max_reads=3)
        await hn.upload("model.bin", LARGE)
        await hn.put("gone", "x")
        await hn.delete("gone")


async def contents(url: str) -> dict[str, Any]:
    """Everything that an export carries."""
    async with homenode.connect(url, agent="judge") as hn:
        found = {}
        for stat in await hn.list():
            artifact = await hn.read(stat.key)
            described = (dict(stat.metadata), stat.tags, stat.media_type, stat.policy)
            found[stat.key] = (artifact.bytes, *described)
        return found


def other(url: str) -> str:
    return f"{url}-other"


def test_a_round_trip_is_exact(cli: Cli, url: str, tmp_path: Path) -> None:
    asyncio.run(fill(url))
    file = tmp_path / "all.hn"
    exported = cli("--json", "export", str(file)).json
    assert (exported["artifacts"], exported["versions"], exported["cut"], exported["moved"]) == (5, 5, "snapshot", 0)
    imported = cli("--json", "import", str(file), "--url", other(url)).json
    assert (imported["created"], imported["bytes"]) == (5, exported["bytes"])
    assert asyncio.run(contents(other(url))) == asyncio.run(contents(url))
    again = cli("--json", "import", str(file), "--url", other(url)).json
    assert (again["created"], again["unchanged"]) == (0, 5)


def test_earlier_versions_travel_where_that_is_asked_for(cli: Cli, url: str, tmp_path: Path) -> None:
    asyncio.run(fill(url))
    file = str(tmp_path / "all.hn")
    assert cli("--json", "export", file, "--history").json["versions"] > 5
    assert cli("import", file, "--history", "--url", other(url)).code == 0
    assert asyncio.run(contents(other(url))) == asyncio.run(contents(url))
    assert cli("get", "notes/ü €.md", "--version", "1", "--url", other(url)).out == "first"


def test_a_prefix_and_stdin(cli: Cli, url: str, tmp_path: Path) -> None:
    asyncio.run(fill(url))
    file = tmp_path / "notes.hn"
    assert cli("export", str(file), "--prefix", "notes/").code == 0
    data = file.read_bytes()
    assert "1 created" in cli("import", "-", "--url", other(url), stdin=data).err
    assert list(asyncio.run(contents(other(url)))) == ["notes/ü €.md"]


POLICIES = {
    "": homenode.Policy(push="none", max_age_ms=700),
    "agreed/": homenode.Policy(consistency="strict", push="none", max_steps=3),
    "notes/": homenode.Policy(push="sharers", max_reads=4),
    "notes/a/": homenode.Policy(push="all"),
}


async def set_policies(url: str, policies: dict[str, homenode.Policy]) -> None:
    async with homenode.connect(url, agent="filler") as hn:
        for prefix, policy in policies.items():
            await hn.set_policy(prefix=prefix, **dataclasses.asdict(policy))


async def policies_of(url: str) -> dict[str, homenode.Policy]:
    async with homenode.connect(url, agent="judge") as hn:
        return await hn.policies()


async def put(url: str, *keys: str) -> None:
    async with homenode.connect(url, agent="filler") as hn:
        for key in keys:
            await hn.put(key, "x")


def test_policies_of_prefixes_travel(cli: Cli, url: str, tmp_path: Path) -> None:
    asyncio.run(set_policies(url, POLICIES))
    asyncio.run(put(url, "agreed/plan", "notes/a/1", "notes/2", "else"))
    file, part = str(tmp_path / "all.hn"), str(tmp_path / "notes.hn")
    assert cli("--json", "export", file).json["policies"] == 4
    assert cli("--json", "export", part, "--prefix", "notes/").json["policies"] == 2
    assert cli("--json", "import", file, "--dry-run", "--url", other(url)).json["policies"] == 4
    assert asyncio.run(policies_of(other(url))) == {}
    assert cli("--json", "import", file, "--url", other(url)).json["policies"] == 4
    assert asyncio.run(policies_of(other(url))) == POLICIES == asyncio.run(policies_of(url))
    stat = cli("--json", "stat", "agreed/plan", "--url", other(url)).json
    assert stat["inherited"]["consistency"] == "strict" and stat["version"].endswith(".1")
    again = cli("--json", "import", file, "--url", other(url)).json
    assert (again["created"], again["unchanged"], again["policies"]) == (0, 4, 0)
    assert "2 policies of prefixes set" in cli("import", part, "--url", f"{url}-third").err
    assert asyncio.run(policies_of(f"{url}-third")) == {p: POLICIES[p] for p in ("notes/", "notes/a/")}


def test_a_policy_that_differs_is_refused_replaced_or_left(cli: Cli, url: str, tmp_path: Path) -> None:
    asyncio.run(set_policies(url, POLICIES))
    asyncio.run(put(url, "notes/2"))
    file = str(tmp_path / "all.hn")
    cli("export", file)
    mine = {"": homenode.Policy(push="none", max_age_ms=1), "mine/": homenode.Policy(push="none", max_reads=1)}
    asyncio.run(set_policies(other(url), mine))
    refused = cli("--json", "import", file, "--url", other(url))
    assert refused.code == 4 and refused.error["prefixes"] == [""] and refused.error["keys"] == []
    assert "the whole workspace" in refused.error["message"]
    assert asyncio.run(policies_of(other(url))) == mine
    assert cli("--json", "import", file, "--skip-existing", "--url", other(url)).json["policies"] == 3
    assert asyncio.run(policies_of(other(url))) == POLICIES | mine
    assert cli("--json", "import", file, "--force", "--url", other(url)).json["policies"] == 1
    assert asyncio.run(policies_of(other(url))) == mine | POLICIES


def test_a_file_without_policies_of_prefixes_is_read(cli: Cli, url: str, tmp_path: Path) -> None:
    """What earlier releases wrote; the policies that are there stay."""
    asyncio.run(set_policies(url, POLICIES))
    (tmp_path / "old.hn").write_bytes(_packed(GOOD))
    assert b"policies" not in GOOD
    imported = cli("--json", "import", str(tmp_path / "old.hn")).json
    assert (imported["created"], imported["policies"]) == (2, 0)
    assert asyncio.run(policies_of(url)) == POLICIES


def test_what_exists_is_refused_replaced_or_left(cli: Cli, url: str, tmp_path: Path) -> None:
    asyncio.run(fill(url))
    file = str(tmp_path / "all.hn")
    cli("export", file)
    before = asyncio.run(contents(url))
    assert cli("put", "strict.md", "--force", stdin="mine").code == 0
    cli("rm", "empty")
    refused = cli("--json", "import", file)
    assert refused.code == 4
    assert refused.error["kind"] == "AlreadyExists"
    assert refused.error["keys"] == ["strict.md"]
    assert cli("ls", "empty").out == ""  # nothing was done
    dry = cli("--json", "import", file, "--force", "--dry-run").json
    assert (dry["created"], dry["replaced"], dry["unchanged"]) == (1, 1, 3)
    assert cli("ls", "empty").out == ""
    left = cli("--json", "import", file, "--skip-existing").json
    assert (left["created"], left["skipped"]) == (1, 1)
    assert cli("cat", "strict.md").out == "mine"
    assert cli("--json", "import", file, "--force").json["replaced"] == 1
    assert asyncio.run(contents(url)) == before


def test_a_busy_workspace_is_listed_until_it_stands_still(
    cli: Cli, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a snapshot takes: two equal listings are one moment too; without them the file says so."""

    async def many() -> None:
        async with homenode.connect(url, agent="filler") as hn:
            await asyncio.gather(*(hn.put(f"k{n:03}", str(n)) for n in range(300)))

    asyncio.run(many())
    file = str(tmp_path / "many.hn")
    exported = cli("--json", "export", file).json
    assert (exported["artifacts"], exported["cut"]) == (300, "listing")
    assert cli("--json", "import", file, "--url", other(url)).json["created"] == 300
    assert asyncio.run(contents(other(url))) == asyncio.run(contents(url))
    monkeypatch.setattr(export_module, "ROUNDS_MAX", 0)
    assert cli("--json", "export", file, "--force").json["cut"] == "each"


@pytest.mark.slow
async def test_a_server_that_is_killed_meanwhile(tmp_path: Path) -> None:
    """Requests are sent again under their ids: nothing is done twice, nothing is left out."""
    server = await ServerProcess(f"sqlite:///{tmp_path}/s.sqlite3", tmp_path).start()
    try:
        file = tmp_path / "many.hn"
        with file.open("wb") as out:
            _write(out, [(f"k{n:05}", b"x" * (n % 50)) for n in range(3_000)])
        importing = spawn("--json", "import", str(file), "--timeout", "60", url=server.url)
        async with homenode.connect(server.url, agent="judge", timeout_ms=60_000) as hn:
            for wanted in (200, 1_000):
                await wait_until_async(lambda n=wanted: _more_than(hn, n), timeout_s=60)
                server.kill()
                await server.start()
            out, err = await asyncio.to_thread(importing.communicate)
            assert importing.returncode == 0, err
            assert json.loads(out)["created"] == 3_000
            stats = await hn.list()
            assert {stat.key: stat.size for stat in stats} == {f"k{n:05}": n % 50 for n in range(3_000)}
            assert {stat.version.n for stat in stats} == {1}, "something was committed twice"
    finally:
        server.kill()


async def _more_than(hn: homenode.Homenode, n: int) -> bool:
    return len(await hn.list()) > n


def test_a_run_that_is_cut_off_is_finished_by_the_next(cli: Cli, url: str, tmp_path: Path) -> None:
    file = tmp_path / "many.hn"
    with file.open("wb") as out:
        _write(out, [(f"k{n:05}", b"x" * (n % 50)) for n in range(3_000)])
    importing = spawn("import", str(file), url=url)

    async def some() -> None:
        async with homenode.connect(url, agent="judge") as hn:
            await wait_until_async(lambda: _more_than(hn, 100), timeout_s=60)

    asyncio.run(some())
    importing.send_signal(signal.SIGINT)
    _, err = importing.communicate(timeout=30)
    assert importing.returncode == 130
    assert "cut off; done so far" in err
    rest = cli("--json", "import", str(file)).json
    assert rest["unchanged"] >= 100
    assert rest["created"] + rest["unchanged"] == 3_000


# --- files that make no sense -----------------------------------------------------------------------------------------


def _entry(key: str, data: bytes, **more: Any) -> Entry:
    return Entry(key, len(data), hashlib.sha256(data).hexdigest(), "1.1", **more)


def _write(file: Any, contents: list[tuple[str, bytes]]) -> None:
    writer = Writer(file, {"prefix": ""})
    for key, data in contents:
        writer.begin(_entry(key, data))
        writer.piece(data)
        writer.end()
    writer.close()


def _plain(contents: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    _write(file, contents)
    return zstandard.ZstdDecompressor().decompress(file.getvalue(), max_output_size=1 << 20)


def _packed(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(plain)


GOOD = _plain([("a", b"one"), ("b", b"two")])
CASES = {
    "empty": (b"", "no export|ends too early"),
    "no zstd": (b"PK\x03\x04 something else", "damaged or no export"),
    "another program's": (_packed(b'{"hello": 1}\n'), "no file of"),
    "no JSON": (_packed(b"hello\n"), "line of JSON"),
    "deep JSON": (_packed(b"[" * 200_000 + b"\n"), "line of JSON|object"),
    "an endless line": (_packed(b" " * (1 << 20)), "line without an end"),
    "a newer format": (_packed(GOOD.replace(b'"homenode_export":1', b'"homenode_export":2')), "format is 2"),
    "cut off": (_packed(GOOD)[:-20], "damaged|too early"),
    "cut off at a line": (_packed(GOOD[: GOOD.index(b'{"end"')]), "ends too early"),
    "a flipped bit": (_packed(GOOD)[:-6] + bytes([_packed(GOOD)[-6] ^ 1]) + _packed(GOOD)[-5:], "damaged"),
    "another content": (_packed(GOOD.replace(b"two", b"2wo")), "its hash names"),
    "a shorter content": (_packed(GOOD.replace(b'"size":3', b'"size":2')), "not as long"),
    "a size beyond reason": (_packed(GOOD.replace(b'"size":3', b'"size":999999999999')), "has a size"),
    "a negative size": (_packed(GOOD.replace(b'"size":3', b'"size":-3')), "has a size"),
    "a wrong count": (_packed(GOOD.replace(b'"artifacts":2', b'"artifacts":3')), "last line"),
    "out of order": (_packed(_plain([("b", b""), ("a", b"")])), "out of order"),
    "twice the same": (_packed(_plain([("a", b""), ("a", b"")])), "out of order"),
    "a name of control characters": (_packed(GOOD.replace(b'"key":"a"', b'"key":"a\\u0000"')), "no name"),
    "a name that is too long": (_packed(GOOD.replace(b'"key":"a"', b'"key":"' + b"a" * 600 + b'"')), "no name"),
    "a name that is none": (_packed(GOOD.replace(b'"key":"a"', b'"key":["a"]')), "no name"),
    "a policy that is none": (_packed(GOOD.replace(b'"policy":{}', b'"policy":{"consistency":"none"}')), "policy"),
    "policies that are none": (_packed(GOOD.replace(b'"prefix":""', b'"policies":[]')), "policies make no sense"),
    "a prefix's policy that is none": (
        _packed(GOOD.replace(b'"prefix":""', b'"policies":{"a":{"max_steps":-1}}')),
        "policy of 'a'",
    ),
    "a prefix's policy that says nothing": (
        _packed(GOOD.replace(b'"prefix":""', b'"policies":{"":{}}')),
        "policy of ''",
    ),
    "a prefix that is none": (_packed(GOOD.replace(b'"prefix":""', b'"policies":{"\\u0000":{}}')), "no prefix"),
    "metadata that are none": (_packed(GOOD.replace(b'"metadata":{}', b'"metadata":{"a":1}')), "metadata"),
    "more behind the end": (_packed(GOOD) + _packed(b"more"), "follows the end"),
    "a window beyond reason": (
        zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
        ).compress(os.urandom(1 << 10) + bytes(200 << 20)),
        "damaged or no export",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_makes_no_sense_changes_nothing(name: str, cli: Cli, tmp_path: Path) -> None:
    data, says = CASES[name]
    file = tmp_path / "bad.hn"
    file.write_bytes(data)
    result = cli("--json", "import", str(file))
    assert result.code == 1
    assert result.error["kind"] == "BadFile"
    assert "nothing was done" in result.error["message"]
    assert any(part in result.error["message"] for part in says.split("|")), result.error["message"]
    assert cli("--json", "ls").json == []


def test_names_that_climb_are_names(cli: Cli, tmp_path: Path) -> None:
    """An import writes no files: ../ is a name like any other."""
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    with (folder / "f.hn").open("wb") as out:
        _write(out, [("../../etc/passwd", b"x"), ("/etc/passwd", b"y")])
    assert cli("import", str(folder / "f.hn")).code == 0
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "er", "f.hn"]
    assert cli("cat", "../../etc/passwd").out == "x"


def test_a_small_file_of_large_contents_is_refused(cli: Cli, tmp_path: Path) -> None:
    zeros = bytes(20 << 20)
    with (tmp_path / "bomb.hn").open("wb") as out:
        _write(out, [(f"k{n}", zeros) for n in range(4)])
    assert (tmp_path / "bomb.hn").stat().st_size < 100_000
    refused = cli("--json", "import", str(tmp_path / "bomb.hn"), "--max-bytes", str(50 << 20))
    assert refused.code == 1
    assert refused.error["kind"] == "TooLarge"
    assert cli("--json", "ls").json == []


def test_a_reader_must_take_the_whole_content() -> None:
    file = io.BytesIO(_packed(GOOD))
    entries = Reader(file).entries()
    next(entries)
    with pytest.raises(BadFile):
        next(entries)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("export",), 2, "FILE"),
        (("export", "-", "--json"), 2, "stdout"),
        (("export", "/nowhere/x.hn"), 2, "no folder"),
        (("export", "{here}"), 4, "exists"),
        (("export", "{folder}", "--force"), 4, "exists"),
        (("import",), 2, "FILE"),
        (("import", "/nowhere/x.hn"), 1, "No such file"),
        (("import", "{here}", "--force", "--skip-existing"), 2, "not allowed"),
        (("import", "{here}", "--max-bytes", "much"), 2, "number of bytes"),
        (("import", "{here}", "--url", "homenode://127.0.0.1:9/main", "--timeout", "1"), 5, "127.0.0.1:9"),
    ],
)
def test_wrong_input_is_named(cli: Cli, tmp_path: Path, args: tuple[str, ...], code: int, says: str) -> None:
    here = tmp_path / "here.hn"
    here.write_bytes(_packed(GOOD))
    result = cli(*(arg.format(here=here, folder=tmp_path) for arg in args))
    assert result.code == code
    assert says in result.err
    assert here.read_bytes() == _packed(GOOD)


def test_a_failed_export_leaves_the_old_file(cli: Cli, url: str, tmp_path: Path) -> None:
    asyncio.run(fill(url))
    file = tmp_path / "all.hn"
    file.write_bytes(b"old")
    assert cli("export", str(file), "--force", "--url", "homenode://127.0.0.1:9/main", "--timeout", "1").code == 5
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["all.hn"]


# --- a copy of the store ----------------------------------------------------------------------------------------------


def test_a_copy_of_a_sqlite_file_is_a_backup(cli: Cli, tmp_path: Path) -> None:
    """Taken while the server writes; what it has is what was committed, in a higher incarnation."""
    first = start_server("--store", f"sqlite:///{tmp_path}/a.sqlite3", *TERM)
    url = f"{first.address}/main"
    try:
        asyncio.run(fill(url))
        before = asyncio.run(contents(url))
        version = cli("--json", "stat", "strict.md", "--url", url).json["version"]
        with sqlite3.connect(f"file:{tmp_path}/a.sqlite3?mode=ro", uri=True) as source:
            with sqlite3.connect(tmp_path / "b.sqlite3") as copy:
                source.backup(copy)
    finally:
        stop(first.process)
    second: Served = start_server("--store", f"sqlite:///{tmp_path}/b.sqlite3", *TERM)
    url = f"{second.address}/main"
    try:
        assert asyncio.run(contents(url)) == before
        assert cli("put", "strict.md", "--force", "--timeout", "30", "--url", url, stdin="newer").code == 0
        later = cli("--json", "stat", "strict.md", "--url", url).json["version"]
        assert homenode.Version(*map(int, later.split("."))) > homenode.Version(*map(int, version.split(".")))
    finally:
        stop(second.process)


async def test_what_history_forgets_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A snapshot has it still; without one the current version is taken, and counted."""
    server = start_server("--store", f"sqlite:///{tmp_path}/s.sqlite3", "--keep-versions", "1")
    try:
        async with homenode.connect(f"{server.address}/main", agent="filler") as hn:
            await hn.put("a", "then")
            for rounds in (export_module.ROUNDS_MAX, 0):
                monkeypatch.setattr(export_module, "ROUNDS_MAX", rounds)
                file = io.BytesIO()
                async with export_module._Cut(hn, "") as cut:
                    for n in range(20):
                        await hn.put("a", f"{rounds} {n}")
                    await wait_until_async(lambda: _cut_to_one(hn, "a"), timeout_s=60, what="a history that is cut")
                    writer = Writer(file, {})
                    await export_module._write_all(hn, cut, writer, False, None)
                    writer.close()
                wanted = ("snapshot", 0, b"then") if rounds else ("each", 1, b"0 19")
                assert (cut.kind, cut.moved, _first(file)) == wanted
    finally:
        stop(server.process)


async def _cut_to_one(hn: homenode.Homenode, key: str) -> bool:
    return len(await hn.history(key)) == 1


def _first(file: io.BytesIO) -> bytes:
    """The content of a file's only artifact."""
    file.seek(0)
    reader, parts = Reader(file), list[bytes]()
    for entry in reader.entries():
        reader.content(entry, parts.append)
    return b"".join(parts)
