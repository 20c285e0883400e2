"""Prompts as the bench asks them: segments, of which all but the first are kept, and questions with their answers."""

from __future__ import annotations

from dataclasses import dataclass

from homenode_kv.demo.examples import Example, Shape
from homenode_kv.demo.tasks import make_example
from homenode_kv.demo.tokenizer import encode


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its right answer, in tokens."""

    question: tuple[int, ...]
    answer: tuple[int, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A reader's own text, then segments that are the same for all readers; questions are asked side by side.

    Each question sees the segments and itself.
    """

    task: str
    own: tuple[int, ...]
    segments: tuple[tuple[int, ...], ...]
    asked: tuple[Asked, ...]

    @property
    def context(self) -> list[int]:
        """What is before the questions."""
        return [*self.own, *(token for segment in self.segments for token in segment)]


def of_example(example: Example) -> Prompt:
    """An example of the demo tasks."""
    own, *segments = (tuple(encode(text)) for text in example.segments())
    asked = tuple(Asked(tuple(encode(q.text)), tuple(encode(q.answer)), str(q.kind)) for q in example.questions)
    return Prompt(example.task, own, tuple(segments), asked)


def prompts_of(task: str, seeds: range, shape: Shape) -> list[Prompt]:
    """The prompts of these seeds."""
    return [of_example(make_example(task, seed, shape)) for seed in seeds]
