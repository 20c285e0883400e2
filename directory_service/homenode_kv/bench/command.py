"""`homenode kv bench` and `homenode kv eval`: rows, one group after the other."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import torch
import transformers

from homenode_kv.bench.rows import GROUPS, Bench, Row
from homenode_kv.bench.shapes import SHAPES

_MODULES = {
    "exactness": "exactness",
    "accuracy": "accuracy",
    "isolated": "isolated",
    "compression": "compression",
    "anchors": "anchored",
    "agents": "anchored",
    "matching": "matching",
    "collective": "collective",
    "slo": "slo",
    "first-token": "first_token",
    "restore": "restoring",
}
ON_CUDA = ("collective", "first-token", "matching", "restore")
"""Groups of a run on CUDA: quality does not depend on the device, time does."""


class BenchError(ValueError):
    """A group, a shape or a device that there is not; the message says what there is."""


def groups() -> tuple[str, ...]:
    """Names of what can be run, in order."""
    for module in _MODULES.values():
        import_module(f"homenode_kv.bench.{module}")
    return tuple(_MODULES)


def bench_of(
    *, device: str, quick: bool, shape: str, threads: int | None, tell: Callable[[str], None], full: bool = False
) -> Bench:
    """What a run is given. Raises BenchError."""
    if shape not in SHAPES:
        raise BenchError(f"a shape is one of {', '.join(SHAPES)}, not {shape!r}")
    if device != "cpu" and not device.startswith("cuda"):
        raise BenchError(f"a device is cpu or cuda, not {device!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BenchError("there is no CUDA device here")
    if threads is not None:
        torch.set_num_threads(threads)
    return Bench(device, quick, shape, tell, full)


def run(bench: Bench, only: Sequence[str] = ()) -> Iterator[Row]:
    """The rows, as they come. Raises BenchError for an unknown group."""
    known = groups()
    if unknown := [name for name in only if name not in known]:
        raise BenchError(f"groups are {', '.join(known)}, not {', '.join(unknown)}")
    default = ON_CUDA if bench.device.startswith("cuda") else known
    for name in known:
        if name in (only or default):
            began = time.monotonic()
            yield from GROUPS[name](bench)
            bench.tell(f"{name}: {time.monotonic() - began:.0f} s")


def document(rows: Sequence[Row], bench: Bench, command: str) -> dict[str, Any]:
    """Rows with what they were measured on."""
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "device": bench.machine,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "rows": [asdict(row) for row in rows],
    }
