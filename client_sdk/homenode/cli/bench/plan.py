"""What a load consists of, as the command line says it and as its processes are told."""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from homenode.cli.exits import CliError, Exit
from homenode.cli.session import credentials
from homenode.transport import parse

#: What a session does again and again, and how `--mix` names it.
KINDS = {
    "read": "as agents read: from the cache while the copy is fresh, else from the directory",
    "fetch": "a read that asks the directory",
    "commit": "a write without a lease, over whatever is there",
    "edit": "read, change, write if nobody was faster, else again",
    "write": "a write under a write lease",
}
#: A server takes 4,096 sessions on a stream unless it is told otherwise.
STREAM_SESSIONS_MAX = 4_000
PROCESSES_MAX = 64
FILES_SPARE = 128  # open files that a process needs besides its connections
SIZE_MAX = 16 << 20
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole load, or a process's part of it.

    Attributes:
        active, idle: sessions that work, and sessions that only live.
        artifacts: how many there are; all active sessions use all of them. `first` and `made`: those that this
            process makes, and removes.
        mix: weight of each kind of operation.
        sizes: least and greatest number of bytes of a content; what is between is drawn evenly.
        rate: operations a second of the active sessions together; 0: each begins the next when one has ended.
        prefix: of the artifacts' keys.
    """

    url: str
    active: int
    idle: int
    artifacts: int
    mix: Mapping[str, float]
    sizes: tuple[int, int]
    seconds: float
    warmup_s: float
    rate: float
    own_streams: bool
    timeout_s: float
    prefix: str
    tls: tuple[str | None, str | None, str | None]
    keep: bool
    number: int = 0
    first: int = 0
    made: int = 0

    @property
    def sessions(self) -> int:
        """Of both sorts."""
        return self.active + self.idle

    def parts(self, processes: int) -> list[Plan]:
        """One for each process of the load."""
        made = []
        for number in range(processes):
            first, end = (self.artifacts * n // processes for n in (number, number + 1))
            active, idle = (n * (number + 1) // processes - n * number // processes for n in (self.active, self.idle))
            rate = self.rate * active / self.active if self.active else 0.0
            made.append(
                dataclasses.replace(
                    self, active=active, idle=idle, rate=rate, number=number, first=first, made=end - first
                )
            )
        return made

    def dump(self) -> str:
        """As JSON, for a process."""
        return json.dumps(dataclasses.asdict(self))


def load_plan(text: str) -> Plan:
    """What `dump` gave."""
    fields = json.loads(text)
    return Plan(**fields | {"sizes": tuple(fields["sizes"]), "tls": tuple(fields["tls"])})


def plan_of(args: argparse.Namespace) -> tuple[Plan, int]:
    """The load that the command line asks for, and in how many processes. Raises CliError for what makes no sense."""
    if parse(args.url).embedded:  # raises InvalidArgument for what is no address
        raise CliError("bench load works on a server; an embedded directory has one process only", Exit.USAGE)
    credentials(args)  # what is wrong with them is said here, and not by every process
    plan = Plan(
        url=args.url,
        active=args.active,
        idle=args.idle,
        artifacts=args.artifacts,
        mix=args.mix,
        sizes=args.size,
        seconds=args.seconds,
        warmup_s=args.warmup,
        rate=args.rate,
        own_streams=args.own_streams,
        timeout_s=args.timeout,
        prefix=f"bench-{secrets.token_hex(4)}/",
        tls=(args.tls_ca, args.tls_cert, args.tls_key),
        keep=args.keep,
    )
    if plan.sessions < 1:
        raise CliError("a load has at least one session: --active or --idle", Exit.USAGE)
    fewest = -(-plan.sessions // _sessions_max(plan.own_streams))
    processes = args.processes or fewest
    if processes < fewest:
        what = "open files allow no more streams" if plan.own_streams else "one stream carries no more sessions"
        raise CliError(f"{plan.sessions} sessions need --processes {fewest} or more: {what}", Exit.USAGE)
    if processes > min(PROCESSES_MAX, plan.sessions):
        raise CliError(f"--processes is at most {min(PROCESSES_MAX, plan.sessions)} here, not {processes}", Exit.USAGE)
    return plan, processes


def _sessions_max(own_streams: bool) -> int:
    """How many sessions a process of the load may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if not own_streams or hard == resource.RLIM_INFINITY:
        return STREAM_SESSIONS_MAX
    return max(1, min(STREAM_SESSIONS_MAX, hard - FILES_SPARE))


# --- options ----------------------------------------------------------------------------------------------------------


def mix(text: str) -> dict[str, float]:
    """`read=90,commit=10` as weights."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, weight = part.strip().partition("=")
        try:
            value = float(weight) if equals else 1.0
        except ValueError:
            value = -1.0
        if name not in KINDS or name in found or not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"weights such as read=90,commit=10 of {', '.join(KINDS)}, not {text!r}")
        found[name] = value
    return found


def sizes(text: str) -> tuple[int, int]:
    """`1k`, or `200..8k`, in bytes."""
    low, dots, high = text.lower().partition("..")
    found = tuple(_bytes(part) for part in (low, high if dots else low))
    if min(found) < 1 or found[0] > found[1] or found[1] > SIZE_MAX:
        raise argparse.ArgumentTypeError(f"bytes such as 1k or 200..8k, up to 16m, not {text!r}")
    return found[0], found[1]


def _bytes(text: str) -> int:
    unit = text[-1:] if text[-1:] in _UNITS else ""
    number = text.removesuffix(unit) if unit else text
    return int(number) * _UNITS[unit] if number.isdecimal() else -1


def whole(low: int, high: int) -> type[int]:
    """A whole number in a range, as an option."""

    def number(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"a whole number from {low:,} to {high:,}, not {text!r}")
        return int(text)

    return number  # type: ignore[return-value]
