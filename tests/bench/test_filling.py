"""The artifacts that fill a store for the figures are artifacts like others."""

from __future__ import annotations

from pathlib import Path

import pytest

import homenode
from tests.bench.filling import fill
from tests.client.server_process import ServerProcess
from tests.support.redis_process import RedisProcess

pytestmark = pytest.mark.redis


async def test_copies_are_read_written_listed_and_deleted(
    redis_server: RedisProcess, redis_url: str, short_tmp: Path
) -> None:
    server = await ServerProcess(redis_url, short_tmp).start()
    try:
        address = f"127.0.0.1:{server.port}"
        for made, wanted in ((0, 3), (3, 12)):
            await fill(redis_server, address, "a text", made, wanted)
        async with homenode.connect(f"homenode://{address}/bench", agent="a") as hn:
            assert len(await hn.list("many/")) == 12
            read = await hn.read("many/11")
            assert read.text == "a text" and (await hn.stat("many/11")).sharers == 1
            written = await hn.put("many/11", "another")
            assert [info.version for info in await hn.history("many/11")] == [written.version, read.version]
            assert (await hn.read("many/2")).text == "a text", "the others are as they were"
            await hn.delete("many/2")
            assert len(await hn.list("many/")) == 11
        with redis_server.client() as client:
            kinds = {kind: len(list(client.scan_iter(f"*:{kind}/*", count=1_000))) for kind in ("b", "br", "v")}
        assert kinds == {"b": 14, "br": 14, "v": 13}, "a content for each, of the model, and what was written"
    finally:
        server.kill()
