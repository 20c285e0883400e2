"""kv: the KV tier. Its commands live in homenode_kv, which needs torch and transformers."""

from __future__ import annotations

import argparse
from typing import Any

from homenode.cli import kv_bench, kv_calibrate, kv_serve, kv_train
from homenode.cli.session import Commands


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this group to the command line. Parsing needs no part of the KV tier."""
    kv = commands.add_parser("kv", help="the KV tier: attention states that agents share")
    group = kv.add_subparsers(dest="kv_command", metavar="COMMAND", required=True)
    kv_serve.add(group, common)
    kv_train.add(group, common)
    kv_bench.add(group, common)
    kv_calibrate.add(group, common)
