"""Time of several ways of the same work, taken in turns, so that what else the machine does meets all of them.

On a CPU it is CPU time, of one thread: others who use the machine take part of the wall clock, and threads that wait
for each other count as working. On CUDA it is the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

NS_PER_MS = 1e6


def in_turns(ways: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Milliseconds of each way: the median of its turns; one turn before counts for nothing."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    cuda, threads = device.startswith("cuda"), torch.get_num_threads()
    now_ns = time.perf_counter_ns if cuda else time.process_time_ns
    torch.set_num_threads(threads if cuda else 1)
    try:
        for turn in range(repeats + 1):
            for name, way in ways.items():
                _settle(device)
                began_ns = now_ns()
                way()
                _settle(device)
                if turn:
                    found[name].append((now_ns() - began_ns) / NS_PER_MS)
    finally:
        torch.set_num_threads(threads)
    return {name: median(each) for name, each in found.items()}


def _settle(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
