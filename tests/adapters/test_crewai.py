"""CrewAI's own memory over our storage. `make test-adapters` has its environment."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import Memory
from crewai.knowledge.knowledge import Knowledge
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.memory.storage.backend import StorageBackend
from crewai.memory.types import MemoryRecord

import homenode
from homenode.adapters.crewai import HomenodeStorage, artifact_tools
from homenode.adapters.crewai_knowledge import HomenodeKnowledge
from tests.adapters.elsewhere import elsewhere
from tests.support.examples import check_plan, run_example


def embed(texts: list[str]) -> list[list[float]]:
    return [[1.0 + text.count("cat"), 1.0 + text.count("dog"), 0.5] for text in texts]


def record(content: str, **more: Any) -> MemoryRecord:
    return MemoryRecord(content=content, embedding=embed([content])[0], **more)


def test_crews_in_two_processes_share_a_memory(server_url: str) -> None:
    a, b = HomenodeStorage(server_url), HomenodeStorage(server_url)
    assert isinstance(a, StorageBackend)
    mine, theirs = Memory(storage=a, embedder=embed), Memory(storage=b, embedder=embed)
    named = {"scope": "/team", "categories": ["pets"], "importance": 0.5}
    mine.remember("a cat lives here", **named)
    mine.remember("a dog, a dog and a dog", **named)
    mine.drain_writes()
    found = theirs.recall("cat", depth="shallow", limit=2)
    assert found[0].record.content == "a cat lives here"
    assert theirs.list_scopes("/") == ["/team"] and theirs.info("/team").record_count == 2
    a.close()
    b.close()


def test_records_are_found_by_likeness_scope_category_and_metadata(server_url: str) -> None:
    store = HomenodeStorage(server_url)
    old = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=2)
    store.save([
        record("cat", scope="/a/b", categories=["x"], metadata={"by": "ann"}),
        record("dog dog", scope="/a", created_at=old),
        record("both cat dog", scope="/ab", categories=["x", "y"]),
    ])  # fmt: skip
    assert store.search([1.0, 3.0, 0.5])[0][0].content == "dog dog"
    assert {one.content for one in store.list_records("/a")} == {"cat", "dog dog"}
    assert store.list_scopes("/") == ["/a", "/ab"] and store.list_scopes("/a") == ["/a/b"]
    assert store.list_categories() == {"x": 2, "y": 1} and store.count("/a") == 2
    assert [one.content for one, _ in store.search([1.0, 1.0, 0.5], metadata_filter={"by": "ann"})] == ["cat"]
    with pytest.raises(homenode.InvalidArgument):
        store.search([1.0])
    assert store.delete(older_than=old + timedelta(days=1)) == 1 and store.count() == 2
    store.reset("/a")
    assert [one.content for one in store.list_records()] == ["both cat dog"]
    store.close()


def test_what_another_process_updates_is_there_at_the_next_turn(server_url: str) -> None:
    store = HomenodeStorage(server_url)
    store.save([record("one", id="it")])
    for content in ("two", "three"):
        elsewhere(_UPDATES, server_url, content)
        asked = store.connection.stats().misses
        for _ in range(10):
            found = store.get_record("it")
            assert found is not None and found.content == content
            assert [one.content for one in store.list_records()] == [content]
        assert store.connection.stats().misses == asked + 1
    store.close()


_UPDATES = """
import sys
from homenode.adapters.crewai import HomenodeStorage
store = HomenodeStorage(sys.argv[1])
store.update(store.get_record("it").model_copy(update={"content": sys.argv[2]}))
store.close()
"""


def test_the_example() -> None:
    check_plan(run_example("crewai_plan.py", timeout=240))


def test_an_update_over_anothers_is_refused(server_url: str) -> None:
    a, b = HomenodeStorage(server_url), HomenodeStorage(server_url)
    first = record("one")
    a.save([first])
    seen = b.get_record(first.id)
    assert seen is not None
    a.update(first.model_copy(update={"content": "two"}))
    with pytest.raises(homenode.VersionConflict):
        b.update(seen.model_copy(update={"content": "three"}))
    assert [one.content for one in b.list_records()] == ["two"]
    with pytest.raises(homenode.NotFound):
        a.update(record("unknown"))
    a.close()
    b.close()


def test_no_edit_of_several_agents_is_lost(server_url: str) -> None:
    connections = [homenode.connect_sync(server_url, agent=f"agent {n}") for n in range(3)]
    connections[0].put("plan.md", "END")

    def work(hn: homenode.SyncHomenode, who: int) -> None:
        edit, read = artifact_tools(hn, only=["edit", "read"])
        for number in range(5):
            edit.run(key="plan.md", old="END", new=f"{who}/{number}\nEND")
        assert "VersionConflict" in artifact_tools(hn, only=["write"])[0].run(key="plan.md", text="x", base="1.1")
        assert "version" in read.run(key="plan.md")

    threads = [threading.Thread(target=work, args=(hn, n)) for n, hn in enumerate(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = connections[0].read("plan.md", max_age_ms=0).text.splitlines()[:-1]
    assert sorted(lines) == sorted(f"{who}/{n}" for who in range(3) for n in range(5))
    for hn in connections:
        hn.close()


def test_crews_in_two_processes_share_their_knowledge(server_url: str) -> None:
    asked: list[str] = []

    def counted(texts: list[str]) -> list[list[float]]:
        asked.extend(texts)
        return embed(texts)

    mine, theirs = (HomenodeKnowledge(server_url, embed=counted) for _ in range(2))
    told = [StringKnowledgeSource(content=text) for text in ("cat cat cat", "dog dog dog")]
    for storage in (mine, theirs):  # the second one adds nothing, and embeds nothing
        Knowledge(collection_name="pets", sources=told, storage=storage).add_sources()
    assert asked == ["cat cat cat", "dog dog dog"]
    there = Knowledge(collection_name="pets", sources=[], storage=theirs)
    best, *rest = there.query(["a cat"], score_threshold=0.9)
    assert (best["content"], rest) == ("cat cat cat", []) and 0.9 <= best["score"] <= 1
    assert len(there.query(["a cat"], score_threshold=0.0)) == 2
    assert there.query(["a cat"], results_limit=1, score_threshold=0.0) == [best]

    elsewhere(_CORRECTS, server_url, best["id"])
    assert [one["content"] for one in mine.search(["cat"], score_threshold=0.0)] == ["a lion", "dog dog dog"]
    misses = theirs._connection.stats().misses
    for _ in range(5):
        assert theirs.search(["cat"])[0]["content"] == "a lion"
    assert theirs._connection.stats().misses <= misses + 1
    with pytest.raises(homenode.InvalidArgument, match="was embedded in"):
        HomenodeKnowledge(theirs._connection, embed=lambda texts: [[1.0]] * len(texts)).search(["cat"])
    mine.reset()
    assert theirs.search(["cat"], score_threshold=0.0) == []
    theirs.save(["cat cat cat"])  # what was known here, and forgotten elsewhere
    assert [one["content"] for one in mine.search(["cat"])] == ["cat cat cat"]
    mine.close()
    theirs.close()


_CORRECTS = """
import sys
import homenode
with homenode.connect_sync(sys.argv[1]) as hn:
    piece = hn.read(sys.argv[2]).json
    hn.put(sys.argv[2], {**piece, "content": "a lion"})
"""
