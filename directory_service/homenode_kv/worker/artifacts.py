"""Books of artifact versions: which are kept and told to the directory, which are superseded, what anchors rest on."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

from homenode_kv.costs import Tier
from homenode_kv.ident import SegmentKey, Version
from homenode_kv.provenance import Kind, Provenance

#: Artifacts of which more is remembered than what is kept of them.
NEWEST_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Holding:
    """KV of an artifact version, as the directory is told of it. `tier` None: it is not kept any more."""

    digest: str
    artifact: str
    version: Version
    tokens: int
    provenance: Provenance
    tier: Tier | None


@dataclass(frozen=True, slots=True)
class Known:
    """A base of an artifact version."""

    key: SegmentKey
    tokens: array[int]
    provenance: Provenance

    @property
    def version(self) -> Version:
        """Of the artifact."""
        assert self.key.version is not None
        return self.key.version


class Artifacts:
    """See the module.

    Args:
        tell: hears of every artifact version that comes, moves or goes.
        drop_anchors: forgets the anchors that come from a version, by its digest.
    """

    def __init__(self, tell: Callable[[Holding], None], drop_anchors: Callable[[str], object]) -> None:
        self._tell = tell
        self._drop_anchors = drop_anchors
        self._known: dict[str, Known] = {}  # content key -> artifact version
        self._digests: dict[str, dict[str, None]] = {}  # artifact -> content keys
        self._newest: dict[str, Version] = {}  # of artifacts that were named lately
        self._anchored: dict[str, dict[str, Version]] = {}  # artifact -> digests of versions that anchors may rest on

    def __contains__(self, digest: str) -> bool:
        return digest in self._known

    def __len__(self) -> int:
        return len(self._known)

    def dead(self, artifact: str, version: Version) -> bool:
        """Whether a later version is known here."""
        return version < self._newest.get(artifact, version)

    def newest(self, artifact: str) -> Version | None:
        """As far as it is known here."""
        return self._newest.get(artifact)

    def exact(self, artifact: str) -> bool:
        """Whether an exact base is kept of it."""
        return any(self._known[one].provenance.kind is Kind.EXACT for one in self._digests.get(artifact, ()))

    def versions(self) -> dict[str, set[Version]]:
        """The artifact versions that are kept."""
        return {
            artifact: {self._known[digest].version for digest in digests} for artifact, digests in self._digests.items()
        }

    def note(self, key: SegmentKey, tokens: array[int], provenance: Provenance, tier: Tier) -> None:
        """A base is kept from now on, or is better than it was."""
        assert key.version is not None
        self._known[key.digest] = Known(key, tokens, provenance)
        self._digests.setdefault(key.artifact, {})[key.digest] = None
        self._anchored.setdefault(key.artifact, {})[key.version_digest] = key.version
        if len(self._anchored) > NEWEST_MAX:
            for version in self._anchored.pop(next(iter(self._anchored))):
                self._drop_anchors(version)
        self.moved(key.digest, tier)

    def moved(self, digest: str, tier: Tier | None) -> None:
        """A base lies in another tier, or is kept no more (None). Nothing for what is none."""
        if (known := self._known.get(digest)) is None:
            return
        self._tell(Holding(digest, known.key.artifact, known.version, len(known.tokens), known.provenance, tier))
        if tier is None:
            del self._known[digest]
            digests = self._digests[known.key.artifact]
            del digests[digest]
            if not digests:
                del self._digests[known.key.artifact]

    def supersede(self, artifact: str, current: Version, *, deleted: bool) -> list[Known]:
        """Versions below `current` are superseded, that one too where it is a deletion: what is kept of them, the
        oldest first. The directory is told that it is not, and anchors that rest on them go."""
        self._newest[artifact] = max(current, self._newest.pop(artifact, current))
        if len(self._newest) > NEWEST_MAX:
            del self._newest[next(iter(self._newest))]

        def dead(version: Version) -> bool:
            return version < current or (deleted and version == current)

        anchored = self._anchored.get(artifact, {})
        for digest in [digest for digest, version in anchored.items() if dead(version)]:
            self._drop_anchors(digest)
            del anchored[digest]
        if not anchored:
            self._anchored.pop(artifact, None)
        old = [self._known[digest] for digest in self._digests.get(artifact, ()) if dead(self._known[digest].version)]
        for one in old:
            self.moved(one.key.digest, None)
        return sorted(old, key=lambda one: one.version)
