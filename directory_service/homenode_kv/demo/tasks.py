"""Four generated multi-agent tasks. The same arguments always give the same text.

bound      the adversarial one: each block holds key-value facts, ends in a key, and has one fact `also aI vJ`: vJ is
           the value of the *last key of what comes before the block*. A block's attention states therefore depend on
           its neighbour: states that were computed apart do not hold the answer.
retrieval  blocks are documents of a corpus, which recur from prompt to prompt; a document's pointer names a key of
           another document, and `follow` asks for both steps.
sums       each agent adds a number and hands on to the next; `sum` asks for the running totals along the chain.
edits      the first block is a file of definitions, the others edit some of it; `run` asks what holds after all edits.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from homenode_kv.demo.examples import Block, Example, Kind, Question, Shape, TaskError, make_block, make_prefix, pick
from homenode_kv.demo.tokenizer import AGENTS, DIGITS, KEYS, VALUES

Build = Callable[[random.Random, Shape, int], list[Example]]

_SHELVES = 16
_SHELF = len(KEYS) // _SHELVES  # keys of a shelf: facts and, last, the pointer
_VARIANTS = 4


def make_round(task: str, seed: int, shape: Shape | None = None, members: int | None = None) -> tuple[Example, ...]:
    """A round: the prompts of `members` (`shape.agents`) agents, the same blocks under private prefixes of their own.

    Raises TaskError for an unknown task or a segment length that the facts do not fit in.
    """
    build = _BUILD.get(task)
    if build is None:
        raise TaskError(f"task is one of {', '.join(TASKS)}, not {task!r}")
    shape = shape or Shape()
    return tuple(build(random.Random(f"{task}:{seed}"), shape, shape.agents if members is None else members))


def make_example(task: str, seed: int, shape: Shape | None = None) -> Example:
    """One prompt: the first of `make_round`."""
    return make_round(task, seed, shape)[0]


def _fact(key: str, value: str) -> str:
    return f"{key} {value}"


def _question(kind: Kind, text: str, answer: str) -> Question:
    return Question(f"{text} ", f"{answer} . ", kind)


def _bound(rng: random.Random, shape: Shape, members: int) -> list[Example]:
    names = rng.sample(AGENTS, shape.agents)
    keys = rng.sample(KEYS, shape.agents * shape.facts)
    spare = sorted(set(KEYS) - set(keys))
    ends = [spare.pop(rng.randrange(len(spare))) for _ in names]
    linked = rng.sample(VALUES, shape.agents)
    blocks, local = [], []
    for at, name in enumerate(names):
        facts = [(key, rng.choice(VALUES)) for key in keys[at * shape.facts : (at + 1) * shape.facts]]
        items = [_fact(*fact) for fact in facts]
        items.insert(rng.randrange(shape.facts + 1), f"also {name} {linked[at]}")
        blocks.append(make_block(rng, name, [*items, ends[at]], shape))
        local += [_question(Kind.LOCAL, f"ask {key}", value) for key, value in facts]
    made = []
    for _ in range(members):
        private = rng.sample(spare, rng.randint(1, 2))
        prefix = make_prefix(rng, [*(_fact(key, rng.choice(VALUES)) for key in private[:-1]), private[-1]], shape)
        bound_to = [private[-1], *ends]
        cross = [_question(Kind.CROSS, f"ask {bound_to[at]}", value) for at, value in enumerate(linked)]
        made.append(Example("bound", prefix, tuple(blocks), pick(rng, local, cross, shape.questions)))
    return made


def _document(corpus: int, shelf: int, variant: int, shape: Shape) -> tuple[Block, dict[str, str], tuple[str, str]]:
    """A document, the same in every prompt that has it, with its facts and its pointer. A shelf's share their keys."""
    rng = random.Random(f"document:{corpus}:{shelf}:{variant}")
    keys = KEYS[shelf * _SHELF : (shelf + 1) * _SHELF]
    facts = {key: rng.choice(VALUES) for key in keys[: shape.facts]}
    pointer = (keys[-1], KEYS[(shelf + 1) % _SHELVES * _SHELF + rng.randrange(shape.facts)])
    items = [_fact(*fact) for fact in (*facts.items(), pointer)]
    rng.shuffle(items)
    return make_block(rng, AGENTS[shelf], items, shape), facts, pointer


def _retrieval(rng: random.Random, shape: Shape, members: int) -> list[Example]:
    corpus = rng.getrandbits(48) if shape.corpus is None else shape.corpus
    first = rng.randrange(_SHELVES)
    # A few documents are asked for more often than others.
    variants = rng.choices(range(_VARIANTS), [1 / (at + 1) for at in range(_VARIANTS)], k=shape.agents)
    found = [_document(corpus, (first + at) % _SHELVES, variant, shape) for at, variant in enumerate(variants)]
    local = [_question(Kind.LOCAL, f"ask {key}", value) for _, facts, _ in found for key, value in facts.items()]
    cross = [
        _question(Kind.CROSS, f"follow {key}", f"{pointed} {facts[pointed]}")
        for (_, _, (key, pointed)), (_, facts, _) in zip(found, found[1:], strict=False)
    ]
    blocks = tuple(rng.sample([block for block, _, _ in found], len(found)))
    return [
        Example("retrieval", make_prefix(rng, [], shape), blocks, pick(rng, local, cross, shape.questions))
        for _ in range(members)
    ]


def _sums(rng: random.Random, shape: Shape, members: int) -> list[Example]:
    names = rng.sample(AGENTS, shape.agents)
    added = [rng.randrange(10) for _ in names]
    blocks = []
    for at, name in enumerate(names):
        to = names[at + 1] if at + 1 < len(names) else "."
        facts = [_fact(key, rng.choice(VALUES)) for key in rng.sample(KEYS, shape.facts - 1)]
        items = [f"add {name} {DIGITS[added[at]]}", f"hand {name} {to}", *facts]
        rng.shuffle(items)
        blocks.append(make_block(rng, name, items, shape))
    local = [_question(Kind.LOCAL, f"add {name}", DIGITS[number]) for name, number in zip(names, added, strict=True)]
    made = []
    for _ in range(members):
        cross = [_chain(rng.randrange(10), names[at:], added[at:]) for at in range(shape.agents - 1)]
        made.append(
            Example("sums", make_prefix(rng, [], shape), tuple(blocks), pick(rng, local, cross, shape.questions))
        )
    return made


def _chain(start: int, names: list[str], added: list[int]) -> Question:
    """The running totals, last digits only, from one agent to the end of the chain."""
    answer, total = [], start
    for name, number in zip(names, added, strict=True):
        total = (total + number) % 10
        answer += [name, DIGITS[total]]
    return _question(Kind.CROSS, f"sum {DIGITS[start]} {names[0]}", " ".join(answer[1:]))


def _edits(rng: random.Random, shape: Shape, members: int) -> list[Example]:
    names = rng.sample(AGENTS, shape.agents)
    keys = rng.sample(KEYS, shape.facts + shape.agents)
    defined = {key: rng.choice(VALUES) for key in keys}
    edited = {key: rng.choice([value for value in VALUES if value != defined[key]]) for key in keys[: shape.agents - 1]}
    blocks = [make_block(rng, names[0], [f"def {key} {defined[key]}" for key in rng.sample(keys, len(keys))], shape)]
    for name, (key, value) in zip(names[1:], edited.items(), strict=True):
        blocks.append(make_block(rng, name, [f"edit {key} {value}"], shape))
    kept = [key for key in keys if key not in edited]
    local = [_question(Kind.LOCAL, f"run {key}", defined[key]) for key in kept]
    cross = [_question(Kind.CROSS, f"run {key}", value) for key, value in edited.items()]
    return [
        Example("edits", make_prefix(rng, [], shape), tuple(blocks), pick(rng, local, cross, shape.questions))
        for _ in range(members)
    ]


_BUILD: dict[str, Build] = {"bound": _bound, "retrieval": _retrieval, "sums": _sums, "edits": _edits}
TASKS = tuple(_BUILD)
"""The names of the tasks."""
