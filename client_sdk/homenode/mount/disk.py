"""The folder: which files there are, what they hold, and how one is replaced without losing what came in between."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import fnmatch
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

#: Never files of users: what mounts and editors put beside them.
IGNORED = (".homenode", ".git", "*.conflict-*", ".*.swp", "*~", ".#*")
_OLD_S = 1.0
_INCOMING = "in-"
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
    """A folder and what is ignored in it.

    What is on its way lies in `.homenode/moving`: what comes from the directory as `in-TOKEN`, and what is swapped with
    a file as `TOKEN/NAME`, so that whoever finds it later knows whose content it is.
    """

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

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Meanwhile no other mount of the folder is at work; False where one is already."""
        self._moving.mkdir(parents=True, exist_ok=True)
        with open(self._moving.parent / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError:
                pass  # a file system without locks
            yield True

    def temporary(self) -> Path:
        """Where a content is put that is to take a file's place."""
        self._moving.mkdir(parents=True, exist_ok=True)
        return self._moving / f"{_INCOMING}{secrets.token_hex(8)}"

    def _aside(self, name: str) -> Path:
        """Where a content is swapped with the file's, or moved to."""
        path = self._moving / secrets.token_hex(8) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def left_over(self) -> Iterator[tuple[str, Path]]:
        """The contents that were being swapped when an earlier mount was killed, with the names of their files.

        One of which the name is not known has "". What was coming in is removed: the directory has it.
        """
        mine = {old.path for old in self._old}
        for folder, _, files in os.walk(self._moving, topdown=False):
            for path in (Path(folder, file) for file in files):
                _, *name = path.relative_to(self._moving).parts
                if not name and path.name.lstrip(".").startswith(_INCOMING):
                    path.unlink()
                elif path not in mine:
                    yield "/".join(name), path
            if folder != str(self._moving):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def drop(self, path: Path) -> None:
        """Remove a content that was swapped out, and is elsewhere."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._clear(path)

    def put_back(self, name: str, content: Path) -> Path | None:
        """A content that is nowhere else takes the file's place; where there is a file, it is kept beside it.

        Returns where it is kept, or None.
        """
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(content, path)
        except (FileExistsError, NotADirectoryError):
            return self.keep(name, content)
        self.drop(content)
        return None

    def replace(self, name: str, new: Path | None, expected: bytes | None) -> Path | None:
        """Let `new` take the file's place (None: nothing does), if the file still holds what is expected.

        Returns where a content that was not expected is kept now, beside the file; None where none was found. `new` is
        in its place in either case. Raises OSError; then the file is as it was.
        """
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        aside = self._aside(name)
        if new is None:
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, aside)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.rename(new, aside)
            try:
                if not _exchange(aside, path, lambda: self._aside(name)):
                    return self._put_down(name, aside)
            except OSError:
                self.drop(aside)
                raise
        found = self.hash(aside.relative_to(self.root).as_posix())
        if found is None or found == expected:
            self._old.append(_Old(aside, name, found, time.monotonic()))
            return None
        return self.keep(name, aside)

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
                self.drop(old.path)

    def _put_down(self, name: str, new: Path) -> Path | None:
        """There is no file to swap with: take the place, unless somebody does so now."""
        path = self.root / name
        try:
            os.link(new, path)
        except FileExistsError:
            kept = self.keep(name, path) if path.is_file() else None
            os.replace(new, path)
            self._clear(new)
            return kept
        self.drop(new)
        return None

    def keep(self, name: str, content: Path) -> Path:
        """Name a content as the conflict copy of a file."""
        path = self.root / name
        copy = path.with_name(f"{path.stem[:150]}.conflict-{secrets.token_hex(3)}{path.suffix[:40]}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.rename(content, copy)
        self._clear(content)
        return copy

    def prune(self, name: str) -> None:
        """Remove the folders that a file has left empty."""
        _prune(self.root / name, self.root)

    def _clear(self, path: Path) -> None:
        """Remove the folders that what was on its way has left empty."""
        if path.is_relative_to(self._moving):
            _prune(path, self._moving)


def _prune(path: Path, top: Path) -> None:
    for folder in path.parents:
        if folder == top:
            return
        try:
            folder.rmdir()
        except OSError:
            return


def _exchange(a: Path, b: Path, aside: Callable[[], Path]) -> bool:
    """Swap two files in one step; False where `b` is not there. Raises OSError; then they are as they were."""
    if _renameat2 is not None:
        if _renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
            return True
        if ctypes.get_errno() == 2:  # ENOENT
            return False
    # This system or file system cannot swap: the file's content is held by a second name while it is replaced.
    held = aside()
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
