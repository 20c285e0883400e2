"""One process of a load: `python -m homenode.cli.bench.worker`, which `homenode bench load` starts and talks to.

It is told its plan on the first line of its input, and `go` on the second; a line more ends it early, and at the end of
its input it cleans up: not before, for the others may still be at work. What it says, as JSON a line: {"opened": n} and
{"made": n} as it goes, {"ready": true}, {"measuring": true}, {"done": n, "errors": n}, and in the end {"result": …}, or
{"failed": …}, and {"left": n} when it has cleaned up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import sys
import threading
import time
from argparse import Namespace
from collections import Counter
from typing import Any

import homenode
from homenode.cli.bench.load import Active, Measuring
from homenode.cli.bench.plan import Plan, load_plan
from homenode.cli.session import credentials
from homenode.clock import boot_clock

OPENING = 32  # at once
TELL_S = 0.5
CLEAN_S = 30.0


def tell(**what: Any) -> None:
    """A line for the command."""
    print(json.dumps(what), flush=True)


class Worker:
    """The sessions of one process."""

    def __init__(self, plan: Plan, stop: asyncio.Event) -> None:
        self._plan = plan
        self._stop = stop
        tls = dict(zip(("tls_ca", "tls_cert", "tls_key"), plan.tls, strict=True))
        self._credentials = credentials(Namespace(**tls))
        self._found: list[homenode.Homenode] = []
        self._ids: list[str] = []

    async def _connect(self, number: int) -> None:
        plan = self._plan
        options: dict[str, Any] = {"clock": boot_clock()} if plan.own_streams else {}  # with it, nothing is shared
        hn = await homenode.connect(
            plan.url,
            agent=f"bench-{plan.number}-{number}",
            timeout_ms=int(plan.timeout_s * 1_000),
            credentials=self._credentials,
            **options,
        )
        self._found.append(hn)

    async def open(self) -> None:
        """Open the sessions, some at a time. Raises HomenodeError."""
        for start in range(0, self._plan.sessions, OPENING):
            end = min(start + OPENING, self._plan.sessions)
            await asyncio.gather(*(self._connect(number) for number in range(start, end)))
            tell(opened=end)
            if self._stop.is_set():
                break
        self._ids = [hn.session_id for hn in self._found]

    async def make(self) -> None:
        """Make this process's artifacts. Raises HomenodeError."""
        plan, numbers, made = self._plan, iter(range(self._plan.made)), 0
        active = Active(plan, Measuring(), 0)

        async def some(hn: homenode.Homenode) -> None:
            nonlocal made
            for number in numbers:
                await hn.put(active.key(plan.first + number), active.body(), base=homenode.ANY)
                made += 1
                if made % 256 == 0 or made == plan.made:
                    tell(made=made)
                if self._stop.is_set():
                    return

        await asyncio.gather(*(some(hn) for hn in self._found[:64]))

    async def run(self) -> dict[str, Any]:
        """Work; what came of it."""
        plan, measuring = self._plan, Measuring()
        cpu_s = time.process_time()
        workers = [
            asyncio.create_task(Active(plan, measuring, number).run(hn, self._stop))
            for number, hn in enumerate(self._found[: plan.active])
        ]
        ending = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([ending], timeout=plan.warmup_s)
            cpu_s = time.process_time()
            measuring.begin()
            tell(measuring=True)
            end = measuring.began_s + plan.seconds
            while not ending.done() and (left_s := end - time.perf_counter()) > 0:
                await asyncio.wait([ending], timeout=min(TELL_S, left_s))
                tell(**measuring.so_far())
            measuring.end()
            self._stop.set()
            await asyncio.gather(*workers)
        finally:
            for task in (*workers, ending):
                task.cancel()
        hits, misses = (sum(getattr(hn.stats(), name) for hn in self._found) for name in ("hits", "misses"))
        return {
            "window_s": measuring.window_s,
            "operations": {kind: latencies.dump() for kind, latencies in measuring.of.items()},
            "cpu_s": time.process_time() - cpu_s,
            "sessions": len(self._found),
            "lost": sum(not hn.connected for hn in self._found),
            "replaced": sum(hn.session_id != id_ for hn, id_ in zip(self._found, self._ids, strict=True)),
            "hits": hits,
            "misses": misses,
        }

    async def clean(self) -> int:
        """Remove the artifacts and end the sessions, as far as there is time; how many artifacts are left."""
        plan, left = self._plan, Counter(artifacts=self._plan.made)
        numbers = iter(range(plan.first, plan.first + plan.made))
        key = Active(plan, Measuring(), 0).key

        async def some(hn: homenode.Homenode) -> None:
            for number in numbers:
                with contextlib.suppress(homenode.NotFound):
                    await hn.delete(key(number), base=homenode.ANY)
                left["artifacts"] -= 1

        async def close() -> None:
            for start in range(0, len(self._found), OPENING):
                await asyncio.gather(*(hn.close() for hn in self._found[start : start + OPENING]))

        if not plan.keep:
            with contextlib.suppress(TimeoutError, homenode.HomenodeError):
                await asyncio.wait_for(asyncio.gather(*(some(hn) for hn in self._found[:64])), CLEAN_S)
        with contextlib.suppress(TimeoutError, homenode.HomenodeError):
            await asyncio.wait_for(close(), CLEAN_S)
        return left["artifacts"]


class Orders:
    """What the command says after the plan, heard on a thread that nobody waits for."""

    def __init__(self) -> None:
        self.go, self.stop, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        lines = iter(sys.stdin.readline, "")
        with contextlib.suppress(RuntimeError):  # the loop has ended
            for line in lines:
                self._set(self.go if line.strip() == "go" else self.stop)
            self._set(self.over)

    def _set(self, event: asyncio.Event) -> None:
        self._loop.call_soon_threadsafe(event.set)
        if event is not self.go:
            self._loop.call_soon_threadsafe(self.stop.set)
            self._loop.call_soon_threadsafe(self.go.set)


async def _work(plan: Plan) -> int:
    orders = Orders()
    worker = Worker(plan, orders.stop)
    try:
        await worker.open()
        if not orders.stop.is_set():
            await worker.make()
        tell(ready=True)
        await orders.go.wait()
        tell(result=await worker.run())
    except (homenode.HomenodeError, OSError) as failure:
        tell(failed={"kind": type(failure).__name__, "message": str(failure)})
        return 1
    finally:
        await orders.over.wait()
        tell(left=await worker.clean())
    return 0


def main() -> int:
    """See the module. Ctrl-C is the command's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = load_plan(sys.stdin.readline())
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_work(plan))
    return uvloop.run(_work(plan))


if __name__ == "__main__":
    sys.exit(main())
