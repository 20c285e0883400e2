"""kv serve: a worker of the KV tier."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import re
import sys
from pathlib import Path
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output
from homenode.cli.session import Commands, credentials
from homenode.errors import StaleFence

_SIZE = re.compile(r"(\d+)([KMGT]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PARTS = ("homenode_kv", "torch", "transformers", "safetensors", "grpc", "grpc_health", "prometheus_client")
NAME_BYTES_MAX = 128
COUNT_MAX = 1_024  # of threads, and of calls that wait: as many as a worker has under way
_LOOPBACK = ("127.", "localhost:", "[::1]:")


def add(group: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add `serve` to the commands of `kv`."""
    serve = group.add_parser(
        "serve",
        parents=[common],
        help="run a worker",
        description="Run a worker of the KV tier until Ctrl-C or SIGTERM: one model, the artifacts of one workspace.",
    )
    serve.add_argument(
        "--model", required=True, metavar="PATH_OR_ID", help="a folder, an id that transformers finds, or demo"
    )
    serve.add_argument("--directory", metavar="URL", help="the directory and workspace (default: as --url)")
    serve.add_argument(
        "--listen", type=address, default="127.0.0.1:0", metavar="ADDR", help="host:port (default: 127.0.0.1:0)"
    )
    serve.add_argument(
        "--advertise", type=address, default="", metavar="ADDR", help="where callers reach it (default: --listen)"
    )
    serve.add_argument(
        "--name", type=name, default="", help="of the worker, the same after a restart (default: its address)"
    )
    serve.add_argument("--device", default="cpu", help="such as cpu or cuda:0 (default: cpu)")
    serve.add_argument("--dtype", default="", help="such as bfloat16 (default: as the model's files say)")
    serve.add_argument("--threads", type=count, default=0, metavar="N", help="of torch on a CPU (default: torch's)")
    serve.add_argument("--pool-bytes", type=size, default=256 << 20, metavar="N", help="on the device (default: 256M)")
    serve.add_argument(
        "--mirror-bytes",
        type=size,
        default=64 << 20,
        metavar="N",
        help="there too, of rounds' members (default: 64M)",
    )
    serve.add_argument("--host-bytes", type=size, default=0, metavar="N", help="in host memory (default: 0)")
    serve.add_argument("--disk", type=Path, metavar="DIR", help="folder of the disk tier (default: none)")
    serve.add_argument("--disk-bytes", type=size, default=1 << 30, metavar="N", help="on disk (default: 1G)")
    serve.add_argument(
        "--error-max", type=error, metavar="E", help="of keys that are reused, relative (default: the planner's)"
    )
    serve.add_argument("--waiting", type=count, default=64, metavar="N", help="most calls that wait (default: 64)")
    serve.add_argument(
        "--metrics", type=address, default="", metavar="ADDR", help="host:port for Prometheus (default: none)"
    )
    serve.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="of kv calibrate for this model (default: anchors.json in its folder)",
    )
    serve.add_argument("--listen-cert", type=Path, metavar="FILE", help="certificate chain of --listen, PEM")
    serve.add_argument("--listen-key", type=Path, metavar="FILE", help="its private key, PEM")
    serve.add_argument(
        "--listen-client-ca",
        type=Path,
        metavar="FILE",
        help="authorities whose certificates callers must show, PEM (default: callers need a session alone)",
    )
    serve.add_argument(
        "--insecure-listen", action="store_true", help="allow plain text on an address that other machines reach"
    )
    serve.set_defaults(run=run_serve)


def size(text: str) -> int:
    """A number of bytes: 4096, 256M, 2G."""
    match = _SIZE.fullmatch(text.upper().removesuffix("B").removesuffix("I"))
    if match is None:
        raise argparse.ArgumentTypeError(f"a number of bytes such as 4096, 256M or 2G, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def address(text: str) -> str:
    """host:port, the host in brackets where it is an address of IPv6; port 0: the system chooses."""
    host, _, port = text.rpartition(":")
    if not text:  # as if it were not said
        return text
    if not host or not port.isdecimal() or int(port) > 65_535 or (":" in host) != (host[0] == "[" and host[-1] == "]"):
        raise argparse.ArgumentTypeError(f"host:port such as 127.0.0.1:7410, not {text!r}")
    return text


def name(text: str) -> str:
    """What directories take as the name of a worker."""
    if not text.isprintable() or len(text.encode()) > NAME_BYTES_MAX:
        raise argparse.ArgumentTypeError(f"printable text of up to {NAME_BYTES_MAX} bytes")
    return text


def count(text: str) -> int:
    """A whole number from 1 to COUNT_MAX."""
    if not text.isdecimal() or not 1 <= int(text) <= COUNT_MAX:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {COUNT_MAX}, not {text!r}")
    return int(text)


def error(text: str) -> float:
    """A relative error."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"a number from 0 on, not {text!r}")
    return value


async def run_serve(args: argparse.Namespace, out: Output) -> int:
    """`kv serve`."""
    _need_parts()
    from homenode_kv.calibration import CalibrationError
    from homenode_kv.errors import UnsupportedModel, no_memory
    from homenode_kv.worker.process import Ready, Settings, serve

    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    settings = Settings(
        model=args.model,
        directory=args.directory or args.url,
        listen=args.listen,
        advertise=args.advertise,
        name=args.name,
        device=args.device,
        dtype=args.dtype,
        pool_bytes=args.pool_bytes,
        mirror_bytes=args.mirror_bytes,
        host_bytes=args.host_bytes,
        disk=args.disk,
        disk_bytes=args.disk_bytes,
        waiting_max=args.waiting,
        metrics=args.metrics,
        calibration=args.calibration,
        credentials=credentials(args),
        certificate=_certificate(args),
        client_ca=args.listen_client_ca.read_bytes() if args.listen_client_ca else None,
    )
    if args.error_max is not None:
        settings = dataclasses.replace(settings, error_max=args.error_max)
    if settings.directory.startswith("embedded:"):
        raise CliError("a worker needs a directory that runs apart: homenode serve", Exit.USAGE)

    def ready(told: Ready) -> None:
        if out.json:
            out.value(
                {
                    "address": told.address,
                    "worker": told.worker.worker,
                    "epoch": told.worker.epoch,
                    "model": told.model.name,
                    "fingerprint": told.model.fingerprint,
                    "metrics": told.metrics or None,
                    "gamma": told.gamma,
                    "calibrated": told.calibrated,
                }
            )
        else:
            out.line(f"homenode: worker at {told.address}, model {told.model.name}, {told.model.device}")
            out.line(f"homenode: {_anchors(told.gamma, told.calibrated)}")
            if told.metrics:
                out.line(f"homenode: metrics at {told.metrics}")
        sys.stdout.flush()

    try:
        await serve(settings, ready)
    except (UnsupportedModel, CalibrationError) as error:
        raise CliError(str(error), Exit.USAGE, kind=type(error).__name__) from None
    except StaleFence:
        raise CliError("a later worker of this name has taken its place", Exit.CONFLICT, kind="StaleFence") from None
    except Exception as failure:
        if not no_memory(failure):
            raise
        raise CliError(
            "no memory on the device for the model and the budgets of --pool-bytes and --mirror-bytes"
        ) from None
    return Exit.OK


def _anchors(gamma: float | None, calibrated: bool) -> str:
    if gamma is None:
        return "segments are exact by mask, anchors are not used"
    if calibrated and not gamma:
        return "anchors are not used, by this model's calibration: they save nothing"
    if calibrated:
        return f"anchors up to γ {gamma:.3g}, calibrated for this model"
    return f"anchors up to γ {gamma:g}, the paper's: not calibrated for this model (homenode kv calibrate)"


def _need_parts() -> None:
    missing = [name for name in _PARTS if importlib.util.find_spec(name) is None]
    if missing:
        raise CliError(
            f"kv serve needs parts that are not installed ({', '.join(missing)}): pip install 'homenode[kv,server]'",
            Exit.MISSING_EXTRA,
        )


def _certificate(args: argparse.Namespace) -> tuple[bytes, bytes] | None:
    if bool(args.listen_cert) != bool(args.listen_key):
        raise CliError("--listen-cert and --listen-key belong together", Exit.USAGE)
    if args.listen_client_ca and not args.listen_cert:
        raise CliError("--listen-client-ca needs --listen-cert and --listen-key", Exit.USAGE)
    if args.listen_cert:
        return args.listen_cert.read_bytes(), args.listen_key.read_bytes()
    if not args.listen.startswith(_LOOPBACK) and not args.insecure_listen:
        raise CliError(
            f"{args.listen} can be reached from other machines and is not encrypted; give --listen-cert and "
            "--listen-key, or say --insecure-listen",
            Exit.USAGE,
        )
    return None
