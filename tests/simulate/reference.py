"""The published simulation in a few lines, without any directory: what the real one must come to."""

from __future__ import annotations

import random


def fetches(seed: int, volatility: float, agents: int = 4, steps: int = 40, artifacts: int = 3) -> list[int]:
    """How often each artifact is fetched: valid flags, flipped one step after a commit."""
    rng = random.Random(seed)
    valid = [[False] * agents for _ in range(artifacts)]
    due: list[tuple[int, int]] = []
    count = [0] * artifacts
    for _ in range(steps):
        for artifact, agent in due:
            valid[artifact][agent] = False
        due = []
        for agent in range(agents):
            if rng.random() >= 0.75:
                continue
            artifact = rng.randrange(artifacts)
            writes = rng.random() < volatility
            count[artifact] += not valid[artifact][agent]
            valid[artifact][agent] = True
            if writes:
                due = [one for one in due if one != (artifact, agent)]  # it has the newest now
                due += [(artifact, other) for other in range(agents) if other != agent and valid[artifact][other]]
    return count
