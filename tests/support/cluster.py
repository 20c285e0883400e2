"""A Redis Cluster on loopback: three primaries, each with a replica, all real."""

from __future__ import annotations

import subprocess
from pathlib import Path

from redis.crc import key_slot

from tests.support.ports import HOST, wait_until
from tests.support.redis_process import RedisProcess

PRIMARIES = 3


class Cluster:
    """Call `start`, and `kill` in the end."""

    def __init__(self, folder: Path, *, replicas: bool = False) -> None:
        count = PRIMARIES * (2 if replicas else 1)
        settings = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": "1500",
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
            "appendfsync": "always",
        }
        self.nodes = [RedisProcess(folder / f"node{n}", dict(settings)) for n in range(count)]
        self._replicas = replicas

    @property
    def url(self) -> str:
        """The store's address, by two of the nodes."""
        return f"redis+cluster://{','.join(f'{HOST}:{node.port}' for node in self.nodes[:2])}"

    def start(self) -> Cluster:
        """Start all nodes, and put them together."""
        for node in self.nodes:
            node.start()
        hosts = [f"{HOST}:{node.port}" for node in self.nodes]
        more = ["--cluster-replicas", "1"] if self._replicas else []
        self._cli("--cluster", "create", *hosts, *more, "--cluster-yes")
        wait_until(lambda: all(self._fine(node) for node in self.nodes), timeout_s=60, what="a cluster")
        return self

    def _fine(self, node: RedisProcess) -> bool:
        with node.client() as client:
            info: bytes = client.execute_command("CLUSTER", "INFO")
            nodes: bytes = client.execute_command("CLUSTER", "NODES")
            role = client.execute_command("ROLE")
        whole = b"cluster_state:ok" in info and nodes.count(b"slave") >= (PRIMARIES if self._replicas else 0)
        return whole and (role[0] == b"master" or role[3] == b"connected")

    def _cli(self, *words: str) -> str:
        done = subprocess.run(["redis-cli", *words], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def owner(self, slot: int) -> RedisProcess:
        """The node that has a slot."""
        with next(node for node in self.nodes if node.running).client() as client:
            rows = client.execute_command("CLUSTER", "SLOTS")
        for first, last, primary, *_ in rows:
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == primary[1])
        raise AssertionError(f"nobody has slot {slot}")

    def slot_of(self, slice_: int, name: str = "hn") -> int:
        """Where a slice lies."""
        return key_slot(f"{{{name}:{slice_}}}".encode())

    def move(self, slot: int) -> RedisProcess:
        """Move a slot with its keys to another primary, as a reshard does; returns which."""
        source = self.owner(slot)
        target = next(n for n in self.nodes[:PRIMARIES] if n is not source and n.running)
        ids = {node: self._id(node) for node in (source, target)}
        with source.client() as old, target.client() as new:
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
            while keys := old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
                old.execute_command("MIGRATE", HOST, target.port, "", 0, 5_000, "KEYS", *keys)
            for client in (new, old):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        return target

    def _id(self, node: RedisProcess) -> str:
        return self._cli("-h", HOST, "-p", str(node.port), "CLUSTER", "MYID").strip()

    def kill(self) -> None:
        """End everything."""
        for node in self.nodes:
            node.kill()
