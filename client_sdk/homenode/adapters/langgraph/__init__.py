"""LangGraph: `HomenodeStore`, a store that graphs in several processes share without losing updates.

    from homenode.adapters.langgraph import HomenodeStore
    graph = builder.compile(store=HomenodeStore("homenode://localhost:7400/main"))

A checkpointer is not here: checkpoints belong to one thread of one graph, so there is nothing to keep coherent.
"""

try:
    import langgraph.store.base as _  # noqa: F401
except ImportError as _missing:
    raise ImportError("homenode.adapters.langgraph needs LangGraph: pip install 'homenode[langgraph]'") from _missing

from homenode.adapters.langgraph.store import HomenodeStore, Merge
from homenode.adapters.langgraph.tools import changes_tool
from homenode.adapters.langgraph.views import node_of_run

__all__ = ["HomenodeStore", "Merge", "changes_tool", "node_of_run"]
