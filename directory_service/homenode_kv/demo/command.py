"""`homenode kv train-demo`: trains, stops and resumes, measures, and writes the model with its card."""

from __future__ import annotations

import argparse
import contextlib
import platform
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from homenode_kv.demo import train
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.model import load_model, measure, save_model
from homenode_kv.demo.tasks import TASKS

CHECKPOINT = "checkpoint.pt"
HELD_OUT = range(1 << 40, (1 << 40) + 250)
"""The prompts that the card's accuracies are measured on; training draws its seeds at random from 62 bits."""
CARD_SHAPE = Shape()
LONG_SHAPE = Shape(segment_tokens=512)
LONG_PROMPTS = 25
GENTLE = 0.2
SKIPPED = 0.35
"""A training that goes on from a trained model: its rate as a share of the usual, and the curriculum that it skips."""

_CHECKPOINT_EVERY_S = 60.0
_TELL_EVERY = 100


def train_demo(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """The card of the model that was trained, or None where the training was stopped before its end."""
    chosen: dict[str, Any] = {"steps": args.steps} if args.steps is not None else {}
    if args.base:  # what it knows is to be kept: gently, and without the first lessons
        chosen |= {"rate": train.RATE * GENTLE, "begin": SKIPPED}
    plan = train.Plan(seed=args.seed, threads=args.threads, isolated=args.isolated, **chosen)
    out = Path(args.out)
    run = train.start(plan, load_model(Path(args.base)) if args.base else None)
    checkpoint = out / CHECKPOINT
    if checkpoint.exists():
        train.resume(run, checkpoint)
        tell(f"goes on from step {run.step}")
    if not _train(run, checkpoint, args.stop_after, tell):
        tell(f"stopped at step {run.step} of {plan.steps}; the same command goes on")
        return None
    card = make_card(run, tell) | {"command": command_line(args)}
    if plan.isolated:  # what the planner looks for: such a model may reuse segments as they are
        run.model.config.homenode_segments = "isolated"
    save_model(run.model, out, card)
    checkpoint.unlink(missing_ok=True)
    return card


def command_line(args: argparse.Namespace) -> str:
    """The command that makes these weights, without what does not decide them."""
    parts = ["homenode kv train-demo", f"--out {args.out}", f"--seed {args.seed}", f"--threads {args.threads}"]
    if args.steps is not None:
        parts.append(f"--steps {args.steps}")
    if args.base:
        parts.append(f"--from {args.base}")
    if args.isolated:
        parts.append(f"--isolated {args.isolated}")
    return " ".join(parts)


def make_card(run: train.Run, tell: Callable[[str], None]) -> dict[str, Any]:
    """What is known of a trained model: how it was made, and how often it answers right."""
    run.model.eval()
    tell("measures accuracy")
    isolated = run.plan.isolated > 0
    card: dict[str, Any] = {
        "seed": run.plan.seed,
        "steps": run.plan.steps,
        "threads": run.plan.threads,
        "isolated_share": run.plan.isolated,
        "seconds": round(run.seconds, 1),
        "cpu_seconds": round(run.cpu_seconds, 1),
        "device": f"cpu {platform.machine()}",
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "parameters": sum(one.numel() for one in run.model.parameters()),
        "prompts": len(HELD_OUT),
        "accuracy": _accuracy(run, HELD_OUT, CARD_SHAPE),
        "long_prompts": LONG_PROMPTS,
        "accuracy_segments_of_512": _accuracy(run, HELD_OUT[:LONG_PROMPTS], LONG_SHAPE),
    }
    if isolated:
        card["accuracy_isolated"] = _accuracy(run, HELD_OUT, CARD_SHAPE, isolated=True)
    return card


def _accuracy(run: train.Run, seeds: range, shape: Shape, isolated: bool = False) -> dict[str, dict[str, float]]:
    rows = 32 if shape.segment_tokens is None else 4
    return {
        task: {
            str(kind): round(found.share, 4)
            for kind, found in measure(run.model, task, seeds, shape, isolated=isolated, rows=rows).items()
        }
        for task in TASKS
    }


def _train(run: train.Run, checkpoint: Path, stop_after: int | None, tell: Callable[[str], None]) -> bool:
    losses: list[float] = []
    began = saved = time.monotonic()

    def told(now: train.Run, loss: float) -> None:
        nonlocal saved
        losses.append(loss)
        if now.step % _TELL_EVERY == 0:
            tell(f"step {now.step} of {now.plan.steps}  loss {sum(losses) / len(losses):.4f}  {now.seconds:.0f} s")
            losses.clear()
        if time.monotonic() - saved >= _CHECKPOINT_EVERY_S:
            train.save_checkpoint(now, checkpoint)
            saved = time.monotonic()

    with _asked_to_stop() as asked:
        done = train.train(
            run,
            stop=lambda: bool(asked) or (stop_after is not None and time.monotonic() - began >= stop_after),
            tell=told,
        )
    # Done or not: measuring takes a while, and need not cost the training.
    train.save_checkpoint(run, checkpoint)
    return done


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end up in this list, to be seen between two steps."""
    asked: list[int] = []
    before = {
        one: signal.signal(one, lambda number, _: asked.append(number)) for one in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
