"""What an edit costs at the socket, in each direction, whichever way the new version goes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import homenode
from tests.client.conftest import ServerFactory
from tests.client.scripted import until
from tests.content.test_patch import text_bytes
from tests.faults.proxy import Proxy

MIB = 1 << 20
LINE = b"a line that somebody wrote anew, with 60 or 70 characters of text"
TEXT = text_bytes(MIB)
LINES = TEXT.split(b"\n")
MIDDLE = len(LINES) // 2
#: Pings and acknowledgements may pass meanwhile.
REST = 600

EDITS: dict[str, bytes] = {
    "start": b"\n".join([LINE, *LINES[1:]]),
    "middle": b"\n".join([*LINES[:MIDDLE], LINE, *LINES[MIDDLE + 1 :]]),
    "end": b"\n".join([*LINES[:-1], LINE]),
    "appended": TEXT + b"\n" + LINE,
    "put in before all": LINE + b"\n" + TEXT,
    "moved": b"\n".join([*LINES[MIDDLE:], *LINES[:MIDDLE]]),
    "emptied": b"",
    "the same again": TEXT,
}


@dataclass
class Wire:
    """An agent behind a proxy that counts bytes."""

    hn: homenode.Homenode
    proxy: Proxy
    up: int = 0
    down: int = 0

    def begin(self) -> None:
        """Count from here."""
        self.up, self.down = self.proxy.up.passed, self.proxy.down.passed

    def passed(self) -> tuple[int, int]:
        """Bytes up and down since then."""
        return self.proxy.up.passed - self.up, self.proxy.down.passed - self.down


Connect = Callable[[str], "contextlib.AbstractAsyncContextManager[Wire]"]


@pytest.fixture
async def connect(server_factory: ServerFactory) -> Connect:
    server = await server_factory().start()

    @contextlib.asynccontextmanager
    async def connected(agent: str) -> AsyncIterator[Wire]:
        async with Proxy(server.port) as proxy, homenode.connect(proxy.url, agent=agent) as hn:
            yield Wire(hn, proxy)

    return connected


async def test_an_edit_of_1_mib_costs_1_kib_up_and_down(connect: Connect) -> None:
    async with connect("writer") as a, connect("reader") as b:
        for name, new in EDITS.items():
            await a.hn.put(name, TEXT)
            await b.hn.read(name)
            a.begin()
            await a.hn.put(name, new)
            assert max(a.passed()) <= 1_024, f"upload: {name}"
            await until(lambda name=name: b.hn.read_cached(name) is None)  # type: ignore[misc]
            b.begin()
            assert (await b.hn.read(name)).bytes == new
            assert max(b.passed()) <= 1_024, f"refetch: {name}"


async def test_what_is_pushed_is_as_small(connect: Connect) -> None:
    async with connect("writer") as a, connect("reader") as b:
        await a.hn.put("plan", TEXT)
        await a.hn.set_policy("plan", push="sharers")
        await b.hn.read("plan")
        b.begin()
        await a.hn.put("plan", EDITS["middle"])
        await until(lambda: b.hn.read_cached("plan") is not None)
        assert b.hn.stats().misses == 1 and b.passed()[1] <= 1_024


async def test_many_versions_behind_cost_what_they_changed(connect: Connect) -> None:
    lines = list(LINES)
    async with connect("writer") as a, connect("reader") as b:
        await a.hn.put("plan", TEXT)
        await b.hn.read("plan")
        for count in (5, 20):  # more than links of a stored chain
            for number in range(count):
                lines[(number + 1) * len(lines) // (count + 1)] = b"%d: " % number + LINE
                await a.hn.put("plan", b"\n".join(lines))
            await until(lambda: b.hn.read_cached("plan") is None)
            b.begin()
            assert (await b.hn.read("plan")).bytes == b"\n".join(lines)
            assert b.passed()[1] <= 1_024


async def test_whoever_is_behind_edits_for_two_patches(connect: Connect) -> None:
    async with connect("one") as a, connect("other") as b:
        await a.hn.put("plan", TEXT)
        await b.hn.read("plan")
        await a.hn.put("plan", EDITS["middle"])
        await until(lambda: b.hn.read_cached("plan") is None)
        b.begin()
        await b.hn.edit("plan", lambda text: text + "the end\n")
        assert max(b.passed()) <= 1_024
        await until(lambda: a.hn.read_cached("plan") is None)
        a.begin()
        async with a.hn.write("plan") as draft:
            draft.text = "the start\n" + draft.text
        assert max(a.passed()) <= 2_048, "the lease brings a patch, its commit takes one"


async def test_rewrites_and_binary_cost_no_more_than_the_whole(connect: Connect) -> None:
    data = random.Random(1).randbytes(MIB)
    async with connect("writer") as a, connect("reader") as b:
        for new, most in ((text_bytes(MIB, seed=9), MIB // 2), (data, MIB + 2_048), (data[::-1], MIB + 2_048)):
            await a.hn.put("plan", TEXT)
            await b.hn.read("plan", max_age_ms=0)
            a.begin(), b.begin()
            await a.hn.put("plan", new)
            assert (await b.hn.read("plan", max_age_ms=0)).bytes == new
            assert max(*a.passed(), *b.passed()) <= most + REST


async def test_a_line_of_10_mb_costs_what_changed(connect: Connect) -> None:
    line = random.Random(1).randbytes(5_000_000).hex().encode()
    async with connect("writer") as a, connect("reader") as b:
        await a.hn.put("line", line)
        await b.hn.read("line")
        for new in (
            line[:5_000_000] + b"!" + line[5_000_001:],
            b"!" + line[1:-1] + b"!",
            b"put in" + line,
            line[:5_000_000] + b"put in" + line[5_000_000:],
            line[:5_000_000] + line[5_000_010:],
            line + b"appended",
        ):
            await a.hn.put("line", line)
            await b.hn.read("line", max_age_ms=0)
            await asyncio.sleep(0)
            a.begin(), b.begin()
            await a.hn.put("line", new)
            assert (await b.hn.read("line", max_age_ms=0)).bytes == new
            assert max(*a.passed(), *b.passed()) <= 2_048 + REST, "half of it names ten chunks"


@pytest.mark.parametrize("size", [MIB, 10_000_000])
async def test_a_download_over_an_earlier_version_costs_what_changed(
    connect: Connect, tmp_path: Path, size: int
) -> None:
    """From a process that has nothing in its cache, whether the old version is what is replaced or lies elsewhere."""
    text = random.Random(1).randbytes(size // 2).hex().encode()
    path, elsewhere = tmp_path / "copy", tmp_path / "elsewhere"
    async with connect("writer") as a:
        for new in (
            text[: size // 2] + b"!" + text[size // 2 + 1 :],
            b"put in" + text,
            text[: size // 3] + text[size // 3 + 10 :],
        ):
            await a.hn.put("text", text)
            async with connect("first") as b:
                await b.hn.download("text", path)
                await b.hn.download("text", elsewhere)
            await a.hn.put("text", new)
            for target, old in ((path, None), (tmp_path / "new", elsewhere)):
                async with connect("reader") as b:
                    b.begin()
                    await b.hn.download("text", target, old=old)
                    assert target.read_bytes() == new
                    assert max(b.passed()) <= 3_072, "names of ten chunks, twice"
                    b.begin()
                    await b.hn.download("text", target)
                    assert max(b.passed()) <= 2_048 + REST, "nothing changed"


async def test_a_stream_of_what_is_cached_costs_what_changed(connect: Connect, tmp_path: Path) -> None:
    line = random.Random(1).randbytes(5_000_000).hex().encode()
    new = line[:5_000_000] + b"!" + line[5_000_001:]
    async with connect("writer") as a, connect("reader") as b:
        await a.hn.put("line", line)
        await b.hn.read("line")
        await a.hn.put("line", new)
        b.begin()
        async with b.hn.open("line") as content:
            assert b"".join([bytes(piece) async for piece in content]) == new
        assert max(b.passed()) <= 3_072
        b.begin()
        await b.hn.download("line", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == new and max(b.passed()) <= 3_072


async def test_a_file_that_is_no_version_is_no_base(connect: Connect, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(6_000_000)
    path = tmp_path / "copy"
    async with connect("writer") as a, connect("reader") as b:
        await a.hn.put("data", data)
        for there in (b"", b"x", data[::-1], data[:3_000_000] + b"!" + data[3_000_001:], data[:-1]):
            path.write_bytes(there)
            await b.hn.download("data", path)
            assert path.read_bytes() == data
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        await b.hn.download("data", path, old=pipe)
        await b.hn.download("data", pipe)
        assert path.read_bytes() == pipe.read_bytes() == data
