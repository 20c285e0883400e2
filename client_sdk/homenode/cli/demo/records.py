"""What the demo's processes tell the stage: one JSON object a line on standard output.

Times are nanoseconds of the boot clock, which all processes of a machine share, so they can be compared.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from homenode.clock import boot_clock

clock_ns = boot_clock()

READY, READ, EDIT, HOLDING, REFUSED, COST, DONE = "ready", "read", "edit", "holding", "refused", "cost", "done"


def emit(kind: str, **fields: Any) -> None:
    """Tell the stage; at once, because this process may be killed next."""
    sys.stdout.write(json.dumps({"kind": kind, **fields}, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def await_go() -> None:
    """Say that everything is ready, and wait until everyone is."""
    emit(READY)
    sys.stdin.readline()


def tokens(size: int) -> int:
    """The estimate used everywhere in the demo: four bytes a token, rounded up."""
    return (size + 3) // 4
