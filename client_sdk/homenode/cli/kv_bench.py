"""kv bench and kv eval: what reuse of KV costs in quality, and what it saves."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output, console, table
from homenode.cli.session import Commands

PARTS = ("homenode_kv", "torch", "transformers", "safetensors")


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
    size.add_argument("--full", action="store_true", help="1,000 rounds of each task by anchors, more repeats: hours")
    bench.add_argument("--only", default="", metavar="G,…", help="groups of rows (default: all)")
    bench.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    bench.add_argument(
        "--shape", default="random-100m", help="random-100m, llama-3.1-8b or random-tiny (default: random-100m)"
    )
    bench.add_argument("--threads", type=int, default=None, metavar="N", help="of torch (default: as torch has it)")
    bench.add_argument(
        "--rounds", type=int, default=0, metavar="N", help="of each task by anchors (default: 40, with --full 1000)"
    )
    bench.add_argument("--out", type=Path, metavar="FILE", help="write what --json prints to this file too, row by row")
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
    made.add_argument("--threads", type=int, default=0, metavar="N", help="of torch on a CPU (default: torch's)")
    made.add_argument("--quick", action="store_true", help="fewer ways of computing")
    made.add_argument("--out", type=Path, metavar="FILE", help="write what --json prints to this file too")
    made.set_defaults(run=run_eval)


def run_bench(args: argparse.Namespace, out: Output) -> int:
    """`kv bench`."""
    need(*PARTS)
    if args.plot:
        need("matplotlib", extra="plot")
    from homenode_kv.bench import command, plots

    try:
        made = command.bench_of(
            device=args.device,
            quick=args.quick,
            full=args.full,
            shape=args.shape,
            threads=args.threads,
            rounds=args.rounds,
            tell=out.note,
        )
        rows = command.measure(made, _command(args), [name for name in args.only.split(",") if name], args.out)
    except command.BenchError as error:
        raise CliError(str(error), Exit.USAGE, kind=type(error).__name__) from None
    if args.plot:
        for path in plots.draw(rows, args.plot):
            out.note(f"drew {path}")
    _show(command.document(rows, made.machine, _command(args), made.failed), out)
    for name, why in made.failed.items():
        out.note(f"the rows {name} failed: {why}")
    return Exit.ERROR if made.failed else Exit.OK


def run_eval(args: argparse.Namespace, out: Output) -> int:
    """`kv eval`."""
    need(*PARTS)
    from homenode_kv.bench import command
    from homenode_kv.bench.evaluation import DataError, evaluate
    from homenode_kv.errors import UnsupportedModel
    from homenode_kv.worker.models import load

    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    try:
        model = load(args.model, args.device, args.dtype)
        rows = list(evaluate(model, args.data, quick=args.quick, tell=out.note))
    except (DataError, UnsupportedModel, OSError) as error:
        raise CliError(str(error), Exit.USAGE, kind=type(error).__name__) from None
    said = f"homenode kv eval --model {args.model} --data {args.data}" + (" --quick" if args.quick else "")
    document = command.document(rows, str(model.engine.device), said, {})
    if args.out:
        command.write(args.out, document)
    _show(document, out)
    return Exit.OK


def _show(document: dict[str, Any], out: Output) -> None:
    if out.json:
        out.value(document)
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
        for row in document["rows"]
    ]
    console().print(table(("id", "value", "unit", "weights", "n", "beside"), lines, right=("value", "n")))


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _command(args: argparse.Namespace) -> str:
    parts = ["homenode kv bench", f"--device {args.device}", f"--shape {args.shape}"]
    parts += ["--quick"] if args.quick else ["--full"] if args.full else []
    parts += [f"--only {args.only}"] if args.only else []
    parts += [f"--threads {args.threads}"] if args.threads is not None else []
    parts += [f"--rounds {args.rounds}"] if args.rounds else []
    return " ".join(parts)


def need(*parts: str, extra: str = "kv") -> None:
    """Raises CliError unless these modules are installed."""
    missing = [name for name in parts if importlib.util.find_spec(name) is None]
    if missing:
        raise CliError(
            f"needs parts that are not installed ({', '.join(missing)}): pip install 'homenode[{extra}]'",
            Exit.MISSING_EXTRA,
        )
