"""A pass of one shape as a CUDA graph: captured once, then replayed by one launch.

Of a small pass on a GPU most is the time in which Python launches kernels. A server has graphs against that, so what is
compared with a dense prefill is compared with a captured one. Where a pass cannot be captured it is computed as ever,
and `failure` says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import masking_utils

from homenode_kv.engine import Engine
from homenode_kv.slots import Slots

_WARM_UP = 3


class Replayed:
    """A prefill of `tokens` tokens after `past` others, over slots of its own.

    Attributes:
        kept: [L, 2, past, Hkv, d], a view: what is written here is what comes before.
        failure: why there is no graph; "" where there is one.
    """

    def __init__(self, engine: Engine, tokens: int, past: int = 0) -> None:
        self._engine, self._total = engine, past + tokens
        self._slots = Slots(engine.geometry, self._total, engine.device)
        self.kept = self._slots.group(self._total)[:, :, 0, :past]
        self.kept.zero_()
        self._ids = torch.zeros(1, tokens, dtype=torch.long, device=engine.device)
        self._where = torch.arange(past, self._total, device=engine.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits = torch.empty(0)
        self.failure = "no CUDA device" if engine.device.type != "cuda" else self._capture()

    def __call__(self, tokens: Sequence[int]) -> Tensor:
        """Logits [1, vocabulary] of the last token; the next call writes over them."""
        self._ids.copy_(torch.tensor([list(tokens)], dtype=torch.long))
        if self._graph is None:
            return self._pass()
        self._graph.replay()
        return self._logits

    def _pass(self) -> Tensor:
        return self._engine.compute(self._slots, self._ids, self._where, self._total)

    def _capture(self) -> str:
        stream = torch.cuda.current_stream(self._engine.device)
        try:
            # The outer one puts the stream back where a capture fails: `torch.cuda.graph` does not.
            with torch.cuda.stream(stream), as_untraced():
                side = torch.cuda.Stream(self._engine.device)
                side.wait_stream(stream)
                with torch.cuda.stream(side):
                    for _ in range(_WARM_UP):
                        self._pass()
                stream.wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self._logits = self._pass()
        except RuntimeError as error:  # how torch says that something cannot be captured, or that memory is out
            return f"{type(error).__name__}: {error}".splitlines()[0][:200]
        self._graph = graph
        return ""


@contextlib.contextmanager
def as_untraced() -> Iterator[None]:
    """Lets a captured pass choose its attention as others do.

    While a stream is captured transformers takes it for traced, and makes a mask for what would be plainly causal: the
    dense pass would then do without flash attention, and what is compared with it would look too good.
    """
    before = masking_utils.is_tracing
    masking_utils.is_tracing = lambda *_: False
    try:
        yield
    finally:
        masking_utils.is_tracing = before
