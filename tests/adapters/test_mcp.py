"""`homenode mcp` through the official client library: both transports, both generations of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import mcp_types as types
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

import homenode
from tests.support.ports import accepts_connections, free_port, wait_until

COMMAND = [sys.executable, "-m", "homenode.cli.main"]


def stdio(url: str) -> Any:
    return stdio_client(StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], "mcp", "--url", url]))


@contextlib.contextmanager
def http_server(url: str) -> Any:
    port = free_port()
    place = f"127.0.0.1:{port}"
    process = subprocess.Popen([*COMMAND, "mcp", "--url", url, "--http", place], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None and "MCP at" in process.stderr.readline()
        wait_until(lambda: accepts_connections(port), timeout_s=30)
        yield f"http://{place}/mcp"
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextlib.asynccontextmanager
async def connected(transport: str, url: str) -> AsyncIterator[Client]:
    """A client of a server of its own."""
    if transport == "stdio":
        async with Client(stdio(url)) as made:
            yield made
    else:
        with http_server(url) as address:
            async with Client(address) as made:
                yield made


@pytest.fixture(params=["stdio", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    """How the client reaches the server."""
    return str(request.param)


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The fields of an answer that was given."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


async def refusal(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The fields of a refusal."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert result.structured_content is not None
    return result.structured_content


async def test_tools_do_what_they_say(transport: str, server_url: str) -> None:
    async with connected(transport, server_url) as client:
        tools = {one.name: one for one in (await client.list_tools()).tools}
        assert set(tools) == {"read", "write", "edit", "list", "history", "gate", "lock", "unlock"}
        assert all(one.description and one.input_schema["type"] == "object" for one in tools.values())

        first = await call(client, "write", key="plan.md", text="# Plan\n" + "a line that stays\n" * 40, create=True)
        assert (await refusal(client, "write", key="plan.md", text="x", create=True))["error"] == "AlreadyExists"
        read = await call(client, "read", key="plan.md")
        assert read["version"] == first["version"] and read["kind"] == "full"

        async with homenode.connect(server_url, agent="other") as other:
            await other.edit("plan.md", lambda text: text + "- ship it\n")
            late = await refusal(client, "write", key="plan.md", text="mine", base=first["version"])
            assert late["error"] == "VersionConflict" and late["current"] != first["version"]
            answer = await client.call_tool("read", {"key": "plan.md", "since": first["version"]})
            told = answer.structured_content
            assert told is not None and told["kind"] == "change" and told["tokens"] < told["full_tokens"] / 4
            assert isinstance(answer.content[0], types.TextContent) and "- ship it" in answer.content[0].text
            assert (await call(client, "read", key="plan.md", since=told["version"]))["kind"] == "unchanged"

            edited = await call(client, "edit", key="plan.md", old="- ship it", new="- shipped")
            assert (await other.read("plan.md", max_age_ms=0)).text.endswith("- shipped\n")
            assert (await refusal(client, "edit", key="plan.md", old="a line that stays", new="?"))[
                "error"
            ] == "InvalidArgument"

            assert (await call(client, "gate", reads={"plan.md": edited["version"], "none": None}))["holds"] is True
            closed = await call(client, "gate", reads={"plan.md": first["version"]})
            assert closed["holds"] is False and closed["moved"]["plan.md"]["current"] == edited["version"]

            listed = (await call(client, "list", prefix="plan"))["artifacts"]
            assert [one["key"] for one in listed] == ["plan.md"]
            assert len((await call(client, "history", key="plan.md"))["versions"]) == 3

            lock = (await call(client, "lock", key="plan.md"))["lock"]
            with pytest.raises(homenode.LeaseDenied):
                await other.put("plan.md", "no", base=homenode.ANY)
            await call(client, "write", key="plan.md", text="under a lock", lock=lock)
            await call(client, "unlock", lock=lock)
            assert (await refusal(client, "write", key="plan.md", text="late", lock=lock))["error"] == "LeaseLost"
            await other.put("plan.md", "yes", base=homenode.ANY)


async def test_artifacts_are_resources(transport: str, server_url: str) -> None:
    async with connected(transport, server_url) as client:
        async with homenode.connect(server_url) as other:
            await other.put("notes/a b.md", "text", media_type="text/markdown")
            await other.put("picture", b"\xff\x00", media_type="image/png")
        listed = {one.name: one for one in (await client.list_resources()).resources}
        assert set(listed) == {"notes/a b.md", "picture"}
        assert listed["notes/a b.md"].mime_type == "text/markdown"
        text = (await client.read_resource(listed["notes/a b.md"].uri)).contents[0]
        assert isinstance(text, types.TextResourceContents) and text.text == "text"
        blob = (await client.read_resource(listed["picture"].uri)).contents[0]
        assert isinstance(blob, types.BlobResourceContents) and blob.blob == "/wA="
        assert (await client.list_resource_templates()).resource_templates[0].uri_template == "homenode:///{+name}"
        for uri in ("homenode:///none", "file:///etc/passwd", "homenode:///"):
            with pytest.raises(MCPError):
                await client.read_resource(uri)


async def test_a_client_is_told_when_a_resource_changes(transport: str, server_url: str) -> None:
    async with connected(transport, server_url) as client:
        async with homenode.connect(server_url) as other:
            await other.put("plan.md", "one")
            async with client.listen(
                resource_subscriptions=["homenode:///plan.md"], resources_list_changed=True
            ) as events:
                await other.put("other.md", "x")
                await other.put("plan.md", "two")
                seen: set[str] = set()
                async with asyncio.timeout(30):
                    async for event in events:
                        seen.add(type(event).__name__)
                        if len(seen) == 2:
                            break
        assert seen == {"ResourceUpdated", "ResourcesListChanged"}


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_clients_of_the_earlier_protocol_subscribe_to_single_resources(server_url: str) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            told.put_nowait(str(message.params.uri))

    async with (
        homenode.connect(server_url) as other,
        Client(stdio(server_url), mode="legacy", message_handler=hear) as client,
    ):
        await other.put("plan.md", "one")
        await client.subscribe_resource("homenode:///plan.md")
        await other.put("unrelated.md", "x")
        await other.put("plan.md", "two")
        assert await asyncio.wait_for(told.get(), 30) == "homenode:///plan.md"
        await client.unsubscribe_resource("homenode:///plan.md")
        await call(client, "read", key="plan.md")
        while not told.empty():  # what was told before the answer
            told.get_nowait()
        await other.put("plan.md", "three")
        await call(client, "read", key="plan.md")
        assert told.empty()


async def test_no_edit_of_several_clients_is_lost(server_url: str) -> None:
    async def work(client: Client, who: int) -> None:
        for number in range(5):
            await call(client, "edit", key="plan.md", old="END", new=f"client {who} item {number}\nEND")

    async with homenode.connect(server_url) as hn:
        await hn.put("plan.md", "END")
        with http_server(server_url) as address:
            async with contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(Client(target)) for target in (address, address)]
                clients.append(await stack.enter_async_context(Client(stdio(server_url))))
                await asyncio.gather(*(work(client, who) for who, client in enumerate(clients)))
        lines = (await hn.read("plan.md", max_age_ms=0)).text.splitlines()
    assert sorted(lines[:-1]) == sorted(f"client {who} item {n}" for who in range(3) for n in range(5))


async def test_bad_calls_are_refused_in_words(server_url: str) -> None:
    async with Client(stdio(server_url)) as client:
        assert "versions are shown" in (await refusal(client, "read", key="a", since="nonsense"))["message"]
        assert (await refusal(client, "read", key="none"))["error"] == "NotFound"
        assert (await refusal(client, "read", key=""))["error"] == "InvalidArgument"
        assert "say one of" in (await refusal(client, "write", key="a", text="x"))["message"]
        assert "extra" in (await refusal(client, "list", colour="red"))["message"].lower()
        with pytest.raises(MCPError):
            await client.call_tool("destroy", {})


def test_other_hosts_are_not_served_unasked(server_url: str) -> None:
    refused = subprocess.run(
        [*COMMAND, "mcp", "--url", server_url, "--http", "0.0.0.0:8000"], capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 2 and "--allow-remote" in refused.stderr
