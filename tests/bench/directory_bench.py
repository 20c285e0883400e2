"""Throughput of one directory server on Redis beside etcd on the same machine, in interleaved rounds.

    python tests/bench/directory_bench.py [--clients 64] [--seconds 3] [--rounds 3] [--json FILE]

acquire: a read that must ask the directory; it joins the sharers and finds its copy unchanged. Beside it: etcd's
linearizable get. commit: compare-and-set of 1 KiB; beside it: etcd's compare-and-set. etcd writes to disk before it
answers, and so does Redis here (`appendfsync always`). Both sides are driven from Python, one process each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.etcd import EtcdProcess
from tests.support.ports import HOST, free_port, wait_until
from tests.support.redis_process import RedisProcess

ROWS = (("acquire", "etcd_get"), ("commit", "etcd_swap"))
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Sides:
    """Redis, a directory server over it, and etcd."""

    def __init__(self, folder: Path) -> None:
        self.redis = RedisProcess(folder, {"appendfsync": "always"})
        self.redis.start()
        self.port = free_port()
        homenode = Path(sys.executable).with_name("homenode")
        command = [str(homenode), "serve", "--store", self.redis.url, "--listen", f"{HOST}:{self.port}"]
        self.server = subprocess.Popen(
            [*command, "--metrics", "off"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.etcd = EtcdProcess()
        self.etcd.wait_ready()

    def load(self, kind: str, clients: int, seconds: float) -> dict[str, float]:
        """One round of one load, with the CPU time that it cost the servers."""
        peer = kind.startswith("etcd")
        address = self.etcd.address if peer else f"{HOST}:{self.port}"
        pids = [self.etcd.pid] if peer else [self.server.pid, self.redis.pid]
        before = [cpu_s(pid) for pid in pids]
        words = [sys.executable, "-m", "tests.bench.load", kind, address, str(clients), str(seconds)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        result: dict[str, float] = json.loads(done.stdout)
        spent = [cpu_s(pid) - b for pid, b in zip(pids, before, strict=True)]
        result["server_cpu_us"] = spent[0] / result["n"] * 1e6
        result["store_cpu_us"] = spent[1] / result["n"] * 1e6 if len(spent) > 1 else 0.0
        return result

    def close(self) -> None:
        """End all three."""
        self.server.terminate()
        self.server.wait(20)
        self.redis.stop()
        self.etcd.close()


def median(results: list[dict[str, float]], name: str) -> float:
    """The median of one figure over the rounds."""
    return statistics.median(result[name] for result in results)


def main() -> int:
    """Run and print; with --json also write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {kind: [] for row in ROWS for kind in row}
    with tempfile.TemporaryDirectory(prefix="homenode-bench-") as folder:
        sides = Sides(Path(folder))
        try:
            wait_until(lambda: _listens(sides.port), what="the directory server listens")
            for _ in range(args.rounds):
                for kind in results:
                    results[kind].append(sides.load(kind, args.clients, args.seconds))
        finally:
            sides.close()
    rows = [_row(ours, peer, results, args.clients) for ours, peer in ROWS]
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    return 0


def _listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True


def _row(ours: str, peer: str, results: dict[str, list[dict[str, float]]], clients: int) -> dict[str, object]:
    ratio = statistics.median(a["per_s"] / b["per_s"] for a, b in zip(results[ours], results[peer], strict=True))
    for kind in (ours, peer):
        m = {name: median(results[kind], name) for name in results[kind][0]}
        print(
            f"{kind:10} {m['per_s']:9,.0f}/s  p50 {m['p50_ms']:7.2f} ms  p99 {m['p99_ms']:7.2f} ms   CPU/operation:"
            f" client {m['client_cpu_us']:5.0f}, server {m['server_cpu_us']:5.0f}, store {m['store_cpu_us']:4.0f} µs"
        )
    print(f"{'':10} {ratio:.2f} times as many a second, median of rounds\n")
    return {
        "id": f"{ours}_{clients}", "ours": median(results[ours], "per_s"), "peer": median(results[peer], "per_s"),
        "ratio": ratio, "unit": "operations/s", "n": len(results[ours]),
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
