"""import: what `homenode export` wrote, into a workspace."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from homenode.cli.exits import CliError, Exit, exit_of, fields_of
from homenode.cli.output import Output, size_text
from homenode.cli.portable import BadFile, Entry, PolicyParts, Reader, Totals, policy_parts
from homenode.cli.session import Commands, connected, open_input
from homenode.errors import HomenodeError, VersionConflict

if TYPE_CHECKING:
    from homenode import Homenode
    from homenode.values import Stat
    from homenode.versions import Version

AT_ONCE = 16
SMALL_BYTES = 1 << 20
MAX_BYTES = 64 << 30
NAMED = 5
PAGE = 10_000


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    made = commands.add_parser(
        "import",
        parents=[common],
        help="put what export wrote into the workspace",
        description="Reads the whole file first: a damaged, cut off or foreign one changes nothing, and neither does "
        "one with artifacts, or policies of prefixes, that exist and differ, unless --force or --skip-existing says "
        "what to do with them. What is there already as it is in the file stays; so a run that was cut off is finished "
        "by running it again. Versions are numbered anew. While it runs, others see artifacts come one by one. "
        "Policies of prefixes come first, and hold for artifacts under them that were there before, too.",
    )
    made.add_argument("file", metavar="FILE", help="what export wrote; - for stdin")
    how = made.add_mutually_exclusive_group()
    how.add_argument("--force", action="store_true", help="replace what exists and differs")
    how.add_argument("--skip-existing", action="store_true", help="leave it as it is")
    made.add_argument("--history", action="store_true", help="also commit the earlier versions that the file has")
    made.add_argument("--dry-run", action="store_true", help="check the file, and say what would be done")
    made.add_argument(
        "--max-bytes", type=_size, default=MAX_BYTES, metavar="N", help=f"most bytes of contents (default: {MAX_BYTES})"
    )
    made.set_defaults(run=run_import)


def _size(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number of bytes, not {text!r}")
    return int(text)


def run_import(args: argparse.Namespace, out: Output) -> int:
    """`import`. Its input is read first, where Ctrl-C still interrupts a read."""
    with open_input(args.file) as file:
        return asyncio.run(_import(args, file, out))


@dataclass(slots=True)
class Done:
    """What became of the artifacts of a file, and how many policies of prefixes were set."""

    created: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: int = 0
    policies: int = 0
    conflicts: list[str] = field(default_factory=list)

    def count(self, action: str) -> None:
        """One more."""
        setattr(self, action, getattr(self, action) + 1)

    def words(self) -> str:
        """For people."""
        parts = [(self.created, "created"), (self.replaced, "replaced"), (self.skipped, "left as they are")]
        parts += [(self.unchanged, "there already"), (self.policies, "policies of prefixes set")]
        return ", ".join(f"{n} {word}" for n, word in parts if n) or "nothing"

    def numbers(self) -> dict[str, int]:
        """For programs."""
        return {name: getattr(self, name) for name in ("created", "replaced", "unchanged", "skipped", "policies")}


async def _import(args: argparse.Namespace, file: BinaryIO, out: Output) -> int:
    start = file.tell()
    async with connected(args, agent="import") as hn:
        with out.progress("check") as progress:
            plan = await _Plan.make(hn, args, file, progress)
        will = plan.foreseen
        _refuse(args, plan)
        if args.dry_run:
            return _tell(args, out, plan, will)
        done = Done()
        try:
            with out.progress("import") as progress:
                file.seek(start)
                await _Import(hn, args, plan, done).run(file, progress)
        except BadFile as bad:  # it was read a moment ago
            raise CliError(f"the file changed meanwhile: {bad}; done so far: {done.words()}", kind="BadFile") from None
        except HomenodeError as error:
            raise CliError(
                f"{error.message or type(error).__name__}; done so far: {done.words()}, of {plan.totals.artifacts}; "
                "run it again to go on",
                exit_of(error),
                kind=type(error).__name__,
                **{**fields_of(error), **done.numbers()},
            ) from None
        except BaseException:
            out.note(f"cut off; done so far: {done.words()}, of {plan.totals.artifacts}; run it again to go on")
            raise
    return _tell(args, out, plan, done)


def _refuse(args: argparse.Namespace, plan: _Plan) -> None:
    """Raises CliError where something exists and differs, and nothing says what to do with it."""
    keys, prefixes = plan.foreseen.conflicts, plan.prefixes_differ
    if args.force or args.skip_existing or not (keys or prefixes):
        return
    parts = ((keys, "artifacts"), ([prefix or "the whole workspace" for prefix in prefixes], "policies of prefixes"))
    said = " and ".join(f"{len(names)} {what} ({_some(names)})" for names, what in parts if names)
    raise CliError(
        f"nothing was done: {said} exist and differ; --force replaces them, --skip-existing leaves them as they are",
        Exit.CONFLICT,
        kind="AlreadyExists",
        keys=keys[:100],
        prefixes=prefixes,
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")


def _tell(args: argparse.Namespace, out: Output, plan: _Plan, done: Done) -> int:
    if out.json:
        totals = {"artifacts": plan.totals.artifacts, "versions": plan.totals.versions, "bytes": plan.totals.bytes}
        out.value({"file": args.file, "dry_run": args.dry_run, **totals, **done.numbers()})
    else:
        size = size_text(plan.totals.bytes)
        out.note(f"of {plan.totals.artifacts} artifacts ({size} bytes), {done.words()}" + (" (dry run)" * args.dry_run))
    return Exit.OK


class _Plan:
    """What is in the file, and what to do with each of its artifacts: one of `Done`'s words.

    `policies` are those of prefixes to set; `prefixes_differ` have another one.
    """

    def __init__(self) -> None:
        self.totals = Totals()
        self.existing: dict[str, Stat] = {}
        self.actions: dict[str, str] = {}
        self.policies: dict[str, PolicyParts] = {}
        self.prefixes_differ: list[str] = []
        self.foreseen = Done()

    @classmethod
    async def make(cls, hn: Homenode, args: argparse.Namespace, file: BinaryIO, progress: Any) -> _Plan:
        """Read the whole file. Raises CliError for one that makes no sense."""
        made = cls()
        try:
            reader = Reader(file)
            made.totals = reader.totals
            made.existing = await _existing(hn)
            there = {prefix: policy_parts(one) for prefix, one in (await hn.policies()).items()}
            made._decide_policies(reader.policies, there, args.skip_existing)
            for entry in reader.entries():
                if reader.totals.bytes > args.max_bytes:
                    raise CliError(
                        f"nothing was done: the contents add up to more than {args.max_bytes} bytes; if that is meant, "
                        "say --max-bytes",
                        kind="TooLarge",
                    )
                await asyncio.to_thread(reader.content, entry)
                if entry.current:
                    made._decide(entry, args.skip_existing)
                if progress is not None:
                    progress(file.tell(), _size_of(file))
        except BadFile as bad:
            raise CliError(f"nothing was done: {bad}", kind="BadFile") from None
        return made

    def _decide_policies(self, found: dict[str, PolicyParts], there: dict[str, PolicyParts], skip: bool) -> None:
        self.prefixes_differ = [prefix for prefix, parts in found.items() if there.get(prefix, parts) != parts]
        left = self.prefixes_differ if skip else ()
        self.policies = {
            prefix: parts for prefix, parts in found.items() if there.get(prefix) != parts and prefix not in left
        }
        self.foreseen.policies = len(self.policies)

    def _decide(self, entry: Entry, skip: bool) -> None:
        stat = self.existing.get(entry.key)
        if stat is None:
            action = "created"
        elif _same(entry, stat):
            action = "unchanged"
        else:
            action = "skipped" if skip else "replaced"
            self.foreseen.conflicts.append(entry.key)
        self.actions[entry.key] = action
        self.foreseen.count(action)


def _same(entry: Entry, stat: Stat) -> bool:
    """Whether the artifact is as the file has it; its policy may still be missing."""
    meant = (entry.sha256, entry.size, entry.metadata, entry.tags, entry.media_type)
    there = (stat.hash.hex(), stat.size, dict(stat.metadata), tuple(stat.tags), stat.media_type)
    return meant == there and policy_parts(stat.policy) in ({}, entry.policy)


def _size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


async def _existing(hn: Homenode) -> dict[str, Stat]:
    found: dict[str, Stat] = {}
    after = ""
    while True:
        page = await hn.list(limit=PAGE, after=after)
        found.update((stat.key, stat) for stat in page)
        if len(page) < PAGE:
            return found
        after = page[-1].key


class _Import:
    """Commits what a file has, in its order; small artifacts without earlier versions several at once."""

    def __init__(self, hn: Homenode, args: argparse.Namespace, plan: _Plan, done: Done) -> None:
        self._hn = hn
        self._args = args
        self._plan = plan
        self._done = done
        self._waiting: list[tuple[Entry, bytes]] = []
        self._last: tuple[str, Version] | None = None  # the artifact whose versions come, and what it is at

    async def run(self, file: BinaryIO, progress: Any) -> None:
        """To the end of the file. Raises BadFile, HomenodeError: what was done by then is counted."""
        reader = Reader(file)
        for prefix, parts in self._plan.policies.items():
            said: dict[str, Any] = parts
            await self._hn.set_policy(prefix=prefix, **said)
            self._done.policies += 1
        for entry in reader.entries():
            await self._entry(reader, entry)
            if progress is not None:
                progress(file.tell(), _size_of(file))
        await self._flush()

    async def _entry(self, reader: Reader, entry: Entry) -> None:
        action = self._plan.actions.get(entry.key)
        if action is None:
            raise BadFile(f"{entry.key!r} was not there")
        wanted = action in ("created", "replaced") and (entry.current or self._args.history)
        if not wanted:
            await asyncio.to_thread(reader.content, entry)
            if entry.current:
                if action == "unchanged":
                    await self._policy(entry)
                self._done.count(action)
        elif entry.size <= SMALL_BYTES and entry.current and (self._last is None or self._last[0] != entry.key):
            parts: list[bytes] = []
            reader.content(entry, parts.append)
            self._waiting.append((entry, b"".join(parts)))
            if len(self._waiting) == AT_ONCE:
                await self._flush()
        else:
            await self._flush()
            with tempfile.TemporaryFile() as spool:  # what is committed was compared with its hash before
                await asyncio.to_thread(reader.content, entry, spool.write)
                spool.flush()
                spool.seek(0)
                await self._commit(entry, spool)

    async def _flush(self) -> None:
        """Commit what waits. The failure of one does not cut off the others."""
        some, self._waiting = self._waiting, []
        results = await asyncio.gather(*(self._commit(entry, data) for entry, data in some), return_exceptions=True)
        for failure in results:
            if failure is not None:
                raise failure

    async def _commit(self, entry: Entry, source: bytes | BinaryIO) -> None:
        import homenode

        action = self._plan.actions[entry.key]
        base: Any = homenode.ANY if action == "replaced" else homenode.ABSENT
        if self._last is not None and self._last[0] == entry.key:
            base = self._last[1]
        try:
            info = await self._hn.upload(
                entry.key, source, base=base, metadata=entry.metadata, tags=entry.tags, media_type=entry.media_type
            )
        except VersionConflict:
            if base is homenode.ABSENT and self._args.skip_existing:  # somebody was faster
                self._plan.actions[entry.key] = "skipped"
                if entry.current:
                    self._done.count("skipped")
                return
            raise
        self._hn._view.forget(entry.key)  # nobody here reads it, and its bytes would stay
        if not entry.current:
            self._last = (entry.key, info.version)
            return
        await self._policy(entry)
        self._done.count(action)

    async def _policy(self, entry: Entry) -> None:
        stat = self._plan.existing.get(entry.key)
        if entry.policy != (policy_parts(stat.policy) if stat is not None else {}):
            policy: dict[str, Any] = entry.policy
            await self._hn.set_policy(entry.key, **policy)
