"""Real edits: what a Git repository's history did to its Markdown and Python files, version by version."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

PATTERNS = ("*.md", "*.py")
VERSIONS_MAX = 400
FILE_BYTES_MAX = 256 << 10
_COMMITS_MAX = 20_000
_WAIT_S = 60.0


class CorpusError(ValueError):
    """Nothing to replay: no repository, no Git, or no file with two versions."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Files, those with the most versions first; the texts of each, oldest first, no two neighbours alike."""

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    def after(self, number: int, index: int) -> str | None:
        """What the file's next version was; None: it was the last."""
        versions = self.texts[number]
        return versions[index + 1] if index + 1 < len(versions) else None


def pinned(path: str) -> str:
    """A repository as it is now, to be loaded in any process. Raises CorpusError."""
    return f"{path}@{_git(path, 'rev-parse', 'HEAD').decode().strip()}"


@lru_cache(maxsize=4)
def load(place: str, count: int) -> Corpus:
    """The `count` files of a `pinned` repository that changed most often. Raises CorpusError."""
    path, _, commit = place.rpartition("@")
    changes: dict[str, list[str]] = {}
    for changed_by, name in _changes(path, commit):
        changes.setdefault(name, []).append(changed_by)
    ranked = sorted(changes, key=lambda name: (-len(changes[name]), name))
    found: dict[str, tuple[str, ...]] = {}
    for name in ranked:
        texts = _texts(path, name, changes[name][:VERSIONS_MAX])
        if len(texts) > 1:
            found[name] = texts
        if len(found) == count:
            return Corpus(tuple(found), tuple(found.values()))
    raise CorpusError(
        f"{path}: {len(found)} files of {', '.join(PATTERNS)} with two versions or more, {count} are needed"
    )


def _changes(path: str, commit: str) -> Iterator[tuple[str, str]]:
    """(commit, file) of every version of every file, in the order of the main line."""
    said = _git(
        path, "log", "--first-parent", "--reverse", f"--max-count={_COMMITS_MAX}", "--format=%x01%H", "-z",
        "--name-only", "--no-renames", "--diff-filter=AM", "-m", commit, "--", *PATTERNS,
    )  # fmt: skip
    at = ""
    for word in said.decode("utf-8", "surrogateescape").replace("\n", "\0").split("\0"):
        if word.startswith("\1"):
            at = word[1:]
        elif word:
            yield at, word


def _texts(path: str, name: str, commits: Sequence[str]) -> tuple[str, ...]:
    asked = "".join(f"{commit}:{name}\n" for commit in commits)
    said = _git(path, "cat-file", "--batch", asked=asked.encode("utf-8", "surrogateescape"))
    texts: list[str] = []
    at = 0
    while at < len(said):
        end = said.index(b"\n", at)
        head = said[at:end].split()
        if head[-1] == b"missing":
            at = end + 1
            continue
        size = int(head[-1])
        body, at = said[end + 1 : end + 1 + size], end + 2 + size
        try:
            text = body.decode()
        except UnicodeDecodeError:
            continue
        if 0 < size <= FILE_BYTES_MAX and (not texts or texts[-1] != text):
            texts.append(text)
    return tuple(texts)


def _git(path: str, *words: str, asked: bytes = b"") -> bytes:
    try:
        done = subprocess.run(["git", "-C", path, *words], input=asked, capture_output=True, timeout=_WAIT_S)
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise CorpusError(f"git cannot be run: {failure}") from None
    if done.returncode:
        raise CorpusError(f"{path}: {done.stderr.decode('utf-8', 'replace').strip() or 'git failed'}")
    return done.stdout
