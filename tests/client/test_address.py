"""Addresses of directories."""

from __future__ import annotations

import pytest

from homenode import InvalidArgument
from homenode.transport import Target, parse


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("homenode://localhost", Target(("localhost:7400",), "", "main")),
        ("homenode://localhost/", Target(("localhost:7400",), "", "main")),
        ("homenode://localhost:9/team-1", Target(("localhost:9",), "", "team-1")),
        ("homenode://a,b:9/w", Target(("a:9", "b:9"), "", "w")),
        ("homenode://a:1,b:2,c/w", Target(("a:1", "b:2", "c:7400"), "", "w")),
        ("homenode://[::1]:9/w", Target(("[::1]:9",), "", "w")),
        ("embedded://data/x.sqlite", Target((), "data/x.sqlite", "main")),
        ("embedded:///abs/x.sqlite?workspace=w2", Target((), "/abs/x.sqlite", "w2")),
        ("embedded://", Target((), "", "main")),
    ],
)
def test_an_address_says_where(url: str, target: Target) -> None:
    assert parse(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:7400", "http://localhost", "homenode://", "homenode:///main", "homenode://a,,b", "homenode://a:0",
        "homenode://a:99999", "homenode://a:b", "homenode://a/w/x", "homenode://a/" + "w" * 129, "homenode://a b/w",
        "embedded://x?workspace=", "embedded://x?workspace=a/b", "embedded://x?y=1",
    ],
)  # fmt: skip
def test_a_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(url)
