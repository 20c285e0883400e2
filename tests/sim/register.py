"""Whether strict reads are linearizable: each artifact is a register whose every write has a version of its own.

Versions are ordered as the directory committed them, so two rules are enough. A read gives no version older than one
that an operation had given, or written, when it completed before the read began. And nothing is read from the future:
what a read gave had been committed when the read ended. Together they put every operation at a moment between its
beginning and its end: those of one version in the order of their ends, after all of older versions.
"""

from __future__ import annotations

from homenode_directory.protocol.model import Version

NOTHING = Version(0, 0)


class Register:
    """What was read and written of one artifact, in the order of real time."""

    def __init__(self) -> None:
        self._completed = NOTHING

    def begin(self) -> Version:
        """A read begins: what it must at least give."""
        return self._completed

    def complete(self, version: Version) -> None:
        """An operation has given or written `version`."""
        self._completed = max(self._completed, version)

    def is_stale(self, least: Version, version: Version | None) -> bool:
        """Whether a strict read that began at `least` must not give `version` (None: that there is nothing).

        Linearizability is promised within one incarnation: what a lost memory had is not compared.
        """
        if version is None:
            return False
        return version.incarnation == least.incarnation and version < least
