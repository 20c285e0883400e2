"""kv bench and kv eval: what reuse of KV costs in quality, and what it saves."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output, console, table
from homenode.cli.session import Commands

_PARTS = ("homenode_kv", "torch", "transformers", "safetensors")


def add(group: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add `bench` and `eval` to the commands of `kv`."""
    _bench(group, common)
    _eval(group, common)


def _bench(group: Commands[Any], common: argparse.ArgumentParser) -> None:
    bench = group.add_parser(
        "bench",
        parents=[common],
        help="quality, time and bytes of reuse",
        description="Quality on the trained demo model, time and bytes on random weights of a real shape; each row "
        "with what it is to be read beside. On CUDA: time and bytes alone.",
    )
    size = bench.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="fewer prompts, shorter segments: about a minute")
    size.add_argument("--full", action="store_true", help="rounds of 1, 2, 5, 10 and 20 agents: ten minutes more")
    bench.add_argument("--only", default="", metavar="G,…", help="groups of rows (default: all)")
    bench.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    bench.add_argument(
        "--shape", default="random-100m", help="random-100m, llama-3.1-8b or random-tiny (default: random-100m)"
    )
    bench.add_argument("--threads", type=int, default=None, metavar="N", help="of torch (default: as torch has it)")
    bench.add_argument("--out", type=Path, metavar="FILE", help="write what --json prints to this file too")
    bench.add_argument("--plot", type=Path, metavar="DIR", help="draw quality over the refreshed share, and over γ")
    bench.set_defaults(run=run_bench)


def _eval(group: Commands[Any], common: argparse.ArgumentParser) -> None:
    made = group.add_parser(
        "eval",
        parents=[common],
        help="quality of reuse on a model and data of one's own",
        description="Each line of the data: {own, segments: […], question, answer, kind}. Each prompt is computed "
        "densely, with kept segments as they are, and with parts of them computed afresh.",
    )
    made.add_argument(
        "--model", required=True, metavar="PATH_OR_ID", help="a folder, an id that transformers finds, or demo"
    )
    made.add_argument("--data", required=True, type=Path, metavar="FILE", help="prompts, a JSON object a line")
    made.add_argument("--device", default="cpu", help="such as cpu or cuda:0 (default: cpu)")
    made.add_argument("--dtype", default="", help="such as bfloat16 (default: as the model's files say)")
    made.add_argument("--quick", action="store_true", help="fewer ways of computing")
    made.set_defaults(run=run_eval)


def run_bench(args: argparse.Namespace, out: Output) -> int:
    """`kv bench`."""
    _need(*_PARTS)
    if args.plot:
        _need("matplotlib", extra="plot")
    from homenode_kv.bench import command, plots

    try:
        made = command.bench_of(
            device=args.device,
            quick=args.quick,
            full=args.full,
            shape=args.shape,
            threads=args.threads,
            tell=out.note,
        )
        rows = list(command.run(made, [name for name in args.only.split(",") if name]))
    except command.BenchError as error:
        raise CliError(str(error), Exit.USAGE, kind=type(error).__name__) from None
    document = command.document(rows, made, _command(args))
    if args.out:
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    if args.plot:
        for path in plots.draw(rows, args.plot):
            out.note(f"drew {path}")
    _show(document["rows"], document, out)
    return Exit.OK


def run_eval(args: argparse.Namespace, out: Output) -> int:
    """`kv eval`."""
    _need(*_PARTS)
    from dataclasses import asdict

    from homenode_kv.bench.evaluation import DataError, evaluate
    from homenode_kv.errors import UnsupportedModel
    from homenode_kv.worker.models import load

    try:
        model = load(args.model, args.device, args.dtype)
        rows = [asdict(row) for row in evaluate(model, args.data, quick=args.quick, tell=lambda line: None)]
    except (DataError, UnsupportedModel, OSError) as error:
        raise CliError(str(error), Exit.USAGE, kind=type(error).__name__) from None
    _show(rows, rows, out)
    return Exit.OK


def _show(rows: Iterable[dict[str, Any]], value: object, out: Output) -> None:
    if out.json:
        out.value(value)
        return
    lines = [
        (
            row["id"],
            f"{row['value']:.4g}",
            row["unit"],
            "trained" if row["trained"] else "random",
            str(row["n"]),
            "  ".join(f"{name} {_short(one)}" for name, one in row["beside"].items()),
        )
        for row in rows
    ]
    console().print(table(("id", "value", "unit", "weights", "n", "beside"), lines, right=("value", "n")))


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _command(args: argparse.Namespace) -> str:
    parts = ["homenode kv bench", f"--device {args.device}", f"--shape {args.shape}"]
    parts += ["--quick"] if args.quick else ["--full"] if args.full else []
    parts += [f"--only {args.only}"] if args.only else []
    parts += [f"--threads {args.threads}"] if args.threads is not None else []
    return " ".join(parts)


def _need(*parts: str, extra: str = "kv") -> None:
    missing = [name for name in parts if importlib.util.find_spec(name) is None]
    if missing:
        raise CliError(
            f"needs parts that are not installed ({', '.join(missing)}): pip install 'homenode[{extra}]'",
            Exit.MISSING_EXTRA,
        )
