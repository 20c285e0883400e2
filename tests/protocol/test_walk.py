"""Every reachable (entry, event) for three sessions; see `walk`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from homenode_directory.protocol.model import Level, Policy, State
from homenode_directory.protocol.rules import RULES
from tests.protocol.walk import UNIT, Bounds, Walk

LAZY = Bounds(Level.LAZY)
STRICT = Bounds(Level.STRICT, create=(True,), waiters_max=1)
BOTH = Bounds(
    Level.LAZY,
    sessions=("A", "B"),
    policies=(None, Policy(Level.STRICT)),
    ttls_ms=(UNIT, 2 * UNIT),
    create=(True,),
    waiters_max=1,
)
INHERITED = replace(BOTH, policies=(None,), inherited=(None, Policy(Level.STRICT)), ttls_ms=(UNIT,), keep=(False,))


@pytest.mark.parametrize(
    ("bounds", "states", "pairs", "judged"),
    [
        pytest.param(INHERITED, 890, 9_790, 222_648, id="inherited policies"),
        pytest.param(LAZY, 808, 8_888, 142_552, id="lazy"),
        pytest.param(STRICT, 1_881, 20_691, 456_148, id="strict"),
        pytest.param(BOTH, 3_630, 39_930, 672_192, id="changing policies"),
    ],
)
def test_every_reachable_judgement_keeps_the_promises(bounds: Bounds, states: int, pairs: int, judged: int) -> None:
    walk = Walk(bounds).run()
    assert (len(walk.states), len(walk.pairs), walk.judged) == (states, pairs, judged)
    strict = bounds.default is Level.STRICT or Policy(Level.STRICT) in (*bounds.policies, *bounds.inherited)
    assert walk.cells == {cell for cell in RULES if strict or cell[0] is not State.P}
