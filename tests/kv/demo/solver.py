"""Answers the tasks' questions from the text of a prompt alone, by reading it as a person would."""

from __future__ import annotations

from itertools import chain


def solve(task: str, segments: tuple[str, ...], question: str) -> str:
    """The answer to a question after these segments, with its end mark."""
    contents = [text.split() for text in segments]
    asked = question.split()
    return " ".join([*_SOLVE[task](contents, asked), "."]) + " "


def _pairs(items: list[str], first: str, second: str) -> dict[str, str]:
    """Neighbours whose first letters are these, the later one winning."""
    return {a: b for a, b in zip(items, items[1:], strict=False) if a[0] == first and b[0] == second}


def _after(items: list[str], mark: str) -> dict[str, str]:
    """What `mark X Y` says, for all X."""
    return {items[at + 1]: items[at + 2] for at, item in enumerate(items) if item == mark}


def _bound(contents: list[list[str]], asked: list[str]) -> list[str]:
    facts = _pairs(list(chain.from_iterable(contents[1:])), "k", "v")
    if asked[1] in facts:
        return [facts[asked[1]]]
    for before, block in zip(contents, contents[1:], strict=False):
        if before[-1] == asked[1]:
            return [_after(block, "also")[block[1]]]
    raise AssertionError(f"no block follows {asked[1]}")


def _retrieval(contents: list[list[str]], asked: list[str]) -> list[str]:
    everything = list(chain.from_iterable(contents))
    values = _pairs(everything, "k", "v")
    if asked[0] == "ask":
        return [values[asked[1]]]
    pointers = {key: to for block in contents for key, to in _pairs(block, "k", "k").items()}
    return [pointers[asked[1]], values[pointers[asked[1]]]]


def _sums(contents: list[list[str]], asked: list[str]) -> list[str]:
    everything = list(chain.from_iterable(contents))
    added, handed = _after(everything, "add"), _after(everything, "hand")
    if asked[0] == "add":
        return [added[asked[1]]]
    total, agent, found = int(asked[1][1:]), asked[2], []
    while agent != ".":
        total = (total + int(added[agent][1:])) % 10
        found += [agent, f"n{total}"]
        agent = handed[agent]
    return found[1:]


def _edits(contents: list[list[str]], asked: list[str]) -> list[str]:
    everything = list(chain.from_iterable(contents))
    return [(_after(everything, "def") | _after(everything, "edit"))[asked[1]]]


_SOLVE = {"bound": _bound, "retrieval": _retrieval, "sums": _sums, "edits": _edits}
