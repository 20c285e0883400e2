"""AutoGen, really run, with a scripted model in place of a paid one. `make test-adapters` has its environment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_agentchat.agents import AssistantAgent
from autogen_core import FunctionCall, Image
from autogen_core.memory import ListMemory, MemoryContent
from autogen_core.model_context import UnboundedChatCompletionContext
from autogen_core.models import ChatCompletionClient, CreateResult, LLMMessage, ModelInfo, RequestUsage

import homenode
from homenode.adapters.autogen import HomenodeMemory, artifact_tools
from tests.adapters.elsewhere import elsewhere
from tests.support.examples import check_plan, run_example


class Scripted(ChatCompletionClient):
    """Calls the tools that it is told to, one a turn, and notes what it was shown."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self._calls = list(calls)
        self.heard: list[Sequence[LLMMessage]] = []

    async def create(self, messages: Sequence[LLMMessage], **more: Any) -> CreateResult:
        self.heard.append(list(messages))
        content: Any = "done"
        if self._calls:
            name, arguments = self._calls.pop(0)
            content = [FunctionCall(id=f"c{len(self.heard)}", name=name, arguments=json.dumps(arguments))]
        reason = "stop" if content == "done" else "function_calls"
        return CreateResult(finish_reason=reason, content=content, usage=RequestUsage(0, 0), cached=False)

    def create_stream(self, *arguments: Any, **more: Any) -> AsyncGenerator[Any, None]:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""

    def actual_usage(self) -> RequestUsage:
        return RequestUsage(0, 0)

    total_usage = actual_usage

    def count_tokens(self, messages: Sequence[LLMMessage], **more: Any) -> int:
        return 0

    def remaining_tokens(self, messages: Sequence[LLMMessage], **more: Any) -> int:
        return 1_000

    @property
    def capabilities(self) -> ModelInfo:
        return self.model_info

    @property
    def model_info(self) -> ModelInfo:
        return ModelInfo(
            vision=False, function_calling=True, json_output=False, family="unknown", structured_output=False
        )


def shown(messages: Sequence[LLMMessage]) -> str:
    return "\n".join(str(one.content) for one in messages)


async def test_agents_share_a_memory_and_are_given_each_content_once(server_url: str) -> None:
    mine, theirs = HomenodeMemory(server_url), HomenodeMemory(server_url)
    a, b = Scripted(), Scripted()
    agents = [AssistantAgent("a", a, memory=[mine]), AssistantAgent("b", b, memory=[theirs])]
    await mine.add(MemoryContent(content="the plan is blue", mime_type="text/plain"))
    for agent in agents:
        await agent.run(task="go")
    assert "the plan is blue" in shown(a.heard[-1]) and "the plan is blue" in shown(b.heard[-1])
    await theirs.add(MemoryContent(content={"colour": "red"}, mime_type="application/json", metadata={"by": "b"}))
    async with asyncio.timeout(20):
        while len((await mine.query()).results) < 2:
            await asyncio.sleep(0.01)
    await agents[0].run(task="go on")
    assert shown(a.heard[-1]).count("the plan is blue") == 1 and "'colour': 'red'" in shown(a.heard[-1])
    await theirs.clear()
    assert (await theirs.query()).results == []
    await mine.close()
    await theirs.close()


async def test_concurrent_additions_all_stay(server_url: str) -> None:
    memories = [HomenodeMemory(server_url) for _ in range(3)]

    async def add(memory: HomenodeMemory, who: int) -> None:
        for number in range(8):
            await memory.add(MemoryContent(content=f"{who}/{number}", mime_type="text/plain"))

    await asyncio.gather(*(add(memory, who) for who, memory in enumerate(memories)))
    fresh = HomenodeMemory(server_url)
    assert sorted(str(one.content) for one in (await fresh.query()).results) == sorted(
        f"{who}/{n}" for who in range(3) for n in range(8)
    )
    for memory in [*memories, fresh]:
        await memory.close()


async def test_what_another_process_adds_is_there_at_the_next_turn(server_url: str) -> None:
    mine = HomenodeMemory(server_url)
    await mine.add(MemoryContent(content="one", mime_type="text/plain"))
    hn = await mine._connected()

    async def said() -> list[Any]:
        return [one.content for one in (await mine.query()).results]

    for number, known in enumerate(["one two", "one two three"]):
        await asyncio.to_thread(elsewhere, _ADDS, server_url, known.split()[-1])
        asked = hn.stats().misses
        model = Scripted()
        await AssistantAgent("a", model, memory=[mine]).run(task="go")
        assert known.split()[-1] in shown(model.heard[0])
        for _ in range(10):
            assert await said() == known.split()
        assert hn.stats().misses == asked + 1, number
    await mine.close()


_ADDS = """
async def main(url, text):
    memory = HomenodeMemory(url)
    await memory.add(MemoryContent(content=text, mime_type="text/plain"))
    await memory.close()

import asyncio, sys
from autogen_core.memory import MemoryContent
from homenode.adapters.autogen import HomenodeMemory
asyncio.run(main(*sys.argv[1:]))
"""


def test_the_example() -> None:
    check_plan(run_example("autogen_plan.py", timeout=240))


async def test_it_answers_as_the_list_memory_does(server_url: str) -> None:
    ours, theirs = HomenodeMemory(server_url), ListMemory()
    for content in ("text", b"\x00\xff", {"a": [1]}):
        for memory in (ours, theirs):
            await memory.add(MemoryContent(content=content, mime_type="text/plain", metadata={"n": 1}))
    assert (await ours.query()).results == (await theirs.query("")).results
    context, own = UnboundedChatCompletionContext(), UnboundedChatCompletionContext()
    assert (await ours.update_context(own)).memories == (await theirs.update_context(context)).memories
    assert (await ours.update_context(own)).memories.results == []
    with pytest.raises(homenode.InvalidArgument):
        await ours.add(MemoryContent(content=Image.from_base64(_DOT), mime_type="image/*"))
    await ours.close()


async def test_a_worker_makes_the_same_memory_from_its_configuration(server_url: str) -> None:
    ours = HomenodeMemory(server_url, "team")
    await ours.add(MemoryContent(content="known", mime_type="text/plain"))
    again = HomenodeMemory.load_component(ours.dump_component())
    assert [one.content for one in (await again.query()).results] == ["known"]
    await ours.close()
    await again.close()


async def test_tools_answer_refusals_in_words(server_url: str) -> None:
    async with homenode.connect(server_url, agent="a") as hn:
        first = await hn.put("plan.md", "one")
        await hn.put("plan.md", "two")
        late = {"key": "plan.md", "text": "mine", "base": str(first.version)}
        model = Scripted(("artifact_write", late), ("artifact_edit", {"key": "plan.md", "old": "two", "new": "three"}))
        agent = AssistantAgent("a", model, tools=artifact_tools(hn), max_tool_iterations=3)
        await agent.run(task="go")
        assert "VersionConflict" in shown(model.heard[1])
        assert (await hn.read("plan.md", max_age_ms=0)).text == "three"


_DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
