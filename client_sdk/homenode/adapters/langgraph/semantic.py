"""Semantic search: items ranked by the embeddings that the caller's own function makes.

Vectors are derived from contents, so they are kept in this process only, by version: one that was embedded once is not
embedded again until it changes.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.store.base import IndexConfig, SearchItem, ensure_embeddings, get_text_at_path, tokenize_path

from homenode.adapters.langgraph.items import Found
from homenode.adapters.vectors import cosine
from homenode.versions import Version

#: Versions whose vectors are kept; the least recently used are forgotten.
VECTORS_MAX = 65_536

_Place = tuple[str, Version, str]  # the artifact, its version, and what the put said of its index
_Vectors = list[list[float]]


class Semantic:
    """Ranks items by likeness to a query.

    Args:
        config: as for LangGraph's own stores: `embed` (a function, async or not, or LangChain's Embeddings), `dims`,
            `fields` (JSON paths; "$", the whole value, without it).
    """

    def __init__(self, config: IndexConfig) -> None:
        self._embeddings = ensure_embeddings(config.get("embed"))
        self._fields = list(config.get("fields") or ["$"])
        self._lock = threading.Lock()
        self._vectors: dict[_Place, _Vectors] = {}

    def rank(self, query: str, items: Sequence[Found]) -> list[SearchItem]:
        """Best first; items without a vector come last, without a score."""
        wanted = self._missing(items)
        texts = list(dict.fromkeys(text for part in wanted.values() for text in part))
        made = self._embeddings.embed_documents(texts) if texts else []
        self._keep(wanted, dict(zip(texts, made, strict=True)))
        return self._ranked(self._embeddings.embed_query(query), items)

    async def arank(self, query: str, items: Sequence[Found]) -> list[SearchItem]:
        """As `rank`, with what the embedding function offers to async callers."""
        wanted = self._missing(items)
        texts = list(dict.fromkeys(text for part in wanted.values() for text in part))
        made, of_query = await asyncio.gather(
            self._embeddings.aembed_documents(texts) if texts else _nothing(), self._embeddings.aembed_query(query)
        )
        self._keep(wanted, dict(zip(texts, made, strict=True)))
        return self._ranked(of_query, items)

    def _missing(self, items: Sequence[Found]) -> dict[_Place, list[str]]:
        with self._lock:
            return {place: self._texts(one) for one in items if (place := _place(one)) not in self._vectors}

    def _texts(self, one: Found) -> list[str]:
        if one.index is False:
            return []
        paths = one.index or self._fields
        return [text for path in paths for text in get_text_at_path(one.value, path if path == "$" else _tokens(path))]

    def _keep(self, wanted: Mapping[_Place, list[str]], made: Mapping[str, list[float]]) -> None:
        with self._lock:
            for place, texts in wanted.items():
                self._vectors[place] = [made[text] for text in texts]
            while len(self._vectors) > VECTORS_MAX:
                del self._vectors[next(iter(self._vectors))]

    def _ranked(self, query: Sequence[float], items: Sequence[Found]) -> list[SearchItem]:
        with self._lock:
            vectors = [self._vectors.get(_place(one), []) for one in items]
        scored = [
            (max((cosine(query, vector) for vector in of_one), default=None), one)
            for one, of_one in zip(items, vectors, strict=True)
        ]
        scored.sort(key=lambda pair: -math.inf if pair[0] is None else pair[0], reverse=True)
        return [one.ranked(score) for score, one in scored]


def _place(one: Found) -> _Place:
    version = one.artifact.version
    assert version is not None
    return one.artifact.key, version, one.artifact.metadata.get("index", "")


def _tokens(path: str) -> Any:
    return tokenize_path(path)


async def _nothing() -> _Vectors:
    return []
