"""Rows of the bench, and the register of the functions that make them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from homenode_kv.demo.model import load_model
from homenode_kv.engine import Engine

DEMO = "demo-302k"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        id: which, with slashes from the general to the particular.
        value, unit: of it; a share is from 0 to 1.
        beside: what it is to be read with, by name.
        device, model: it ran on, and ran.
        trained: whether the model's weights are trained; quality is given of such alone.
        n: how many questions, prompts, rounds or repetitions it comes from.
    """

    id: str
    value: float
    unit: str
    beside: dict[str, float | int | str]
    device: str
    model: str
    trained: bool
    n: int


@dataclass
class Bench:
    """What the functions that make rows are given.

    Attributes:
        device: of torch: "cpu" or "cuda".
        quick: fewer prompts, shorter segments.
        full: more sizes, without a limit of time.
        shape: of the random model whose time and bytes are taken; a name of `shapes`.
        tell: hears in one line what goes on.
        rounds: of the rows by anchors, for each task; 0: as many as the size says.
        failed: groups that ended early, and why.
    """

    device: str = "cpu"
    quick: bool = False
    shape: str = "random-100m"
    tell: Callable[[str], None] = field(default=lambda line: None)
    full: bool = False
    rounds: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    @cached_property
    def demo(self) -> Engine:
        """The trained model that comes with the package."""
        return Engine(load_model().to(self.device))

    @property
    def machine(self) -> str:
        """The device, for rows."""
        return torch.cuda.get_device_name() if self.device.startswith("cuda") else "cpu"

    def row(self, id: str, value: float, unit: str, n: int, **beside: float | int | str) -> Row:
        """A row of the demo model."""
        rounded = {name: round(one, 5) if isinstance(one, float) else one for name, one in beside.items()}
        return Row(id, round(value, 5), unit, rounded, self.machine, DEMO, True, n)

    def timed(self, id: str, value: float, unit: str, n: int, **beside: float | int | str) -> Row:
        """A row of the random model: time or bytes."""
        one = self.row(id, value, unit, n, **beside)
        return replace(one, model=self.shape, trained=False)


Group = Callable[[Bench], Iterable[Row]]
GROUPS: dict[str, Group] = {}


def group(name: str) -> Callable[[Group], Group]:
    """Registers a function that makes rows."""

    def registered(made: Group) -> Group:
        GROUPS[name] = made
        return made

    return registered
