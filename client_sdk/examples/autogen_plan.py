"""AutoGen: agents add to one plan. First in a ListMemory that they share, then in Homenode.

    python autogen_plan.py [ADDRESS]

The model is scripted (team.py) and calls tools; AssistantAgent does the rest. A ListMemory reaches one process. With
Homenode each agent is a process. Without an address a directory is started for the example.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_core import FunctionCall
from autogen_core.memory import ListMemory, MemoryContent
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    ModelInfo,
    RequestUsage,
)
from autogen_core.tools import BaseTool, FunctionTool
from team import PLAN, ROUNDS, THINK_S, Planner, play

import homenode
from homenode.adapters.autogen import artifact_tools


class Scripted(ChatCompletionClient):
    """Answers as the planner says, instead of a paid model."""

    model_info = ModelInfo(
        vision=False, function_calling=True, json_output=False, family="unknown", structured_output=False
    )
    capabilities = model_info

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._calls = 0

    async def create(self, messages: Sequence[LLMMessage], **more: Any) -> CreateResult:
        """A call of a tool, or that the work is done."""
        await asyncio.sleep(THINK_S)
        self._calls += 1
        last = messages[-1]
        call = self._planner.turn(last.content[0].content if isinstance(last, FunctionExecutionResultMessage) else "")
        if call is None:
            return CreateResult(finish_reason="stop", content="done", usage=RequestUsage(0, 0), cached=False)
        content = [FunctionCall(id=f"c{self._calls}", name=call[0], arguments=json.dumps(call[1]))]
        return CreateResult(finish_reason="function_calls", content=content, usage=RequestUsage(0, 0), cached=False)

    def create_stream(self, *arguments: Any, **more: Any) -> AsyncGenerator[Any, None]:
        """Not used here."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""

    def actual_usage(self) -> RequestUsage:
        """Costs nothing."""
        return RequestUsage(0, 0)

    total_usage = actual_usage

    def count_tokens(self, messages: Sequence[LLMMessage], **more: Any) -> int:
        """Nobody pays."""
        return 0

    def remaining_tokens(self, messages: Sequence[LLMMessage], **more: Any) -> int:
        """Enough."""
        return 1_000_000


async def work(who: str, planner: Planner, tools: list[BaseTool[Any, Any]]) -> None:
    """An agent adds an item in each of its runs."""
    agent = AssistantAgent(who, Scripted(planner), tools=tools, max_tool_iterations=200)
    for _ in range(ROUNDS):
        await agent.run(task="Add an item to the plan.")


async def two_agents() -> str:
    """Two agents with one memory."""
    memory = ListMemory()
    await memory.add(MemoryContent(content=PLAN, mime_type="text/plain"))

    async def read_plan() -> str:
        return str((await memory.query("")).results[0].content)

    async def write_plan(text: str) -> str:
        await memory.clear()
        await memory.add(MemoryContent(content=text, mime_type="text/plain"))
        return "written"

    tools = [FunctionTool(read_plan, "Show the plan."), FunctionTool(write_plan, "Replace the plan.")]
    await asyncio.gather(*(work(who, Planner(who), [*tools]) for who in ("one", "two")))
    return await read_plan()


async def one_agent(url: str, who: str) -> int:
    """One agent in a process of its own."""
    async with homenode.connect(url, agent=who) as hn:
        planner = Planner(who, "artifact_read", "artifact_write", versions=True)
        await work(who, planner, artifact_tools(hn, only=["read", "write"]))
        return hn.stats().tokens_saved


if __name__ == "__main__":
    play("a ListMemory", lambda: asyncio.run(two_agents()), lambda url, who: asyncio.run(one_agent(url, who)))
