"""The generated tasks: deterministic, answerable from their text, and shaped as asked."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from homenode_kv.demo.examples import Example, Kind, Shape, TaskError
from homenode_kv.demo.tasks import TASKS, make_example, make_round
from homenode_kv.demo.tokenizer import encode
from tests.kv.demo.solver import solve

SHAPES = (
    Shape(),
    Shape(agents=2, facts=1, questions=1, filler=0),
    Shape(agents=10, facts=6, questions=20),
    Shape(agents=5, facts=3, segment_tokens=512),
    Shape(agents=4, corpus=7),
)

GOLDEN = "1b6bf1e8075514bffc699a31146a9677020ac13d0afd442b2ab35e4e60130147"


def text_of(example: Example) -> str:
    return "".join(example.segments()) + "".join(one.text + one.answer for one in example.questions)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_question_is_answered_by_the_text(task: str, shape: Shape) -> None:
    for seed in range(8):
        for example in make_round(task, seed, shape):
            for question in example.questions:
                assert solve(task, example.segments(), question.text) == question.answer


def test_the_same_arguments_give_the_same_text_on_every_machine() -> None:
    text = "".join(text_of(example) for task in TASKS for seed in range(5) for example in make_round(task, seed))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN


@pytest.mark.parametrize("task", TASKS)
def test_another_seed_gives_another_prompt(task: str) -> None:
    assert len({text_of(make_example(task, seed)) for seed in range(20)}) == 20


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("agents", range(2, 11))
def test_a_round_has_one_prompt_an_agent_with_the_same_blocks(task: str, agents: int) -> None:
    found = make_round(task, 3, Shape(agents=agents))
    assert len(found) == agents
    assert len({example.blocks for example in found}) == 1
    assert len(found[0].blocks) == agents
    assert len({example.prefix for example in found}) > 1


@pytest.mark.parametrize("task", TASKS)
def test_both_kinds_are_asked_in_turns(task: str) -> None:
    for seed in range(20):
        kinds = [question.kind for question in make_example(task, seed).questions]
        assert kinds in ([Kind.LOCAL, Kind.CROSS] * 2, [Kind.CROSS, Kind.LOCAL] * 2)


@pytest.mark.parametrize("task", TASKS)
def test_all_questions_are_asked_once_where_no_number_is_given(task: str) -> None:
    example = make_example(task, 4, Shape(questions=None))
    texts = [question.text for question in example.questions]
    assert len(set(texts)) == len(texts)
    assert {question.kind for question in example.questions} == set(Kind)
    assert set(texts) >= {question.text for question in make_example(task, 4).questions}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("tokens", [32, 512, 2048])
def test_blocks_have_exactly_the_asked_length(task: str, tokens: int) -> None:
    for seed in range(5):
        example = make_example(task, seed, Shape(agents=3, facts=6, segment_tokens=tokens))
        assert [len(encode(block.text)) for block in example.blocks] == [tokens] * 3


@pytest.mark.parametrize("task", TASKS)
def test_words_alone_are_used(task: str) -> None:
    example = make_example(task, 11, Shape(agents=10, facts=6))
    for text in (*example.segments(), *(part for one in example.questions for part in (one.text, one.answer))):
        assert text.endswith(" ")
        assert len(encode(text)) == len(text.split())


def test_a_bound_fact_means_another_key_under_another_prefix() -> None:
    """The first block's text is the same for all agents of a round, and what it says is not."""
    shape = Shape(agents=4, questions=8)
    found = make_round("bound", 5, shape)
    first_link = {
        question.text: question.answer
        for example in found
        for question in example.questions
        if question.answer.split()[0] == _link(example.blocks[0].text)
    }
    assert len(first_link) > 1
    assert len(set(first_link.values())) == 1


def _link(text: str) -> str:
    items = text.split()
    return items[items.index("also") + 2]


def test_documents_of_a_corpus_recur_from_prompt_to_prompt() -> None:
    shape = Shape(agents=4, corpus=1)
    seen = [block.text for seed in range(100) for block in make_example("retrieval", seed, shape).blocks]
    assert len(set(seen)) <= 64
    other = {block.text for seed in range(100) for block in make_example("retrieval", seed, Shape(corpus=2)).blocks}
    assert not other & set(seen)


@pytest.mark.parametrize(
    "wrong",
    [
        {"agents": 1},
        {"agents": 11},
        {"facts": 0},
        {"facts": 7},
        {"questions": 0},
        {"filler": -1},
        {"segment_tokens": 31},
        {"segment_tokens": 1 << 20},
        {"agents": 2.5},
        {"agents": True},
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(TaskError, match=f"{name} is a whole number from"):
        Shape(**wrong)


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TaskError, match="bound, retrieval, sums, edits, not 'chess'"):
        make_round("chess", 1)
