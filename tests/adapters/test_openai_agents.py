"""The OpenAI Agents SDK, really run, with a scripted model in place of a paid one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("agents")

from agents import Agent, Model, ModelResponse, Runner, Usage, set_tracing_disabled
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

import homenode
from homenode.adapters.openai_agents import HomenodeSession, artifact_tools

set_tracing_disabled(True)


class Scripted(Model):
    """Calls the tools that it is told to, one a turn, and then says what the last one answered."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self._calls = list(calls)
        self.heard: list[Any] = []

    async def get_response(self, system_instructions: Any, input: Any, *rest: Any, **more: Any) -> ModelResponse:
        self.heard.append(input)
        number = len(self.heard)
        if self._calls:
            name, arguments = self._calls.pop(0)
            item: Any = ResponseFunctionToolCall(
                type="function_call", call_id=f"c{number}", name=name, arguments=json.dumps(arguments)
            )
        else:
            last = input[-1] if isinstance(input, list) else {}
            text = ResponseOutputText(type="output_text", text=str(last.get("output", "done")), annotations=[])
            item = ResponseOutputMessage(
                id=f"m{number}", type="message", role="assistant", status="completed", content=[text]
            )
        return ModelResponse(output=[item], usage=Usage(), response_id=None)

    def stream_response(self, *arguments: Any, **more: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


async def test_agents_edit_one_plan_and_are_told_when_they_are_late(server_url: str) -> None:
    async with homenode.connect(server_url, agent="a") as a, homenode.connect(server_url, agent="b") as b:
        first = await a.put("plan.md", "one\ntwo\n")
        await b.put("plan.md", "one\ntwo\nthree\n", base=first.version)
        late = {"key": "plan.md", "text": "mine", "base": str(first.version)}
        model = Scripted(
            ("artifact_write", late), ("artifact_edit", {"key": "plan.md", "old": "two", "new": "TWO"}),
            ("artifact_read", {"key": "plan.md", "since": str(first.version)}),
        )  # fmt: skip
        result = await Runner.run(Agent(name="a", model=model, tools=list(artifact_tools(a))), "work")
        assert "TWO" in result.final_output and "three" in result.final_output
        assert "VersionConflict" in json.dumps(model.heard[1], default=str)
        assert (await b.read("plan.md", max_age_ms=0)).text == "one\nTWO\nthree\n"
    assert "not JSON" in await artifact_tools(a)[0].on_invoke_tool(None, "{")  # type: ignore[arg-type]


async def test_a_conversation_is_shared_and_loses_no_item(server_url: str) -> None:
    async with homenode.connect(server_url, agent="a") as a, homenode.connect(server_url, agent="b") as b:
        mine, theirs = HomenodeSession("chat", a), HomenodeSession("chat", b)
        await Runner.run(Agent(name="a", model=Scripted()), "hello", session=mine)
        assert [one.get("role") for one in await theirs.get_items()] == ["user", "assistant"]

        async def add(session: HomenodeSession, who: str) -> None:
            for number in range(10):
                await session.add_items([{"role": "user", "content": f"{who} {number}"}])

        await asyncio.gather(add(mine, "a"), add(theirs, "b"))
        said = [one.get("content") for one in await mine.get_items()]
        assert sorted(said[2:], key=str) == sorted(f"{who} {n}" for who in "ab" for n in range(10))
        assert await theirs.get_items(limit=3) == (await mine.get_items())[-3:] and await mine.get_items(limit=0) == []
        last = (await mine.get_items())[-1]
        assert await theirs.pop_item() == last and len(await mine.get_items()) == 21
        await theirs.clear_session()
        assert await mine.get_items() == [] and await mine.pop_item() is None


async def test_nothing_is_fetched_while_nothing_changes(server_url: str) -> None:
    async with homenode.connect(server_url, agent="a") as a, homenode.connect(server_url, agent="b") as b:
        mine, theirs = HomenodeSession("chat", a), HomenodeSession("chat", b)
        await mine.add_items([{"role": "user", "content": "hello"}])
        await theirs.get_items()
        before = b.stats().misses
        for _ in range(20):
            await theirs.get_items()
        assert b.stats().misses == before
        await mine.add_items([{"role": "user", "content": "more"}])
        async with asyncio.timeout(20):
            while len(await theirs.get_items()) < 2:
                await asyncio.sleep(0.01)
        assert b.stats().misses == before + 1
