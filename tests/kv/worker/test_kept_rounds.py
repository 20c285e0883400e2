"""What is kept of rounds, without processes: about other texts, under pressure, and when versions die."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from homenode_kv.costs import Costs
from homenode_kv.engine import Engine
from homenode_kv.ident import Version
from homenode_kv.pages import Pages
from homenode_kv.parts import Composed
from homenode_kv.planner import Demand
from homenode_kv.pool import Pool
from homenode_kv.provenance import EXACT, Kind
from homenode_kv.sheets import sheet_geometry
from homenode_kv.worker.generation import Job, Written, write
from homenode_kv.worker.grouped import Round, write_group
from homenode_kv.worker.keeper import Keeper
from homenode_kv.worker.outputs import Outputs
from homenode_kv.worker.prompts import Piece, Prompt
from homenode_kv.worker.text import Tokenizer
from tests.kv.models import deviation, model, tokens

TOKENIZER = Tokenizer("", lambda text: list(text.encode()), lambda ids: " ".join(map(str, ids)))
ANY = Demand(error_max=100.0)
NAMES = ("anna", "ben", "cleo")


@functools.cache
def deep() -> Engine:
    """A random model whose check layer is not its last."""
    return Engine(model(num_hidden_layers=6))


def note(name: str, n: int = 1, count: int = 96) -> Piece:
    return Piece(tuple(tokens(count, seed=100 * ord(name) + n)), name, Version(7, n))


def own(seed: int, count: int = 20) -> Piece:
    return Piece(tuple(tokens(count, seed=seed)))


class Unpriced(Costs):
    """Learns nothing: what was never measured is tried, whatever this machine does beside it."""

    def prefilled(self, tokens: int, ms: float) -> None:
        """Is not remembered."""


@dataclass
class Worker:
    """A keeper over a pool of so many blocks; `told` hears of masters."""

    blocks: int = 128
    sheets: int = 512
    told: list[tuple[str, str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = Pool(Pages(deep().geometry, self.blocks), costs=Unpriced())
        sheets = Pool(Pages(sheet_geometry(deep().geometry), self.sheets))
        self.keeper = Keeper(deep(), self.pool, "f" * 64, b"salt", lambda holding: None, sheets)
        self.keeper.rounds.on_change = lambda *told: self.told.append(told)

    def round(self, round_id: str, prompts: dict[str, Sequence[Piece]], demand: Demand = ANY) -> Round:
        jobs = {name: self.job(pieces, demand) for name, pieces in prompts.items()}
        return write_group(self.keeper, Outputs(), TOKENIZER, round_id, jobs)

    def ask(self, pieces: Sequence[Piece], demand: Demand = ANY, consumer: str = "") -> Composed:
        return write(self.keeper, Outputs(), TOKENIZER, self.job(pieces, demand, consumer)).composed

    def job(self, pieces: Sequence[Piece], demand: Demand, consumer: str = "") -> Job:
        return Job(Prompt((), tuple(pieces)), 2, lambda text, ids: None, demand=demand, consumer=consumer)

    def sound(self) -> None:
        self.pool.check()
        kept = self.keeper.rounds
        families = {link.family for begun in kept._begun.values() for link in begun.links}
        alike = [begun for each in kept._alike.values() for begun in each.values()]
        assert {link.family for begun in alike for link in begun.links} <= families | set(kept._groups)
        assert {family for family in kept._groups if family in kept._families} == set(kept._groups)


def written(outcome: Round, name: str) -> Composed:
    one = outcome.written[name]
    assert isinstance(one, Written), one
    return one.composed


def three(*notes: Piece) -> dict[str, Sequence[Piece]]:
    return {name: [own(at), *notes, own(50 + at)] for at, name in enumerate(NAMES)}


def test_about_other_text_it_serves_as_a_base_that_is_checked() -> None:
    worker, notes = Worker(), (note("x"), note("y"))
    before = worker.round("r", three(*notes))
    about = [own(9, 33), notes[0], own(8), notes[1], own(7)]
    again = worker.ask(about, consumer="ben")
    assert again.whole.restored == again.whole.approximate == 192 and again.provenance.kind is Kind.APPROXIMATE
    assert again.measured != written(before, "ben").measured, "as it is in this context"
    repaired = worker.ask(about, Demand(error_max=again.measured * 0.9))
    assert repaired.measured <= again.measured * 0.9 and repaired.whole.refreshed > 0
    assert worker.ask([own(9), notes[1], notes[0], own(7)]).whole.restored == 0, "in another order"
    assert worker.ask([own(9), notes[0], own(7)]).whole.restored == 0, "without the one that all read after it"
    more = worker.ask([own(11), *notes, note("z"), own(6)])
    assert more.whole.restored == 192 and more.uses[3].dense == 96 and more.missing == (3,)
    assert worker.ask(about, Demand(exact=True)).whole.restored == 0
    worker.sound()


def test_what_it_serves_is_what_the_model_then_computes_over_it() -> None:
    """All blocks refreshed: whatever was restored, the outcome is a plain prefill's."""
    worker, notes = Worker(), (note("x"), note("y"))
    worker.round("r", three(*notes))
    about = [own(9, 33), *notes, own(7)]
    dense = deep().prefill(Prompt((), tuple(about)).tokens)
    again = worker.ask(about, Demand(error_max=0.0))
    assert again.provenance == EXACT and deviation(again.forward.kv, dense.kv) < 1e-5
    worker.round("again", three(*notes), Demand(error_max=0.0))
    assert worker.ask(list(three(*notes)["anna"])).provenance == EXACT


def test_what_is_exact_of_a_beginning_stays_so_and_the_rest_is_restored_behind_it() -> None:
    worker = Worker()
    prompts = {name: [note("x"), own(at, 70), note("y"), own(50 + at)] for at, name in enumerate(NAMES)}
    before = written(worker.round("r", prompts), "ben")
    again = worker.ask(prompts["ben"])
    assert [use.exact for use in again.uses] == [96, 0, 0, 0] and again.uses[2].restored == 96
    assert deviation(again.forward.kv[:, :, 166:262], before.forward.kv[:, :, 166:262]) < 1e-5
    about = [note("x"), own(9, 45), note("y"), own(8)]
    other = worker.ask(about)
    assert other.uses[0].exact == 96 and other.uses[2].restored == 96
    exact = worker.ask(about, Demand(error_max=0.0))
    dense = deep().prefill(Prompt((), tuple(about)).tokens)
    assert exact.provenance == EXACT and deviation(exact.forward.kv, dense.kv) < 1e-5
    worker.sound()


def test_a_history_that_grows_is_restored_with_what_it_began_with() -> None:
    worker, history = Worker(), {name: [own(at, 70)] for at, name in enumerate(NAMES)}
    for number, name in enumerate("xyz"):
        for at, pieces in enumerate(history.values()):
            pieces += [note(name), own(30 * number + at, 25)]
        last = worker.round(f"r{number}", history)
        use = written(last, "anna").whole
        assert use.exact == (70 if number else 0), "its first text is kept as it is"
        assert use.restored == 96 * number
    for who, pieces in history.items():
        again, before = worker.ask([*pieces, own(99)]), written(last, who).forward.kv
        assert again.whole.restored == 288 and again.whole.exact == 70, who
        assert deviation(again.forward.kv[:, :, : before.shape[2]], before) < 1e-4
    worker.sound()


def test_the_later_of_two_groups_of_a_round_does_not_take_the_place_of_the_first() -> None:
    worker, notes = Worker(), (note("x"), note("y"))
    first = worker.round("r", dict(list(three(*notes).items())[:2]))
    worker.round("r", {"cleo": [own(2), note("z"), own(52)]})
    for name in NAMES[:2]:
        again = worker.ask(three(*notes)[name])
        assert again.whole.restored == 192 and again.measured == written(first, name).measured
        assert worker.keeper.rounds.materialize("r", name)
    assert worker.keeper.rounds.materialize("r", "cleo")
    worker.sound()


def test_only_members_over_a_dead_version_go_and_the_others_keep_what_they_have() -> None:
    worker = Worker()
    prompts = {name: [own(at), note("x"), note(name[0]), own(50 + at)] for at, name in enumerate(NAMES)}
    before = worker.round("r", prompts)
    left = list(NAMES)
    while len(left) > 1:
        master = worker.told[-1][1]
        worker.keeper.supersede(master[0], Version(7, 2))
        left.remove(master)
        assert worker.told[-1][0] == "r" and worker.told[-1][1] in left and worker.told[-1][2] == len(left) - 1
        for name in left:
            again = worker.ask(prompts[name])
            assert again.whole.restored == 192 and again.measured == written(before, name).measured
        worker.sound()
    worker.keeper.supersede("x", Version(7, 1), deleted=True)
    assert worker.told[-1] == ("r", "", 0) and worker.keeper.rounds.standing().elections == 2
    worker.sound()


def test_pressure_takes_rounds_whole_the_oldest_first_and_never_a_master_from_its_mirrors() -> None:
    worker = Worker(blocks=24)
    for at, round_id in enumerate("abcd"):
        prompts = three(note(round_id), note(round_id.upper()))
        before = worker.round(round_id, prompts)
        worker.sound()
        for name in NAMES:
            again = worker.ask(prompts[name])
            assert not again.whole.restored or again.measured == written(before, name).measured
        assert at < 2 or ("abcd"[at - 2], "", 0) in worker.told, "masters take half of the pool: the oldest went"
    assert worker.pool.counters.lost > 0
    worker.ask([own(3, 400)])  # a plain prompt of more than half of the pool
    worker.sound()
    standing = worker.keeper.rounds.standing()
    assert standing.masters <= 1 and standing.elections == 0


def test_mixed_work_leaves_rounds_and_pool_in_order() -> None:
    worker, draw, versions = Worker(blocks=40, sheets=96), random.Random(3), dict.fromkeys("xyz", 1)
    served = 0
    for step in range(80):
        notes = [note(name, versions[name], 64) for name in draw.sample("xyz", draw.randint(1, 3))]
        prompts = {name: [own(draw.randrange(2)), *notes, own(50)] for name in NAMES[: draw.randint(1, 3)]}
        match draw.randrange(5):
            case 0 | 1:
                worker.round(f"r{step % 3}", prompts)
            case 2:
                name = draw.choice("xyz")
                versions[name] += 1
                worker.keeper.supersede(name, Version(7, versions[name]))
            case 3:
                worker.keeper.rounds.leave(f"r{draw.randrange(3)}", draw.choice(NAMES))
            case _:
                served += worker.ask(prompts["anna"]).whole.restored > 0
        worker.sound()
    assert served > 2 and worker.keeper.rounds.standing().elections > 2
