"""OpenAI Agents SDK: agents add to one plan. First in the context that their runs share, then in Homenode.

    python openai_agents_plan.py [ADDRESS]

The model is scripted (team.py) and calls tools; the SDK's runner does the rest. A context reaches one process. With
Homenode each agent is a process. Without an address a directory is started for the example.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from agents import (
    Agent,
    Model,
    ModelResponse,
    RunContextWrapper,
    Runner,
    Tool,
    Usage,
    function_tool,
    set_tracing_disabled,
)
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from team import PLAN, ROUNDS, THINK_S, Planner, play

import homenode
from homenode.adapters.openai_agents import artifact_tools

set_tracing_disabled(True)


class Scripted(Model):
    """Answers as the planner says, instead of a paid model."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._calls = 0

    async def get_response(self, system_instructions: Any, input: Any, *rest: Any, **more: Any) -> ModelResponse:
        """A call of a tool, or that the work is done."""
        await asyncio.sleep(THINK_S)
        self._calls += 1
        heard = input[-1].get("output", "") if isinstance(input, list) else ""
        call = self._planner.turn(heard)
        if call is not None:
            item: Any = ResponseFunctionToolCall(
                type="function_call", call_id=f"c{self._calls}", name=call[0], arguments=json.dumps(call[1])
            )
        else:
            text = ResponseOutputText(type="output_text", text="done", annotations=[])
            item = ResponseOutputMessage(
                id=f"m{self._calls}", type="message", role="assistant", status="completed", content=[text]
            )
        return ModelResponse(output=[item], usage=Usage(), response_id=None)

    def stream_response(self, *arguments: Any, **more: Any) -> AsyncIterator[Any]:
        """Not used here."""
        raise NotImplementedError


async def work(who: str, planner: Planner, tools: list[Tool], shared: Any = None) -> None:
    """An agent adds an item in each of its runs."""
    agent = Agent(name=who, model=Scripted(planner), tools=tools)
    for _ in range(ROUNDS):
        await Runner.run(agent, "Add an item to the plan.", context=shared, max_turns=200)


@function_tool
def read_plan(run: RunContextWrapper[dict[str, str]]) -> str:
    """Show the plan."""
    return run.context["plan"]


@function_tool
def write_plan(run: RunContextWrapper[dict[str, str]], text: str) -> str:
    """Replace the plan."""
    run.context["plan"] = text
    return "written"


def without() -> str:
    """Two agents with one context."""
    shared = {"plan": PLAN}

    async def both() -> None:
        await asyncio.gather(*(work(who, Planner(who), [read_plan, write_plan], shared) for who in ("one", "two")))

    asyncio.run(both())
    return shared["plan"]


def agent(url: str, who: str) -> int:
    """One agent in a process of its own."""

    async def run() -> int:
        async with homenode.connect(url, agent=who) as hn:
            planner = Planner(who, "artifact_read", "artifact_write", versions=True)
            await work(who, planner, [*artifact_tools(hn, only=["read", "write"])])
            return hn.stats().tokens_saved

    return asyncio.run(run())


if __name__ == "__main__":
    play("the context of the runs", without, agent)
