"""What is committed, and what agents had of it, as somebody sees it who is told of everything at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from homenode.change import describe, estimate_tokens
from homenode.cli.simulate.agents import Deed
from homenode.cli.simulate.paper import fetches_max
from homenode.cli.simulate.workload import CHANGE, Workload
from homenode.versions import Version
from homenode_api.patch import common_prefix

#: What a token costs that a provider finds in its cache of prompt prefixes, in parts of one that it does not.
CACHED_PRICE = 0.1


@dataclass(slots=True)
class Truth:
    """See the module. By key where nothing else is said.

    Attributes:
        fetches: contents shown, asked for or pushed; occasions: accesses and pushes.
        changes: tokens of all changes from version to version (of the versions, where agents are shown documents).
        largest: tokens of the largest version.
        stale: reads of a version that was superseded then; oldest_steps: how many steps ago, at most.
        pull, broadcast, prefix: tokens of the baselines: each access by itself; everything to everybody after each
            step; the same, where the unchanged beginning of what is sent costs CACHED_PRICE.
    """

    workload: Workload
    step: int = 0
    newest: dict[str, Version] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    superseded: dict[tuple[str, Version], int] = field(default_factory=dict)
    fetches: Counter[str] = field(default_factory=Counter)
    occasions: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    largest: Counter[str] = field(default_factory=Counter)
    shown: int = 0
    repeated: int = 0
    first: int = 0
    changed: int = 0
    accesses: int = 0
    hits: int = 0
    reads: int = 0
    stale: int = 0
    oldest_steps: int = 0
    conflicts: int = 0
    pull: int = 0
    broadcast: int = 0
    prefix: float = 0.0
    _sent: str = ""

    def found(self, key: str, version: Version, text: str) -> None:
        """This is there now."""
        tokens = estimate_tokens(text)
        if key in self.newest:
            self.superseded[key, self.newest[key]] = self.step
            changed = self.workload.shows == CHANGE
            self.changes[key] += describe(self.texts[key], text).tokens if changed else tokens
        self.largest[key] = max(self.largest[key], tokens)
        self.newest[key], self.texts[key] = version, text

    def note(self, deed: Deed) -> None:
        """An agent has done this."""
        self.fetches[deed.key] += deed.fetches + deed.pushes
        self.occasions[deed.key] += deed.accesses + deed.pushes
        self.shown += deed.shown
        self.repeated += deed.repeated
        self.first += deed.first
        self.changed += deed.changed
        self.accesses += deed.accesses
        self.hits += deed.hits
        self.conflicts += deed.conflicts
        if deed.accesses:
            self.pull += estimate_tokens(self.texts[deed.key])
        if deed.committed is not None:
            self.writes[deed.key] += 1
            self.found(deed.key, deed.committed, deed.text)
        elif deed.version is not None:
            self.reads += 1
            since = self.superseded.get((deed.key, deed.version))
            if since is not None:
                self.stale += 1
                self.oldest_steps = max(self.oldest_steps, self.step - since)

    def end_step(self) -> None:
        """Everything is sent to everybody, in fixed order: the baselines."""
        text = "".join(self.texts.values())
        tokens = estimate_tokens(text)
        known = estimate_tokens(text[: common_prefix(self._sent, text)]) if self._sent else 0
        agents = self.workload.agents
        self.broadcast += agents * tokens
        self.prefix += agents * (tokens - known + CACHED_PRICE * known)
        self._sent = text
        self.step += 1

    def bounds(self) -> list[int]:
        """Most fetches of each artifact."""
        return [fetches_max(self.workload.agents, self.occasions[key], self.writes[key]) for key in self.newest]

    @property
    def shown_max(self) -> int:
        """Most tokens that can have been new to agents: a first look for each of them, and everybody else's changes."""
        agents = self.workload.agents
        return sum(agents * self.largest[key] + (agents - 1) * self.changes[key] for key in self.newest)
