"""What must hold of the whole history of a run:

- lost update: a committed version that does not continue the one before it;
- double effect: an edit that stands twice;
- lost acknowledgement: an acknowledged edit that a later version of the same memory does not have;
- a version number that stands for two contents, or goes back;
- whatever else the auditor of logs looks for, and the judges of recorded histories: they have no part in the checks
  above, nor in those that agents make while they read.
"""

from __future__ import annotations

from homenode_directory.protocol.model import Version
from tests.sim.sdk import DRIFT
from tests.sim.store import Committed
from tests.sim.world import HEAD, MAX_AGE_MS, MIXED, SCRATCH, STRICT_KEYS, World


def judge(world: World) -> None:
    """See the module."""
    for found in world.history.auditor.violations:
        world.problem(f"the log shows: {found.rule}: {found.artifact}: {found.text} ({found.where})")
    if not world.history.wiped_at_s:  # else what was there is gone, and no order of operations says so
        for problem in world.recording.problems(MAX_AGE_MS * (1 + 2 * DRIFT)):
            world.problem(problem)
    for name, versions in world.history.versions.items():
        key = name.split("/", 2)[2]
        contents: dict[Version, str | None] = {}
        for committed in versions:
            if contents.setdefault(committed.version, committed.hash) != committed.hash:
                world.problem(f"{key}: {committed.version} stands for two contents")
        _judge_edits(world, key, _judge_texts(world, key, versions))


def _judge_texts(world: World, key: str, versions: list[Committed]) -> str:
    """The text that came of it all."""
    text = ""
    newest, newest_at_s = Version(0, 0), 0.0
    for committed in versions:
        if committed.version <= newest:
            world.problem(f"{key}: {committed.version} was committed after {newest}")
        if any(newest_at_s <= wiped_s <= committed.at_s for wiped_s in world.history.wiped_at_s):
            text = ""
        newest, newest_at_s = committed.version, committed.at_s
        if committed.hash is None:
            text = ""
            continue
        now = world.texts[committed.hash]
        before = text or HEAD.get(key, "")
        same = now == text and key in (
            MIXED,
            SCRATCH,
            *STRICT_KEYS,
        )  # a change of policy is a version with the same content
        if not same and (not now.startswith(before) or now[len(before) :].count("\n") != 1):
            world.problem(f"{key}: {committed.version} does not continue the version before it")
        text = now
    return text


def _judge_edits(world: World, key: str, text: str) -> None:
    for line, outcome in world.edits.get(key, {}).items():
        times = text.count(line)
        if times > 1:
            world.problem(f"{key}: the edit {line.strip()} stands {times} times")
        if outcome == "acknowledged" and times == 0 and not world.history.wiped_at_s:
            world.problem(f"{key}: the acknowledged edit {line.strip()} is missing")
        if outcome == "refused" and times:
            world.problem(f"{key}: the refused edit {line.strip()} took effect")
