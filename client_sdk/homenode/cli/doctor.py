"""doctor: is this deployment well, end to end, and what to do where it is not."""

from __future__ import annotations

import argparse
import asyncio
import copy
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from homenode.cli import doctor_machine
from homenode.cli.exits import CliError, Exit
from homenode.cli.findings import FAULT, NOTE, OK, WARN, Finding
from homenode.cli.metrics import Metrics, addresses, fetch, short_address
from homenode.cli.output import Output
from homenode.cli.session import Commands, connected
from homenode.errors import HomenodeError, InvalidArgument
from homenode.transport import Target, parse

CLOCK_WARN_MS = 1_000
TICK_MS = 300  # the directory reads the store's clock in ticks
SEEN_S = 10.0
ROUNDS = 5
SLOW_STORE_S = 0.05
LAG_S = 1.0

_DESCRIPTION = """\
Reaches each server of the address by itself: versions, settings that must be alike, latency, certificates. Writes,
reads and invalidates a scratch artifact, which it removes, with two sessions at different servers. Calls the KV workers
that the servers know, where there are any. Looks at metrics, at the store itself with --store, and at this machine
where a server or the store runs on it.
"""
_EPILOG = """\
Each finding is ok, a note, a warning, or a FAULT, and says what to do. Exit codes: 0 without a fault, 1 with one, 2
where the command line makes no sense (then nothing was looked at). With --json: findings (check, level, found, advice,
host), faults, warnings.
"""


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    doctor = commands.add_parser(
        "doctor",
        parents=[common],
        help="check a deployment end to end, and say what to do",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument("--store", metavar="URL", help="the directory's store: redis://…, rediss://…, sqlite:///FILE")
    doctor.add_argument("--store-password-file", metavar="FILE", default="", help="the password for it")
    doctor.add_argument("--store-only", action="store_true", help="look at the store and at nothing else")
    doctor.add_argument(
        "--metrics",
        metavar="URL[,URL…]",
        help="of each server or worker; default: port 7401 of the directory's hosts; off: do not look",
    )
    doctor.add_argument("--log-archive", metavar="PATH", type=Path, help="what servers on this machine were told")
    doctor.set_defaults(run=run_doctor)


async def run_doctor(args: argparse.Namespace, out: Output) -> int:
    """`doctor`: findings as they come."""
    findings = []
    async for finding in examine(args):
        findings.append(finding)
        if not out.json:
            out.line(f"{finding.level:<5}  {finding.check}: {finding.found}")
            if finding.advice:
                out.line(f"       -> {finding.advice}")
    faults = sum(finding.level == FAULT for finding in findings)
    warnings = sum(finding.level == WARN for finding in findings)
    if out.json:
        fields = ("check", "level", "found", "advice", "host")
        shown = [{name: getattr(f, name) for name in fields} for f in findings]
        out.value({"findings": shown, "faults": faults, "warnings": warnings})
    else:
        out.line(f"\n{faults} faults, {warnings} warnings in {len(findings)} checks")
    return Exit.ERROR if faults else Exit.OK


async def examine(args: argparse.Namespace) -> AsyncIterator[Finding]:
    """All findings, in order. Raises CliError or InvalidArgument before the first one for what makes no sense."""
    from homenode.cli import doctor_store

    target = parse(args.url)
    places = [] if args.store_only else addresses(args.url, args.metrics)
    store = doctor_store.checked(args.store, args.store_password_file) if args.store else ""
    if args.store_only and not store:
        raise CliError("--store-only needs --store URL", Exit.USAGE)
    strict = False
    if not args.store_only:
        async for finding in _directory(args, target):
            yield finding
            strict = strict or (finding.check == "settings" and "consistency=strict" in finding.found)
        for place in places:
            for finding in await _metrics(place, asked=bool(args.metrics)):
                yield finding
    if store:
        async for finding in doctor_store.examine_store(store, strict=strict):
            yield finding
    here = any(map(doctor_machine.is_here, target.hosts)) and not args.store_only
    if here:
        yield doctor_machine.files()
    if store and doctor_store.is_here(store):
        for finding in doctor_machine.kernel():
            yield finding
    if args.log_archive:
        yield doctor_machine.archive(args.log_archive)


async def _directory(args: argparse.Namespace, target: Target) -> AsyncIterator[Finding]:
    """The servers, and what two sessions see of each other; that is left out where no server is well."""
    from homenode.cli import doctor_servers, doctor_workers

    well: list[str] = []
    if target.embedded:
        yield Finding("directory", NOTE, f"embedded in this process: {target.path or 'memory'}")
    else:
        async for finding in doctor_servers.examine(args, target.hosts, target.workspace):
            yield finding
            if finding.check == "directory" and finding.level == OK:
                well.append(finding.host)
        async for finding in doctor_workers.examine(args, well, target.workspace):
            yield finding
        if not well:
            return
    try:
        async for finding in _probe(args, target):
            yield finding
    except InvalidArgument:
        raise
    except HomenodeError as error:
        found = f"a session could not work: {type(error).__name__}: {error.message}"
        yield Finding("stream", FAULT, found, "see the server's log at the time of this call, and its store (--store)")


async def _probe(args: argparse.Namespace, target: Target) -> AsyncIterator[Finding]:
    """Write, read, change and delete a scratch artifact over two sessions, at two servers where there are two."""
    import homenode

    key = f".doctor/{secrets.token_hex(8)}"
    near, far = copy.copy(args), copy.copy(args)
    if len(target.hosts) > 1:  # the first one first, the others first: which may be down
        near.url = f"homenode://{target.hosts[0]}/{target.workspace}"
        far.url = f"homenode://{','.join(target.hosts[1:])}/{target.workspace}"
    began = time.monotonic()
    try:
        pair = connected(near, agent="doctor-writer"), connected(far, agent="doctor-reader")
        async with pair[0] as writer, pair[1] as reader:
            async for finding in _exchange(writer, reader, key, began):
                yield finding
    except homenode.Unavailable:
        if near.url == args.url:
            raise
        found = "not every server takes streams: two sessions could not be opened at different ones"
        yield Finding("stream", WARN, found, "see what is said of each server above; clients use the others")


async def _exchange(writer: Any, reader: Any, key: str, began: float) -> AsyncIterator[Finding]:
    import homenode

    yield Finding("stream", OK, f"two sessions confirmed by a bookmark after {_since(began):.0f} ms")
    local_before = time.time() * 1000
    await writer.put(key, "0", base=homenode.ABSENT)
    try:
        local_after = time.time() * 1000
        yield Finding("write", OK, f"a commit took {local_after - local_before:.1f} ms")
        committed_ms = (await reader.read(key)).committed_at_ms
        yield _clock(committed_ms, local_before, local_after)
        yield await _invalidation(writer, reader, key)
    finally:
        await writer.delete(key, base=homenode.ANY)
    try:
        await reader.read(key, max_age_ms=0)
        yield Finding("delete", FAULT, "a deleted artifact can still be read", "keep the server's log and report this")
    except homenode.NotFound:
        yield Finding("delete", OK, f"the scratch artifact {key} is gone")


def _since(began: float) -> float:
    return (time.monotonic() - began) * 1000


def _clock(store_ms: int, before_ms: float, after_ms: float) -> Finding:
    """The store's clock was read between `before_ms` and `after_ms` of ours."""
    off_ms = store_ms - after_ms if store_ms > after_ms else min(0.0, store_ms - before_ms + 1)
    agrees = abs(off_ms) <= TICK_MS
    found = (
        "the store's clock agrees with ours" if agrees else f"the store's clock differs by about {abs(off_ms):.0f} ms"
    )
    if abs(off_ms) > CLOCK_WARN_MS:
        return Finding(
            "clock", WARN, found, "leases do not depend on it, but times shown do: set up NTP on both machines"
        )
    return Finding("clock", OK, found)


async def _invalidation(writer: Any, reader: Any, key: str) -> Finding:
    """How soon a session that holds a copy gets the next version. A cached copy must go by itself."""
    took_ms, cached = [], True
    for number in range(1, ROUNDS + 1):
        cached = cached and reader.read_cached(key) is not None
        began = time.monotonic()
        await writer.put(key, str(number))
        while (await reader.read(key)).text != str(number):
            if time.monotonic() - began > SEEN_S:
                found = f"a cached copy was still served {SEEN_S:g} s after the commit"
                advice = "does anything between client and server hold streams back (a proxy that buffers)?"
                return Finding("invalidation", FAULT, found, advice)
            await asyncio.sleep(0.001)
        took_ms.append(_since(began))
    median, most = statistics.median(took_ms), max(took_ms)
    found = f"{median:.1f} ms (at most {most:.1f}) from a commit's send until another session was given it"
    if cached:
        return Finding("invalidation", OK, found)
    return Finding("invalidation", WARN, f"{found}, but its copy was not cacheable", "see the artifact's policy")


async def _metrics(place: str, *, asked: bool) -> list[Finding]:
    host = short_address(place)
    try:
        metrics = await asyncio.to_thread(fetch, place)
    except OSError as error:
        found, advice = (
            f"nothing at {host} ({error.strerror or error})",
            "say --metrics URL, or off, if it is elsewhere",
        )
        return [Finding("metrics", WARN if asked else NOTE, found, advice, host)]
    return list(told(metrics, host))


def told(metrics: Metrics, host: str) -> list[Finding]:
    """What a server's metrics say of its streams, its store, its clock and its archive."""
    delivered = metrics.by("homenode_log_delivered", "slice")
    behind = [head - delivered.get(slice_, head) for slice_, head in metrics.by("homenode_log_head", "slice").items()]
    found = [
        Finding(
            "metrics",
            OK,
            f"{host}: {metrics.total('homenode_sessions'):.0f} sessions, {metrics.total('homenode_resyncs_total'):.0f} "
            f"resyncs, delivery at most {max([0.0, *behind]):.0f} log entries behind",
            "",
            host,
        )
    ]

    def add(check: str, text: str, advice: str) -> None:
        found.append(Finding(check, WARN, f"{host}: {text}", advice, host))

    calls, spent = metrics.total("homenode_store_seconds_count"), metrics.total("homenode_store_seconds_sum")
    if calls and spent / calls > SLOW_STORE_S:
        advice = "every commit waits for it: bring store and server together, look at its disk and its load"
        add("store latency", f"a call of the store takes {1000 * spent / calls:.0f} ms on average", advice)
    elif calls:
        text = f"{host}: a call of the store takes {1000 * spent / calls:.2f} ms on average, of {calls:.0f} calls"
        found.append(Finding("store latency", OK, text, "", host))
    lag = metrics.total("homenode_stream_lag_seconds")
    if lag > LAG_S:
        add("stream lag", f"an event has waited {lag:.1f} s for a stream", "a client does not read: see its machine")
    for name, check, text, advice in (
        ("homenode_clock_jumps_total", "clock jumps", "the store's clock has jumped {} times", "set up NTP that slews"),
        (
            "homenode_archive_failures",
            "log archive",
            "the log archive could not be written {} times",
            "make room, see the permissions of --log-archive; the log waits in the store meanwhile",
        ),
        (
            "homenode_store_failures_total",
            "store failures",
            "{} calls of the store have failed since the start",
            "see the log at those times; a restart of the store is one reason",
        ),
        (
            "homenode_mistakes_total",
            "mistakes",
            "{} unexpected exceptions since the start",
            "keep the server's log and report this",
        ),
    ):
        if metrics.total(name):
            add(check, text.format(f"{metrics.total(name):.0f}"), advice)
    return found
