"""Plain commits that open, keep, end and forget sessions.

None of them asks to be shown the record where it is refused: all answers of the session are in it, tens of thousands
perhaps. Whoever wants to know why looks at the fields that tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from homenode_directory.slice import Slice
from homenode_directory.store.base import Commit, Delete, Drop, Equals, Put, Rank, Unrank, Write
from homenode_directory.store.fields import DEADLINE, DUE_SESSIONS, LIVE, SETTLED, held_key, result_field, session_key

TTL = "ttl"
NAME = "name"
CLEARED = "cleared"
ATTACHED = "attached"  # number of the session's last attach
OVER = ""  # value of LIVE once a session is over: no incarnation's token


def opened(slice_: Slice, session: str, name: str, ttl_ms: int) -> Commit:
    """Make the session live."""
    key, deadline_ms = session_key(session), slice_.time.latest_ms + ttl_ms
    return Commit(
        guards=(Equals(key, LIVE, None),),
        writes=(
            Put(key, LIVE, slice_.incarnation.token),
            Put(key, DEADLINE, str(deadline_ms)),
            Put(key, TTL, str(ttl_ms)),
            Put(key, NAME, name),
            Rank(DUE_SESSIONS, session, deadline_ms),
        ),
    )


def kept(slice_: Slice, session: str, ttl_ms: int, settled: Iterable[int], settled_below: int) -> Commit:
    """Move the session's deadline, raise its low-water mark, and forget answers that its client has.

    The mark is compared with the one known here, which may never have been stored, or which another server has raised
    meanwhile: were it lower than what is forgotten, requests would run again.
    """
    key, deadline_ms = session_key(session), slice_.time.latest_ms + ttl_ms
    known = slice_.settled_below(session)
    guards = [Equals(key, LIVE, slice_.incarnation.token)]
    mark: tuple[Write, ...] = ()
    if settled_below:
        guards.append(Equals(key, SETTLED, str(known) if known else None))
    if settled_below > known:
        mark = (Put(key, SETTLED, str(settled_below)),)
    forget: tuple[Write, ...] = tuple(Drop(key, result_field(request)) for request in settled)
    return Commit(
        guards=tuple(guards),
        writes=(Put(key, DEADLINE, str(deadline_ms)), Rank(DUE_SESSIONS, session, deadline_ms), *mark, *forget),
    )


def mark_stored(slice_: Slice, session: str, settled_below: int) -> None:
    """Remember the low-water mark that a `kept` has raised."""
    if settled_below > slice_.settled_below(session):
        slice_.settle_below(session, settled_below)


def overtaken(slice_: Slice, session: str, record: Mapping[str, str]) -> bool:
    """Whether a refused `kept` met another low-water mark than was known here; it is known now.

    `record`: LIVE and SETTLED, read since.
    """
    if record.get(LIVE) != slice_.incarnation.token:
        return False
    slice_.settle_below(session, int(record.get(SETTLED, 0)))
    return True


def confirmed(slice_: Slice, session: str) -> Commit:
    """Compare only: the session is live."""
    key = session_key(session)
    return Commit(guards=(Equals(key, LIVE, slice_.incarnation.token),))


def attached(slice_: Slice, session: str, number: int, known: str | None) -> Commit:
    """Note the session's attach, where the last one noted is `known`."""
    key = session_key(session)
    return Commit(
        guards=(Equals(key, LIVE, slice_.incarnation.token), Equals(key, ATTACHED, known)),
        writes=(Put(key, ATTACHED, str(number)),),
    )


def ended(slice_: Slice, session: str, live: str, deadline: str | None) -> Commit:
    """End the session if its record still says `live` and, where given, `deadline`.

    It stays due until `cleared`, so that whatever dies meanwhile, a sweeper takes its copies and leases away.
    """
    key = session_key(session)
    guards = [Equals(key, LIVE, live)]
    if deadline is not None:
        guards.append(Equals(key, DEADLINE, deadline))
    return Commit(
        guards=tuple(guards),
        writes=(Put(key, LIVE, OVER), Rank(DUE_SESSIONS, session, slice_.time.now_ms)),
    )


def cleared(slice_: Slice, session: str, retention_ms: int) -> Commit:
    """Nothing is held by the session any more; its answers stay for a while."""
    key = session_key(session)
    return Commit(
        guards=(Equals(key, LIVE, OVER), Equals(key, CLEARED, None)),
        writes=(Put(key, CLEARED, "1"), Rank(DUE_SESSIONS, session, slice_.time.latest_ms + retention_ms)),
    )


def forgotten(slice_: Slice, session: str, live: str | None) -> Commit:
    """Drop what is left of a session that is over (`live` is OVER) or of which there is no record (None)."""
    key = session_key(session)
    return Commit(
        guards=(Equals(key, LIVE, live),),
        writes=(
            Delete(key),
            Delete(held_key(session)),
            Unrank(DUE_SESSIONS, session),
        ),
    )
