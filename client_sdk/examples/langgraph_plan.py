"""LangGraph: agents in several processes add to one plan. First in LangGraph's own store, then in Homenode's.

    python langgraph_plan.py [ADDRESS]

Each agent is a graph of two nodes that a scripted model would drive: `look` reads the plan, `add` puts it back with one
more item. Without an address a directory is started for the example, on a port of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any, TypedDict

from directory_process import directory
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

import homenode
from homenode.adapters.langgraph import HomenodeStore, changes_tool

TEAM, PLAN = ("team",), "plan"
ROUNDS, AGENTS = 8, 3
LONG = "a paragraph that every agent needs and nobody changes. " * 20


class State(TypedDict):
    """What flows through an agent's graph."""

    who: str
    round: int
    items: list[str]


def agent(store: BaseStore, think_s: float) -> Any:
    """One agent's graph: look, think, add."""

    def look(state: State) -> dict[str, Any]:
        plan = store.get(TEAM, PLAN)
        assert plan is not None
        time.sleep(think_s)
        return {"items": plan.value["items"]}

    def add(state: State) -> dict[str, Any]:
        items = [*state["items"], f"{state['who']} {state['round']}"]
        store.put(TEAM, PLAN, {"about": LONG, "items": items})
        return {"items": items}

    graph = StateGraph(State)
    graph.add_node("look", look)
    graph.add_node("add", add)
    graph.add_edge(START, "look")
    graph.add_edge("look", "add")
    graph.add_edge("add", END)
    return graph.compile(store=store)


def both(before: dict[str, Any] | None, theirs: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """Two agents added to the same version: the others' items, then what is mine."""
    known = before["items"] if before is not None else []
    return {**theirs, "items": theirs["items"] + [item for item in mine["items"] if item not in known]}


def without() -> None:
    """Two agents that take turns at looking and adding, in the one process that this store reaches."""
    store = InMemoryStore()
    store.put(TEAM, PLAN, {"about": LONG, "items": []})
    graphs = [agent(store, 0.0) for _ in range(2)]
    for number in range(ROUNDS):
        steps = [graph.stream({"who": f"agent {n}", "round": number, "items": []}) for n, graph in enumerate(graphs)]
        for _ in range(2):  # all look, then all add
            for step in steps:
                next(step)
    plan = store.get(TEAM, PLAN)
    assert plan is not None
    print(f"in LangGraph's own store: {2 * ROUNDS} added, {len(plan.value['items'])} there")


def worker(url: str, who: str) -> None:
    """One agent in a process of its own."""
    with HomenodeStore(url, merge=both, agent=who) as store:
        changed = changes_tool(store, TEAM)
        graph = agent(store, 0.01)
        for number in range(ROUNDS):
            graph.invoke({"who": who, "round": number, "items": []})
            changed.invoke({"key": PLAN})  # what the model would be shown at its next turn
        told = store.connection.stats()
        print(told.tokens_hit + told.tokens_delta + told.tokens_unchanged)


def main(url: str) -> None:
    """Three agents in three processes."""
    with HomenodeStore(url) as store:
        store.put(TEAM, PLAN, {"about": LONG, "items": []})
        command = [sys.executable, __file__, url]
        workers = [subprocess.Popen([*command, f"agent {n}"], stdout=subprocess.PIPE, text=True) for n in range(AGENTS)]
        saved = [int(one.communicate()[0]) for one in workers]
        plan = store.get(TEAM, PLAN)
        assert plan is not None
        print(f"in Homenode: {AGENTS * ROUNDS} added, {len(plan.value['items'])} there, from {AGENTS} processes")
        text = homenode.estimate_tokens(LONG)
        print(f"{sum(saved)} tokens saved, by a plan of {text} and more, that was read {2 * AGENTS * ROUNDS} times")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        worker(sys.argv[1], sys.argv[2])
    else:
        without()
        if len(sys.argv) == 2:
            main(sys.argv[1])
        else:
            with directory() as address:
                main(address)
