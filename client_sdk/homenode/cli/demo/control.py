"""One agent of the control arm: the same role and turns on plain shared files.

It reads the file at every access (pull), and writes it whole (the last write wins). A write replaces the file at once,
so nobody ever reads half a page: what gets lost is lost by the order of reads and writes alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from homenode.cli.demo import script
from homenode.cli.demo.records import COST, DONE, EDIT, HOLDING, READ, await_go, clock_ns, emit, tokens
from homenode.cli.demo.script import Edit, Fate
from homenode.cli.session import write_file


class Agent:
    """Plays a role's turns on files under `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, str] = {}
        self._reads = 0
        self._bytes = 0
        self._tokens = 0
        self._tokens_changed = 0

    def play(self, turns: list[script.Turn]) -> None:
        """All turns, one after the other."""
        for turn in turns:
            for page in turn.reads:
                self._read(page)
            if turn.edit is not None:
                self._edit(turn.edit)
            emit(COST, hits=0, misses=self._reads, bytes=self._bytes, tokens=self._tokens, changed=self._tokens_changed)
            time.sleep(turn.pause_ms / 1000)

    def _read(self, page: str) -> str:
        began = clock_ns()
        data = (self._folder / page).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        self._reads += 1
        self._bytes += len(data)
        self._tokens += tokens(len(data))
        if self._seen.get(page) != digest:
            self._tokens_changed += tokens(len(data))
        self._seen[page] = digest
        emit(READ, page=page, began=began, hit=False)
        return data.decode()

    def _edit(self, edit: Edit) -> None:
        text = script.apply(self._read(edit.page), edit)
        if edit.fate is not None:
            emit(HOLDING, page=edit.page, id=edit.id, fate=edit.fate, at=clock_ns())
        if edit.fate is Fate.KILLED:
            time.sleep(3_600)
        if edit.fate is Fate.FROZEN:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            time.sleep(edit.think_ms / 1000)
        data = text.encode()
        sent = clock_ns()
        write_file(self._folder / edit.page, data)
        self._bytes += len(data)
        self._seen[edit.page] = hashlib.sha256(data).hexdigest()
        emit(EDIT, page=edit.page, id=edit.id, sent=sent, acked=clock_ns(), tries=1)


def main(spec: dict[str, Any]) -> None:
    """Wait for the others, play."""
    role = next(role for role in script.CAST if role.name == spec["role"])
    turns = script.turns(role, seed=spec["seed"], count=spec["turns"])
    await_go()
    Agent(Path(spec["folder"])).play(turns)
    emit(DONE)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
