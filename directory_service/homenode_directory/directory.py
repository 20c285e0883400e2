"""The directory: every request of every session, judged per artifact and confirmed by the store.

`Directory` finds the slice of a request, queues a job there and answers with what came of it. Denials are values;
failures are `errors.DirectoryError`. It knows neither gRPC nor which store it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TypeVar

from homenode_directory import sessions
from homenode_directory.clock import Clock
from homenode_directory.errors import Contended, Overloaded, Unavailable
from homenode_directory.incarnations import Incarnations
from homenode_directory.jobs import UNHEARD, CommitJob, DropJob, EventJob, StatJob, TickJob
from homenode_directory.observer import SILENT, Observer
from homenode_directory.place import SESSION_SEPARATOR, Place, Position
from homenode_directory.protocol.effects import Denial, Reason, Stored
from homenode_directory.protocol.events import EndSession, Event, Expire, InvAck
from homenode_directory.protocol.facts import DEFAULT, Terms
from homenode_directory.protocol.model import Cause, Entry, Level, Policy, Version
from homenode_directory.protocol.transitions import repeated
from homenode_directory.slice import ROUNDS_MAX, Deliver, Heard, Job, Limits, Reply, Slice
from homenode_directory.store import fields
from homenode_directory.store.base import Commit, Equals, Incarnation, Outcome, Store, StoreError
from homenode_directory.store.fields import VersionRecord
from homenode_directory.tracing import Tracer

T = TypeVar("T")


class Gone(Enum):
    """What became of a request without an answer."""

    NEVER = "never"  # it has not run and never will
    UNKNOWN = "unknown"  # the directory does not know any more


@dataclass(frozen=True, slots=True)
class Opened:
    """A new session."""

    session: str
    position: Position
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Stat:
    """One artifact as the directory sees it."""

    key: str
    entry: Entry
    as_of: Position
    now_ms: int


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of a workspace's artifacts."""

    stats: Sequence[Stat]
    more: bool
    as_of: Position


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations in milliseconds, and bounds."""

    result_retention_ms: int = 600_000
    settled_per_call_max: int = 4_096
    resolve_wait_ms: int = 20_000  # how long `resolve` waits for what is prepared
    unsettled_max: int = 65_536  # answers kept for a session that does not say which it has
    terms: Terms = field(default_factory=Terms)
    default: Policy = DEFAULT
    limits: Limits = field(default_factory=Limits)


FETCH_AGAIN_S = 0.05  # doubles; who waits gives up some time, and the asking with it
RESOLVE_AGAIN_S = 0.05
CLEAR_MAX = 256  # artifacts that a session's end reaches at once
SESSION_OVER = Denial(Reason.SESSION_LOST, "the session is over or unknown")


class Directory:
    """Judges requests over a store. One per process and event loop.

    Args:
        store: an open store.
        incarnations: shared with whatever else talks to the store.
        clock: local milliseconds that never go back.
        ids: makes unguessable ids.
        deliver: hears of every log entry that this process commits.
        shared: artifacts that a session is known here to hold copies of, for when it ends.
        follow: hears (slice, incarnation, head) of each request that begins to wait for an answer beyond that head,
            which any process may commit; `answered` is to be called then.
    """

    def __init__(
        self,
        store: Store,
        incarnations: Incarnations,
        *,
        clock: Clock,
        ids: Callable[[], str],
        deliver: Deliver = lambda slice_, incarnation, entries: None,
        shared: Callable[[str], Iterable[str]] = lambda session: (),
        follow: Callable[[int, int, int], None] = lambda slice_, incarnation, head: None,
        settings: Settings | None = None,
        observer: Observer = SILENT,
        tracer: Tracer | None = None,
    ) -> None:
        self.store = store
        self.incarnations = incarnations
        self.settings = settings or Settings()
        self.observer = observer
        self.tracer = tracer
        self._clock = clock
        self._ids = ids
        self._deliver = deliver
        self._shared = shared
        self._follow = follow
        self._slices: dict[int, Slice] = {}
        self._fetching: set[asyncio.Task[None]] = set()
        self.weakness = ""
        self._answered: dict[str, list[int]] = {}  # session -> stored answers that its client has not settled yet

    async def close(self) -> None:
        """Finish what is queued."""
        for task in list(self._fetching):
            task.cancel()
        await asyncio.gather(*(slice_.close() for slice_ in self._slices.values()))

    def leases(self) -> int:
        """How many write leases this process knows of; it looks at every entry in memory."""
        return sum(slice_.leases() for slice_ in self._slices.values())

    def slice_at(self, number: int) -> Slice:
        """The working state of a slice."""
        slice_ = self._slices.get(number)
        if slice_ is None:
            settings = self.settings
            slice_ = self._slices[number] = Slice(
                number, self.store, self.incarnations, self._clock, settings.terms, settings.limits, self.observer,
                self._deliver, settings.default, self.tracer,
            )  # fmt: skip
            slice_.weakness = self.weakness
            slice_.on_wait = partial(self._follow, number)
        return slice_

    def slice_of(self, place: Place) -> Slice:
        """The working state of the slice that a workspace lies in."""
        return self.slice_at(place.slice_of(self.store.slices))

    # --- sessions -----------------------------------------------------------------------------------------------

    async def open_session(self, place: Place, name: str, ttl_ms: int, seen_incarnation: int = 0) -> Opened:
        """Start a session in a workspace."""
        slice_ = self.slice_of(place)
        if seen_incarnation:
            unused = partial(self._unused, slice_.number)
            await self.store_call(self.incarnations.echo(slice_.number, seen_incarnation, unused))
        session = f"{place.workspace}{SESSION_SEPARATOR}{self._ids()}"
        outcome, position = await self._commit(slice_, lambda s: sessions.opened(s, session, name, ttl_ms))
        if not outcome.ok:
            raise Unavailable("a session id came twice")
        self._answered[session] = []
        return Opened(session, position, ttl_ms)

    async def _unused(self, number: int, incarnation: Incarnation) -> bool:
        """Whether no session lives under the incarnation."""
        known = sorted(await self.store.ranked(number, fields.DUE_SESSIONS))
        for start in range(0, len(known), CLEAR_MAX):
            keys = [fields.session_key(session) for session in known[start : start + CLEAR_MAX]]
            records = await self.store.load(number, keys, (fields.LIVE,))
            if any(record.get(fields.LIVE) == incarnation.token for record in records):
                return False
        return True

    async def keep_alive(self, place: Place, session: str, ttl_ms: int, settled_below: int = 0) -> Position | Denial:
        """A sign of life of the session; answers below `settled_below` may be forgotten."""
        slice_ = self.slice_of(place)
        stored = self._answered.setdefault(session, [])
        settled = [request for request in stored if request < settled_below][: self.settings.settled_per_call_max]
        for _ in range(ROUNDS_MAX):
            outcome, position = await self._commit(
                slice_, lambda s: sessions.kept(s, session, ttl_ms, settled, settled_below), relief=True
            )
            if outcome.ok:
                sessions.mark_stored(slice_, session, settled_below)
                break
            (record,) = await self.store_call(self._session(slice_, session, fields.LIVE, fields.SETTLED))
            if not sessions.overtaken(slice_, session, record):
                self._answered.pop(session, None)
                return SESSION_OVER
        else:
            raise Contended("another server raised the session's mark each time")
        if settled:
            gone = set(settled)
            self._answered[session] = [request for request in stored if request not in gone]
        return position

    def lease_ms(self, place: Place, ttl_ms: int) -> int:
        """How long after a sign of life a session that lives `ttl_ms` may serve its strict copies."""
        slice_ = self.slice_of(place)
        return 0 if slice_.weakness else slice_.terms.lease_of(ttl_ms)

    async def confirm_session(self, place: Place, session: str) -> Position | Denial:
        """Whether the session is live, and the head of its slice's log."""
        slice_ = self.slice_of(place)
        outcome, position = await self._commit(slice_, lambda s: sessions.confirmed(s, session), relief=True)
        return position if outcome.ok else SESSION_OVER

    async def end_session(self, place: Place, session: str, cause: Cause = Cause.RELEASED) -> None:
        """End a session, whoever asks: no further effect of it, its leases and copies are gone."""
        slice_ = self.slice_of(place)
        (record,) = await self.store_call(self._session(slice_, session, fields.LIVE))
        if record.get(fields.LIVE):
            await self.end_recorded(slice_, session, record[fields.LIVE], None, cause)

    async def end_recorded(self, slice_: Slice, session: str, live: str, deadline: str | None, cause: Cause) -> bool:
        """End a session if its record still is as it was seen; then take its leases, waits and copies away."""
        outcome, _ = await self._commit(slice_, lambda s: sessions.ended(s, session, live, deadline), relief=True)
        if not outcome.ok:
            (record,) = await self.store_call(self._session(slice_, session, fields.LIVE))
            if record.get(fields.LIVE) != sessions.OVER:
                return False
        await self.clear_session(slice_, session, cause)  # also where another try, or another server, ended it
        return True

    async def clear_session(self, slice_: Slice, session: str, cause: Cause) -> None:
        """Take away what a session that is over still holds. Safe to repeat."""
        slice_.bury(session)
        self._answered.pop(session, None)
        held = await self.store_call(self.store.ranked(slice_.number, fields.held_key(session)))
        artifacts = sorted({*held, *self._shared(session)})
        for start in range(0, len(artifacts), CLEAR_MAX):
            some = artifacts[start : start + CLEAR_MAX]
            await asyncio.gather(*(self._event(slice_, artifact, EndSession(session, cause)) for artifact in some))
        slice_.refuse_waiting(session, SESSION_OVER)
        retention_ms = self.settings.result_retention_ms
        await self._commit(slice_, lambda s: sessions.cleared(s, session, retention_ms), relief=True)

    async def resolve(self, place: Place, session: str, requests: Sequence[int]) -> list[tuple[int, Stored | Gone]]:
        """What became of requests of a session. It is over afterwards, so "never" is final.

        What is prepared will be published, and is waited for. Raises Unavailable where that takes too long.
        """
        await self.end_session(place, session)
        slice_ = self.slice_of(place)
        give_up_at = self._clock() + self.settings.resolve_wait_ms
        while True:
            prepared = await self._prepared_by(slice_, session)  # before the answers: it may be published meanwhile
            answers = [fields.result_field(request) for request in requests]
            (record,) = await self.store_call(self._session(slice_, session, fields.LIVE, *answers))
            if fields.LIVE not in record:
                return [(request, Gone.UNKNOWN) for request in requests]
            if not any(request in prepared and fields.result_field(request) not in record for request in requests):
                break
            if self._clock() >= give_up_at:
                raise Unavailable("a commit of the session waits for copies to end, and will be published")
            await asyncio.sleep(RESOLVE_AGAIN_S)
        found: list[tuple[int, Stored | Gone]] = []
        for request in requests:
            text = record.get(fields.result_field(request))
            found.append((request, fields.decode_answer(session, request, text).answer if text else Gone.NEVER))
        return found

    async def _prepared_by(self, slice_: Slice, session: str) -> set[int]:
        """Requests of a session that are prepared and not published."""
        held = await self.store_call(self.store.ranked(slice_.number, fields.held_key(session)))
        entries = [entry for entry, _ in await self._entries(slice_, sorted(held))]
        pendings = [entry.pending for entry in entries if entry.pending is not None]
        return {pending.request for pending in pendings if pending.session == session}

    # --- artifacts ----------------------------------------------------------------------------------------------

    def post(
        self,
        slice_: Slice,
        artifact: str,
        event: Event,
        heard: Heard,
        request: int = 0,
        digest: str = "",
        body: bytes = b"",
    ) -> None:
        """Queue an event of an artifact (by its name in the slice); `heard` gets the confirmed `Reply`.

        A queued GetM is answered when it is granted or its wait is over. `request` and `digest` name an effect, which
        is stored with its answer and never runs twice. `body`: the content of a commit, verified and in the form to
        store; without it, the content must be stored already. Raises Overloaded, Unavailable.
        """
        if not request:
            slice_.submit(EventJob(artifact, event, heard))
            return
        self.post_effect(
            slice_, EventJob(artifact, event, heard, request, digest, body), getattr(event, "session", ""), request
        )

    def post_effect(self, slice_: Slice, job: Job, session: str, request: int) -> None:
        """Queue a job whose answer is stored under (session, request). Raises Overloaded, Unavailable."""
        # Of a session that was seen alive here the answers are known; else its end forgets them.
        answered = self._answered.get(session)
        if answered is not None and len(answered) >= self.settings.unsettled_max:
            raise Overloaded("too many answers are kept for the session; it has to settle some", retry_after_ms=1_000)
        slice_.submit(job)
        if answered is not None:
            answered.append(request)

    def submit(
        self, place: Place, key: str, event: Event, request: int = 0, digest: str = ""
    ) -> asyncio.Future[Reply | None]:
        """`post` for who awaits the answer."""
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self.post(self.slice_of(place), fields.artifact_of(place, key), event, future, request, digest)
        return future

    async def request(self, place: Place, key: str, event: Event, request: int = 0, digest: str = "") -> Reply:
        """`submit`, awaited."""
        reply = await self.submit(place, key, event, request, digest)
        assert reply is not None
        return reply

    async def stored(self, place: Place, session: str, request: int, digest: str) -> Reply | None:
        """The answer that a request already got, if it did."""
        slice_ = self.slice_of(place)
        (record,) = await self.store_call(self._session(slice_, session, fields.result_field(request)))
        text = record.get(fields.result_field(request))
        if text is None:
            return None
        result = fields.decode_answer(session, request, text)
        return Reply(repeated(result.digest, digest, result.answer), Position(slice_.incarnation.number, 0))

    async def acks(self, place: Place, acked: Iterable[tuple[str, str, int, int]]) -> None:
        """Sessions dropped old copies: (key, session, version number, fence), one commit per artifact and round."""
        rounds: dict[tuple[str, int, int], list[str]] = {}
        for key, session, n, fence in acked:
            rounds.setdefault((key, n, fence), []).append(session)
        slice_ = self.slice_of(place)
        for (key, n, fence), who in rounds.items():
            # Nobody waits: a lost ack is made up for by the next read or the session's end.
            self.post(slice_, fields.artifact_of(place, key), InvAck(tuple(sorted(who)), n, fence), UNHEARD)

    async def note_attach(self, place: Place, session: str, number: int) -> bool:
        """Note the session's attach number; False where a later one is noted already, here or by another server."""
        slice_ = self.slice_of(place)
        known: str | None = None
        for _ in range(ROUNDS_MAX):
            outcome, _ = await self._commit(
                slice_, partial(sessions.attached, session=session, number=number, known=known)
            )
            if outcome.ok:
                return True
            (record,) = await self.store_call(self._session(slice_, session, fields.LIVE, sessions.ATTACHED))
            if not record.get(fields.LIVE) or int(record.get(sessions.ATTACHED, 0)) > number:
                return False
            known = str(record[sessions.ATTACHED]) if sessions.ATTACHED in record else None
        raise Contended("the session attached elsewhere each time")

    async def redeclare(self, place: Place, session: str, keys: Collection[str], number: int) -> None:
        """The session holds copies of `keys` only: it leaves the sharer sets of all other artifacts.

        `number`: of the attach that says so. After a later one, which may be another server's, it has more copies.
        """
        slice_ = self.slice_of(place)
        held = await self.store_call(self.store.ranked(slice_.number, fields.held_key(session)))
        declared = {fields.artifact_of(place, key) for key in keys}
        last = Equals(fields.session_key(session), sessions.ATTACHED, str(number))
        for artifact in sorted(set(held) - declared):
            if session in slice_.entry(artifact).sharers or artifact not in slice_:
                slice_.submit(DropJob(artifact, session, last))

    async def stat(self, place: Place, session: str, key: str) -> Stat | Denial:
        """One artifact; NOT_FOUND where it does not exist."""
        over = await self.confirm_session(place, session)
        if isinstance(over, Denial):
            return over
        (stat,) = await self._stats(place, [key])
        if not stat.entry.exists:
            current = stat.entry.version if stat.entry.version.n else None
            return Denial(Reason.NOT_FOUND, "there is no such artifact", current=current)
        return stat

    async def list(self, place: Place, session: str, prefix: str, after: str, limit: int) -> Listing | Denial:
        """Artifacts whose keys begin with `prefix` and sort after `after`."""
        head = await self.confirm_session(place, session)
        if isinstance(head, Denial):
            return head
        number = self.slice_of(place).number
        keys = await self.store_call(self.store.by_prefix(number, fields.index_key(place), prefix, after, limit + 1))
        stats = await self._stats(place, keys[:limit])
        # As of the head before the index was read: a watch from there misses nothing that the list does not have.
        return Listing([stat for stat in stats if stat.entry.exists], len(keys) > limit, head)

    async def history(self, place: Place, session: str, key: str) -> Sequence[VersionRecord] | Denial:
        """The retained versions, newest first."""
        over = await self.confirm_session(place, session)
        if isinstance(over, Denial):
            return over
        records = await self.versions(place, key)
        if not records:
            return Denial(Reason.NOT_FOUND, "there is no such artifact")
        return sorted(records.values(), key=lambda record: record.version.n, reverse=True)

    async def versions(self, place: Place, key: str) -> dict[str, VersionRecord]:
        """The retained versions by their field in the store."""
        number = self.slice_of(place).number
        artifact = fields.artifact_of(place, key)
        (record,) = await self.store_call(self.store.load(number, [fields.versions_key(artifact)]))
        return {name: fields.decode_version(text) for name, text in record.items()}

    async def at_version(self, place: Place, session: str, key: str, version: Version) -> VersionRecord | Denial:
        """One retained version."""
        records = await self.history(place, session, key)
        if isinstance(records, Denial):
            return records
        for record in records:
            if record.version == version:
                return record
        return Denial(Reason.NOT_FOUND, "this version does not exist or is not retained", current=records[0].version)

    # --- for delivery -------------------------------------------------------------------------------------------

    def awaited(self, number: int) -> bool:
        """Whether a request of the slice waits here for an answer that any process may commit."""
        slice_ = self._slices.get(number)
        return slice_ is not None and bool(slice_.waiting)

    def answered(self, place: Place, session: str, request: int, sequence: int) -> None:
        """The log says that a queued request has its answer, by whichever process; who waits for it here gets it."""
        slice_ = self.slice_of(place)
        if (session, request) in slice_.waiting:
            self._fetch(slice_, session, request, sequence)
        else:
            slice_.announce(session, request)

    def unheard(self, number: int) -> None:
        """A part of the log was not read: what waits in the slice may be answered already."""
        slice_ = self._slices.get(number)
        for session, request in list(slice_.waiting) if slice_ is not None else ():
            self._fetch(slice_, session, request, 0)  # type: ignore[arg-type]

    def _fetch(self, slice_: Slice, session: str, request: int, sequence: int) -> None:
        task = asyncio.ensure_future(self._fetch_answer(slice_, session, request, sequence))
        self._fetching.add(task)
        task.add_done_callback(self._fetching.discard)

    async def _fetch_answer(self, slice_: Slice, session: str, request: int, sequence: int) -> None:
        """Give the stored answer to whoever waits; sequence 0: if there is one. A store that fails is asked again."""
        pause_s = FETCH_AGAIN_S
        while (session, request) in slice_.waiting:
            try:
                (record,) = await self._session(slice_, session, fields.result_field(request))
            except StoreError:
                await asyncio.sleep(pause_s)
                pause_s *= 2
                continue
            text = record.get(fields.result_field(request))
            if text or sequence:
                answer = fields.decode_answer(session, request, text).answer if text else SESSION_OVER
                slice_.answer_waiting(session, request, answer, sequence)
            return

    # --- for the sweeper ----------------------------------------------------------------------------------------

    async def expire(self, slice_: Slice, artifact: str) -> None:
        """Let an artifact's passed deadlines take effect."""
        await self._event(slice_, artifact, Expire())

    async def plain(self, slice_: Slice, make: Callable[[Slice], Commit], *, relief: bool = True) -> Outcome:
        """A plain commit of housekeeping; one that frees no room is no `relief` to a full store."""
        outcome, _ = await self._commit(slice_, make, relief=relief, use=False)
        return outcome

    def tick(self, slice_: Slice) -> None:
        """Vouch for the slice's time, with the next batch."""
        slice_.submit(TickJob(), use=False)

    async def look_at_store(self) -> None:
        """Find out whether the store can keep strict now. Raises StoreError."""
        self.weakness = await self.store.weakness()
        for slice_ in self._slices.values():
            slice_.weakness = self.weakness

    @property
    def strongest(self) -> Level:
        """The strongest level that can be kept over the store."""
        return Level.LAZY if self.weakness else Level.STRICT

    # --- inside -------------------------------------------------------------------------------------------------

    async def _event(self, slice_: Slice, artifact: str, event: Event) -> None:
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        slice_.submit(EventJob(artifact, event, future))
        await future

    async def _commit(
        self, slice_: Slice, make: Callable[[Slice], Commit], *, relief: bool = False, use: bool = True
    ) -> tuple[Outcome, Position]:
        future: asyncio.Future[tuple[Outcome, Position]] = asyncio.get_running_loop().create_future()
        slice_.submit(CommitJob(make, future, relief), use=use)
        return await future

    async def _stats(self, place: Place, keys: Sequence[str]) -> Sequence[Stat]:
        slice_ = self.slice_of(place)
        found = await self._entries(slice_, [fields.artifact_of(place, key) for key in keys])
        incarnation, now_ms = slice_.incarnation.number, slice_.time.now_ms
        return [
            Stat(key, entry, Position(incarnation, head), now_ms)
            for key, (entry, head) in zip(keys, found, strict=True)
        ]

    async def _entries(self, slice_: Slice, artifacts: Sequence[str]) -> Sequence[tuple[Entry, int]]:
        """Confirmed entries, and the places in the log as of which they are."""
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[tuple[Entry, int]]] = [loop.create_future() for _ in artifacts]
        for artifact, future in zip(artifacts, waiting, strict=True):
            slice_.submit(StatJob(artifact, future))
        return await asyncio.gather(*waiting)

    def _session(self, slice_: Slice, session: str, *names: str) -> Awaitable[Sequence[Mapping[str, str]]]:
        """Fields of a session's record, which has all of its answers too."""
        return self.store.load(slice_.number, [fields.session_key(session)], names)

    async def store_call(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except StoreError as error:
            raise Unavailable(str(error)) from error
