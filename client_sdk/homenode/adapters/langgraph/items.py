"""Items of a store as artifacts: the value is the content (JSON), what LangGraph says beside it is metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from langgraph.store.base import Item, SearchItem

from homenode.artifact import Artifact
from homenode.errors import InvalidArgument

Index = Literal[False] | list[str] | None

_CREATED, _UPDATED, _INDEX, _TTL = "created_at", "updated_at", "index", "ttl_ms"


@dataclass(frozen=True, slots=True)
class Found:
    """An item as it was read."""

    namespace: tuple[str, ...]
    key: str
    artifact: Artifact
    value: dict[str, Any]

    @classmethod
    def of(cls, namespace: tuple[str, ...], key: str, artifact: Artifact) -> Found:
        """Raises InvalidArgument for an artifact that is no item: its content is not a JSON object."""
        try:
            value = artifact.json
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise InvalidArgument(f"{artifact.key!r} is no item of a store: its content is not a JSON object")
        return cls(namespace, key, artifact, value)

    @property
    def index(self) -> Index:
        """What the put said of semantic search."""
        index: Index = json.loads(self.artifact.metadata.get(_INDEX, "null"))
        return index

    @property
    def ttl_ms(self) -> int:
        """How long it lives after it was last used, in ms; 0: for ever."""
        return int(self.artifact.metadata.get(_TTL, 0))

    @property
    def updated_at(self) -> datetime:
        """When it was put last."""
        return _time(self.artifact, _UPDATED)

    @property
    def item(self) -> Item:
        """What `get` returns."""
        return Item(
            value=self.value,
            key=self.key,
            namespace=self.namespace,
            created_at=created_at(self.artifact),
            updated_at=self.updated_at,
        )

    def ranked(self, score: float | None) -> SearchItem:
        """What `search` returns."""
        item = self.item
        return SearchItem(self.namespace, self.key, self.value, item.created_at, item.updated_at, score)


def created_at(artifact: Artifact) -> datetime:
    """When the item came to be."""
    return _time(artifact, _CREATED)


def metadata_of(created: datetime | None, index: Index, ttl_minutes: float | None) -> Mapping[str, str]:
    """What a new version carries. `created`: of the version that it replaces; None: there is none."""
    now = datetime.now(UTC)
    said = {_CREATED: (created or now).isoformat(), _UPDATED: now.isoformat()}
    if index is not None:
        said[_INDEX] = json.dumps(index)
    if ttl_minutes is not None:
        if not 0 < ttl_minutes < 1e9:
            raise InvalidArgument(f"ttl is a number of minutes above 0, not {ttl_minutes!r}")
        said[_TTL] = str(max(1, round(ttl_minutes * 60_000)))
    return said


def _time(artifact: Artifact, which: str) -> datetime:
    """As the metadata tells it; of an artifact that another kind of agent wrote, when that was."""
    told = artifact.metadata.get(which)
    return datetime.fromisoformat(told) if told else datetime.fromtimestamp(artifact.committed_at_ms / 1000, UTC)
