"""The command line itself: help, versions, exit codes, clean ends."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from homenode import errors
from homenode.cli.exits import Exit, exit_of
from homenode.cli.main import main
from tests.cli.conftest import COMMAND, Cli, spawn, stop

COMMANDS = ("serve", "put", "get", "rm", "cat", "edit", "ls", "stat", "diff", "watch", "top", "doctor", "demo")


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command} " in text
    for code in Exit:
        assert f"\n  {code.value:<4}" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"usage: homenode {command}" in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"homenode {version('homenode')}\n"


@pytest.mark.parametrize("args", [[], ["nonsense"], ["ls", "--timeout", "-1"], ["--url"]])
def test_a_wrong_command_line(args: list[str]) -> None:
    assert main(args) == 2


def test_exit_codes_of_errors() -> None:
    assert exit_of(errors.NotFound()) == 3
    assert exit_of(errors.VersionConflict()) == exit_of(errors.AlreadyExists()) == exit_of(errors.LeaseDenied()) == 4
    assert exit_of(errors.StaleFence()) == 4
    assert exit_of(errors.Unavailable()) == exit_of(errors.Contended()) == exit_of(errors.DeadlineExceeded()) == 5
    assert exit_of(errors.InvalidArgument()) == 2
    assert exit_of(errors.Unknown()) == 7
    assert exit_of(errors.QuotaExceeded()) == exit_of(errors.InternalError()) == 1


def test_nobody_there_is_one_line(cli: Cli) -> None:
    result = cli("ls", "--url", "homenode://127.0.0.1:9/main", "--timeout", "2")
    assert (result.code, result.out) == (5, "")
    assert len(result.err.splitlines()) == 1
    assert "homenode://127.0.0.1:9/main" in result.err
    assert cli("--json", "ls", "--url", "homenode://127.0.0.1:9", "--timeout", "1").error["kind"] == "Unavailable"


@pytest.mark.parametrize("url", ["http://x", "homenode://", "homenode://h:99999/w", "homenode://h/a b", "nonsense"])
def test_a_wrong_address_is_named(cli: Cli, url: str) -> None:
    result = cli("ls", "--url", url)
    assert result.code == 2
    assert url in result.err


def test_common_options_stand_before_or_after_the_command(cli: Cli) -> None:
    assert cli("--json", "ls").json == cli("ls", "--json").json == []


def test_an_embedded_directory(cli: Cli, tmp_path: Path) -> None:
    url = f"embedded://{tmp_path / 'own.sqlite3'}"
    assert cli("--url", url, "put", "a", stdin="kept").code == 0
    assert cli("--url", url, "cat", "a").out == "kept"


def test_tls_options_belong_together(cli: Cli) -> None:
    assert cli("ls", "--tls-cert", "x").code == 2
    assert "No such file" in cli("ls", "--tls-ca", "/no/such/file").err


def test_a_missing_part_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "rich" else find(name, *rest))
    assert main(["ls"]) == Exit.MISSING_EXTRA
    assert capsys.readouterr().err.strip().endswith("pip install 'homenode[cli]'")


def test_a_reader_that_leaves_is_no_error(cli: Cli, url: str) -> None:
    cli("put", "long", stdin="line\n" * 200_000)
    command = subprocess.Popen([*COMMAND, "--url", url, "cat", "long"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout is not None and command.stderr is not None
    assert command.stdout.read(5) == b"line\n"
    command.stdout.close()
    assert command.stderr.read() == b""
    assert command.wait(30) == 0


def test_names_that_the_terminal_cannot_show(cli: Cli, url: str) -> None:
    cli("put", "ключ", stdin="x")
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ls = subprocess.run([*COMMAND, "ls", "--url", url], env=environ, capture_output=True, text=True, timeout=60)
    assert (ls.returncode, ls.stderr) == (0, "")
    assert "\\u043a\\u043b" in ls.stdout


def test_ctrl_c_ends_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        url = f"homenode://127.0.0.1:{silent.getsockname()[1]}/main"
        command = spawn("ls", "--timeout", "60", url=url)
        connection, _ = silent.accept()  # it is connected, and will never be answered
        with connection:
            assert stop(command, signal.SIGINT) == ("", "")
    assert command.returncode == 130


def test_ctrl_c_while_modules_load_ends_without_a_traceback() -> None:
    """The module whose import is interrupted is one of the last and one of the first."""
    code = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
from homenode_cli import main
sys.exit(main())
"""
    for module in ("homenode", "homenode.cli.restore"):
        ended = subprocess.run([sys.executable, "-c", code, module, "ls"], capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", ""), module
