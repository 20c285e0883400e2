"""What is simulated: a workload, and the strategy that it runs under. Only values, so that processes can be sent it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from homenode.change import Access
from homenode.cli.simulate import paper
from homenode.cli.simulate.edits import BLOCK_LINES

#: Of virtual time.
STEP_MS = 250

BROADCAST, EAGER, LAZY, LEASE, ACCESS_COUNT = STRATEGIES = ("broadcast", "eager", "lazy", "lease", "access_count")
#: How an agent writes: over whatever is there, as the published agents do, or as a compare-and-set.
OVERWRITE, COMPARE = WRITES = ("overwrite", "compare")
#: What an agent is shown of a new version: the document, or the change since the version that it has in its context.
DOCUMENT, CHANGE = SHOWS = ("document", "change")
#: What an access costs to an artifact that the context holds already: nothing, a reference to it, or all of it again.
ACCESSES = tuple(Access)
CONDITIONAL, POINTER, ALWAYS_READ = ACCESSES


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of a table; each seed is one run of it.

    Attributes:
        base_seed: run i has the seed `base_seed + i`.
        tokens: of an artifact at the beginning, counted as `estimate_tokens` does.
        lost: probability that what the directory sends an agent between two steps is lost.
        lease_steps, max_reads: of the strategies that have such a bound.
        max_steps: K, under any strategy; None: no such bound.
        block_lines: that a write replaces where it replaces a block.
        corpus: of the edit model history, the repository (`corpus.pinned`) whose files are the artifacts.
    """

    scenario: str
    volatility: float
    base_seed: int
    agents: int = paper.AGENTS
    steps: int = paper.STEPS
    artifacts: int = paper.ARTIFACTS
    tokens: int = paper.ARTIFACT_TOKENS
    strategy: str = LAZY
    edit: str = "whole"
    lost: float = 0.0
    writes: str = OVERWRITE
    shows: str = DOCUMENT
    access: str = CONDITIONAL
    lease_steps: int = 10
    max_reads: int = 8
    max_steps: int | None = None
    block_lines: int = BLOCK_LINES
    corpus: str = ""

    @property
    def policy(self) -> dict[str, Any]:
        """The strategy as arguments of `Homenode.set_policy`."""
        bounds: dict[str, dict[str, Any]] = {
            LEASE: {"max_age_ms": self.lease_steps * STEP_MS},
            ACCESS_COUNT: {"max_reads": self.max_reads},
        }
        return {"strategy": self.strategy, "max_steps": self.max_steps, **bounds.get(self.strategy, {})}

    @property
    def writes_expected(self) -> float:
        """W: of one artifact in one run, on average."""
        return self.agents * self.steps * paper.ACT_PROBABILITY * self.volatility / self.artifacts

    @property
    def bookmark_ms(self) -> int:
        """Between two signs of life of a session: once a step where steps are counted, else it need not be so often."""
        return STEP_MS if self.max_steps is not None else 4 * STEP_MS

    @property
    def pushes(self) -> bool:
        """Whether new versions come by themselves."""
        return self.strategy in (BROADCAST, EAGER)
