"""The cache of a session: bytes, and the permission to use them. Pure: time comes in as an argument.

Theory of operation
-------------------
A copy may be served while `now < copy.window.until_ns`. That one comparison carries every reason not to serve:

  - **too old, or the stream is silent**: a window ends `max_age` after the *send* time of the last ping whose echo came
    back; without echoes it ends by itself. An open but silent stream confirms nothing.
  - **strict**: all strict copies share one window. It ends with the lease that the last bookmark carried, counted from
    the *send* of its ping: until then no commit of others is published before this session has acknowledged that its
    copy is gone. A bookmark comes after everything in the log up to it, so a lease never outruns an invalidation.
  - **the stream is lost**: `Freshness.close` ends all windows until an echo comes back on the next stream.
  - **invalidated, replaced, evicted, resynchronised, another incarnation**: the copy's window becomes `NEVER`.

So a reader that keeps a reference to a copy needs to ask nobody, and cannot be wrong.

Permission and bytes are apart. Bytes stay, by hash, when permission goes: they are the base of patches, and a
revalidation that finds the same hash moves nothing.

A *floor* per artifact is the newest version that is known to exist: by an invalidation, by an own commit, by an own
lease. A reply below the floor is never cached, whatever order it comes in. `seen` is the newest version that this
session has shown or written; a reply below it must not even be shown. They differ under a strict commit, which
announces its version before it publishes it.

Nobody waits for the committer's own copy of a strict artifact. So it goes when an own write is sent (`begin_write`),
and no strict copy of that artifact is kept until the outcome is known. Where it stays unknown, `doubt` forbids to keep
any, until the directory has confirmed that the write can no longer happen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from homenode.artifact import LAZY, NEVER, STRICT, Artifact
from homenode.freshness import Freshness
from homenode.versions import Version
from homenode_api.chunks import PIECE_MAX_BYTES

NO_VERSION = Version(0, 0)
HAVE_MAX = 8
LARGE_SHARE = 4  # a content that is not in one piece takes at most this part of the bytes
_KNOWN_MAX = 16


@dataclass(frozen=True, slots=True)
class CopyPolicy:
    """How long and how often a copy may be served. None: no such limit."""

    max_age_ms: int
    max_reads: int | None = None
    max_steps: int | None = None
    strategy: str = LAZY

    @property
    def plain(self) -> bool:
        """Whether nothing but age limits the copy."""
        return self.max_reads is None and self.max_steps is None


class Line:
    """What the session knows of one artifact."""

    __slots__ = (
        "copy", "fills", "floor", "forfeited", "key", "known", "listed", "policy", "seen", "settled", "strict", "writes"
    )  # fmt: skip

    def __init__(self, key: str) -> None:
        self.key = key
        self.copy: Artifact | None = None
        self.floor = NO_VERSION
        self.seen = NO_VERSION
        self.fills = 0  # replies under way; while there are any the floor must be kept
        self.forfeited = False  # replies that are under way must not be kept as copies
        self.writes = 0  # own effects under way, of which the directory makes nobody wait for our copy
        self.known: list[tuple[Version, bytes]] = []  # hashes of versions, newest first
        self.policy: CopyPolicy | None = None  # what the last answer said
        self.settled = False  # it holds still, or else the directory will say so
        self.strict: bool | None = None  # what answers said; None: nothing yet
        self.listed = True  # the directory may count this session among the sharers of an older version

    @property
    def awaits(self) -> bool:
        """Whether anything is under way that may bring a copy."""
        return self.fills + self.writes > 0


class _Blob:
    __slots__ = ("data", "users")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.users: list[Line] = []  # once for each version that has these bytes, and once for each copy

    def was_used(self, hash: bytes) -> bool:
        """Whether a copy of these bytes was served since the last time that this was asked."""
        copies = [line.copy for line in self.users]
        # Each of them begins anew.
        return sum(_was_used(copy) for copy in copies if copy is not None and copy.hash == hash) > 0


class Cache:
    """Copies by key and bytes by hash, bounded.

    Args:
        bytes_max: most bytes of content kept.
        lines_max: most artifacts known; copies are at most this many too.

    Attributes:
        doubt: an own write may still happen of which nobody here will learn: no strict copy is kept meanwhile.
    """

    def __init__(self, *, bytes_max: int = 64 << 20, lines_max: int = 16_384) -> None:
        self.freshness = Freshness()
        self.doubt = False
        self._lines: OrderedDict[str, Line] = OrderedDict()
        self._blobs: OrderedDict[bytes, _Blob] = OrderedDict()
        self._bytes = 0
        self._bytes_max = bytes_max
        self._lines_max = lines_max

    # --- serving ------------------------------------------------------------------------------------------------------

    def copy(self, key: str) -> Artifact | None:
        """The copy of `key`, whether its window is open or not; None where there is none."""
        line = self._lines.get(key)
        return line.copy if line is not None else None

    def has(self, key: str, version: Version) -> bool:
        """Whether there is a copy at `version` or a newer one."""
        copy = self.copy(key)
        return copy is not None and copy.version is not None and copy.version >= version

    def serve(self, key: str, now_ns: int) -> Artifact | None:
        """The copy of `key` if it may be served now. Counts against `max_reads`."""
        copy = self.copy(key)
        if copy is None or now_ns >= copy.window.until_ns:
            return None
        if copy.reads_left is not None:
            if copy.reads_left <= 0:
                return None
            copy.reads_left -= 1
        copy.used = True
        return copy

    # --- filling ------------------------------------------------------------------------------------------------------

    def begin_fill(self, key: str) -> None:
        """A read of `key` is about to be sent: keep its floor until `end_fill`."""
        line = self._line(key)
        line.fills += 1
        line.listed = True

    def end_fill(self, key: str) -> None:
        """The read is over, whatever came of it."""
        line = self._lines.get(key)
        if line is not None and line.fills > 0:
            line.fills -= 1
            line.forfeited &= line.awaits

    def begin_write(self, key: str) -> None:
        """An own effect on `key` is about to be sent: a strict copy goes now, and none is kept until `end_write`."""
        line = self._line(key)
        line.writes += 1
        line.listed = True
        if line.copy is not None and line.copy.level == STRICT:
            self._kill(line)

    def end_write(self, key: str) -> bool:
        """What became of the effect is known, or `doubt` is raised. Whether what it wrote may be kept as a copy."""
        line = self._lines.get(key)
        if line is None or line.writes <= 0:
            return False
        line.writes -= 1
        keep = not line.forfeited
        line.forfeited &= line.awaits
        return keep

    def may_show(self, key: str, version: Version) -> bool:
        """False for a version older than one that this session has shown or written."""
        line = self._lines.get(key)
        return line is None or version >= line.seen

    def saw(self, key: str, version: Version) -> None:
        """This session has shown or written `version`, or holds a lease on it; an older copy is obsolete."""
        line = self._line(key)
        line.listed = True
        if version > line.seen:
            line.seen = version
        self._outdate(line, version)

    def strategy(self, key: str) -> str:
        """What the artifact's policy is called, as far as it was told."""
        line = self._lines.get(key)
        return line.policy.strategy if line is not None and line.policy is not None else LAZY

    def policy(self, key: str) -> CopyPolicy | None:
        """The policy of `key`; None where it is not known, or may have changed without a word."""
        line = self._lines.get(key)
        return line.policy if line is not None and line.settled else None

    def unsettle(self, key: str) -> None:
        """The directory tells this session nothing of `key` any more, so its policy may change without a word."""
        line = self._lines.get(key)
        if line is not None:
            line.settled = False

    def policy_changed(self, key: str) -> None:
        """Another policy holds: neither the copy nor what is under way may be kept under the former one."""
        self.forfeit(key)
        self.unsettle(key)

    def attach(self) -> None:
        """The session attaches anew: from now on it is told of the copies that it declares alone."""
        for line in self._lines.values():
            line.settled &= line.copy is not None

    def newest(self, key: str) -> Version | None:
        """The newest version of `key` that is known to exist, as far as that is remembered."""
        line = self._lines.get(key)
        return line.floor if line is not None else None

    def is_strict(self, key: str) -> bool | None:
        """Whether `key` is strict, as the last read said; None where none did."""
        line = self._lines.get(key)
        return line.strict if line is not None else None

    def told(self, key: str, *, strict: bool) -> None:
        """The directory says whether `key` is strict."""
        self._line(key).strict = strict

    def install(self, artifact: Artifact, policy: CopyPolicy) -> bool:
        """Keep a copy that the directory allowed to keep. False, and no copy, where something newer is known."""
        version = artifact.version
        if version is None:
            return False
        strict = artifact.level == STRICT
        line = self._line(artifact.key)
        line.policy = policy
        if line.forfeited:
            return False
        line.settled = True
        if version < line.floor:
            return False
        if strict and (line.writes or self.doubt):
            return False
        if line.copy is not None:
            if line.copy.version is not None and line.copy.version > version:
                return False
            self._kill(line)
        line.floor = version
        line.listed = True
        if policy.max_reads is not None and policy.max_reads <= 0:
            return False
        artifact.window = self.freshness.strict if strict else self.freshness.window(policy.max_age_ms)
        artifact.reads_left = policy.max_reads
        artifact.max_steps = policy.max_steps
        artifact.used = True
        line.copy = artifact
        self._keep(line, artifact.hash, artifact.bytes)
        if self._bytes > self._bytes_max:
            self._shrink()
        return line.copy is not None

    def renew(self, key: str, version: Version, level: str, policy: CopyPolicy, fetched_ns: int) -> Artifact | None:
        """The copy of `key`, if an answer that may be kept finds it as it is: what `install` would come to.

        `fetched_ns` is when the directory was asked. None where the answer says anything new.
        """
        line = self._lines.get(key)
        if line is None or line.copy is None:
            return None
        copy = line.copy
        if copy.version != version or copy.level != level:
            return None
        if not policy.plain or (line.policy is not policy and line.policy != policy):
            return None
        copy.fetched_ns = max(copy.fetched_ns, fetched_ns)
        copy.used = True
        self._blobs.move_to_end(copy.hash)
        return copy

    def keeps(self, size: int) -> bool:
        """Whether a content of `size` bytes is kept at all: a large one only where it leaves room for others."""
        return size <= max(PIECE_MAX_BYTES, self._bytes_max // LARGE_SHARE)

    def remember(self, key: str, version: Version, hash: bytes, data: bytes) -> None:
        """Keep bytes for patches and revalidation, without any permission to serve them."""
        line = self._line(key)
        known = line.known
        at = 0
        while at < len(known) and known[at][0] > version:
            at += 1
        if at < len(known) and known[at][0] == version:
            self._blobs.move_to_end(hash)  # a version has one hash for ever
            return
        self._keep(line, hash, data)
        known.insert(at, (version, hash))
        if len(known) > _KNOWN_MAX:
            _, oldest = known.pop()
            self._let_go(line, oldest)
        if self._bytes > self._bytes_max:
            self._shrink()

    # --- taking away --------------------------------------------------------------------------------------------------

    def invalidate(self, key: str, version: Version) -> None:
        """Copies below `version` are obsolete: by an invalidation, an own commit, an own lease, a refusal."""
        self._outdate(self._line(key), version)

    def shared(self, key: str) -> None:
        """The directory has made the session a sharer by itself: the next invalidation is to be acknowledged."""
        self._line(key).listed = True

    def must_acknowledge(self, key: str) -> bool:
        """Whether the directory needs to hear that no older copy is here, after an `invalidate`; asked once for each.

        Nothing since the last acknowledgement may have made the session a sharer: then it is none.
        """
        line = self._line(key)
        listed, line.listed = line.listed, line.awaits
        return listed

    def drop(self, key: str) -> None:
        """Take the permission of one artifact's copy."""
        line = self._lines.get(key)
        if line is not None:
            self._kill(line)
            line.settled = False

    def forfeit(self, key: str) -> None:
        """The directory tells of no invalidation of what it has sent of `key`: take the copy, and let none come of the
        replies that are under way."""
        line = self._lines.get(key)
        if line is not None:
            self._kill(line)
            line.forfeited = line.awaits

    def drop_all(self, *, floors: bool = False) -> None:
        """Take every permission; with `floors`, forget what versions were known too (another incarnation)."""
        for line in self._lines.values():
            self._kill(line)
            line.settled = False
            if floors:
                line.floor = line.seen = NO_VERSION

    # --- bytes --------------------------------------------------------------------------------------------------------

    def content(self, hash: bytes) -> bytes | None:
        """The bytes of that SHA-256, where they are kept."""
        blob = self._blobs.get(hash)
        if blob is None:
            return None
        self._blobs.move_to_end(hash)
        return blob.data

    def have(self, key: str) -> list[bytes]:
        """Hashes of contents of `key` that are kept, newest version first, at most 8."""
        return list(self.held(key))

    def held(self, key: str) -> dict[bytes, bytes]:
        """Contents of `key` that are kept, by hash, newest version first, at most 8."""
        line = self._lines.get(key)
        if line is None:
            return {}
        blobs = self._blobs
        return {hash: blobs[hash].data for _, hash in line.known[:HAVE_MAX]}

    def hash_at(self, key: str, version: Version) -> bytes | None:
        """The hash of that version, where known and its bytes kept."""
        line = self._lines.get(key)
        if line is not None:
            for known, hash in line.known:
                if known == version:
                    return hash
        return None

    def holdings(self) -> Iterator[tuple[str, Version]]:
        """The copies that the directory must go on invalidating."""
        for line in self._lines.values():
            if line.copy is not None and line.copy.version is not None:
                yield line.key, line.copy.version

    @property
    def bytes_held(self) -> int:
        """Bytes of content kept."""
        return self._bytes

    # --- inside -------------------------------------------------------------------------------------------------------

    def _line(self, key: str) -> Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key)
            if len(self._lines) > self._lines_max:
                self._evict_line(line)
        return line

    def _outdate(self, line: Line, version: Version) -> None:
        if version > line.floor:
            line.floor = version
        if line.copy is not None and line.copy.version is not None and line.copy.version < version:
            self._kill(line)

    def _evict_line(self, fresh: Line) -> None:
        """Drop the oldest line without a reply under way; one that was read since the last look goes to the end."""
        for _ in range(2 * len(self._lines)):
            key, line = next(iter(self._lines.items()))
            if line is fresh or line.awaits or (line.copy is not None and _was_used(line.copy)):
                self._lines.move_to_end(key)
                continue
            self._kill(line)
            known, line.known = line.known, []
            for _, hash in known:
                self._let_go(line, hash)
            del self._lines[key]
            return

    def _kill(self, line: Line) -> None:
        copy = line.copy
        if copy is None:
            return
        copy.fetched_ns = max(copy.fetched_ns, copy.window.confirmed_ns)
        copy.window = NEVER
        copy.viewers = []
        line.copy = None
        self._let_go(line, copy.hash)

    def _keep(self, line: Line, hash: bytes, data: bytes) -> None:
        blob = self._blobs.get(hash)
        if blob is None:
            blob = self._blobs[hash] = _Blob(data)
            self._bytes += len(data)
        else:
            self._blobs.move_to_end(hash)
        blob.users.append(line)

    def _let_go(self, line: Line, hash: bytes) -> None:
        """One need of these bytes is over. What nobody needs cannot be asked for again."""
        blob = self._blobs.get(hash)
        if blob is None:
            return
        blob.users.remove(line)
        if not blob.users:
            del self._blobs[hash]
            self._bytes -= len(blob.data)

    def _shrink(self) -> None:
        """Keep to the byte limit: least recently used first, where a hit since the last look counts as use."""
        spared = len(self._blobs)
        while self._bytes > self._bytes_max:
            hash, blob = next(iter(self._blobs.items()))
            if spared > 0 and blob.was_used(hash):
                spared -= 1
                self._blobs.move_to_end(hash)
                continue
            del self._blobs[hash]
            self._bytes -= len(blob.data)
            for line in blob.users:
                line.known = [entry for entry in line.known if entry[1] != hash]
                if line.copy is not None and line.copy.hash == hash:
                    self._kill(line)


def _was_used(copy: Artifact) -> bool:
    """Whether the copy was served since the last time that this was asked."""
    hits = sum(viewer.hits for viewer in copy.viewers)
    used = copy.used or hits != copy.hits_seen
    copy.used, copy.hits_seen = False, hits
    return used
