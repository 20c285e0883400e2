"""Runs spread over processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from homenode.cli.exits import CliError, Exit
from homenode.cli.simulate.run import Outcome, simulate
from homenode.cli.simulate.workload import Workload

#: Runs that a process is given at once; so few that the last ones end at about the same time.
CHUNK = 8
#: Not worth the start of processes.
FEW = 24

Job = tuple[Workload, Sequence[int]]


def run_all(jobs: Sequence[Job], processes: int, told: Callable[[int, int], None]) -> list[list[Outcome]]:
    """The outcomes of each workload's seeds, in order. `told` is called with the runs that are done, and with all.

    Raises CliError where a process was killed.
    """
    total = sum(len(seeds) for _, seeds in jobs)
    outcomes: list[dict[int, Outcome]] = [{} for _ in jobs]
    chunks = [
        (at, load, seeds[i : i + CHUNK]) for at, (load, seeds) in enumerate(jobs) for i in range(0, len(seeds), CHUNK)
    ]
    done = 0
    told(done, total)

    def take(at: int, came: dict[int, Outcome]) -> None:
        nonlocal done
        outcomes[at] |= came
        done += len(came)
        told(done, total)

    if processes <= 1 or total <= FEW:
        for at, load, seeds in chunks:
            take(at, run_chunk(load, seeds))
    else:
        context = multiprocessing.get_context("spawn")  # nothing of this process's event loops goes along
        count = min(processes, len(chunks))
        with ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent) as pool:
            try:
                with _unheard():
                    futures = {pool.submit(run_chunk, load, seeds): at for at, load, seeds in chunks}
                for future in as_completed(futures):
                    take(futures[future], future.result())
            except BrokenProcessPool:
                raise CliError("a process of the simulation was killed; too little memory?", Exit.ERROR) from None
            except BaseException:
                for process in multiprocessing.active_children():
                    process.terminate()  # what they compute is for nobody
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [[outcomes[at][seed] for seed in seeds] for at, (_, seeds) in enumerate(jobs)]


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Processes started meanwhile never hear Ctrl-C, which a terminal sends to all: this one ends them."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread, which alone may say so
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_parent() -> None:
    """Have this process end when the one that started it is killed; waiting for work, it would not notice."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run_chunk(workload: Workload, seeds: Sequence[int]) -> dict[int, Outcome]:
    """Some runs, by seed."""
    return {seed: simulate(workload, seed) for seed in seeds}


def processors() -> int:
    """How many processes may compute at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
