"""What a graph's agent may call to learn what others changed."""

from __future__ import annotations

from langchain_core.tools import StructuredTool

from homenode.adapters.langgraph.store import HomenodeStore
from homenode.change import ChangeKind
from homenode.errors import NotFound


def changes_tool(store: HomenodeStore, namespace: tuple[str, ...], *, name: str = "what_changed") -> StructuredTool:
    """A tool `what_changed(key)`: what changed in an item of `namespace` since the agent saw it last.

    The answer is one line when nothing did, a textual change where that is shorter than the item, or the item.
    """

    def answer(kind: ChangeKind, text: str) -> str:
        return "unchanged" if kind is ChangeKind.UNCHANGED else text

    def what_changed(key: str) -> str:
        try:
            change = store.changes(namespace, key)
        except NotFound:
            return f"there is no {key!r}"
        return answer(change.kind, change.text)

    async def awhat_changed(key: str) -> str:
        try:
            change = await store.achanges(namespace, key)
        except NotFound:
            return f"there is no {key!r}"
        return answer(change.kind, change.text)

    about = f"What changed in an item of {'/'.join(namespace)} since you last saw it."
    return StructuredTool.from_function(what_changed, awhat_changed, name=name, description=about)
