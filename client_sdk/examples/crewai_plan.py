"""CrewAI: crews keep one plan in their memory. First in CrewAI's own storage, then in Homenode's: one line differs.

    python crewai_plan.py [ADDRESS]

The model is scripted (team.py) and calls two tools over the crew's storage. CrewAI's own is used by two crews of one
process; with Homenode each crew is a process. Without an address a directory is started for the example.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ.update(CREWAI_DISABLE_TELEMETRY="true", OTEL_SDK_DISABLED="true", CREWAI_TRACING_ENABLED="false")

from crewai import Agent, BaseLLM, Crew, Task
from crewai.memory.storage.lancedb_storage import LanceDBStorage
from crewai.memory.types import MemoryRecord
from crewai.tools import BaseTool, tool
from pydantic import PrivateAttr
from team import PLAN, ROUNDS, THINK_S, Planner, play

import homenode
from homenode.adapters.crewai import HomenodeStorage

logging.getLogger("crewai").setLevel(logging.ERROR)  # it warns that it cannot count a scripted model's tokens
RECORD = MemoryRecord(id="plan", content=PLAN, embedding=[1.0, 0.0])


class Scripted(BaseLLM):
    """Answers as the planner says, instead of a paid model."""

    _planner: Planner = PrivateAttr()

    def supports_function_calling(self) -> bool:
        """It calls tools by name."""
        return True

    def call(self, messages: Any, *rest: Any, **more: Any) -> Any:
        """A call of a tool, or that the work is done."""
        time.sleep(THINK_S)
        told = [one["content"] for one in messages if one["role"] == "tool"]
        call = self._planner.turn(told[-1] if told else "")
        if call is None:
            return "done"
        return [{"id": f"c{len(told)}", "function": {"name": call[0], "arguments": json.dumps(call[1])}}]


def tools_of(storage: Any) -> list[BaseTool]:
    """The plan is a record; whoever updates it updates the one that it read."""

    @tool
    def read_plan() -> str:
        """Show the plan."""
        for _ in range(1_000):
            if (record := storage.get_record("plan")) is not None:
                return str(record.content)
            time.sleep(0.001)  # LanceDB's update deletes, then adds
        return "there is no plan"

    @tool
    def write_plan(text: str) -> str:
        """Replace the plan."""
        try:
            storage.update(RECORD.model_copy(update={"content": text}))
        except homenode.VersionConflict as refusal:
            return f"VersionConflict: {refusal}"
        return "written"

    return [read_plan, write_plan]


def work(who: str, storage: Any) -> None:
    """A crew of one agent adds an item at each of its kickoffs."""
    llm = Scripted(model="scripted")
    llm._planner = Planner(who)
    for _ in range(ROUNDS):
        agent = Agent(
            role=who, goal="a plan", backstory="a planner", llm=llm, tools=tools_of(storage), cache=False, max_iter=200
        )
        task = Task(description="Add an item to the plan.", expected_output="done", agent=agent)
        Crew(agents=[agent], tasks=[task], cache=False).kickoff()


def without() -> str:
    """Two crews with one storage of CrewAI's."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as threads:
        storage = LanceDBStorage(folder)
        storage.save([RECORD])
        list(threads.map(lambda who: work(who, storage), ("one", "two")))
        return str(storage.get_record("plan").content)


def crew(url: str, who: str) -> int:
    """One crew in a process of its own."""
    with homenode.connect_sync(url, agent=who) as hn:
        work(who, HomenodeStorage(hn))
        return hn.stats().tokens_saved


def begin(url: str) -> None:
    """The plan as it is before anybody works on it."""
    with homenode.connect_sync(url, agent="lead") as hn:
        HomenodeStorage(hn).save([RECORD])


def end(url: str) -> str:
    """The plan as it is now."""
    with homenode.connect_sync(url, agent="lead") as hn:
        record = HomenodeStorage(hn).get_record("plan")
        return record.content if record is not None else ""


if __name__ == "__main__":
    play("CrewAI's own storage", without, crew, begin, end)
