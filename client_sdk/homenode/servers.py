"""Which of several servers to use. They share a store, so any of them will do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from homenode.clock import NS_PER_MS, Clock

REST_MS = (1_000, 60_000)


@dataclass(slots=True)
class _Server:
    host: str
    failures: int = 0  # since it last answered
    rests_until_ns: int = 0


class Servers:
    """One server is current. One that fails rests: 1 s at first, then twice as long each time, 60 s at most.

    The next one is chosen at random among those that do not rest, so that the clients of a dead server spread over the
    others; when all rest, it is the one whose rest ends first.
    """

    def __init__(self, hosts: Sequence[str], *, clock: Clock, rng: random.Random) -> None:
        self._servers = [_Server(host) for host in dict.fromkeys(hosts)]
        self._clock = clock
        self._rng = rng
        self._current = rng.choice(self._servers)

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def current(self) -> str:
        """`host:port`"""
        return self._current.host

    def other(self, host: str) -> str:
        """Another one than `host`, for once; `host` where there is none."""
        return self._rng.choice([server.host for server in self._servers if server.host != host] or [host])

    def answered(self) -> None:
        """The current server is well."""
        self._current.failures = 0

    def next(self) -> bool:
        """The current server failed, or asked to be left: choose another. False where there is none."""
        failed, now_ns = self._current, self._clock()
        rest_ms = min(REST_MS[0] << min(failed.failures, 16), REST_MS[1]) * (0.5 + self._rng.random() / 2)
        failed.failures += 1
        failed.rests_until_ns = now_ns + int(rest_ms * NS_PER_MS)
        others = [server for server in self._servers if server is not failed]
        if not others:
            return False
        rested = [server for server in others if server.rests_until_ns <= now_ns]
        if rested:
            self._current = self._rng.choice(rested)
        else:
            self._current = min(self._servers, key=lambda server: server.rests_until_ns)
        return self._current is not failed
