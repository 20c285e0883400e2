"""serve: run a directory."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output
from homenode.cli.session import Commands

_PARTS = ("grpc_health", "grpc_reflection", "grpc_status", "prometheus_client")


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line. Its flags are the server's settings."""
    from homenode_directory import config

    serve = commands.add_parser(
        "serve",
        help="run a directory",
        description="Run a directory until Ctrl-C or SIGTERM. Settings: defaults, then a TOML file, then HOMENODE_* "
        "variables, then flags; --print-config shows what comes out.",
    )
    config.add_arguments(serve)
    serve.set_defaults(run=run_serve)


def run_serve(args: argparse.Namespace, out: Output) -> int:
    """`serve`."""
    from homenode_directory import config
    from homenode_directory.errors import ConfigError

    try:
        settings = config.load(args)
    except ConfigError as error:
        raise CliError(str(error), Exit.USAGE, kind="ConfigError") from None
    if args.print_config:
        print(config.dump(settings), end="")
        return Exit.OK
    missing = [name for name in _PARTS if importlib.util.find_spec(name) is None]
    if missing:
        raise CliError(
            f"serve needs parts that are not installed ({', '.join(missing)}): pip install 'homenode[server]'",
            Exit.MISSING_EXTRA,
        )
    return _serve(settings, out)


def _serve(settings: Any, out: Output) -> int:
    from homenode_directory import config
    from homenode_directory.process import Ready
    from homenode_directory.workers import main

    def ready(bound: Ready) -> None:
        host = settings.listen.rpartition(":")[0]
        metrics_host = settings.metrics.rpartition(":")[0]
        ports = [port for port in (bound.metrics_port, *bound.more_metrics) if port]
        metrics = [f"http://{metrics_host}:{port}/metrics" for port in ports]
        url = f"homenode://{host}:{bound.port}/main"
        if out.json:
            first = metrics[0] if metrics else None
            out.value({"url": url, "metrics": first, "port": bound.port, "metrics_port": bound.metrics_port})
            return
        workers = f", {settings.workers} workers" if settings.workers > 1 else ""
        out.line(f"homenode: serving {url}, store {config.hide_password(settings.store)}{workers}")
        if metrics:
            out.line(f"homenode: metrics at {' '.join(metrics)}")
        if sys.stdout.isatty():
            out.line("homenode: Ctrl-C stops")

    return main(settings, ready)
