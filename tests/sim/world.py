"""The parts of one simulated run, as agents and fault scripts see them: a dying directory, clients, a history.

Every artifact is edited only by adding a line that names the edit, so its whole history can be judged (`judge`). Reads
are judged as they end (`agents`).
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from homenode_directory.audit.items import Item
from homenode_directory.store.memory_store import Memory
from tests.sim.faults import Faults, Odds
from tests.sim.recording import Recording
from tests.sim.register import Register
from tests.sim.sdk import SimClient
from tests.sim.server import SimServer
from tests.sim.store import History

EPOCH_MS = 1_700_000_000_000
MAX_AGE_MS = 3_000
LAZY_KEYS = ("plan.md", "notes/a.md", "notes/b.md")
STRICT_KEYS = ("ledger.md", "ledger/b.md")
MIXED = "mixed.md"  # goes from lazy to strict and back
#: Too large to travel on the session stream.
HEAD = {key: random.Random(1).randbytes(30_000).hex() + "\n" for key in ("notes/b.md", "ledger/b.md")}
SCRATCH = "scratch.md"  # deleted and made again
OUTCOMES = ("acknowledged", "refused", "unknown")


def name_of(key: str) -> str:
    """The artifact's name in the store."""
    return f"default/main/{key}"


def keys_of(seed: int) -> tuple[str, ...]:
    """What a run works on: one hot artifact, lazy or strict, with a large body or a small one, or some of each."""
    match seed % 6:
        case 0:
            return LAZY_KEYS[-1:]
        case 1:
            return STRICT_KEYS[:1]
        case 2:
            return STRICT_KEYS[-1:]
        case 3:
            return (MIXED,)
        case 4:
            return LAZY_KEYS
    return (*LAZY_KEYS[:1], *STRICT_KEYS, MIXED)


def term_ms_of(seed: int) -> int:
    """Most often so short that leases run out before a silent stream is given up."""
    return 10_000 if seed // 6 % 4 == 3 else 1_000


@dataclass(slots=True)
class Report:
    """What a run did, and what it found wrong."""

    seed: int
    fired: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    digest: str = ""
    virtual_s: float = 0.0
    log: list[Item] = field(default_factory=list)  # what the store appended to its log


class World:
    """See the module."""

    def __init__(self, seed: int, odds: Odds, keys: tuple[str, ...]) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.recording = Recording(self.loop)
        self.faults = Faults(random.Random(seed * 7 + 1), odds)
        self.history = History()
        self.memory = Memory(self._store_ms, self._id)
        self.report = Report(seed, fired=self.faults.fired)
        self.texts: dict[str, str] = {}  # hash -> text, of everything that an agent tried to commit
        self.edits: dict[str, dict[str, str]] = {}  # artifact -> edit -> outcome
        self.registers: dict[str, Register] = {}
        self.log: list[str] = []
        self.clients: list[SimClient] = []
        self.store_jump_ms = 0
        self.term_ms = term_ms_of(seed)
        self.server = self._new_server()
        self.over = False  # no more trouble is made
        self.observed = True
        self.context = contextvars.copy_context()  # of no server process
        self.keys = keys

    def _store_ms(self) -> int:
        return EPOCH_MS + int(self.loop.time() * 1_000) + self.store_jump_ms

    def _id(self) -> str:
        return f"{self.rng.getrandbits(64):016x}"

    def _new_server(self) -> SimServer:
        rng = random.Random(self.rng.getrandbits(64))
        server = SimServer(self.memory, self.faults, self.history, rng, self.term_ms)
        server.died.append(lambda: self.spawn(self._restart()))
        return server

    def spawn(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of the world itself, which no crash ends."""
        return self.loop.create_task(coro, context=self.context)

    async def _restart(self) -> None:
        self.note("server died")
        while True:
            await asyncio.sleep(self.rng.uniform(0.02, 1.0))
            self.server = self._new_server()
            await self.server.start()
            self.note("server started")
            return

    def register(self, key: str) -> Register:
        """What was read and written of an artifact."""
        return self.registers.setdefault(key, Register())

    def note(self, text: str) -> None:
        """A line of the run's trace."""
        self.log.append(f"{self.loop.time():.6f} {text}")

    def problem(self, text: str) -> None:
        """Something that must not happen has happened."""
        self.note("PROBLEM " + text)
        self.report.problems.append(text)

    def tried(self, text: str) -> str:
        """Remember a text that somebody is about to commit; returns it."""
        self.texts[hashlib.sha256(text.encode()).hexdigest()] = text
        return text
