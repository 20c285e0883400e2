"""CrewAI: storage for its knowledge that crews in several processes share.

from homenode.adapters.crewai_knowledge import HomenodeKnowledge
storage = HomenodeKnowledge("homenode://localhost:7400/main", embed=embed)
Knowledge(collection_name="handbook", sources=[…], storage=storage).add_sources()
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

try:
    from crewai.knowledge.storage.base_knowledge_storage import BaseKnowledgeStorage
    from crewai.rag.types import SearchResult
except ImportError as _missing:
    raise ImportError("homenode.adapters.crewai_knowledge needs CrewAI: pip install 'homenode[crewai]'") from _missing

from pydantic import PrivateAttr

from homenode.adapters.crewai import delete_all, names_under, read_all
from homenode.adapters.vectors import cosine
from homenode.client import Homenode
from homenode.errors import AlreadyExists, InvalidArgument
from homenode.sync import SyncHomenode, connect_sync
from homenode.versions import ABSENT

Embed = Callable[[list[str]], list[list[float]]]

_TOGETHER = 256


class HomenodeKnowledge(BaseKnowledgeStorage):
    """A storage of CrewAI's knowledge: each piece of text is an artifact (JSON, its embedding included).

    What one crew adds, takes away or corrects, all others find at their next search; pieces are read from this process
    while nobody changes them. A piece is named by its content, so a source that is added again changes nothing.

    Args:
        connection: a URL as for `homenode.connect_sync`, or a connection that exists (it is then not closed here).
        embed: makes vectors of texts; CrewAI's `build_embedder(…)` gives such a function. The same for all crews.
        prefix: what the names of the artifacts begin with.
    """

    _connection: SyncHomenode = PrivateAttr()
    _own: bool = PrivateAttr()
    _embed: Embed = PrivateAttr()
    _prefix: str = PrivateAttr()

    def __init__(
        self, connection: str | SyncHomenode, *, embed: Embed, prefix: str = "knowledge/", agent: str = "crewai"
    ) -> None:
        if not prefix.endswith("/"):
            raise InvalidArgument(f"the prefix of a storage ends with a slash, unlike {prefix!r}")
        super().__init__()
        self._prefix, self._embed = prefix, embed
        self._own = isinstance(connection, str)
        self._connection = connect_sync(connection, agent=agent) if isinstance(connection, str) else connection

    def save(self, documents: list[str]) -> None:
        """Keep pieces of text; those that are there already are not embedded again."""
        named = {self._prefix + hashlib.sha256(text.encode()).hexdigest()[:32]: text for text in documents if text}
        there = set(self._connection.run(lambda hn: names_under(hn, self._prefix)))
        new = [name for name in named if name not in there]
        if not new:
            return
        vectors = [[float(x) for x in vector] for vector in self._embed([named[name] for name in new])]
        pieces = {
            name: {"content": named[name], "embedding": vector} for name, vector in zip(new, vectors, strict=True)
        }
        self._connection.run(lambda hn: self._put(hn, pieces))

    def search(
        self,
        query: list[str],
        limit: int = 5,
        metadata_filter: dict[str, Any] | None = None,
        score_threshold: float = 0.6,
    ) -> list[SearchResult]:
        """The pieces most like the query, best first; scores from 0 to 1, as those of CrewAI's own storage.

        Raises InvalidArgument for an empty query, and where pieces were embedded otherwise than the query.
        """
        if not any(query):
            raise InvalidArgument("an empty query")
        (asked,) = ([float(x) for x in vector] for vector in self._embed([" ".join(query)]))
        found: list[SearchResult] = []
        for name, piece in self._connection.run(self._pieces):
            if len(piece["embedding"]) != len(asked):
                dimensions = f"{len(piece['embedding'])} dimensions, the query in {len(asked)}"
                raise InvalidArgument(f"{name!r} was embedded in {dimensions}")
            metadata = piece.get("metadata", {})
            score = (1 + cosine(asked, piece["embedding"])) / 2
            if score >= score_threshold and (metadata_filter or {}).items() <= metadata.items():
                found.append(SearchResult(id=name, content=piece["content"], metadata=metadata, score=score))
        return sorted(found, key=lambda one: one["score"], reverse=True)[:limit]

    def reset(self) -> None:
        """Forget everything, for all crews."""
        self._connection.run(self._forget)

    async def asave(self, documents: list[str]) -> None:
        """See `save`."""
        await asyncio.to_thread(self.save, documents)

    async def asearch(
        self,
        query: list[str],
        limit: int = 5,
        metadata_filter: dict[str, Any] | None = None,
        score_threshold: float = 0.6,
    ) -> list[SearchResult]:
        """See `search`."""
        return await asyncio.to_thread(self.search, query, limit, metadata_filter, score_threshold)

    async def areset(self) -> None:
        """See `reset`."""
        await asyncio.to_thread(self.reset)

    def close(self) -> None:
        """Close the connection, if it was made here."""
        if self._own:
            self._connection.close()

    # --- artifacts ----------------------------------------------------------------------------------------------------

    async def _put(self, hn: Homenode, pieces: dict[str, dict[str, Any]]) -> None:
        async def put(name: str) -> None:
            try:
                await hn.put(name, pieces[name], base=ABSENT)
            except AlreadyExists:
                pass  # another crew was faster, with the same text

        names = list(pieces)
        for begin in range(0, len(names), _TOGETHER):
            await asyncio.gather(*map(put, names[begin : begin + _TOGETHER]))

    async def _pieces(self, hn: Homenode) -> list[tuple[str, Any]]:
        return await read_all(hn, await names_under(hn, self._prefix))

    async def _forget(self, hn: Homenode) -> None:
        await delete_all(hn, await names_under(hn, self._prefix))
