"""What models may call, whatever the framework: a class of arguments and a function for each tool.

A model is shown versions and names them again: `read(since=…)`, `write(base=…)`. So every call stands for itself,
whichever connection or process it comes through, and what a model has not looked at it cannot overwrite by accident.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import homenode
from homenode.client import Homenode
from homenode.errors import GateClosed, HomenodeError, InvalidArgument, LeaseLost, Overloaded, TooLarge
from homenode.lease_handle import WriteLease
from homenode.versions import Version

#: Bytes of an artifact that are shown in one answer, at most.
SHOWN_MAX = 4 * 1024 * 1024
LOCKS_MAX = 256
#: How long a lock is held at most; models forget to unlock.
LOCK_S = 600.0

_KEY = Field(description="the artifact's name, such as plan.md or notes/7.md")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool says: text for the model, and the same as fields for programs."""

    text: str
    fields: Mapping[str, Any]


class Arguments(BaseModel):
    """What a tool is called with; anything else is refused."""

    model_config = ConfigDict(extra="forbid")


class Locks:
    """Write leases that clients hold by a name of their own, until they unlock or `LOCK_S` have passed."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[WriteLease, asyncio.TimerHandle]] = {}

    def add(self, lease: WriteLease) -> str:
        """Keep it; returns its name. Raises Overloaded."""
        if len(self._held) >= LOCKS_MAX:
            lease.release_later()
            raise Overloaded(f"{LOCKS_MAX} locks are held here already", retry_after=1.0)
        name = secrets.token_urlsafe(9)
        timer = asyncio.get_running_loop().call_later(LOCK_S, self.drop, name)
        self._held[name] = (lease, timer)
        return name

    def get(self, name: str) -> WriteLease:
        """Raises LeaseLost."""
        if name not in self._held:
            raise LeaseLost("there is no such lock here: it was unlocked, or held too long", cause="released")
        return self._held[name][0]

    def drop(self, name: str) -> None:
        """Give it up, if it is held."""
        lease, timer = self._held.pop(name, (None, None))
        if lease is not None and timer is not None:
            timer.cancel()
            lease.release_later()


# --- the tools ----------------------------------------------------------------------------------------------------


class Read(Arguments):
    """Read a shared artifact. Says its version: name it in write(base=…), and in read(since=…) to be told only what
    others changed since."""

    key: str = _KEY
    since: str | None = Field(None, description="a version that you have seen: the answer is then what changed since")
    version: str | None = Field(None, description="an earlier version, as long as it is kept")


async def read(hn: Homenode, locks: Locks, args: Read) -> Answer:
    since, earlier = _version(args.since), _version(args.version)
    artifact = await hn.read(args.key, since=since, version=earlier)
    told: dict[str, Any] = {"key": args.key, "version": str(artifact.version)}
    if artifact.change is None:
        return Answer(f"version {artifact.version}\n{shown(artifact)}", {**told, "kind": "full"})
    change = artifact.change
    told |= {"kind": str(change.kind), "tokens": change.tokens, "full_tokens": change.full_tokens}
    if change.kind is homenode.ChangeKind.UNCHANGED:
        return Answer(f"version {artifact.version}, unchanged", told)
    text = change.text if change.kind is homenode.ChangeKind.CHANGE else shown(artifact)
    return Answer(f"version {artifact.version}\n{text}", told)


class Write(Arguments):
    """Write a whole artifact. Say what it replaces: `base`, the version that you read; `create`, for a new one; or
    `lock`, a lock that you hold. If somebody changed it since, this is refused: read again."""

    key: str = _KEY
    text: str
    base: str | None = Field(None, description="the version that this replaces")
    create: bool = Field(False, description="the artifact does not exist yet")
    lock: str | None = Field(None, description="a lock that you hold on it")


async def write(hn: Homenode, locks: Locks, args: Write) -> Answer:
    if (args.base is not None) + args.create + (args.lock is not None) != 1:
        raise InvalidArgument("say one of base (the version that you read), create, and lock")
    if args.lock is not None:
        lease = locks.get(args.lock)
        if lease.key != args.key:
            raise InvalidArgument(f"that lock is of {lease.key!r}")
        artifact = await lease.commit(args.text)
    else:
        artifact = await hn.put(args.key, args.text, base=_version(args.base) or homenode.ABSENT)
    return Answer(f"written: version {artifact.version}", {"key": args.key, "version": str(artifact.version)})


class Edit(Arguments):
    """Replace a passage of a text artifact. `old` must occur exactly once in the artifact as it is now, so edits of
    different passages by several agents all stay."""

    key: str = _KEY
    old: str = Field(description="the passage as it is, long enough to occur once", min_length=1)
    new: str = Field(description="what stands there afterwards")


async def edit(hn: Homenode, locks: Locks, args: Edit) -> Answer:
    def replaced(text: str) -> str:
        count = text.count(args.old)
        if count != 1:
            raise InvalidArgument(f"the passage occurs {count} times in {args.key!r} as it is now: read it again")
        return text.replace(args.old, args.new)

    artifact = await hn.edit(args.key, replaced)
    return Answer(f"edited: version {artifact.version}", {"key": args.key, "version": str(artifact.version)})


class List(Arguments):
    """List shared artifacts by name, with version and size."""

    prefix: str = Field("", description="what their names begin with")
    after: str = Field("", description="only names after this one")
    limit: int = Field(200, ge=1, le=1_000)


async def list_artifacts(hn: Homenode, locks: Locks, args: List) -> Answer:
    stats = await hn.list(args.prefix, limit=args.limit, after=args.after)
    rows = [
        {"key": one.key, "version": str(one.version), "bytes": one.size, "writer": one.holder_name} for one in stats
    ]
    lines = [
        f"{row['key']}  version {row['version']}  {row['bytes']} bytes"
        + (f"  being written by {row['writer']}" if row["writer"] else "")
        for row in rows
    ]
    return Answer("\n".join(lines) or "none", {"artifacts": rows})


class History(Arguments):
    """The versions of an artifact that are kept, newest first, and who wrote them."""

    key: str = _KEY


async def history(hn: Homenode, locks: Locks, args: History) -> Answer:
    rows = [
        {
            "version": str(one.version), "bytes": one.size, "committed_at_ms": one.committed_at_ms,
            "by": one.by_name or one.by, "deleted": one.deleted,
        }
        for one in await hn.history(args.key)
    ]  # fmt: skip
    lines = [f"{row['version']}  {'deleted' if row['deleted'] else row['bytes']}  by {row['by']}" for row in rows]
    return Answer("\n".join(lines), {"versions": rows})


class Gate(Arguments):
    """Before you act on what you read: do these versions still hold, all at one moment?"""

    reads: dict[str, str | None] = Field(description="by name, the version that you read; null: that there was none")


async def gate(hn: Homenode, locks: Locks, args: Gate) -> Answer:
    try:
        held = await hn.gate([(key, _version(text)) for key, text in args.reads.items()])
    except GateClosed as closed:
        moved = {key: {"kind": r.kind, "current": str(r.current or "")} for key, r in closed.reasons.items()}
        return Answer(f"no: {closed}", {"holds": False, "moved": moved, "writers": {}})
    busy = "".join(f"; {key!r} is being written by {who}" for key, who in held.writers.items())
    return Answer(f"yes, all hold{busy}", {"holds": True, "moved": {}, "writers": dict(held.writers)})


class Lock(Arguments):
    """Take an artifact's write lease, so that nobody else writes it until you unlock. For long rewrites; edit and
    write need no lock."""

    key: str = _KEY
    create: bool = Field(False, description="it need not exist yet")
    wait_ms: int = Field(10_000, ge=0, le=60_000, description="how long to queue behind another writer")


async def lock(hn: Homenode, locks: Locks, args: Lock) -> Answer:
    lease = await hn.lease(args.key, "write", wait_ms=args.wait_ms, create=args.create)
    assert isinstance(lease, WriteLease)
    name = locks.add(lease)
    told = {"key": args.key, "lock": name, "version": str(lease.version or "")}
    return Answer(f"locked as {name}, at version {lease.version or 'none'}, for {LOCK_S:.0f} s at most", told)


class Unlock(Arguments):
    """Give up a lock."""

    lock: str


async def unlock(hn: Homenode, locks: Locks, args: Unlock) -> Answer:
    locks.drop(args.lock)
    return Answer("unlocked", {})


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: `arguments` describes what it is called with, `reads` says that it changes nothing."""

    arguments: type[Arguments]
    run: Callable[[Homenode, Locks, Any], Awaitable[Answer]]
    reads: bool

    @property
    def about(self) -> str:
        """What the model is told of it."""
        return " ".join((self.arguments.__doc__ or "").split())

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments, without the titles that pydantic invents: models pay for every word."""
        schema = self.arguments.model_json_schema()
        schema.pop("description", None)
        plain: dict[str, Any] = _untitled(schema)
        return plain


TOOLS: Mapping[str, Tool] = {
    "read": Tool(Read, read, True),
    "write": Tool(Write, write, False),
    "edit": Tool(Edit, edit, False),
    "list": Tool(List, list_artifacts, True),
    "history": Tool(History, history, True),
    "gate": Tool(Gate, gate, True),
    "lock": Tool(Lock, lock, False),
    "unlock": Tool(Unlock, unlock, False),
}


class Toolbox:
    """The tools, on one connection."""

    def __init__(self, hn: Homenode) -> None:
        self._hn = hn
        self._locks = Locks()

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Answer:
        """What the tool says; a call is a step of the agent. Raises KeyError for a name that is none of TOOLS,
        HomenodeError."""
        tool = TOOLS[name]
        try:
            checked = tool.arguments.model_validate(dict(arguments))
        except ValidationError as failure:
            raise InvalidArgument("; ".join(map(_in_words, failure.errors()))) from None
        async with self._hn.step():
            return await tool.run(self._hn, self._locks, checked)

    async def say(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What the model is shown, a refusal included: it says what to do next."""
        try:
            return (await self.call(name, arguments)).text
        except HomenodeError as failure:
            return refusal(failure)


def refusal(failure: HomenodeError) -> str:
    """A refusal in one line."""
    return f"{type(failure).__name__}: {failure}"


def shown(artifact: homenode.Artifact) -> str:
    """The text of an artifact. Raises TooLarge, InvalidArgument for what is no text."""
    if len(artifact.bytes) > SHOWN_MAX:
        raise TooLarge(f"{artifact.key!r} has {len(artifact.bytes)} bytes, and an answer shows {SHOWN_MAX} at most")
    try:
        return artifact.text
    except UnicodeDecodeError:
        raise InvalidArgument(
            f"{artifact.key!r} is no text ({len(artifact.bytes)} bytes): read it as a resource"
        ) from None


def _version(text: str | None) -> Version | None:
    if text is None:
        return None
    try:
        return Version.parse(text)
    except ValueError:
        raise InvalidArgument(f"not a version: {text!r}; versions are shown by read, list and history") from None


def _untitled(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {k: _untitled(v) for k, v in schema.items() if not (k == "title" and isinstance(v, str))}
    return [_untitled(one) for one in schema] if isinstance(schema, list) else schema


def _in_words(error: Mapping[str, Any]) -> str:
    where = ".".join(map(str, error["loc"]))
    return f"{where}: {error['msg']}" if where else str(error["msg"])
