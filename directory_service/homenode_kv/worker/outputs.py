"""KV of outputs that may become artifact versions: kept in host memory until their commit is known, or not for long."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

OUTPUTS_MAX = 64
BYTES_MAX = 256 << 20
LIFE_S = 120.0


@dataclass(frozen=True, slots=True)
class Output:
    """What a model wrote, with the KV that it had while it wrote, turned to position 0."""

    tokens: tuple[int, ...]
    kv: Tensor


class Outputs:
    """The newest outputs, within bounds of number, bytes and time."""

    def __init__(self, bytes_max: int = BYTES_MAX, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bytes_max = bytes_max
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, Output]] = OrderedDict()
        self._bytes = 0

    def keep(self, output: Output) -> str:
        """Keeps one; its id, or "" where it is larger than all that may be kept."""
        if output.kv.nbytes > self._bytes_max:
            return ""
        name = secrets.token_hex(8)
        self._kept[name] = self._clock() + LIFE_S, output
        self._bytes += output.kv.nbytes
        self._trim()
        return name

    def take(self, name: str) -> Output | None:
        """The output, once; None where it is gone."""
        self._trim()
        found = self._kept.pop(name, None)
        if found is None:
            return None
        self._bytes -= found[1].kv.nbytes
        return found[1]

    def clear(self) -> None:
        """Memory is short."""
        self._kept.clear()
        self._bytes = 0

    def _trim(self) -> None:
        while self._kept:
            until, output = next(iter(self._kept.values()))
            if self._bytes <= self._bytes_max and len(self._kept) <= OUTPUTS_MAX and self._clock() < until:
                return
            self._kept.popitem(last=False)
            self._bytes -= output.kv.nbytes
