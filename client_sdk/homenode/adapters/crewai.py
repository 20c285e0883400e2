"""CrewAI: storage for its memory that crews in several processes share, and tools on shared artifacts.

from homenode.adapters.crewai import HomenodeStorage, artifact_tools
crew = Crew(agents=[…], tasks=[…], memory=Memory(storage=HomenodeStorage("homenode://localhost:7400/main")))
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

try:
    from crewai.memory.types import MemoryRecord, ScopeInfo
    from crewai.tools import BaseTool
except ImportError as _missing:
    raise ImportError("homenode.adapters.crewai needs CrewAI: pip install 'homenode[crewai]'") from _missing

from pydantic import BaseModel, PrivateAttr

from homenode.adapters.tools import TOOLS, Toolbox
from homenode.adapters.vectors import cosine
from homenode.client import Homenode
from homenode.errors import AlreadyExists, InvalidArgument, NotFound, TooLarge
from homenode.sync import SyncHomenode, connect_sync
from homenode.versions import ANY

#: Records of one storage that are looked at, at most.
RECORDS_MAX = 100_000
_TOGETHER = 256


class _ArtifactTool(BaseTool):
    args_schema: type[BaseModel]
    _hn: SyncHomenode = PrivateAttr()
    _toolbox: Toolbox = PrivateAttr()
    _which: str = PrivateAttr()

    def _run(self, **arguments: Any) -> str:
        given = {name: value for name, value in arguments.items() if value is not None}
        return self._hn.run(lambda _: self._toolbox.say(self._which, given))


def artifact_tools(
    hn: SyncHomenode, *, only: Collection[str] = tuple(TOOLS), prefix: str = "artifact_"
) -> list[BaseTool]:
    """Tools for an agent: `artifact_read`, `artifact_write`, `artifact_edit` and so on.

    A refusal is an answer, which says what to do next.

    Args:
        hn: the agent's connection, of `homenode.connect_sync`; its name is what others see.
        only: which of the tools.
        prefix: before their names.
    """

    async def toolbox(connection: Homenode) -> Toolbox:
        return Toolbox(connection)

    shared = hn.run(toolbox)

    def tool(which: str) -> BaseTool:
        made = _ArtifactTool(name=prefix + which, description=TOOLS[which].about, args_schema=TOOLS[which].arguments)
        made._hn, made._toolbox, made._which = hn, shared, which
        return made

    return [tool(which) for which in only]


class HomenodeStorage:
    """A storage backend of CrewAI's memory: each record is an artifact, `crew/ID` (JSON, its embedding included).

    What one crew saves, all others recall; records are read from this process while nobody changes them. An update of a
    record that another process changed since it was read here raises VersionConflict.

    Args:
        connection: a URL as for `homenode.connect_sync`, or a connection that exists (it is then not closed here).
        prefix: what the names of the artifacts begin with.
    """

    def __init__(self, connection: str | SyncHomenode, *, prefix: str = "crew/", agent: str = "crewai") -> None:
        if not prefix.endswith("/"):
            raise InvalidArgument(f"the prefix of a storage ends with a slash, unlike {prefix!r}")
        self._prefix = prefix
        self._own = isinstance(connection, str)
        self.connection = connect_sync(connection, agent=agent) if isinstance(connection, str) else connection

    # --- writing ------------------------------------------------------------------------------------------------------

    def save(self, records: list[MemoryRecord]) -> None:
        """Keep new records."""
        self.connection.run(lambda hn: self._save(hn, records))

    def update(self, record: MemoryRecord) -> None:
        """Replace the record with the same id. Raises NotFound, VersionConflict."""
        self.connection.run(lambda hn: self._update(hn, record))

    def delete(
        self,
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        record_ids: list[str] | None = None,
        older_than: datetime | None = None,
        metadata_filter: dict[str, Any] | None = None,
    ) -> int:
        """Forget the records that fit all that is said; returns how many those were."""
        chosen = [
            one.id
            for one in self._chosen(scope_prefix, categories, metadata_filter)
            if (record_ids is None or one.id in record_ids) and (older_than is None or one.created_at < older_than)
        ]
        return self.connection.run(lambda hn: self._delete(hn, chosen))

    def reset(self, scope_prefix: str | None = None) -> None:
        """Forget all records of a scope."""
        self.delete(scope_prefix=scope_prefix)

    # --- reading ------------------------------------------------------------------------------------------------------

    def search(
        self,
        query_embedding: list[float],
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        metadata_filter: dict[str, Any] | None = None,
        limit: int = 10,
        min_score: float = 0.0,
    ) -> list[tuple[MemoryRecord, float]]:
        """The records most like the query, best first. Raises InvalidArgument for embeddings of another length."""
        found: list[tuple[MemoryRecord, float]] = []
        for one in self._chosen(scope_prefix, categories, metadata_filter):
            if one.embedding is None:
                continue
            if len(one.embedding) != len(query_embedding):
                dimensions = f"{len(one.embedding)} dimensions, the query in {len(query_embedding)}"
                raise InvalidArgument(f"record {one.id!r} was embedded in {dimensions}")
            score = cosine(query_embedding, one.embedding)
            if score >= min_score:
                found.append((one, score))
        return sorted(found, key=lambda pair: pair[1], reverse=True)[:limit]

    def get_record(self, record_id: str) -> MemoryRecord | None:
        """The record, or None."""
        try:
            return _loaded(self.connection.read(self._prefix + record_id).json)
        except NotFound:
            return None

    def list_records(self, scope_prefix: str | None = None, limit: int = 200, offset: int = 0) -> list[MemoryRecord]:
        """Records of a scope, newest first."""
        found = sorted(self._chosen(scope_prefix), key=lambda one: one.created_at, reverse=True)
        return found[offset : offset + limit]

    def get_scope_info(self, scope: str) -> ScopeInfo:
        """How many records a scope holds, and which."""
        found = list(self._chosen(scope))
        dates = sorted(one.created_at for one in found)
        return ScopeInfo(
            path=scope,
            record_count=len(found),
            categories=sorted({category for one in found for category in one.categories}),
            oldest_record=dates[0] if dates else None,
            newest_record=dates[-1] if dates else None,
            child_scopes=self.list_scopes(scope),
        )

    def list_scopes(self, parent: str = "/") -> list[str]:
        """The scopes directly below one."""
        base = parent.rstrip("/") + "/"
        below = {one.scope[len(base) :].split("/")[0] for one in self._chosen(parent) if one.scope.startswith(base)}
        return sorted(base + name for name in below if name)

    def list_categories(self, scope_prefix: str | None = None) -> dict[str, int]:
        """How many records have which category."""
        return dict(Counter(category for one in self._chosen(scope_prefix) for category in one.categories))

    def count(self, scope_prefix: str | None = None) -> int:
        """How many records a scope holds."""
        return sum(1 for _ in self._chosen(scope_prefix))

    # --- the same, awaited --------------------------------------------------------------------------------------------

    async def asave(self, records: list[MemoryRecord]) -> None:
        """See `save`."""
        await self.connection.arun(lambda hn: self._save(hn, records))

    async def asearch(
        self, query_embedding: list[float], *arguments: Any, **named: Any
    ) -> list[tuple[MemoryRecord, float]]:
        """See `search`."""
        return await asyncio.to_thread(self.search, query_embedding, *arguments, **named)

    async def adelete(self, *arguments: Any, **named: Any) -> int:
        """See `delete`."""
        return await asyncio.to_thread(self.delete, *arguments, **named)

    def close(self) -> None:
        """Close the connection, if it was made here."""
        if self._own:
            self.connection.close()

    # --- artifacts ----------------------------------------------------------------------------------------------------

    async def _save(self, hn: Homenode, records: list[MemoryRecord]) -> None:
        async def save(record: MemoryRecord) -> None:
            key = self._prefix + record.id
            try:
                await hn.put(key, _stored(record))
            except AlreadyExists:  # saved before, by somebody else: the same id is the same record
                await hn.put(key, _stored(record), base=ANY)

        await asyncio.gather(*map(save, records))

    async def _update(self, hn: Homenode, record: MemoryRecord) -> None:
        key = self._prefix + record.id
        await hn.stat(key)  # raises NotFound, and shows nothing: the put is compared with what was read before
        try:
            await hn.put(key, _stored(record))
        except AlreadyExists:  # it was never read here
            await hn.put(key, _stored(record), base=ANY)

    async def _delete(self, hn: Homenode, ids: list[str]) -> int:
        return await delete_all(hn, [self._prefix + record_id for record_id in ids])

    def _chosen(
        self,
        scope: str | None = None,
        categories: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Iterator[MemoryRecord]:
        inside = (scope or "/").rstrip("/")
        for record in self.connection.run(self._all):
            if not (record.scope + "/").startswith(inside + "/"):
                continue
            if categories and not set(categories) & set(record.categories):
                continue
            if all(record.metadata.get(name) == value for name, value in (metadata or {}).items()):
                yield record

    async def _all(self, hn: Homenode) -> list[MemoryRecord]:
        return [_loaded(value) for _, value in await read_all(hn, await names_under(hn, self._prefix))]


async def names_under(hn: Homenode, prefix: str) -> list[str]:
    """The artifacts of a storage. Raises TooLarge."""
    names = [stat.key for stat in await hn.list(prefix, limit=RECORDS_MAX)]
    if len(names) == RECORDS_MAX:
        raise TooLarge(f"{RECORDS_MAX} records or more under {prefix!r}")
    return names


async def read_all(hn: Homenode, names: Sequence[str]) -> list[tuple[str, Any]]:
    """The artifacts that are there, and what they hold."""

    async def read(name: str) -> tuple[str, Any] | None:
        try:
            return name, (await hn.read(name)).json
        except NotFound:
            return None

    found: list[tuple[str, Any] | None] = []
    for begin in range(0, len(names), _TOGETHER):
        found += await asyncio.gather(*map(read, names[begin : begin + _TOGETHER]))
    return [one for one in found if one is not None]


async def delete_all(hn: Homenode, names: Sequence[str]) -> int:
    """Delete artifacts; returns how many of them there were."""

    async def delete(name: str) -> bool:
        try:
            await hn.delete(name, base=ANY)
        except NotFound:
            return False
        return True

    done = 0
    for begin in range(0, len(names), _TOGETHER):
        done += sum(await asyncio.gather(*map(delete, names[begin : begin + _TOGETHER])))
    return done


def _stored(record: MemoryRecord) -> dict[str, Any]:
    return {**record.model_dump(mode="json"), "embedding": record.embedding}


def _loaded(value: dict[str, Any]) -> MemoryRecord:
    return MemoryRecord.model_validate(value)
