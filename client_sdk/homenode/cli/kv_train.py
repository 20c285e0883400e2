"""kv train-demo: the small trained model that the package brings, made anew."""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output
from homenode.cli.session import Commands

_PARTS = ("homenode_kv", "torch", "transformers", "safetensors")


def add(group: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add `train-demo` to the commands of `kv`."""
    train = group.add_parser(
        "train-demo",
        parents=[common],
        help="train the small demo model",
        description="Train the small model that the package brings: same options, same weights on the same machine. "
        "Ctrl-C writes a checkpoint; the same command goes on from it. Exit code 130 says that it is not done.",
    )
    train.add_argument("--out", metavar="FOLDER", required=True, help="where weights, config and card go")
    train.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and data (default: 0)")
    train.add_argument("--steps", type=int, default=None, metavar="N", help="how many (default: as the package's)")
    train.add_argument(
        "--threads", type=int, default=1, metavar="N", help="part of what decides the weights (default: 1)"
    )
    train.add_argument(
        "--stop-after", type=int, default=None, metavar="S", help="write a checkpoint and end after so many seconds"
    )
    train.add_argument("--from", dest="base", metavar="FOLDER", help="go on from the trained model in this folder")
    train.add_argument(
        "--isolated",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of prompts whose segments do not see each other (default: 0)",
    )
    train.set_defaults(run=run_train_demo)


def run_train_demo(args: argparse.Namespace, out: Output) -> int:
    """`kv train-demo`."""
    _need_parts()
    from homenode_kv.demo.command import train_demo
    from homenode_kv.demo.model import ModelFilesError
    from homenode_kv.demo.train import TrainError

    try:
        card = train_demo(args, out.note)
    except (TrainError, ModelFilesError) as error:
        raise CliError(str(error), Exit.USAGE, kind=type(error).__name__) from None
    if card is None:
        return Exit.INTERRUPTED
    if out.json:
        out.value(card)
    else:
        for task, found in card["accuracy"].items():
            out.line(f"{task:<10} local {found['local']:.3f}  cross {found['cross']:.3f}")
    return Exit.OK


def _need_parts() -> None:
    missing = [name for name in _PARTS if importlib.util.find_spec(name) is None]
    if missing:
        raise CliError(
            f"kv needs parts that are not installed ({', '.join(missing)}): pip install 'homenode[kv]'",
            Exit.MISSING_EXTRA,
        )
