"""`homenode simulate --live`: agents in processes of their own come to what the simulation comes to."""

from __future__ import annotations

import json

import homenode
from homenode.cli.main import main
from tests.cli.conftest import Served


def test_live_runs_come_to_what_the_simulation_comes_to(served: Served, capsys) -> None:
    url = f"{served.address}/live"
    words = ["--scenario", "D", "--steps", "8", "--tokens", "256", "--seeds", "2", "--strategy", "lazy,eager"]
    code = main(["simulate", "--live", url, *words, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 0 and [one["agree"] for one in told["live"]] == [True, True]
    main(["simulate", *words, "--json"])
    simulated = json.loads(capsys.readouterr().out)
    assert [row["fetches_mean"] for row in told["rows"]] == [row["fetches_mean"] for row in simulated["rows"]]
    with homenode.connect_sync(url) as hn:
        assert not hn.list("simulate/")


def test_a_live_run_needs_a_directory_that_runs(capsys) -> None:
    assert main(["simulate", "--live", "embedded://", "--seeds", "1", "--steps", "1", "--json"]) == 2
    assert (
        main(["simulate", "--live", "homenode://127.0.0.1:1/main", "--seeds", "1", "--steps", "1", "--timeout", "1"])
        == 5
    )
    assert capsys.readouterr().err
