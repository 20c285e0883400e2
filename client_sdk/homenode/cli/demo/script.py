"""What the demo's agents do, turn by turn. Pure: a seed gives the same turns in both arms.

A turn is: read some pages, think, perhaps make one edit. An edit is a small change of a page's text that leaves its own
id in it, so that afterwards anyone can see whether it is still there. No edit removes another one's id: whatever is
missing at the end was lost, not edited away.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

PLAN, REVIEW = "plan.md", "review.md"
SERVICE, GUIDE, OPERATIONS = "docs/service.md", "docs/guide.md", "docs/operations.md"
PAGES = (PLAN, REVIEW, SERVICE, GUIDE, OPERATIONS)

_COUNTER = re.compile(r"^Edits: (\d+)$", re.MULTILINE)
_SECTION = re.compile(r"^## .*$", re.MULTILINE)
_UNREVIEWED = re.compile(r"^- .*\[writer-[a-z]-\d+\]$", re.MULTILINE)
_TASKS_SECTION = 1
_TASK = re.compile(r"^- \[ \] .*$", re.MULTILINE)


class Way(StrEnum):
    """How an agent writes."""

    LEASE = "lease"
    EDIT = "edit"
    PUT = "put"


class Fate(StrEnum):
    """What happens to an agent while it has the page in its hands."""

    KILLED = "killed"
    FROZEN = "frozen"


class Kind(StrEnum):
    """What an edit does to a page."""

    ADD = "add"
    REVIEW = "review"
    TICK = "tick"


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of one page. `think_ms` passes between reading the page and writing it."""

    id: str
    page: str
    kind: Kind
    section: int
    line: str
    think_ms: int
    fate: Fate | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """Pages to read, an edit or none, and how long to rest afterwards."""

    reads: tuple[str, ...]
    edit: Edit | None
    pause_ms: int


@dataclass(frozen=True, slots=True)
class Role:
    """An agent's part: the pages that it always reads, those that it edits, how, and when fate comes."""

    name: str
    kind: Kind
    way: Way
    reads: tuple[str, ...]
    edits: tuple[str, ...]
    fate: Fate | None = None
    fate_turn: int = -1
    fate_page: str = ""


WRITERS = (SERVICE, GUIDE, OPERATIONS)
CAST = (
    Role("planner", Kind.TICK, Way.LEASE, (PLAN, REVIEW), (PLAN,)),
    Role("writer-a", Kind.ADD, Way.LEASE, (PLAN, REVIEW), WRITERS),
    Role("writer-b", Kind.ADD, Way.EDIT, (PLAN, REVIEW), WRITERS),
    Role("writer-c", Kind.ADD, Way.LEASE, (PLAN, REVIEW), WRITERS, Fate.KILLED, 5, GUIDE),
    Role("writer-d", Kind.ADD, Way.LEASE, (PLAN, REVIEW), WRITERS, Fate.FROZEN, 12, SERVICE),
    Role("reviewer-e", Kind.REVIEW, Way.PUT, (PLAN,), (*WRITERS, REVIEW)),
    Role("reviewer-f", Kind.REVIEW, Way.EDIT, (PLAN,), (*WRITERS, REVIEW)),
)

_SENTENCES = (
    "A boat that waits at the pier shows its next departure on the deck board as well.",
    "The desk confirms a moved trip by radio before it is shown to passengers.",
    "In fog the boards add ten minutes to every arrival and say so.",
    "School days have one more trip at noon, on the north line only.",
    "A trip may be held for the doctor; the reason is not shown.",
    "The kiosk gets the day's exceptions on paper at six in the morning.",
    "If two boats share a pier, the smaller one leaves first.",
    "The east pier has no light after midnight; late trips end at the harbour.",
    "Group bookings of twenty and more are told to the skipper the evening before.",
    "After a storm the first trip runs without passengers.",
    "A remark in words is at most eighty letters, so that the boards can show it whole.",
    "Boats in repair are named in the timetable, with the day they are expected back.",
)


def turns(role: Role, *, seed: int, count: int, pages: Sequence[str] = PAGES) -> list[Turn]:
    """The agent's turns. The same arguments give the same turns.

    Args:
        role: the agent's part.
        seed: of the whole demo; each agent derives its own from it.
        count: how many turns.
        pages: all pages there are.
    """
    rng = random.Random(f"{seed}/{role.name}")
    made = []
    for number in range(1, count + 1):
        extra = tuple(page for page in pages if page not in role.reads and rng.random() < 0.5)
        edit = None
        if number == role.fate_turn:
            edit = _edit(role, rng, number, role.fate_page)
        elif rng.random() < 0.7:
            edit = _edit(role, rng, number, rng.choice(role.edits))
        made.append(Turn((*role.reads, *extra), edit, rng.randint(60, 180)))
    return made


def _edit(role: Role, rng: random.Random, number: int, page: str) -> Edit:
    fate = role.fate if number == role.fate_turn else None
    return Edit(
        f"{role.name}-{number}", page, role.kind, rng.randrange(6), rng.choice(_SENTENCES), rng.randint(40, 140), fate
    )


def apply(text: str, edit: Edit) -> str:
    """The page with the edit made: its id is in it, and its counter is one higher."""
    if edit.kind is Kind.TICK:
        text = _tick(text, edit)
    elif edit.kind is Kind.REVIEW and (line := _UNREVIEWED.search(text)):
        text = f"{text[: line.end()]} Agreed. [{edit.id}]{text[line.end() :]}"
    else:
        text = _insert(text, edit.section, f"- {edit.line} [{edit.id}]")
    return _COUNTER.sub(lambda found: f"Edits: {int(found[1]) + 1}", text, count=1)


def _tick(text: str, edit: Edit) -> str:
    """The next open task done, or where there is none a new one."""
    task = _TASK.search(text)
    if task is None:
        return _insert(text, _TASKS_SECTION, f"- [ ] Look again: {edit.line} [{edit.id}]")
    done = f"{task[0].replace('[ ]', '[x]', 1)} [{edit.id}]"
    return text[: task.start()] + done + text[task.end() :]


def _insert(text: str, section: int, line: str) -> str:
    """A line at the end of a section."""
    starts = [found.end() for found in _SECTION.finditer(text)]
    if not starts:
        return f"{text}{line}\n"
    begin = starts[section % len(starts)]
    following = _SECTION.search(text, begin)
    end = following.start() if following else len(text)
    body = text[:end].rstrip("\n")
    rest = f"\n{text[end:]}" if following else ""
    return f"{body}\n{line}\n{rest}"


def ids_in(text: str) -> set[str]:
    """The edits that have left their id in a page."""
    return set(re.findall(r"\[((?:planner|writer-[a-z]|reviewer-[a-z])-\d+)\]", text))


def counter(text: str) -> int:
    """How many edits the page itself counts; -1 where it counts none."""
    found = _COUNTER.search(text)
    return int(found[1]) if found else -1
