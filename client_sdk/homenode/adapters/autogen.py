"""AutoGen (agentchat 0.7): a `Memory` that agents in several processes share, and tools on shared artifacts.

from homenode.adapters.autogen import HomenodeMemory, artifact_tools
async with homenode.connect(url, agent="planner") as hn:
    agent = AssistantAgent("planner", model, memory=[HomenodeMemory(url)], tools=artifact_tools(hn))
"""

from __future__ import annotations

import base64
import weakref
from collections.abc import Collection, Mapping
from typing import Any, Self

try:
    from autogen_core import CancellationToken, Component
    from autogen_core.memory import Memory, MemoryContent, MemoryMimeType, MemoryQueryResult, UpdateContextResult
    from autogen_core.model_context import ChatCompletionContext
    from autogen_core.models import SystemMessage
    from autogen_core.tools import BaseTool
except ImportError as _missing:
    raise ImportError("homenode.adapters.autogen needs AutoGen: pip install 'homenode[autogen]'") from _missing

from pydantic import BaseModel

import homenode
from homenode.adapters.tools import TOOLS, Arguments, Toolbox
from homenode.client import Homenode
from homenode.errors import InvalidArgument


class _ArtifactTool(BaseTool[Arguments, str]):
    def __init__(self, toolbox: Toolbox, which: str, name: str) -> None:
        super().__init__(TOOLS[which].arguments, str, name, TOOLS[which].about)
        self._toolbox = toolbox
        self._which = which

    async def run(self, args: Arguments, cancellation_token: CancellationToken) -> str:
        return await self._toolbox.say(self._which, args.model_dump(exclude_unset=True))


def artifact_tools(
    hn: Homenode, *, only: Collection[str] = tuple(TOOLS), prefix: str = "artifact_"
) -> list[BaseTool[Any, Any]]:
    """Tools for an agent: `artifact_read`, `artifact_write`, `artifact_edit` and so on.

    A refusal is an answer, which says what to do next. In a distributed runtime each worker connects and makes its own.

    Args:
        hn: the agent's connection; its name is what others see.
        only: which of the tools.
        prefix: before their names.
    """
    toolbox = Toolbox(hn)
    return [_ArtifactTool(toolbox, which, prefix + which) for which in only]


class MemoryConfig(BaseModel):
    """What a distributed runtime's worker needs to make the same memory again."""

    url: str
    name: str
    prefix: str


class HomenodeMemory(Memory, Component[MemoryConfig]):
    """A chronological memory in one artifact.

    What one agent adds, all others know at their next turn; nothing is fetched while nothing is added, and no addition
    is lost. A model context is given each content once: at its next turn only what was added since.

    Args:
        url: the directory, as for `homenode.connect`; connected to at the first use.
        name: of the memory; the artifact is `memory/NAME`.
    """

    component_provider_override = "homenode.adapters.autogen.HomenodeMemory"
    component_config_schema = MemoryConfig

    def __init__(self, url: str, name: str = "shared", *, prefix: str = "memory/") -> None:
        self._config = MemoryConfig(url=url, name=name, prefix=prefix)
        self._hn: Homenode | None = None
        self._given: weakref.WeakKeyDictionary[ChatCompletionContext, list[Any]] = weakref.WeakKeyDictionary()

    async def add(self, content: MemoryContent, cancellation_token: CancellationToken | None = None) -> None:
        """Add a content at the end. Raises InvalidArgument for images, which JSON cannot say."""
        item = _stored(content)
        await (await self._connected()).edit(self._key, lambda known: [*known, item], kind="json", default=[])

    async def query(
        self, query: str | MemoryContent = "", cancellation_token: CancellationToken | None = None, **kwargs: Any
    ) -> MemoryQueryResult:
        """All contents, oldest first; the query is not looked at, as in AutoGen's own list memory."""
        return MemoryQueryResult(results=[_loaded(item) for item in await self._items()])

    async def update_context(self, model_context: ChatCompletionContext) -> UpdateContextResult:
        """Put what this context was not given yet at its end, as one system message."""
        items = await self._items()
        given = self._given.get(model_context, [])
        known = len(given) if items[: len(given)] == given else 0  # else it was cleared
        new = [_loaded(item) for item in items[known:]]
        if new:
            lines = [f"{number}. {_text(one)}" for number, one in enumerate(new, known + 1)]
            head = "Relevant memory, in the order in which it was added:"
            await model_context.add_message(SystemMessage(content="\n".join([head, *lines])))
        self._given[model_context] = items
        return UpdateContextResult(memories=MemoryQueryResult(results=new))

    async def clear(self) -> None:
        """Forget all contents, for everybody."""
        await (await self._connected()).edit(self._key, lambda known: [], kind="json", default=[])

    async def close(self) -> None:
        """Close the connection; a later use opens it again."""
        hn, self._hn = self._hn, None
        if hn is not None:
            await hn.close()

    @property
    def _key(self) -> str:
        return self._config.prefix + self._config.name

    async def _items(self) -> list[Any]:
        items: list[Any] = (await (await self._connected()).read(self._key, default=[])).json
        return items

    async def _connected(self) -> Homenode:
        if self._hn is None:
            self._hn = await homenode.connect(self._config.url, agent="autogen")
        return self._hn

    def _to_config(self) -> MemoryConfig:
        return self._config

    @classmethod
    def _from_config(cls, config: MemoryConfig) -> Self:
        return cls(config.url, config.name, prefix=config.prefix)


def _stored(content: MemoryContent) -> dict[str, Any]:
    mime = content.mime_type.value if isinstance(content.mime_type, MemoryMimeType) else content.mime_type
    item: dict[str, Any] = {"mime_type": mime, "metadata": content.metadata}
    if isinstance(content.content, bytes):
        return {**item, "base64": base64.b64encode(content.content).decode()}
    if isinstance(content.content, str | dict):
        return {**item, "content": content.content}
    raise InvalidArgument(f"a shared memory holds text, JSON and bytes, not {type(content.content).__name__}")


def _loaded(item: Mapping[str, Any]) -> MemoryContent:
    content = base64.b64decode(item["base64"]) if "base64" in item else item["content"]
    return MemoryContent(content=content, mime_type=item["mime_type"], metadata=item["metadata"])


def _text(content: MemoryContent) -> str:
    return content.content if isinstance(content.content, str) else str(content.content)
