"""The folder: which files there are, what they hold, and how one is replaced without losing what came in between."""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

#: Never files of users: what mounts and editors put beside them.
IGNORED = (".homenode", ".git", "*.conflict-*", ".*.swp", "*~", ".#*")
_OLD_S = 1.0
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


class Seen(NamedTuple):
    """What a look at a file tells; where it is the same, so is the content."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class _Old(NamedTuple):
    """A file that was replaced, until nobody writes into it any more."""

    path: Path
    name: str
    hash: bytes | None
    since_s: float


class Disk:
    """A folder and what is ignored in it."""

    def __init__(self, root: Path, ignore: Sequence[str] = ()) -> None:
        self.root = root
        self._moving = root / ".homenode" / "moving"
        self._ignore = (*IGNORED, *ignore)
        self._old: list[_Old] = []

    def fits(self, name: str) -> bool:
        """Whether a name can be a file here: relative, without empty parts or dots, and not ignored."""
        parts = name.split("/")
        if any(part in ("", ".", "..") or "\0" in part or len(os.fsencode(part)) > 240 for part in parts):
            return False
        return not any(fnmatch.fnmatchcase(part, pattern) for part in parts for pattern in self._ignore)

    def scan(self) -> Iterator[tuple[str, Seen]]:
        """All regular files, by their names relative to the folder. Links are not followed."""
        for folder, folders, files in os.walk(self.root):
            here = PurePosixPath(Path(folder).relative_to(self.root))
            folders[:] = [name for name in folders if self.fits(str(here / name))]
            for file in files:
                name = str(here / file)
                if self.fits(name) and (seen := self.look(name)) is not None:
                    yield name, seen

    def look(self, name: str) -> Seen | None:
        """None where there is no regular file."""
        try:
            found = os.lstat(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return Seen(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def hash(self, name: str) -> bytes | None:
        """Of the content; None where there is no regular file."""
        if self.look(name) is None:
            return None
        try:
            with open(self.root / name, "rb", opener=_no_links) as file:
                return hashlib.file_digest(file, "sha256").digest()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def temporary(self, name: str) -> Path:
        """Where a content is put that is to take the file's place; the file's folders are made."""
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        self._moving.mkdir(parents=True, exist_ok=True)
        return self._moving / secrets.token_hex(8)

    def left_over(self) -> int:
        """How many contents were on their way, in or out, when an earlier mount was killed."""
        mine = {old.path for old in self._old}
        return sum(path not in mine for path in self._moving.iterdir()) if self._moving.is_dir() else 0

    def replace(self, name: str, new: Path | None, expected: bytes | None) -> Path | None:
        """Let `new` take the file's place (None: nothing does), if the file still holds what is expected.

        Returns where a content that was not expected is kept now, beside the file; None where none was found. `new` is
        in its place in either case.
        """
        path = self.root / name
        if new is None:
            new = self.temporary(name)
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, new)
        elif not _exchange(new, path):
            return self._put_down(name, new)
        found = self.hash(new.relative_to(self.root).as_posix())
        if found is None or found == expected:
            self._old.append(_Old(new, name, found, time.monotonic()))
            return None
        return self.keep(name, new)

    def examine(self, *, all: bool = False) -> Iterator[tuple[str, Path]]:
        """Drop what was replaced a while ago. An editor may have had it open then: what it wrote since is kept.

        Gives the file's name and the conflict copy. `all`: also what was replaced just now.
        """
        waiting, self._old = self._old, []
        for old in waiting:
            if not all and time.monotonic() - old.since_s < _OLD_S:
                self._old.append(old)
                continue
            found = self.hash(old.path.relative_to(self.root).as_posix())
            if found is not None and found != old.hash:
                yield old.name, self.keep(old.name, old.path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(old.path)

    def _put_down(self, name: str, new: Path) -> Path | None:
        """There is no file to swap with: take the place, unless somebody does so now."""
        path = self.root / name
        try:
            os.link(new, path)
        except FileExistsError:
            kept = self.keep(name, path) if path.is_file() else None
            os.replace(new, path)
            return kept
        os.unlink(new)
        return None

    def keep(self, name: str, content: Path) -> Path:
        """Name a content as the conflict copy of a file."""
        path = self.root / name
        copy = path.with_name(f"{path.stem[:150]}.conflict-{secrets.token_hex(3)}{path.suffix[:40]}")
        os.rename(content, copy)
        return copy

    def prune(self, name: str) -> None:
        """Remove the folders that a file has left empty."""
        for folder in (self.root / name).parents:
            if folder == self.root:
                return
            try:
                folder.rmdir()
            except OSError:
                return


def _exchange(a: Path, b: Path) -> bool:
    """Swap two files in one step; False where `b` is not there."""
    if _renameat2 is not None:
        if _renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
            return True
        if ctypes.get_errno() == 2:  # ENOENT
            return False
    # This system or file system cannot swap: the file's content is held by a second name while it is replaced.
    held = a.with_name(a.name + "-held")
    try:
        os.link(b, held)
    except FileNotFoundError:
        return False
    os.replace(a, b)
    os.rename(held, a)
    return True


def _no_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _load_renameat2() -> ctypes._NamedFuncPointer | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


_renameat2 = _load_renameat2()
