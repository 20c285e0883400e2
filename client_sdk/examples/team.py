"""What examples share: a plan, what a model would do with it, and agents in processes of their own."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from directory_process import directory

import homenode

KEY, ROUNDS, AGENTS = "team/plan.md", 6, 3
#: How long the model thinks before it calls a tool.
THINK_S = 0.02
PLAN = "# Plan\n" + "".join(f"{n}. a step that every agent needs and nobody changes\n" for n in range(60))


class Planner:
    """Stands for a model. In each round it looks at the plan, writes it back whole with one more item, and looks again.

    Where the write is refused it begins anew. What it knows of the plan is what tools told it, and what it wrote.

    Args:
        who: its name, which stands in its items.
        read, write: the tools that show and replace the plan.
        versions: whether those tell versions and are to be told them, as Homenode's are.
    """

    def __init__(self, who: str, read: str = "read_plan", write: str = "write_plan", *, versions: bool = False) -> None:
        self._who, self._read, self._write, self._versions = who, read, write, versions
        self._known = self._draft = self._version = self._step = ""
        self._round = 0

    def turn(self, heard: str) -> tuple[str, dict[str, Any]] | None:
        """The tool to call, and with what, after what the last one said; None where the round is over."""
        if self._step == "write":
            written = heard.startswith("written")
            if written:
                self._known, self._version, self._round = self._draft, heard.split()[-1], self._round + 1
            self._step = "check" if written else "look"
        elif self._step == "look":
            self._learn(heard)
            self._step, self._draft = "write", f"{self._known}- {self._who}, item {self._round}\n"
            return self._write, {"text": self._draft} | ({"key": KEY, "base": self._version} if self._versions else {})
        elif self._step == "check":
            self._learn(heard)
            self._step = ""
            return None
        else:
            self._step = "look"
        told = {"key": KEY, "since": self._version} if self._version else {"key": KEY}
        return self._read, told if self._versions else {}

    def _learn(self, heard: str) -> None:
        if not self._versions:
            self._known = heard.rstrip("\n") + "\n"
            return
        head, _, shown = heard.partition("\n")
        found = re.fullmatch(r"version ([^ ,]+)(, unchanged)?", head)
        assert found, heard
        self._version = found[1]
        if shown.startswith("@@ "):  # what others changed, for a reader who knows the rest
            self._known = homenode.apply_change(self._known, homenode.Change(homenode.ChangeKind.CHANGE, shown, 0, 0))
        elif not found[2]:
            self._known = shown


def put_plan(url: str) -> None:
    """The plan as it is before anybody works on it."""
    with homenode.connect_sync(url, agent="lead") as hn:
        hn.put(KEY, PLAN, base=homenode.ANY)


def get_plan(url: str) -> str:
    """The plan as it is now."""
    with homenode.connect_sync(url, agent="lead") as hn:
        return hn.read(KEY).text


def play(
    own: str,
    without: Callable[[], str],
    agent: Callable[[str, str], int],
    begin: Callable[[str], None] = put_plan,
    end: Callable[[str], str] = get_plan,
) -> None:
    """Run an example: `EXAMPLE [ADDRESS]`. Its agents run as `EXAMPLE ADDRESS WHO`.

    Args:
        own: what is used without Homenode; `without` runs two agents on it, and returns the plan in the end.
        agent: runs one agent, and returns how many tokens were saved.
        begin, end: put the plan into the directory, and get it.
    """
    if len(sys.argv) == 3:
        print(agent(sys.argv[1], sys.argv[2]))
        return
    print(f"in {own}: {2 * ROUNDS} added, {without().count(', item ')} there")
    with contextlib.nullcontext(sys.argv[1]) if len(sys.argv) == 2 else directory() as url:
        begin(url)
        command = [sys.executable, sys.argv[0], url]
        agents = [subprocess.Popen([*command, f"agent{n}"], stdout=subprocess.PIPE, text=True) for n in range(AGENTS)]
        saved = sum(int(one.communicate()[0].split()[-1]) for one in agents)
        print(f"in Homenode: {AGENTS * ROUNDS} added, {end(url).count(', item ')} there, from {AGENTS} processes")
        print(f"{saved} tokens saved, by a plan of {homenode.estimate_tokens(PLAN)} tokens")
