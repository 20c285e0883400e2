"""Whatever calls come in whatever order, SQLite and Redis answer as the memory store does and end in the same state."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from homenode_directory.store.base import (
    META,
    Add,
    Before,
    BeforeField,
    Commit,
    Delete,
    Drop,
    Equals,
    Exists,
    Guard,
    LogTrimmed,
    Outcome,
    Put,
    Rank,
    Store,
    Unrank,
    Write,
)
from tests.conftest import RedisFactory
from tests.store.beds import Bed, MemoryBed, RedisBed, SqliteBed
from tests.support.redis_process import RedisProcess

RECORDS = ["k1", "k2", META]
RANKS = ["r1", "r2"]
BLOBS = ["b1", "b2"]
NAMES = ["a", "b", "é"]
TIMES_MS = [1, 1 << 45]

records, ranks, names = st.sampled_from(RECORDS), st.sampled_from(RANKS), st.sampled_from(NAMES)
any_key = st.sampled_from([*RECORDS[:2], *RANKS, *BLOBS])
texts = st.sampled_from(["", "1", "2", "-3", str(1 << 45), "ü"])
scores = st.integers(-5, 5)

guards: st.SearchStrategy[Guard] = st.one_of(
    st.builds(Equals, records, names, st.one_of(texts, st.none())),
    st.builds(Exists, any_key),
    st.builds(Before, st.sampled_from(TIMES_MS)),
    st.builds(BeforeField, records, st.just("time")),
)
writes: st.SearchStrategy[Write] = st.one_of(
    st.builds(Put, records, names, texts),
    st.builds(Put, records, st.just("time"), st.sampled_from([str(ms) for ms in TIMES_MS])),
    st.builds(Drop, records, names),
    st.builds(Add, records, st.just("n"), st.integers(-(1 << 50), 1 << 50)),
    st.builds(Rank, ranks, names, scores),
    st.builds(Unrank, ranks, names),
    st.builds(Delete, any_key),
)


@st.composite
def calls(draw: st.DrawFn) -> list[Commit]:
    """A call's commits, some chained to earlier ones."""
    commits = []
    for n in range(draw(st.integers(1, 5))):
        commits.append(
            Commit(
                tuple(draw(st.lists(guards, max_size=3))),
                tuple(draw(st.lists(writes, max_size=6))),
                tuple(draw(st.lists(st.binary(max_size=3), max_size=2))),
                draw(st.integers(-1, n - 1)),
                tuple(draw(st.lists(st.sampled_from([*RECORDS[:2], *RANKS, *BLOBS]), max_size=3, unique=True))),
            )
        )
    return commits


@dataclass
class Pair:
    """A store under test and the memory store, with one event loop for both."""

    runner: asyncio.Runner
    model: Store
    subject: Store
    slices: Iterator[int]
    keeps_order: bool  # of calls that are under way at once


def comparable(outcome: Outcome) -> tuple[object, ...]:
    """An outcome without its time."""
    return outcome.failed, outcome.head, outcome.found, dict(outcome.shown)


class SameAsMemory(RuleBasedStateMachine):
    """Each run has a slice of its own."""

    pair: Pair

    @initialize()
    def adopt(self) -> None:
        self.slice = next(self.pair.slices)
        self.tokens = [self.run(store.adopt(self.slice, 0)).token for store in self.stores]

    @property
    def stores(self) -> tuple[Store, Store]:
        return self.pair.model, self.pair.subject

    def run(self, coroutine):  # type: ignore[no-untyped-def]
        return self.pair.runner.run(coroutine)

    @rule(commits=calls(), relief=st.booleans())
    def commit(self, commits: list[Commit], relief: bool) -> None:
        self.commit_all([(commits, relief)])

    @rule(batches=st.lists(st.tuples(calls(), st.booleans()), min_size=2, max_size=4))
    def commit_at_once(self, batches: list[tuple[list[Commit], bool]]) -> None:
        for batch in [batches] if self.pair.keeps_order else ([batch] for batch in batches):
            self.commit_all(batch)

    def commit_all(self, batches: list[tuple[list[Commit], bool]]) -> None:
        async def run(store: Store, token: str) -> list[list[tuple[object, ...]]]:
            calls = (store.commit(self.slice, token, commits, relief=relief) for commits, relief in batches)
            return [[comparable(outcome) for outcome in outcomes] for outcomes in await asyncio.gather(*calls)]

        model, subject = (self.run(run(store, token)) for store, token in zip(self.stores, self.tokens, strict=True))
        assert subject == model

    @rule(key=st.sampled_from(BLOBS), data=st.binary(max_size=4))
    def put_blob(self, key: str, data: bytes) -> None:
        for store in self.stores:
            self.run(store.put_blobs(self.slice, [(key, data)]))

    @rule(keep_from=st.integers(0, 12))
    def trim(self, keep_from: int) -> None:
        head = self.run(self.pair.model.read_log(self.slice, self.head(), 1))[1]
        for store in self.stores:
            self.run(store.trim_log(self.slice, min(keep_from, head + 1)))

    def head(self) -> int:
        (outcome,) = self.run(self.pair.model.commit(self.slice, self.tokens[0], [Commit()]))
        return int(outcome.head)

    @rule(after=st.integers(0, 15), limit=st.integers(1, 4))
    def read_log(self, after: int, limit: int) -> None:
        results = []
        for store, token in zip(self.stores, self.tokens, strict=True):
            try:
                results.append(self.run(store.read_log(self.slice, after, limit, incarnation=token)))
            except LogTrimmed:
                results.append(None)
        assert results[1] == results[0]

    @rule(prefix=st.sampled_from(["", "a", "é"]), after=st.sampled_from(["", "a", "z"]), limit=st.integers(1, 3))
    def walk(self, prefix: str, after: str, limit: int) -> None:
        key = "same"
        commit = [Commit(writes=tuple(Rank(key, name, 0) for name in ("a", "ab", "b", "é")))]
        pages = []
        for store, token in zip(self.stores, self.tokens, strict=True):
            self.run(store.commit(self.slice, token, commit))
            pages.append(self.run(store.by_prefix(self.slice, key, prefix, after, limit)))
        assert pages[1] == pages[0]

    @invariant()
    def same_state(self) -> None:
        states = []
        for store in self.stores:
            loaded = self.run(store.load(self.slice, RECORDS))
            for name in ("number", "token", "identity", "head", "kept"):  # the store's own
                loaded[2] = {k: v for k, v in loaded[2].items() if k != name}
            states.append(
                (
                    loaded,
                    [self.run(store.ranked(self.slice, key)) for key in RANKS],
                    [self.run(store.by_score(self.slice, key, 2))[0] for key in RANKS],
                    [self.run(store.get_blob(self.slice, key)) for key in BLOBS],
                )
            )
        assert states[1] == states[0]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def test_same_as_memory(kind: str, redis_server: RedisProcess, redis_factory: RedisFactory, tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        bed: Bed = SqliteBed(tmp_path) if kind == "sqlite" else RedisBed(redis_server, redis_factory, tmp_path)
        slices = itertools.count()
        pair = Pair(runner, runner.run(MemoryBed().client()), runner.run(bed.client()), slices, kind == "sqlite")

        class Machine(SameAsMemory):
            pass

        Machine.pair = pair
        try:
            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=60,
                    stateful_step_count=12,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    phases=[Phase.generate],  # shrinking takes minutes of fsyncs; a failing run has few steps anyway
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(bed.close())
