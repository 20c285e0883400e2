"""The two commands: what `make` offers, and what the setup says on a machine that lacks something."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TARGETS = ("run", "test", "bench", "model", "model-mutants", "sim", "faults", "gen", "check", "clean")
SMALL_TOOLS = ("bash", "sh", "dirname", "cut", "cat", "flock", "sha256sum", "grep", "mktemp", "rm")


def run(command: list[str], cwd: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PATH": path} if path else {})}
    environment.pop("PYTHON", None)
    # A test that runs under make would hand its jobserver on.
    environment = {name: value for name, value in environment.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def bare_checkout(repo_root: Path, tmp_path: Path) -> tuple[Path, str]:
    """A checkout with the setup script, and a PATH of a machine with neither root, Python, Redis nor Node."""
    (tmp_path / "deploy" / "dev").mkdir(parents=True)
    shutil.copy(repo_root / "deploy/dev/setup.sh", tmp_path / "deploy/dev")
    shutil.copy(repo_root / "pyproject.toml", tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in SMALL_TOOLS:
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    (tools / "id").write_text("#!/bin/sh\necho 1000\n")
    (tools / "id").chmod(0o755)
    return tmp_path, str(tools)


def test_make_alone_prints_what_there_is(repo_root: Path) -> None:
    result = run(["make"], repo_root)
    assert result.returncode == 0, result.stderr
    listed = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")}
    assert listed.issuperset(TARGETS)


def test_the_gate_calls_the_test_command_and_nothing_else(repo_root: Path) -> None:
    script = repo_root / ".ci/run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ['cd "$(dirname "$0")/.." && exec make test']


@pytest.mark.parametrize(
    ("step", "missing"),
    [
        ("env", "Python 3.11 or later"),
        ("gen", "Python 3.11 or later"),
        ("redis", "redis-server 7.0 or later"),
        ("prometheus", "prometheus, promtool or amtool"),
    ],
)
def test_without_root_one_line_says_what_is_missing(bare_checkout: tuple[Path, str], step: str, missing: str) -> None:
    checkout, path = bare_checkout
    result = run(["deploy/dev/setup.sh", step], checkout, path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"setup: missing: {missing}")


def test_one_of_several_tools_is_not_enough(bare_checkout: tuple[Path, str]) -> None:
    checkout, path = bare_checkout
    for name in ("prometheus", "promtool", "amtool"):
        assert run(["deploy/dev/setup.sh", "prometheus"], checkout, path).returncode == 1
        (Path(path) / name).touch(mode=0o755)
    assert run(["deploy/dev/setup.sh", "prometheus"], checkout, path).returncode == 0


def test_an_old_redis_counts_as_missing(bare_checkout: tuple[Path, str]) -> None:
    checkout, path = bare_checkout
    old = Path(path) / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64'\n")
    old.chmod(0o755)
    assert run(["deploy/dev/setup.sh", "redis"], checkout, path).returncode == 1
    old.write_text(old.read_text().replace("v=6.0.16", "v=7.0.15"))
    assert run(["deploy/dev/setup.sh", "redis"], checkout, path).returncode == 0


def test_an_environment_that_is_up_to_date_is_left_alone(repo_root: Path) -> None:
    stamp = repo_root / ".venv/.homenode-stamp"
    assert run(["deploy/dev/setup.sh", "env"], repo_root).returncode == 0
    before = stamp.stat().st_mtime_ns
    result = run(["deploy/dev/setup.sh", "env"], repo_root)
    assert (result.returncode, result.stderr) == (0, "")
    assert stamp.stat().st_mtime_ns == before
