"""kv calibrate: up to which γ a model's anchors are to be trusted."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.kv_bench import PARTS, need
from homenode.cli.output import Output
from homenode.cli.session import Commands


def add(group: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add `calibrate` to the commands of `kv`."""
    made = group.add_parser(
        "calibrate",
        parents=[common],
        help="find up to which γ anchors serve a model",
        description="Computes each prompt of the data densely, in their order, and estimates each segment from those "
        "before it: γ is the greatest up to which estimates leave less to compute afresh than none. `kv serve` reads "
        "the outcome beside the model, or with --calibration. Use prompts that are not evaluated.",
    )
    made.add_argument(
        "--model", required=True, metavar="PATH_OR_ID", help="a folder, an id that transformers finds, or demo"
    )
    made.add_argument("--data", type=Path, metavar="FILE", help="prompts as kv eval takes them (demo: its own tasks)")
    made.add_argument(
        "--error", type=float, metavar="E", help="of estimates, in the mean (default: what workers allow)"
    )
    made.add_argument("--device", default="cpu", help="such as cpu or cuda:0 (default: cpu)")
    made.add_argument("--dtype", default="", help="such as bfloat16 (default: as the model's files say)")
    made.add_argument("--threads", type=int, default=0, metavar="N", help="of torch on a CPU (default: torch's)")
    made.add_argument("--out", type=Path, metavar="FILE", help="default: anchors.json in the model's folder")
    made.set_defaults(run=run_calibrate)


def run_calibrate(args: argparse.Namespace, out: Output) -> int:
    """`kv calibrate`."""
    need(*PARTS)
    from homenode_kv.bench.calibrating import ERROR_MAX, calibrate_model
    from homenode_kv.bench.evaluation import DataError
    from homenode_kv.calibration import FILE
    from homenode_kv.errors import UnsupportedModel
    from homenode_kv.worker.models import load

    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    path = args.out or (Path(args.model) / FILE if Path(args.model).is_dir() else None)
    if path is None:
        raise CliError("the model is no folder: say with --out where the outcome goes", Exit.USAGE)
    error = ERROR_MAX if args.error is None else args.error
    if not error >= 0:
        raise CliError("--error is at least 0", Exit.USAGE)
    try:
        found = calibrate_model(load(args.model, args.device, args.dtype), args.data, error, out.note)
        found.write(path, command=_command(args))
    except (DataError, UnsupportedModel, OSError) as failure:
        raise CliError(str(failure), Exit.USAGE, kind=type(failure).__name__) from None
    if out.json:
        out.value(asdict(found))
    else:
        out.line(
            f"γ {found.gamma:.3g}: serves {found.served} of {found.samples} segments; estimated {found.afresh:.1%} of "
            f"the tokens are computed afresh, as they are kept {found.afresh_as_kept:.1%}; written to {path}"
        )
    return Exit.OK


def _command(args: argparse.Namespace) -> str:
    parts = ["homenode kv calibrate", f"--model {args.model}"]
    parts += [f"--{name} {value}" for name in ("data", "error", "dtype", "out") if (value := getattr(args, name))]
    return " ".join(parts)
