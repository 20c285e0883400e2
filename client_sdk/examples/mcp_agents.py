"""MCP: two agents in processes of their own edit one plan through `homenode mcp`, and neither loses the other's work.

    python mcp_agents.py [ADDRESS]

A scripted model stands where an MCP client such as a coding assistant would be: it calls tools, and names the version
that it has seen. Without an address a directory is started for the example.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from directory_process import directory
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

KEY = "plan.md"
ROUNDS = 5
PLAN = "# Plan\n" + "".join(f"{n}. a step that stays as it is\n" for n in range(60)) + "END\n"


async def call(client: Client, tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """What a tool says, and its fields."""
    result = await client.call_tool(tool, arguments)
    return result.content[0].text, result.structured_content or {}


async def agent(url: str, who: str) -> int:
    """Adds items between looks at what the other one did; returns the tokens that those looks cost."""
    shown = 0
    command = ["-m", "homenode.cli.main", "mcp", "--url", url, "--agent", who]
    async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=command))) as client:
        _, seen = await call(client, "read", key=KEY)
        for number in range(ROUNDS):
            await call(client, "edit", key=KEY, old="END", new=f"- {who}, item {number}\nEND")
            _, seen = await call(client, "read", key=KEY, since=seen["version"])
            shown += seen["tokens"]
        text, _ = await call(client, "write", key=KEY, text="mine alone", base="1.1")
        if who == "builder":
            print(f"a write over a version that is gone is refused: {text.splitlines()[0]}")
    return shown


async def main(url: str) -> None:
    """Two agents at once."""
    command = ["-m", "homenode.cli.main", "mcp", "--url", url]
    async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=command))) as client:
        _, found = await call(client, "list", prefix=KEY)
        if found["artifacts"]:
            await call(client, "write", key=KEY, text=PLAN, base=found["artifacts"][0]["version"])
        else:
            await call(client, "write", key=KEY, text=PLAN, create=True)
        shown = await asyncio.gather(agent(url, "builder"), agent(url, "tester"))
        text, _ = await call(client, "read", key=KEY)
        _, whole = await call(client, "read", key=KEY, since="1.1")
    print(f"{2 * ROUNDS} edits, {text.count(', item ')} there")
    print(f"what the agents were shown of each other's edits: {sum(shown)} tokens instead of "
          f"{2 * ROUNDS * whole['full_tokens']}")  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        with directory() as address:
            asyncio.run(main(address))
