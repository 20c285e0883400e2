"""The layers of the code hold, and the contracts that say so do catch a violation."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SOURCE_ROOTS = ("proto", "directory_service", "client_sdk")
# What the rules may use: data and types, nothing that reads a clock, a random source or the outside.
PROTOCOL_MAY_IMPORT = {
    "__future__",
    "abc",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "types",
    "typing",
}

# (contract, file that is changed, line that breaks it)
SERVER = "directory_service/homenode_directory"
KV = "directory_service/homenode_kv"
SDK = "client_sdk/homenode"
VIOLATIONS = [
    ("protocol-is-pure", f"{SERVER}/protocol/transitions.py", "import time"),
    ("protocol-is-pure", f"{SERVER}/protocol/model.py", "import asyncio"),
    ("server-layers", f"{SERVER}/protocol/model.py", "import homenode_directory.store.base"),
    ("server-layers", f"{SERVER}/store/base.py", "import homenode_directory.slice"),
    ("server-layers", f"{SERVER}/directory.py", "import homenode_directory.api.wire"),
    ("server-layers", f"{SERVER}/nowhere.py", ""),
    ("store-knows-no-rules", f"{SERVER}/store/base.py", "import homenode_directory.protocol.events"),
    ("delivery-never-calls-directory", f"{SERVER}/delivery.py", "import homenode_directory.directory"),
    ("directory-knows-no-grpc", f"{SERVER}/directory.py", "import grpc"),
    ("wire-alone-translates", f"{SERVER}/directory.py", "import homenode_api.v1.types_pb2"),
    ("api-leaves-rules-to-wire", f"{SERVER}/api/stream.py", "import homenode_directory.protocol.events"),
    ("redis-in-one-module", f"{SERVER}/directory.py", "import redis"),
    ("redis-in-one-module", f"{SDK}/errors.py", "import redis.asyncio"),
    ("otel-at-the-edges", f"{SDK}/errors.py", "import opentelemetry.trace"),
    ("otel-at-the-edges", f"{SERVER}/api/stream.py", "import opentelemetry.trace"),
    ("kv-stays-apart", f"{SDK}/errors.py", "import torch"),
    ("kv-stays-apart", f"{SERVER}/directory.py", "import homenode_kv"),
    ("kv-is-a-client", f"{KV}/segments.py", "import homenode_directory.place"),
    ("kv-layers", f"{KV}/pool.py", "import homenode_kv.segments"),
    ("kv-layers", f"{KV}/nowhere.py", ""),
    ("tensors-in-tensor-modules", f"{KV}/ident.py", "import torch"),
    ("tensors-in-tensor-modules", f"{KV}/rope.py", "import transformers"),
    ("sdk-is-light", f"{SDK}/errors.py", "import homenode_directory.protocol.model"),
    ("sdk-is-light", f"{SDK}/errors.py", "import rich"),
    ("sdk-is-light", f"{SDK}/errors.py", "import grpc"),
    ("server-knows-no-sdk", f"{SERVER}/directory.py", "import homenode.errors"),
    ("http2-without-io", "proto/homenode_api/http2/stream.py", "import asyncio"),
    ("api-depends-on-nothing", "proto/homenode_api/patch.py", "import homenode_directory.place"),
]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter over the source roots in `root` with the contracts of its pyproject.toml."""
    tool = Path(sys.executable).with_name("lint-imports")
    path = os.pathsep.join(str(root / source) for source in SOURCE_ROOTS)
    environment = {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "200"}
    command = [str(tool), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def checkout_copy(repo_root: Path, tmp_path: Path) -> Path:
    """The source roots and pyproject.toml, to be changed by the test."""
    for source in SOURCE_ROOTS:
        shutil.copytree(repo_root / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repo_root / "pyproject.toml", tmp_path)
    return tmp_path


def contract_names(root: Path) -> dict[str, str]:
    """Contract id -> its name, as import-linter prints it."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    return {contract["id"]: contract["name"] for contract in settings["tool"]["importlinter"]["contracts"]}


def test_contracts_hold(repo_root: Path) -> None:
    result = lint_imports(repo_root)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("contract", "file", "line"), VIOLATIONS, ids=lambda value: str(value).rsplit("/", 1)[-1])
def test_a_planted_violation_is_caught(checkout_copy: Path, contract: str, file: str, line: str) -> None:
    path = checkout_copy / file
    source = path.read_text() if path.exists() else ""
    path.write_text(f"{source}\n{line}\n")
    result = lint_imports(checkout_copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{contract_names(checkout_copy)[contract]} BROKEN" in result.stdout


def test_every_contract_has_a_planted_violation(repo_root: Path) -> None:
    assert set(contract_names(repo_root)) == {contract for contract, _, _ in VIOLATIONS}


def imported_modules(path: Path) -> set[str]:
    """Full names of the modules that a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def test_protocol_imports_only_data_and_types(repo_root: Path) -> None:
    folder = repo_root / "directory_service/homenode_directory/protocol"
    files = sorted(folder.glob("**/*.py"))
    assert len(files) >= 4
    for file in files:
        for name in imported_modules(file):
            own = name == "homenode_directory.protocol" or name.startswith("homenode_directory.protocol.")
            assert own or name.split(".")[0] in PROTOCOL_MAY_IMPORT, f"{file.name} imports {name}"


def test_nothing_imports_tests(repo_root: Path) -> None:
    for source in SOURCE_ROOTS:
        for file in sorted((repo_root / source).glob("**/*.py")):
            tops = {name.split(".")[0] for name in imported_modules(file) if not file.name.endswith("_pb2_grpc.py")}
            assert not tops & {"tests", "pytest", "hypothesis"}, file
