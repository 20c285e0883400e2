"""Where the CPU time of one load goes, in client, server and store: `python -m tests.bench.profile commit_64`.

Client and server are sampled with py-spy (`pip install py-spy`; as root, or where processes may be traced), the store
tells by its own counters. Functions are listed by their own time (and that of C code that they call) and by the time
under them, in microseconds for each operation, all threads together; waiting is left out.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.processes import ROOT
from tests.bench.running import Bench, ProcessLoad

LOADS: Mapping[str, tuple[str, int, Mapping[str, Any]]] = {
    "acquire_1": ("homenode_load.acquire", 1, {}),
    "acquire_64": ("homenode_load.acquire", 64, {}),
    "acquire_512": ("homenode_load.acquire", 512, {}),
    "streams_64": ("homenode_load.acquire", 64, {"own_streams": True}),
    "commit_1": ("homenode_load.commit", 1, {}),
    "commit_64": ("homenode_load.commit", 64, {}),
    "batch_64": ("homenode_load.commit", 512, {}),
    "hot_64": ("homenode_load.hot", 64, {}),
    "unary_64": ("homenode_load.unary_commit", 64, {}),
    "inval_1": ("spread_load.homenode_sharers", 1, {}),
    "fanout_1000": ("spread_load.homenode_sharers", 1_000, {}),
    "fanout_1000_own": ("spread_load.homenode_sharers", 1_000, {"per_stream": 1}),
    "large_16m": ("bodies_load.whole", 1, {"size": 16 << 20}),
    "delta_1m": ("bodies_load.refetch", 1, {"size": 1 << 20}),
    "sessions_5000": ("homenode_load.idle", 4_000, {}),
}
HZ = 250
#: Where a thread waits for work.
_WAITING = ("_worker (concurrent", "Thread.run (threading", "EpollSelector.select")
#: Frames of what runs everything else say nothing.
_EVERYWHERE = 0.9


class Sampled:
    """py-spy on a process while it runs."""

    def __init__(self, name: str, pid: int, seconds: float, folder: Path) -> None:
        self.name = name
        self._file = folder / f"{name}.txt"
        words = [_py_spy() or "py-spy", "record", "-r", f"{HZ}", "-d", f"{max(1, round(seconds))}"]
        self._process = subprocess.Popen(
            [*words, "-f", "raw", "-o", str(self._file), "-p", str(pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def tell(self, cpu_us: float, count: int) -> None:
        """Print, scaled so that all of it is the CPU time that was measured."""
        _, errors = self._process.communicate(timeout=120)
        if not self._file.exists():
            print(f"{self.name}: py-spy failed: {errors.decode()[-300:]}")
            return
        own: Counter[str] = Counter()
        under: Counter[str] = Counter()
        for line in self._file.read_text().splitlines():
            stack, _, number = line.rpartition(" ")
            frames = [frame.split(":")[0].rstrip(")") for frame in stack.split(";")]
            if frames[-1].startswith(_WAITING):
                continue
            own[frames[-1]] += int(number)
            under.update({frame: int(number) for frame in set(frames)})
        scale = cpu_us / max(own.total(), 1)
        print(f"\n{self.name}: {cpu_us:.0f} us an operation")
        telling = Counter({frame: n for frame, n in under.items() if n < _EVERYWHERE * own.total()})
        for title, found in (("its own", own), ("with what it calls", telling)):
            print(f"  {title}")
            for frame, number in found.most_common(count):
                print(f"  {number * scale:8.2f}  {frame}")


def _py_spy() -> str | None:
    return shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


def main() -> int:
    """Run one load and tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("row", choices=LOADS)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--count", type=int, default=25, help="functions to list")
    args = parser.parse_args()
    if _py_spy() is None:
        print("py-spy is missing: .venv/bin/pip install py-spy", file=sys.stderr)
        return 2
    kind, clients, options = LOADS[args.row]
    (ROOT / ".run").mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="profile-", dir=ROOT / ".run") as name,
        Bench(Path(name), rounds=1, seconds=args.seconds) as bench,
    ):
        load = bench.ours(kind, clients, **options)
        assert isinstance(load, ProcessLoad)
        load.measure(1.0)
        plain = load.measure(args.seconds)  # py-spy slows what it looks at
        with bench.redis.client() as redis:
            redis.config_resetstat()
            sampled = [
                Sampled("server", bench.server.pid, args.seconds - 1, Path(name)),
                Sampled("client", load.pid, args.seconds - 1, Path(name)),
            ]
            n = max(load.measure(args.seconds)["n"], 1)
            stats = redis.info("commandstats")
        cpu = plain.cpu_us
        print(f"{args.row}: {plain.figures}\nCPU us an operation: {cpu}")
        for one in sampled:
            one.tell(cpu[one.name], args.count)
        print(f"\nstore: {cpu['store']:.0f} us an operation; inside its commands, us and calls an operation:")
        for command, told in sorted(stats.items(), key=lambda item: -item[1]["usec"])[:8]:
            print(f"  {told['usec'] / n:8.2f} {told['calls'] / n:7.3f}  {command.removeprefix('cmdstat_')}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
