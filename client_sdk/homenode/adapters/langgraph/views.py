"""What each node of a graph saw last of each item: with it a put is compared, so that no update is lost."""

from __future__ import annotations

import threading
from typing import NamedTuple

from langchain_core.runnables.config import var_child_runnable_config

from homenode.artifact import Artifact
from homenode.versions import Version

#: Versions that are remembered in all; the oldest are forgotten, and a put long after its read counts as a blind one.
SEEN_MAX = 262_144
#: Bytes of what was seen that are kept for merging, whatever the directory retains; the oldest go first.
KEPT_BYTES_MAX = 32 * 1024 * 1024


class Node(NamedTuple):
    """Who reads and puts: a task of a run. Both are empty outside of a graph."""

    run: str = ""
    task: str = ""


def node_of_run() -> Node:
    """The task of the graph that calls, as LangGraph tells it: its thread (or run), and its own place in it."""
    config = var_child_runnable_config.get() or {}
    told = {**config.get("metadata", {}), **config.get("configurable", {})}
    return Node(str(told.get("thread_id") or config.get("run_id") or ""), str(told.get("langgraph_checkpoint_ns", "")))


class Views:
    """The versions that nodes saw last. Any thread may use it.

    What a task did not read itself is compared with what its run saw last: an agent's tools are tasks of their own, and
    write in one step what was read in another.
    """

    def __init__(self, limit: int = SEEN_MAX) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str, str], Version | None] = {}
        self._kept: dict[tuple[str, Version], Artifact] = {}
        self._kept_bytes = 0

    def saw(self, node: Node, name: str, artifact: Artifact | None) -> None:
        """`node` was shown this version, or that there is none."""
        version = artifact.version if artifact is not None else None
        with self._lock:
            if artifact is not None and version is not None:
                self._keep(name, version, artifact)
            for task in {node.task, ""}:
                place = (node.run, task, name)
                self._seen.pop(place, None)
                self._seen[place] = version
            while len(self._seen) > self._limit:
                del self._seen[next(iter(self._seen))]

    def seen(self, node: Node, name: str) -> Version | None:
        """The version that `node`, or else its run, saw last. Raises KeyError where it did not look."""
        with self._lock:
            try:
                return self._seen[node.run, node.task, name]
            except KeyError:
                return self._seen[node.run, "", name]

    def content(self, name: str, version: Version) -> Artifact | None:
        """What was seen then, if it is kept still."""
        with self._lock:
            return self._kept.get((name, version))

    def _keep(self, name: str, version: Version, artifact: Artifact) -> None:
        if (name, version) in self._kept or len(artifact.bytes) > KEPT_BYTES_MAX:
            return
        self._kept[name, version] = artifact
        self._kept_bytes += len(artifact.bytes)
        while self._kept_bytes > KEPT_BYTES_MAX or len(self._kept) > self._limit:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._kept_bytes -= len(oldest.bytes)
