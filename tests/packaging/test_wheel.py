"""The built wheel has what it needs, and works in environments that have nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]  # one wheel and its environments for all

TIMEOUT_S = 300
MISSING_EXTRA = 6
PACKAGES = {
    "homenode": "client_sdk",
    "homenode_api": "proto",
    "homenode_directory": "directory_service",
    "homenode_kv": "directory_service",
}
# A few by name, so that an empty checkout does not pass; the test compares all files of the packages.
NEEDED = {
    "homenode/py.typed",
    "homenode/cli/main.py",
    "homenode_api/py.typed",
    "homenode_api/v1/directory_pb2.pyi",
    "homenode_api/v1/directory_pb2_grpc.py",
    "homenode_api/v1/directory.proto",
    "homenode_directory/py.typed",
    "homenode_directory/store/commit.lua",
    "homenode_kv/py.typed",
}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command with its output captured; the caller judges the exit status."""
    arguments = [str(part) for part in command]
    return subprocess.run(
        arguments, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
    )


def must(*command: str | Path, cwd: Path) -> str:
    """`run` that has to succeed; returns stdout."""
    result = run(*command, cwd=cwd)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout with the build backend that is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    must(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, repo_root, cwd=folder)
    (path,) = folder.glob("homenode-*.whl")
    return path


def environment(folder: Path, requirement: str) -> Path:
    """A new environment with `requirement` and what it depends on; returns its bin folder."""
    must(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    must(*pip, "install", "-qq", requirement, cwd=folder.parent)
    return folder / "bin"


@pytest.fixture(scope="module")
def base_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("base") / "env", str(wheel))


@pytest.fixture(scope="module")
def full_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("full") / "env", f"{wheel}[cli,server]")


def files_of_packages(root: Path) -> set[str]:
    """Everything that lies in the import packages, and the command's entry, as paths inside a wheel."""
    found: set[str] = set()
    for package, source in PACKAGES.items():
        for path in (root / source / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(path.relative_to(root / source).as_posix())
    return found | {"homenode_cli.py"}


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path, repo_root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    content = {name for name in names if ".dist-info/" not in name}
    assert content >= NEEDED
    assert content == files_of_packages(repo_root)
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_only_the_extras_that_exist_are_promised(wheel: Path, repo_root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    extras = {
        line.removeprefix("Provides-Extra: ") for line in text.splitlines() if line.startswith("Provides-Extra: ")
    }
    assert extras == {
        "cli",
        "server",
        "otel",
        "kv",
        "plot",
        "langgraph",
        "mcp",
        "openai-agents",
        "autogen",
        "crewai",
        "dev",
    }
    base = [line for line in text.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert sorted(line.split()[1].split(">")[0] for line in base) == ["hpack", "protobuf", "zstandard"]
    version = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]["version"]
    assert f"Version: {version}\n" in text


def test_the_base_install_imports_the_sdk(base_bin: Path, tmp_path: Path) -> None:
    file = must(base_bin / "python", "-I", "-c", "import homenode; print(homenode.__file__)", cwd=tmp_path).strip()
    assert file.startswith(str(base_bin.parent))
    assert "usage: homenode" in must(base_bin / "homenode", "--help", cwd=tmp_path)


def test_the_base_install_reads_its_own_messages(base_bin: Path, tmp_path: Path) -> None:
    code = "from homenode_api.v1 import directory_pb2 as pb; print(pb.ReadRequest.DESCRIPTOR.full_name)"
    assert must(base_bin / "python", "-I", "-c", code, cwd=tmp_path).strip() == "homenode_api.v1.ReadRequest"


@pytest.mark.parametrize("arguments", [("serve", "--store", "memory://"), ("get", "plan.md"), ("ls",)])
def test_a_missing_extra_is_named_in_one_line(base_bin: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run(base_bin / "homenode", *arguments, cwd=tmp_path)
    assert result.returncode == MISSING_EXTRA, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert "pip install" in lines[0]
    assert "homenode[" in lines[0]


def test_an_embedded_directory_without_its_extra_is_named_in_one_line(base_bin: Path, tmp_path: Path) -> None:
    code = "import homenode\nwith homenode.connect_sync('embedded://x.sqlite') as hn: hn.put('a', 'b')"
    result = run(base_bin / "python", "-I", "-c", code, cwd=tmp_path)
    # The embedded directory is stdlib SQLite behind the same rules; it either works or says what to install.
    last = (result.stderr.strip().splitlines() or [""])[-1]
    assert result.returncode == 0 or ("homenode[server]" in last and "pip install" in last), result.stderr


def test_the_full_install_has_the_command_line(full_bin: Path, repo_root: Path, tmp_path: Path) -> None:
    version = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]["version"]
    assert version in must(full_bin / "homenode", "--version", cwd=tmp_path)
    assert "serve" in must(full_bin / "homenode", "--help", cwd=tmp_path)
    assert "127.0.0.1:7400" in must(full_bin / "homenode", "serve", "--print-config", cwd=tmp_path)
    must(full_bin / "python", "-I", "-c", "import homenode_directory.api.server", cwd=tmp_path)
