"""Every reachable (entry, event) for three sessions; see `walk`."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("bounds", "states", "pairs", "judged"),
    [
        pytest.param(LAZY, 710, 7_100, 123_150, id="lazy"),
        pytest.param(STRICT, 1_881, 18_810, 449_630, id="strict"),
        pytest.param(BOTH, 3_602, 36_020, 653_184, id="changing policies"),
    ],
)
def test_every_reachable_judgement_keeps_the_promises(bounds: Bounds, states: int, pairs: int, judged: int) -> None:
    walk = Walk(bounds).run()
    assert (len(walk.states), len(walk.pairs), walk.judged) == (states, pairs, judged)
    strict = bounds.default is Level.STRICT or Policy(Level.STRICT) in bounds.policies
    assert walk.cells == {cell for cell in RULES if strict or cell[0] is not State.P}
