"""Training of the demo model: deterministic in (seed, steps, threads), and stoppable at any step.

What a step trains on depends on the plan and the step's number alone, so a run that was stopped and resumed from its
checkpoint ends in the same weights as one that was not.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from homenode_kv.demo.batches import Batch, make_batch
from homenode_kv.demo.curriculum import rows_of_step
from homenode_kv.demo.model import logits_and_names, make_model
from homenode_kv.demo.tokenizer import PAD_ID

MOST_STEPS = 100_000
RATE = 0.003
NAMES = 0.5
"""What naming weighs beside answering: after the second layer a word of a block knows what it says something of."""


class TrainError(ValueError):
    """A plan that makes no sense, or a checkpoint that belongs to another plan or cannot be read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the outcome of a training, beside the model that it goes on from.

    isolated: the share of rows whose segments do not see each other. begin: where in the
    curriculum it starts, 0.0 to below 1.0.
    """

    seed: int = 0
    steps: int = 5000
    rate: float = RATE
    threads: int = 1
    isolated: float = 0.0
    begin: float = 0.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise TrainError(f"seed is 0 or more, not {self.seed}")
        if not 1 <= self.steps <= MOST_STEPS:
            raise TrainError(f"steps is from 1 to {MOST_STEPS}, not {self.steps}")
        if not 0 < self.rate <= 1:
            raise TrainError(f"rate is above 0 and at most 1, not {self.rate}")
        if not 1 <= self.threads <= 64:
            raise TrainError(f"threads is from 1 to 64, not {self.threads}")
        if not 0 <= self.isolated <= 1:
            raise TrainError(f"isolated is a share from 0 to 1, not {self.isolated}")
        if not 0 <= self.begin < 1:
            raise TrainError(f"begin is from 0 to below 1, not {self.begin}")


@dataclass(slots=True)
class Run:
    """A training between two steps: `step` are done. The seconds are those of steps alone, over all resumptions."""

    plan: Plan
    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def start(plan: Plan, model: LlamaForCausalLM | None = None) -> Run:
    """A run at its first step, of a new model or going on from a trained one."""
    model = (model or make_model(plan.seed)).train()
    return Run(plan, model, torch.optim.AdamW(model.parameters(), lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.01))


def advance(run: Run) -> float:
    """One step; returns its loss."""
    began, cpu_began = time.perf_counter(), time.process_time()
    rng = random.Random(f"step:{run.plan.seed}:{run.step}")
    progress = run.plan.begin + (1 - run.plan.begin) * run.step / run.plan.steps
    drawn = rows_of_step(rng, progress)
    batch = make_batch(drawn.rows, skips=rng, most_skipped=drawn.most_skipped)
    rows = torch.tensor([rng.random() < run.plan.isolated for _ in drawn.rows])
    # What a segment that sees nothing else cannot know, it need not name.
    batch = replace(batch, named=batch.named.masked_fill(rows[:, None], PAD_ID))
    answers, names = logits_and_names(run.model, batch, batch.isolated_mask(rows) if run.plan.isolated else None)
    loss = answered = functional.cross_entropy(answers, _targets(batch))
    if len(named := batch.named[batch.named != PAD_ID]):
        loss = loss + NAMES * functional.cross_entropy(names, named)
    for group in run.optimizer.param_groups:
        group["lr"] = rate_at(run.plan, run.step)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.step += 1
    run.seconds += time.perf_counter() - began
    run.cpu_seconds += time.process_time() - cpu_began
    return float(answered.detach())


def rate_at(plan: Plan, step: int) -> float:
    """The learning rate: up in the first steps, then along a cosine down to a fiftieth."""
    warm = min(100, max(1, plan.steps // 20))
    if step < warm:
        return plan.rate * (step + 1) / warm
    return plan.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, plan.steps - warm))))


def _targets(batch: Batch) -> torch.Tensor:
    return batch.ids[:, 1:][batch.answers[:, 1:]]


def train(run: Run, *, stop: Callable[[], bool], tell: Callable[[Run, float], None]) -> bool:
    """Goes on until the plan's last step (True) or until `stop()` says so between steps (False)."""
    torch.set_num_threads(run.plan.threads)
    torch.use_deterministic_algorithms(True)
    while run.step < run.plan.steps:
        if stop():
            return False
        tell(run, advance(run))
    return True


def save_checkpoint(run: Run, path: Path) -> None:
    """Everything that the next step depends on; the file is whole or the one before it."""
    state: dict[str, Any] = {
        "plan": asdict(run.plan),
        "step": run.step,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    torch.save(state, half)
    half.replace(path)


def resume(run: Run, path: Path) -> None:
    """Puts a new run where a checkpoint of the same plan ended. Raises TrainError for any other file."""
    try:
        state = torch.load(path, weights_only=True)
        plan = Plan(**state["plan"])
        if plan != run.plan:
            raise TrainError(f"{path} is of another plan: {plan}, not {run.plan}")
        run.model.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.step, run.seconds, run.cpu_seconds = state["step"], state["seconds"], state["cpu_seconds"]
    except TrainError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes of unpickling
        raise TrainError(f"{path} is no checkpoint of this training: {error}") from error
