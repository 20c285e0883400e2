"""Commits per second and CPU per commit of each store: `python tests/bench/store_bench.py [URL ...]`.

Each call carries 64 commits shaped like an artifact's commit: compare the entry and the session, write entry, result,
history and index, append one log entry.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import tempfile
import time

from homenode_directory.store import open_store
from homenode_directory.store.base import Add, Before, Commit, Equals, Exists, Put, Rank, Store

BODY = "x" * 200


def commits_of(call: int, per_call: int, revs: dict[str, int], worker: int) -> list[Commit]:
    """The next call's commits; `revs` are the entries' revisions."""
    commits = []
    for i in range(per_call):
        name = f"default/main/{worker}-{(call * per_call + i) % 512}"
        rev = revs.get(name, 0)
        revs[name] = rev + 1
        session = f"session-{i % 64}"
        commits.append(
            Commit(
                (
                    Equals(f"x/{session}", f"r/{worker}-{call * per_call + i}", None),
                    Equals(f"e/{name}", "rev", str(rev) if rev else None),
                    Equals(f"x/{session}", "live", "1"),
                    Before(1 << 45),
                    Exists("b/0"),
                ),
                (
                    Put(f"x/{session}", f"r/{worker}-{call * per_call + i}", "result" * 5),
                    Add("br/0", "refs", 1),
                    Put(f"e/{name}", "rev", str(rev + 1)),
                    Put(f"e/{name}", "body", BODY),
                    Put(f"e/{name}", f"s/{session}", str(rev)),
                    Rank("due/artifacts", name, 1_700_000_000_000 + rev),
                    Put(f"v/{name}", str(rev), BODY),
                ),
                (BODY.encode(),),
                show=(f"e/{name}",),
            )
        )
    return commits


async def measure(store: Store, *, calls: int, per_call: int, workers: int, compare_only: bool) -> str:
    """One line of results; `workers` slices are used at once."""
    await store.open()
    tokens = {}
    for worker in range(workers):
        tokens[worker] = (await store.adopt(worker, 0)).token
        await store.put_blobs(worker, [("b/0", b"x")])
        sessions = tuple(Put(f"x/session-{i}", "live", "1") for i in range(64))
        await store.commit(worker, tokens[worker], [Commit(writes=sessions)])

    async def work(worker: int) -> float:
        revs: dict[str, int] = {}
        slowest = 0.0
        for call in range(calls):
            commits = commits_of(call, per_call, {} if compare_only else revs, worker)
            if compare_only:
                commits = [Commit(c.guards[2:]) for c in commits]
            start = time.perf_counter()
            outcomes = await store.commit(worker, tokens[worker], commits)
            slowest = max(slowest, time.perf_counter() - start)
            assert all(outcome.ok for outcome in outcomes)
        return slowest

    cpu, start = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work(worker) for worker in range(workers)))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    n = calls * per_call * workers
    await store.close()
    return f"{n / wall:9.0f}/s  {cpu / n * 1e6:6.1f} us CPU here per commit"


async def main() -> None:
    """Measure the stores that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="*", help="addresses; default: memory and a SQLite file")
    parser.add_argument("--folder", default=None, help="where the SQLite file goes")
    parser.add_argument("--calls", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hn-bench-", dir=arguments.folder) as folder:
        urls = arguments.urls or ["memory://", f"sqlite:///{folder}/store.db"]
        for url in urls:
            for per_call, workers in ((64, 1), (64, 4), (1, 1), (1, 64)):
                for compare_only in (False, True):
                    target = url
                    if url.startswith("redis"):
                        target = f"{url}?name=bench{os.getpid()}-{secrets.token_hex(2)}"
                    elif url.startswith("sqlite"):
                        target = f"sqlite:///{folder}/{secrets.token_hex(4)}.db"
                    line = await measure(
                        open_store(target, slices=64),
                        calls=max(arguments.calls, 1) if per_call > 1 else 400,
                        per_call=per_call,
                        workers=workers,
                        compare_only=compare_only,
                    )
                    kind = "compare" if compare_only else "commit "
                    print(f"{url.split(':')[0]:7} {kind} {per_call:3} a call, {workers:2} slices: {line}")


if __name__ == "__main__":
    asyncio.run(main())
