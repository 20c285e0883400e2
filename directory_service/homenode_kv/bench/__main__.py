"""`python -m homenode_kv.bench`: `homenode kv bench` where nothing but torch, transformers and this repository is.

PYTHONPATH=directory_service:client_sdk:proto python -m homenode_kv.bench --device cuda --shape llama-3.1-8b --out FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from homenode_kv.bench import command


def main(arguments: list[str] | None = None) -> int:
    """Rows as JSON on stdout, what goes on on stderr; 1 where a group failed."""
    parser = argparse.ArgumentParser(prog="python -m homenode_kv.bench", description=command.__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true")
    size.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="", metavar="G,…")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", default="random-100m")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    try:
        bench = command.bench_of(
            device=args.device,
            quick=args.quick,
            full=args.full,
            shape=args.shape,
            threads=args.threads,
            rounds=args.rounds,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
        said = " ".join(["python -m homenode_kv.bench", *(arguments if arguments is not None else sys.argv[1:])])
        rows = command.measure(bench, said, [name for name in args.only.split(",") if name], args.out)
    except command.BenchError as error:
        parser.error(str(error))
    print(json.dumps(command.document(rows, bench.machine, said, bench.failed)))
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
