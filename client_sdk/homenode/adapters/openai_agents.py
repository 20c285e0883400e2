"""OpenAI Agents SDK: function tools on shared artifacts, and a session that several agents and processes share.

from homenode.adapters.openai_agents import HomenodeSession, artifact_tools
async with homenode.connect(url, agent="planner") as hn:
    agent = Agent(name="planner", tools=artifact_tools(hn))
    await Runner.run(agent, "…", session=HomenodeSession("chat-1", hn))
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

try:
    from agents import FunctionTool, TResponseInputItem
    from agents.memory import SessionABC
except ImportError as _missing:
    raise ImportError(
        "homenode.adapters.openai_agents needs its SDK: pip install 'homenode[openai-agents]'"
    ) from _missing

from homenode.adapters.tools import TOOLS, Toolbox
from homenode.client import Homenode
from homenode.errors import InvalidArgument


def artifact_tools(
    hn: Homenode, *, only: Collection[str] = tuple(TOOLS), prefix: str = "artifact_"
) -> list[FunctionTool]:
    """Tools for an agent: `artifact_read`, `artifact_write`, `artifact_edit` and so on.

    A refusal is an answer, which says what to do next; it does not end the run.

    Args:
        hn: the agent's connection; its name is what others see.
        only: which of the tools.
        prefix: before their names.
    """
    toolbox = Toolbox(hn)

    def tool(name: str) -> FunctionTool:
        async def invoke(context: Any, arguments: str) -> str:
            try:
                given = json.loads(arguments or "{}")
            except ValueError:
                return "InvalidArgument: the arguments are not JSON"
            if not isinstance(given, dict):
                return "InvalidArgument: the arguments are not a JSON object"
            return await toolbox.say(name, given)

        described = TOOLS[name]
        return FunctionTool(
            name=prefix + name, description=described.about, params_json_schema=described.schema, on_invoke_tool=invoke,
            strict_json_schema=False,
        )  # fmt: skip

    return [tool(name) for name in only]


class HomenodeSession(SessionABC):
    """A conversation's items in one artifact: agents in several processes go on with the same one, and lose none.

    Args:
        session_id: names the conversation; the artifact is `sessions/ID`.
        hn: a connection.
    """

    def __init__(self, session_id: str, hn: Homenode, *, prefix: str = "sessions/") -> None:
        if not session_id:
            raise InvalidArgument("a session has an id")
        self.session_id = session_id
        self._hn = hn
        self._key = prefix + session_id

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The items, oldest first; with `limit` the last ones. Served from this process while nobody added any."""
        items: list[TResponseInputItem] = (await self._hn.read(self._key, default=[])).json
        return (
            items if limit is None else items[len(items) - limit :] if 0 < limit < len(items) else items * (limit > 0)
        )

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items at the end, behind what others added meanwhile."""
        if items:
            await self._hn.edit(self._key, lambda known: [*known, *items], kind="json", default=[])

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the last item away; None where there is none."""
        taken: list[TResponseInputItem] = []

        def without_last(known: list[TResponseInputItem]) -> list[TResponseInputItem]:
            taken[:] = known[-1:]
            return known[:-1]

        await self._hn.edit(self._key, without_last, kind="json", default=[])
        return taken[0] if taken else None

    async def clear_session(self) -> None:
        """Forget all items."""
        await self._hn.edit(self._key, lambda known: [], kind="json", default=[])
