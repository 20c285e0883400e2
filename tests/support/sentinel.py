"""A primary, a replica and Sentinels that watch them, all real and on loopback."""

from __future__ import annotations

import subprocess
from pathlib import Path

import redis

from tests.support.ports import HOST, free_port, wait_until
from tests.support.redis_process import STOP_TIMEOUT_S, RedisProcess, redis_binary

NAME = "hn-primary"


class SentinelSet:
    """Call `start`, and `kill` in the end. `nodes` are the two servers, in the order in which they were started."""

    def __init__(self, folder: Path, *, sentinels: int = 3, down_after_ms: int = 1_000) -> None:
        self._folder = folder
        self._down_after_ms = down_after_ms
        self._count = sentinels
        self.nodes = [
            RedisProcess(folder / f"node{n}", {"appendfsync": "always", "repl-diskless-sync-delay": "0"})
            for n in range(2)
        ]
        self.ports: list[int] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """The store's address."""
        return f"redis+sentinel://{','.join(f'{HOST}:{port}' for port in self.ports)}/{NAME}/0"

    @property
    def primary(self) -> RedisProcess:
        """The node that the Sentinels call the primary now."""
        with self._ask() as sentinel:
            port = int(sentinel.sentinel_get_master_addr_by_name(NAME)[1])
        return next(node for node in self.nodes if node.port == port)

    def start(self) -> SentinelSet:
        """Start all, and wait until every Sentinel knows the replica and the others."""
        first, second = self.nodes
        first.start()
        second.settings |= {"replicaof": f"{HOST} {first.port}"}
        second.start()
        for number in range(self._count):
            self.ports.append(free_port())
            config = self._folder / f"sentinel{number}.conf"
            config.write_text(
                f"port {self.ports[-1]}\nbind {HOST}\ndir {self._folder}\n"
                f"sentinel monitor {NAME} {HOST} {first.port} {self._count // 2 + 1}\n"
                f"sentinel down-after-milliseconds {NAME} {self._down_after_ms}\n"
                f"sentinel failover-timeout {NAME} 5000\n"
            )
            command = [redis_binary(), str(config), "--sentinel"]
            self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_until(self._knows_all, timeout_s=60, what="Sentinels that know each other and the replica")
        return self

    def _knows_all(self) -> bool:
        for port in self.ports:
            try:
                with redis.Redis(host=HOST, port=port, socket_timeout=5) as sentinel:
                    state = sentinel.sentinel_master(NAME)
                    replicas = sentinel.sentinel_slaves(NAME)
            except redis.RedisError:
                return False
            fine = [r for r in replicas if r["master-link-status"] == "ok"] if replicas else []
            if state["num-other-sentinels"] != self._count - 1 or not fine:
                return False
        return True

    def _ask(self) -> redis.Redis:
        return redis.Redis(host=HOST, port=self.ports[0], socket_timeout=5)

    def fail_over(self) -> None:
        """Ask a Sentinel to promote the replica."""
        with self._ask() as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", NAME)

    def kill(self) -> None:
        """End everything."""
        for process in self._processes:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        for node in self.nodes:
            node.kill()
