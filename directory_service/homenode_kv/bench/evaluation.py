"""Quality of reuse on weights and data that a user brings.

A line of the data is a JSON object: `own`, the reader's own text; `segments`, texts that are kept apart; `question` and
its `answer`, and `kind` if questions are to be told apart. An answer counts when greedy decoding gives all its tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from homenode_kv.bench.accuracy import DENSE, NAIVE, compare, ways_of
from homenode_kv.bench.prompts import Asked, Prompt
from homenode_kv.bench.rows import Row
from homenode_kv.errors import InvalidTokens, PromptTooLong
from homenode_kv.worker.models import Loaded

LINES_MAX = 100_000

Encode = Callable[[str], list[int]]


class DataError(ValueError):
    """A line that is no prompt; the message has its number and says what is missing."""


def prompts_in(path: Path, encode: Encode, begin: tuple[int, ...] = ()) -> list[Prompt]:
    """The prompts of a file. Raises DataError, OSError."""
    found = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if number > LINES_MAX:
                    raise DataError(f"{path} has more than {LINES_MAX} lines")
                if line.strip():
                    found.append(_prompt(_object(line, number), number, encode, begin))
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8") from None
    if not found:
        raise DataError(f"{path} holds no prompts")
    return found


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        made = json.loads(line)
    except ValueError as error:
        raise DataError(f"line {number} is no JSON: {error}") from None
    if not isinstance(made, dict):
        raise DataError(f"line {number} is no JSON object")
    return made


def _prompt(one: dict[str, Any], number: int, encode: Encode, begin: tuple[int, ...]) -> Prompt:
    segments = one.get("segments")
    texts = [one.get("own"), one.get("question"), one.get("answer"), *(segments if isinstance(segments, list) else [0])]
    if not segments or not all(isinstance(text, str) and text for text in texts):
        raise DataError(f"line {number} needs own, question and answer, texts, and segments, a list of texts")
    own, question, answer, *parts = [tuple(encode(text)) for text in texts]
    kind = one.get("kind", "all")
    if not isinstance(kind, str):
        raise DataError(f"line {number}: kind is a text")
    return Prompt("eval", (*begin, *own), tuple(parts), (Asked(question, answer, kind),))


def evaluate(model: Loaded, path: Path, *, quick: bool, tell: Callable[[str], None]) -> Iterator[Row]:
    """Rows `eval/WAY`: the share of right answers. Raises DataError, OSError."""
    prompts = prompts_in(path, model.tokenizer.encode, model.tokenizer.begin)
    try:
        scores = compare(
            model.engine, prompts, ways_of(model.engine, quick), lambda done: tell(f"{done} of {len(prompts)}")
        )
    except (InvalidTokens, PromptTooLong) as error:
        raise DataError(f"a prompt does not suit the model: {error}") from error
    accuracy = {way.rule: score.accuracy() for way, score in scores.items() if way.rule in (DENSE, NAIVE)}
    for way, score in scores.items():
        beside: dict[str, float | int | str] = {
            name: round(value, 5) for name, value in (accuracy | score.fields()).items()
        }
        asked = sum(score.asked.values())
        yield Row(
            f"eval/{way.name}",
            round(score.accuracy(), 5),
            "share",
            beside,
            str(model.engine.device),
            model.name,
            True,
            asked,
        )
