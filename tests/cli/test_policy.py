"""policy get, set, unset."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Cli


def test_policies_are_set_shown_and_taken_away(cli: Cli) -> None:
    assert cli("policy", "get").err == "no prefix has a policy\n"
    cli("put", "notes/a", stdin="1")
    assert cli("policy", "get", "notes/a").out == "default\n"
    assert "notes/" in cli("policy", "set", "--prefix", "notes/", "--strategy", "lease", "--max-age-ms", "700").err
    assert cli("policy", "set", "--prefix", "", "--max-reads", "5").code == 0
    assert cli("policy", "get", "notes/a").out == "push=none max_age_ms=700 (of its prefix)\n"
    shown = cli("policy", "get").out
    assert "(the whole workspace)" in shown and "max_reads=5" in shown
    assert [one["prefix"] for one in cli("--json", "policy", "get").json] == ["", "notes/"]
    assert cli("--json", "policy", "set", "notes/a", "--push", "all").json == {"key": "notes/a", "remaining": 0}
    assert cli("policy", "get", "notes/a").out == "push=all (its own)\n"
    told = cli("--json", "stat", "notes/a").json
    assert (told["policy"]["push"], told["inherited"]["max_age_ms"]) == ("all", 700)
    assert cli("policy", "unset", "notes/a").code == 0
    assert cli("policy", "unset", "--prefix", "notes/").code == 0
    assert cli("policy", "get", "notes/a").out == "push=none max_reads=5 (of its prefix)\n"
    assert "max_reads=5 (of its prefix)" in cli("stat", "notes/a").out


def test_commands_work_where_copies_are_bounded_by_steps(cli: Cli) -> None:
    cli("put", "a", stdin="one\n")
    assert cli("policy", "set", "a", "--max-steps", "1").code == 0
    assert cli("edit", "a", "--append", "two").code == 0
    assert "+two" in cli("diff", "a", "1").out and cli("cat", "a").out == "one\ntwo\n"


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("policy",), 2, "get | set | unset"),
        (("policy", "set", "k"), 2, "say what the policy is"),
        (("policy", "set", "--push", "all"), 2, "KEY"),
        (("policy", "set", "k", "--prefix", "k", "--push", "all"), 2, "not allowed"),
        (("policy", "set", "nowhere", "--push", "all"), 3, "nowhere"),
        (("policy", "set", "k", "--strategy", "hasty"), 2, "hasty"),
        (("policy", "set", "k", "--max-reads", "-1"), 2, "max_reads"),
        (("policy", "set", "--prefix", "k", "--max-reads", "-1"), 2, "max_reads"),
        (("policy", "set", "--prefix", "\x01", "--push", "all"), 2, "control"),
    ],
)
def test_wrong_input_is_named(cli: Cli, args: tuple[str, ...], code: int, said: str) -> None:
    result = cli(*args)
    assert (result.code, said in result.err) == (code, True), result.err
