"""`HomenodeStore` does what LangGraph's own store does, over generated operations; and what that one does not."""

from __future__ import annotations

import asyncio
import itertools
import operator
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from langgraph.graph import START, StateGraph
from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

import homenode
from homenode.adapters.langgraph import HomenodeStore, changes_tool
from homenode.adapters.langgraph.paths import item_of, name_of
from tests.adapters.elsewhere import elsewhere

NS = ("team", "ann")


@pytest.fixture
def store(embedded_url: str) -> Iterator[HomenodeStore]:
    with HomenodeStore(embedded_url) as made:
        yield made


# --- as LangGraph's own store -----------------------------------------------------------------------------------------

_LABELS = st.sampled_from(["a", "b", "a/b", "ü", "50%"])
_NAMESPACES = st.lists(_LABELS, min_size=1, max_size=3).map(tuple)
_KEYS = st.sampled_from(["k", "k/1", "ключ", "a"])
_VALUES = st.fixed_dictionaries(
    {"n": st.integers(-3, 3), "kind": st.sampled_from(["x", "y"])},
    optional={"deep": st.fixed_dictionaries({"t": st.text()})},
)
_FILTERS = st.one_of(
    st.none(),
    st.fixed_dictionaries({"kind": st.sampled_from(["x", "y"])}),
    st.fixed_dictionaries({"n": st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]).map(lambda op: {op: 1})}),
)
_FRESH = itertools.count()  # examples share a directory
_PATTERNS = st.lists(st.one_of(_LABELS, st.just("*")), min_size=1, max_size=2).map(tuple)
_OPS = st.one_of(
    st.tuples(_NAMESPACES, _KEYS, st.one_of(st.none(), _VALUES)).map(lambda parts: PutOp(*parts)),
    st.tuples(_NAMESPACES, _KEYS).map(lambda parts: GetOp(*parts)),
    st.tuples(st.lists(_LABELS, max_size=2).map(tuple), _FILTERS, st.just(1_000)).map(lambda parts: SearchOp(*parts)),
    st.tuples(
        st.one_of(
            st.none(),
            st.tuples(st.sampled_from(["prefix", "suffix"]), _PATTERNS).map(lambda one: (MatchCondition(*one),)),
        ),
        st.one_of(st.none(), st.integers(1, 3)),
        st.just(1_000),
    ).map(lambda parts: ListNamespacesOp(*parts)),
)


def told(result: Any, lived: set[tuple[str, ...]], op: Any) -> Any:
    """What is to be the same: neither times nor the order of a search, and no namespaces that hold nothing."""
    if isinstance(op, SearchOp):
        return sorted((one.namespace, one.key, sorted(one.value.items(), key=repr), one.score) for one in result)
    if isinstance(op, ListNamespacesOp):
        kept = [ns for ns in result if ns in {full[: op.max_depth] for full in lived}]
        return kept if op.match_conditions is None else None
    return result and (result.namespace, result.key, result.value)


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batches=st.lists(st.lists(_OPS, min_size=1, max_size=4), max_size=12))
def test_it_answers_as_the_store_in_memory_does(batches: list[list[Any]], embedded_url: str) -> None:
    ours, theirs = HomenodeStore(embedded_url, prefix=f"{next(_FRESH)}/"), InMemoryStore()
    lived: set[tuple[str, ...]] = set()
    with ours:
        for ops in batches:
            got, wanted = ours.batch(ops), theirs.batch(ops)
            assert [told(r, lived, op) for r, op in zip(got, ops, strict=True)] == [
                told(r, lived, op) for r, op in zip(wanted, ops, strict=True)
            ]
            lived = {one.namespace for one in theirs.search((), limit=10_000)}
        for patterns in ([("a",), "prefix"], [("*", "b"), "prefix"], [("ü",), "suffix"], [("a", "*"), "suffix"]):
            named = {patterns[1]: patterns[0]}
            assert ours.list_namespaces(**named) == [ns for ns in theirs.list_namespaces(**named) if ns in lived]  # type: ignore[arg-type]


@given(namespace=st.lists(st.text(), max_size=4).map(tuple), key=st.text())
def test_names_say_every_namespace_and_key(namespace: tuple[str, ...], key: str) -> None:
    try:
        name = name_of("store/", namespace, key)
    except homenode.InvalidArgument:
        return
    assert item_of("store/", name) == (namespace, key)


async def test_it_serves_any_event_loop_and_any_thread(store: HomenodeStore) -> None:
    await store.aput(NS, "plan", {"n": 1})
    assert (await store.aget(NS, "plan")).value == {"n": 1}  # type: ignore[union-attr]
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(asyncio.run(store.asearch(NS))))
    thread.start()
    thread.join()
    assert [one.value for one in seen[0]] == [{"n": 1}]
    assert await asyncio.to_thread(store.get, NS, "plan") == await store.aget(NS, "plan")


def test_a_search_is_paged_and_keeps_when_items_came_to_be(store: HomenodeStore) -> None:
    for number in range(7):
        store.put(NS, f"k{number}", {"n": number})
    assert [one.key for one in store.search(("team",), limit=3, offset=2)] == ["k2", "k3", "k4"]
    before = store.get(NS, "k3")
    store.put(NS, "k3", {"n": 30})
    after = store.get(NS, "k3")
    assert before is not None and after is not None
    assert after.created_at == before.created_at and after.updated_at > before.updated_at


def test_other_agents_find_an_item_by_its_name(store: HomenodeStore) -> None:
    store.put(NS, "plan", {"n": 1})
    assert store.connection.read("store/team/ann/plan").json == {"n": 1}
    store.connection.put("store/team/ann/plan", {"n": 2}, base=homenode.ANY)
    assert store.get(NS, "plan").value == {"n": 2}  # type: ignore[union-attr]


# --- no lost update ---------------------------------------------------------------------------------------------------


def two_stores(url: str, **settings: Any) -> tuple[HomenodeStore, HomenodeStore]:
    return HomenodeStore(url, **settings), HomenodeStore(url, **settings)


def test_of_two_that_read_and_put_the_second_is_refused(server_url: str) -> None:
    a, b = two_stores(server_url)
    with a, b:
        a.put(NS, "plan", {"n": 1})
        assert a.get(NS, "plan") == b.get(NS, "plan")
        a.put(NS, "plan", {"n": 2})
        with pytest.raises(homenode.VersionConflict):
            b.put(NS, "plan", {"n": 3})
        assert b.get(NS, "plan").value == {"n": 2}  # type: ignore[union-attr]
        b.put(NS, "plan", {"n": 3})
        assert a.get(NS, "plan").value == {"n": 3}  # type: ignore[union-attr]


def test_of_two_that_saw_nothing_the_second_does_not_create(server_url: str) -> None:
    a, b = two_stores(server_url)
    with a, b:
        assert a.get(NS, "plan") is None and b.get(NS, "plan") is None
        a.put(NS, "plan", {"n": 1})
        with pytest.raises(homenode.AlreadyExists):
            b.put(NS, "plan", {"n": 2})


def test_what_both_put_is_merged_by_the_given_function(server_url: str) -> None:
    def added(before: Mapping[str, Any] | None, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, Any]:
        assert before is not None
        return {"n": theirs["n"] + mine["n"] - before["n"]}

    stores = [HomenodeStore(server_url, merge=added) for _ in range(4)]
    stores[0].put(NS, "count", {"n": 0})

    def count(store: HomenodeStore) -> None:
        for _ in range(10):
            seen = store.get(NS, "count")
            assert seen is not None
            store.put(NS, "count", {"n": seen.value["n"] + 1})

    threads = [threading.Thread(target=count, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores[0].connection.read("store/team/ann/count", max_age_ms=0).json == {"n": 40}
    for store in stores:
        store.close()


def test_who_has_not_looked_overwrites_or_is_refused(server_url: str) -> None:
    with HomenodeStore(server_url) as a, HomenodeStore(server_url) as b, HomenodeStore(server_url, blind="refuse") as c:
        a.put(NS, "plan", {"n": 1})
        b.put(NS, "plan", {"n": 2})
        with pytest.raises(homenode.AlreadyExists):
            c.put(NS, "plan", {"n": 3})
        with pytest.raises(homenode.VersionConflict):
            a.put(NS, "plan", {"n": 4})  # it knows its own n=1
        assert c.get(NS, "plan").value == {"n": 2}  # type: ignore[union-attr]


def test_deleting_what_has_changed_is_refused(server_url: str) -> None:
    a, b = two_stores(server_url)
    with a, b:
        a.put(NS, "plan", {"n": 1})
        b.get(NS, "plan")
        a.put(NS, "plan", {"n": 2})
        with pytest.raises(homenode.VersionConflict):
            b.delete(NS, "plan")
        a.delete(NS, "plan")
        a.delete(NS, "plan")
        assert b.get(NS, "plan") is None


# --- across processes -------------------------------------------------------------------------------------------------


def test_what_another_process_puts_is_there_at_the_next_turn(server_url: str) -> None:
    def look(state: dict[str, Any]) -> dict[str, Any]:
        item = mine.get(NS, "plan")
        assert item is not None
        return {"n": item.value["n"]}

    with HomenodeStore(server_url) as mine:
        mine.put(NS, "plan", {"n": 0})
        graph = StateGraph(dict)
        graph.add_node("look", look)
        graph.add_edge(START, "look")
        agent = graph.compile(store=mine)
        for number in (1, 2):
            elsewhere(_PUTS, server_url, str(number))
            asked = mine.connection.stats().misses
            for _ in range(10):
                assert agent.invoke({})["n"] == number
            assert mine.connection.stats().misses == asked + 1


_PUTS = """
import sys
from homenode.adapters.langgraph import HomenodeStore
with HomenodeStore(sys.argv[1]) as store:
    store.put(("team", "ann"), "plan", {"n": int(sys.argv[2])})
"""


# --- what changed -----------------------------------------------------------------------------------------------------


def test_a_node_is_told_what_others_changed_since_it_saw_the_item(server_url: str) -> None:
    a, b = two_stores(server_url)
    with a, b:
        a.put(NS, "plan", {"steps": [f"step {n}: look at it" for n in range(40)]})
        tool = changes_tool(b, NS)
        assert tool.invoke({"key": "none"}) == "there is no 'none'"
        first = tool.invoke({"key": "plan"})
        assert "step 39" in first
        assert tool.invoke({"key": "plan"}) == "unchanged"
        a.put(NS, "plan", {"steps": [f"step {n}: look at it" for n in range(39)] + ["step 39: done"]})
        assert b.get(("other",), "x") is None
        changed = asyncio.run(tool.ainvoke({"key": "plan"}))
        assert "done" in changed and "step 3:" not in changed and len(changed) < len(first) / 3


# --- times to live and meaning ----------------------------------------------------------------------------------------


def test_what_has_expired_is_not_returned_and_is_swept(store: HomenodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import homenode.adapters.langgraph.store as module

    ahead = [0.0]
    clock = module.time.time
    monkeypatch.setattr(module.time, "time", lambda: clock() + ahead[0])
    store.put(NS, "short", {"n": 1}, ttl=1)
    store.put(NS, "long", {"n": 2}, ttl=60)
    store.put(NS, "ever", {"n": 3})
    version = store.connection.read("store/team/ann/short").version
    ahead[0] = 45
    assert store.get(NS, "short") is not None  # used: its minute begins anew
    ahead[0] = 90
    assert store.get(NS, "short", refresh_ttl=False) is not None
    assert store.connection.read("store/team/ann/short").version == version  # and no reader lost its copy for that
    ahead[0] = 110
    assert store.get(NS, "short") is None
    assert {one.key for one in store.search(NS)} == {"long", "ever"}
    assert store.sweep_ttl() == 1 and store.sweep_ttl() == 0
    with pytest.raises(homenode.NotFound):
        store.connection.read("store/team/ann/short")
    assert store.list_namespaces() == [NS]


def test_items_are_found_by_meaning_with_the_callers_embeddings(embedded_url: str) -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> list[list[float]]:
        asked.extend(texts)
        return [[text.count("cat"), text.count("dog"), 0.1] for text in texts]

    with HomenodeStore(embedded_url, index={"dims": 3, "embed": embed, "fields": ["text"]}) as store:
        store.put(NS, "1", {"text": "a cat, another cat"})
        store.put(NS, "2", {"text": "dog dog dog"})
        store.put(NS, "3", {"text": "cat"}, index=False)
        ranked = store.search(NS, query="dog")
        assert [one.key for one in ranked] == ["2", "1", "3"]
        scores = list(map(operator.attrgetter("score"), ranked))
        assert scores[0] > 0.9 > scores[1] and scores[2] is None
        assert len(asked) == 3
        asyncio.run(store.asearch(NS, query="dog"))
        assert asked[3:] == ["dog"]  # nothing changed, so nothing but the query is embedded again
    with HomenodeStore(embedded_url) as plain, pytest.raises(homenode.Unsupported):
        plain.search(NS, query="dog")


def test_bad_input_is_refused_in_the_types_of_both(store: HomenodeStore) -> None:
    from langgraph.store.base import InvalidNamespaceError

    with pytest.raises(InvalidNamespaceError):
        store.put((), "k", {})
    with pytest.raises(homenode.InvalidArgument):
        store.put(NS, "k", {"x": object()})
    with pytest.raises(homenode.InvalidArgument):
        store.search(NS, filter={"n": {"$near": 1}}) if store.put(NS, "k", {"n": 1}) is None else None
    with pytest.raises(homenode.InvalidArgument):
        store.put(NS, "x" * 600, {})
    with pytest.raises(homenode.InvalidArgument):
        store.put(NS, "k", {"n": 1}, ttl=-1)
    store.connection.put("store/team/ann/note", "not JSON")
    with pytest.raises(homenode.InvalidArgument, match="no item"):
        store.get(NS, "note")
    with pytest.raises(homenode.InvalidArgument):
        HomenodeStore(store.connection, prefix="store")
