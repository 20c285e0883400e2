"""The checks of the wire contract catch what they are there for: a break, an untidy name, stale generated code."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.node

TYPES = Path("proto/homenode_api/v1/types.proto")


@pytest.fixture
def contract(repo_root: Path, tmp_path: Path) -> Path:
    """A copy of proto/ and of the generator's script and environment, to be changed by the test."""
    shutil.copytree(repo_root / "proto", tmp_path / "proto", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "deploy" / "dev").mkdir(parents=True)
    shutil.copy(repo_root / "deploy/dev/generate.sh", tmp_path / "deploy/dev")
    assert (repo_root / ".gen/bin/python").exists(), "no generator here: run `make tools`"
    (tmp_path / ".gen").symlink_to(repo_root / ".gen")
    return tmp_path


def buf(repo_root: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    tool = repo_root / "deploy/dev/node/node_modules/.bin/buf"
    assert tool.exists(), "buf is not installed: run `make tools`"
    return subprocess.run([str(tool), *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def breaking(repo_root: Path, contract: Path) -> subprocess.CompletedProcess[str]:
    return buf(repo_root, contract, "breaking", "proto", "--against", "proto/baseline.json")


def verify_generated(contract: Path) -> subprocess.CompletedProcess[str]:
    script = contract / "deploy/dev/generate.sh"
    return subprocess.run([str(script), "--verify"], cwd=contract, capture_output=True, text=True, timeout=120)


def change(contract: Path, pattern: str, replacement: str) -> None:
    """Replaces the first match in types.proto; there has to be one."""
    path = contract / TYPES
    text, count = re.subn(pattern, replacement, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


def test_a_renumbered_field_breaks_the_contract(repo_root: Path, contract: Path) -> None:
    assert breaking(repo_root, contract).returncode == 0
    change(contract, r"uint64 sequence = 2;", "uint64 sequence = 3;")
    result = breaking(repo_root, contract)
    assert result.returncode != 0
    assert "Position" in result.stdout


def test_a_new_field_does_not_break_the_contract(repo_root: Path, contract: Path) -> None:
    change(contract, r"uint64 sequence = 2;", "uint64 sequence = 2;\n  uint64 one_more = 1000;")
    result = breaking(repo_root, contract)
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_untidy_name_is_refused(repo_root: Path, contract: Path) -> None:
    assert buf(repo_root, contract, "lint", "proto").returncode == 0
    change(contract, r"uint64 sequence = 2;", "uint64 Sequence = 2;")
    result = buf(repo_root, contract, "lint", "proto")
    assert result.returncode != 0
    assert "lower_snake_case" in result.stdout


def test_stale_generated_code_is_refused(contract: Path) -> None:
    result = verify_generated(contract)
    assert result.returncode == 0, result.stdout + result.stderr
    change(contract, r"uint64 sequence = 2;", "uint64 sequence = 2;\n  uint64 one_more = 1000;")
    result = verify_generated(contract)
    assert result.returncode == 1
    assert "types_pb2.py" in result.stdout
    assert "make gen" in result.stderr


def test_generated_code_without_its_source_is_refused(contract: Path) -> None:
    (contract / "proto/homenode_api/v1/gone_pb2.py").write_text("")
    result = verify_generated(contract)
    assert result.returncode == 1
    assert "gone_pb2.py" in result.stdout
