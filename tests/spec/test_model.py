"""The TLA+ specification: TLC agrees with it, and its parts agree with each other and with the protocol's events."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from homenode_directory.protocol import events
from tests.spec.traces import TLA, tla_run

RULES_WITH_MUTANTS = {1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 13}  # of the design's rules; the others are not about coherence


run = tla_run()
MANIFEST = run.load_manifest()
CONFIGS = {config["name"]: config for config in MANIFEST["configs"]}
FAST = [config for config in MANIFEST["configs"] if config["tier"] == "fast"]
SPEC = "\n".join(path.read_text(encoding="utf-8") for path in sorted(TLA.glob("*.tla")))


def _config_text(name: str) -> str:
    return (TLA / f"MC_{name}.cfg").read_text(encoding="utf-8")


def _defined(name: str, text: str = SPEC) -> bool:
    return re.search(rf"^{name}(\([^)]*\))? ==", text, re.MULTILINE) is not None


@pytest.mark.tlc
@pytest.mark.parametrize("config", FAST, ids=lambda config: config["name"])
def test_fast_configuration_comes_out_as_pinned(config: dict[str, Any]) -> None:
    outcome = run.run_tlc("Homenode", _config_text(config["name"]), None, workers=2, timeout_s=300)
    assert run.judge_config(config, outcome) == [], outcome.output[-4000:]


@pytest.mark.tlc
def test_a_broken_rule_is_found_and_a_broken_module_is_not_taken_for_it(tmp_path: Path) -> None:
    mutant = next(mutant for mutant in MANIFEST["mutants"] if mutant["name"] == "version_reused")
    found = run.run_tlc(mutant["name"], run.mutant_config(mutant), run.mutant_module(mutant), workers=1, timeout_s=300)
    assert found.broken == mutant["breaks"], found.output[-4000:]

    unreadable = tmp_path / f"{mutant['name']}.tla"
    unreadable.write_text(run.mutant_module(mutant).read_text(encoding="utf-8").replace("==", "="), encoding="utf-8")
    failed = run.run_tlc(mutant["name"], run.mutant_config(mutant), unreadable, workers=1, timeout_s=300)
    assert (failed.broken, failed.exit_code != 0) == ("", True)


def test_every_configuration_file_is_in_the_manifest() -> None:
    assert {path.stem for path in TLA.glob("MC_*.cfg")} == {f"MC_{name}" for name in CONFIGS}
    assert FAST and all(config["tier"] in {"fast", "model"} for config in CONFIGS.values())


def test_every_configuration_pins_a_count_and_reaches_something() -> None:
    for config in CONFIGS.values():
        assert config["states"] > 1 and config["situations"], config["name"]


def test_every_invariant_is_checked_everywhere() -> None:
    checked = {
        name: set(re.split(r"^INVARIANTS$", _config_text(name), flags=re.MULTILINE)[1].split()) for name in CONFIGS
    }
    everything = set.union(*checked.values())
    assert all(invariants == everything for invariants in checked.values())
    assert all(_defined(invariant) for invariant in everything)


def test_every_situation_is_reached_by_some_configuration() -> None:
    spoken = set(re.findall(r'Seen\(\d+, "(\w+)"', SPEC))
    reached = {situation for config in CONFIGS.values() for situation in config["situations"]}
    assert spoken == reached


def test_mutants_and_files_agree() -> None:
    mutants = MANIFEST["mutants"]
    assert {path.stem for path in (TLA / "mutants").iterdir()} == {mutant["name"] for mutant in mutants}
    for mutant in mutants:
        module = run.mutant_module(mutant).read_text(encoding="utf-8")
        assert f"MODULE {mutant['name']} " in module and "EXTENDS Homenode" in module
        assert _defined(mutant["by"], module), mutant["name"]
        assert _defined(mutant["rule"]), mutant["name"]
        assert mutant["config"] in CONFIGS
        kind = "PROPERTIES" if mutant["breaks"] in run.LIVENESS else "INVARIANTS"
        assert mutant["breaks"] in _config_text(mutant["config"]).split(f"\n{kind}\n")[1].split()


def test_every_promise_has_a_mutant() -> None:
    """An invariant that no mutant breaks might hold because it says nothing."""
    broken = {mutant["breaks"] for mutant in MANIFEST["mutants"]}
    assert {
        "SWMR", "NoStaleCommit", "NoLostUpdate", "VersionsRise", "OneEffect", "OneAnswer", "LazyAge", "StrictCopies",
        "StepAge", "OldCopiesDead", "MonotoneReads", "SharersCover", "FenceUnique", "AnswersTrue", "VersionIsContent",
        "ResumeLosesNothing", "TrueReads", "NeverIsNever", "PendingPublished", "LeaseFreed", "CatchesUp",
    } == broken  # fmt: skip


def test_every_rule_has_a_mutant() -> None:
    assert {mutant["guarantee"] for mutant in MANIFEST["mutants"]} == RULES_WITH_MUTANTS


def test_actions_are_named_as_the_events() -> None:
    names = {
        name
        for name, event in vars(events).items()
        if isinstance(event, type) and dataclasses.is_dataclass(event) and event.__module__ == events.__name__
    }
    assert all(_defined(name) for name in names)
