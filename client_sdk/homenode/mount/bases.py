"""What folder and directory last agreed on, kept in the folder, so that a mount that was killed goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from homenode.errors import InvalidArgument
from homenode.mount.plan import Remote
from homenode.versions import Version

_FORMAT = 1


class Bases:
    """The base of each file, by name.

    Args:
        file: where they are kept. It is replaced at once or not at all.
        address: of what is mounted here; the folder of another one is refused with InvalidArgument.
    """

    def __init__(self, file: Path, address: str) -> None:
        self._file = file
        self._address = address
        self._changed = False
        self._known: dict[str, Remote] = {}
        if file.exists():
            self._load()

    def _load(self) -> None:
        try:
            kept = json.loads(self._file.read_text())
            address, files = kept["address"], kept["files"]
            known = {name: Remote(Version.parse(text), bytes.fromhex(hash)) for name, (text, hash) in files.items()}
        except (OSError, ValueError, KeyError, TypeError) as failure:
            raise InvalidArgument(f"{self._file} cannot be read ({failure}): remove it to begin anew") from None
        if kept.get("format") != _FORMAT or address != self._address:
            raise InvalidArgument(f"{self._file.parent.parent} is a mount of {address}, not of {self._address}")
        self._known = known

    def get(self, name: str) -> Remote | None:
        """The base of a file."""
        return self._known.get(name)

    def agree(self, name: str, base: Remote | None) -> None:
        """Folder and directory agree on this; None: that there is nothing."""
        if base is None:
            self._known.pop(name, None)
        else:
            self._known[name] = base
        self._changed = True

    def names(self) -> set[str]:
        """Of all files that have a base."""
        return set(self._known)

    def save(self) -> None:
        """Write them down, if they changed."""
        if not self._changed:
            return
        self._file.parent.mkdir(exist_ok=True)
        files = {name: (str(base.version), base.hash.hex()) for name, base in self._known.items()}
        temporary = self._file.with_suffix(".new")
        with temporary.open("w") as out:
            json.dump({"format": _FORMAT, "address": self._address, "files": files}, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, self._file)
        self._changed = False
