"""`homenode kv calibrate`: γ of a model, from prompts that it is to be used for; of the demo model from its tasks.

The rounds of the demo's tasks are of seeds that neither training nor the bench uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from homenode_kv import planner
from homenode_kv.anchors import Anchors, Settings, Slot
from homenode_kv.bench.cases import Bases
from homenode_kv.bench.evaluation import DataError, prompts_in
from homenode_kv.bench.prompts import Prompt, of_example
from homenode_kv.calibration import Calibrated, Sample, calibrate
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.tasks import TASKS, make_round
from homenode_kv.engine import Engine
from homenode_kv.errors import InvalidTokens, PromptTooLong
from homenode_kv.worker.models import DEMOS, Loaded

SEEDS_FROM = 1 << 43
ROUNDS = 12
CORPUS = 7
SEGMENT_TOKENS = 64
BYTES_MAX = 2 << 30
ERROR_MAX = planner.Settings().error_max
"""What a worker lets stay of what it reuses, unless it is told otherwise."""

Place = tuple[Slot, tuple[int, ...], int]
Call = tuple[str, Prompt]


def places(consumer: str, prompt: Prompt) -> list[Place]:
    """Each segment with the place whose anchors may serve it, and where it starts."""
    starts = accumulate((len(segment) for segment in prompt.segments), initial=len(prompt.own))
    return [
        (Slot("", prompt.task, str(number), consumer), segment, start)
        for number, (segment, start) in enumerate(zip(prompt.segments, starts, strict=False))
    ]


def calls_of(task: str, seeds: range, shape: Shape) -> Iterator[Call]:
    """The calls of these rounds in order, each with its agent's number."""
    for seed in seeds:
        for agent, example in enumerate(make_round(task, seed, shape)):
            yield str(agent), of_example(example)


def samples_of(engine: Engine, calls: Iterable[Call]) -> Iterator[Sample]:
    """All segments of the calls, each of which is computed densely."""
    base = Bases(engine)
    for consumer, prompt in calls:
        real = engine.prefill(prompt.context).kv
        for slot, segment, at in places(consumer, prompt):
            yield Sample(slot, base(segment), real[:, :, at : at + len(segment)], at)


def gamma_of(engine: Engine, calls: Iterable[Call], error_max: float) -> Calibrated:
    """γ up to which anchors pay where `error_max` is what may stay."""
    anchors = Anchors(engine.geometry, engine.rotation, Settings(bytes_max=BYTES_MAX))
    return calibrate(anchors, samples_of(engine, calls), error_max)


def demo_calls(tell: Callable[[str], None] = lambda line: None) -> Iterator[Call]:
    """Rounds of five agents of all tasks."""
    shape = Shape(agents=5, questions=1, corpus=CORPUS, segment_tokens=SEGMENT_TOKENS)
    for task in TASKS:
        tell(f"calibrates: {task}")
        yield from calls_of(task, range(SEEDS_FROM, SEEDS_FROM + ROUNDS), shape)


def calibrate_model(model: Loaded, data: Path | None, error_max: float, tell: Callable[[str], None]) -> Calibrated:
    """γ of a model for the prompts of a file, in their order. Raises DataError, OSError."""
    if data is not None:
        prompts = prompts_in(data, model.tokenizer.encode, model.tokenizer.begin)
        calls: Iterable[Call] = (("", prompt) for prompt in prompts)
    elif model.name in DEMOS:
        calls = demo_calls(tell)
    else:
        raise DataError("a model is calibrated with prompts of its own: --data FILE")
    try:
        found = gamma_of(model.engine, calls, error_max)
    except (InvalidTokens, PromptTooLong) as error:
        raise DataError(f"a prompt does not suit the model: {error}") from error
    return replace(found, fingerprint=model.fingerprint)
