"""`python -m homenode_directory`: serve. The same as `homenode serve`, without the CLI."""

from __future__ import annotations

import argparse
import sys

from homenode_directory import config
from homenode_directory.errors import ConfigError
from homenode_directory.process import Ready
from homenode_directory.workers import main


def serve(arguments: list[str] | None = None) -> int:
    """Parse flags, serve, return the exit status."""
    parser = argparse.ArgumentParser(prog="homenode serve", description="Run a Homenode directory.")
    config.add_arguments(parser)
    parsed = parser.parse_args(arguments)
    try:
        settings = config.load(parsed)
    except ConfigError as error:
        print(f"homenode: {error}", file=sys.stderr)
        return 2
    if parsed.print_config:
        print(config.dump(settings), end="")
        return 0
    return main(settings, _announce)


def _announce(ready: Ready) -> None:
    more = "".join(f",{port}" for port in ready.more_metrics)
    print(f"ready port={ready.port} metrics_port={ready.metrics_port}{more}", flush=True)


if __name__ == "__main__":
    sys.exit(serve())
