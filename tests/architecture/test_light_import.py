"""`import homenode` is cheap: it loads the base dependencies and nothing of the server, the CLI or a framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"grpc", "redis", "hiredis", "torch", "transformers", "homenode_directory"}
HEAVY |= {"prometheus_client", "rich", "uvloop"}
FRAMEWORKS = {"langgraph", "langchain", "crewai", "autogen", "agents", "mcp", "llama_index", "opentelemetry"}
BASE = {"homenode", "homenode_api", "hpack", "google", "zstandard", "typing_extensions"}

PROBE = """
import json, sys
before = set(sys.modules)
import {module}
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(new - set(sys.stdlib_module_names))))
"""


def modules_loaded_by(module: str, folder: Path) -> set[str]:
    """Top-level modules outside the standard library that importing `module` loads in a fresh interpreter."""
    command = [sys.executable, "-c", PROBE.format(module=module)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    # C extensions register private helpers (`_cython_3_0_0`, `_brotli`), which say nothing about who imported what.
    return {name for name in json.loads(result.stdout) if not name.startswith("_")}


def test_importing_the_sdk_loads_only_the_base(tmp_path: Path) -> None:
    loaded = modules_loaded_by("homenode", tmp_path)
    assert "homenode" in loaded
    assert not loaded & (HEAVY | FRAMEWORKS)
    assert loaded <= BASE


@pytest.mark.parametrize("module", ["homenode.cli.main", "homenode.embedded"])
def test_the_modules_that_may_use_the_server_load_it_lazily(module: str, tmp_path: Path) -> None:
    loaded = modules_loaded_by(module, tmp_path)
    assert not loaded & ({"redis", "hiredis", "homenode_directory", "prometheus_client"} | FRAMEWORKS)
