"""The table of rules is whole, and its Markdown is current."""

from __future__ import annotations

from itertools import product
from typing import get_args

from homenode_directory.protocol.events import Event
from homenode_directory.protocol.model import State
from homenode_directory.protocol.rules import RULES
from tests.protocol.rules_table import FILE, render


def test_every_state_and_event_has_a_rule() -> None:
    assert set(RULES) == set(product(State, get_args(Event)))


def test_the_generated_table_is_current() -> None:
    assert FILE.read_text() == render(), "run: python -m tests.protocol.rules_table > tests/protocol/RULES.md"
