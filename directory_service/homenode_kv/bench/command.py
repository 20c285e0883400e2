"""`homenode kv bench` and `homenode kv eval`: rows, one group after the other."""

from __future__ import annotations

import gc
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers

from homenode_kv import kernels
from homenode_kv.bench.rows import GROUPS, Bench, Row
from homenode_kv.bench.shapes import SHAPES

LOG = logging.getLogger("homenode.kv")

_MODULES = {
    "exactness": "exactness",
    "accuracy": "accuracy",
    "isolated": "isolated",
    "compression": "compression",
    "again": "again",
    "anchors": "anchored",
    "agents": "anchored",
    "matching": "matching",
    "collective": "collective",
    "versions": "versions",
    "slo": "slo",
    "first-token": "first_token",
    "restore": "restoring",
}
ON_CUDA = ("first-token", "collective", "matching", "restore", "slo")
"""Groups of a run on CUDA, what matters most first: quality does not depend on the device, time does."""


class BenchError(ValueError):
    """A group, a shape or a device that there is not; the message says what there is."""


def groups() -> tuple[str, ...]:
    """Names of what can be run, in order."""
    for module in _MODULES.values():
        import_module(f"homenode_kv.bench.{module}")
    return tuple(_MODULES)


def bench_of(
    *,
    device: str,
    quick: bool,
    shape: str,
    threads: int | None,
    tell: Callable[[str], None],
    full: bool = False,
    rounds: int = 0,
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
    return Bench(device, quick, shape, tell, full, rounds)


def run(bench: Bench, only: Sequence[str] = ()) -> Iterator[Row]:
    """The rows, as they come. A group that fails is noted in `bench.failed`, and the others go on.

    Raises BenchError for an unknown group.
    """
    known = groups()
    if unknown := [name for name in only if name not in known]:
        raise BenchError(f"groups are {', '.join(known)}, not {', '.join(unknown)}")
    cuda = bench.device.startswith("cuda")
    for name in only or (ON_CUDA if cuda else known):
        began = time.monotonic()
        try:
            yield from GROUPS[name](bench)
        except Exception as error:  # an hour of other rows, or the one turn on a GPU, is not to be lost with it
            LOG.exception("the rows %s end here", name)
            bench.failed[name] = f"{type(error).__name__}: {error}"[:500]
        if cuda:
            gc.collect()
            torch.cuda.empty_cache()
        bench.tell(f"{name}: {time.monotonic() - began:.0f} s")


def measure(bench: Bench, command: str, only: Sequence[str] = (), out: Path | None = None) -> list[Row]:
    """All rows of a run. After each one `out` holds those so far, so that who is killed loses one."""
    rows = []
    for row in run(bench, only):
        rows.append(row)
        if out is not None:
            write(out, document(rows, bench.machine, command, bench.failed))
    if out is not None:
        write(out, document(rows, bench.machine, command, bench.failed))
    return rows


def document(rows: Sequence[Row], device: str, command: str, failed: dict[str, str]) -> dict[str, Any]:
    """Rows with what they were measured on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions["transformers"] = transformers.__version__
    if torch.version.cuda is not None:
        versions["cuda"] = torch.version.cuda
    if kernels.available():
        versions["triton"] = import_module("triton").__version__
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "device": device,
        "processor": f"{_processor()}, {os.cpu_count()} seen",
        "threads": torch.get_num_threads(),
        "versions": versions,
        "failed": failed,
        "rows": [asdict(row) for row in rows],
    }


def write(path: Path, found: dict[str, Any]) -> None:
    """A document as a file, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(path)


def _processor() -> str:
    try:
        names = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
        return next(names).partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
