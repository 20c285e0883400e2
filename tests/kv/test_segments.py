"""Bases of segments: found by their content key, exact ones also as prefixes, blended KV never kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from homenode_kv.costs import Tier
from homenode_kv.disk import DiskTier
from homenode_kv.errors import NotABase, NotExact, WrongShape
from homenode_kv.ident import SegmentKey, Version
from homenode_kv.pages import Pages
from homenode_kv.pool import Pool
from homenode_kv.prefix import PrefixIndex
from homenode_kv.provenance import EXACT, EXACT_BY_MASK, approximate, own_decode
from homenode_kv.segments import Found, Segments
from tests.kv.models import deviation, engine, tokens

MODEL, SALT = "model", b"tenant"
TEXT = tokens(75)


def pool(blocks: int = 32, folder: Path | None = None) -> Pool:
    geometry = engine().geometry
    disk = DiskTier(folder, geometry) if folder else None
    return Pool(Pages(geometry, blocks), disk=disk, disk_bytes_max=1 << 24 if folder else 0)


def key(text: list[int] = TEXT, n: int = 1, salt: bytes = SALT, artifact: str = "plan") -> SegmentKey:
    return SegmentKey.of(MODEL, salt, text, artifact, Version(1, n))


def test_a_base_is_found_by_the_key_it_was_stored_under_and_no_other() -> None:
    segments, base = Segments(pool()), engine().prefill(TEXT).kv
    assert segments.find(key()) is None
    assert segments.put(key(), TEXT, base, EXACT)
    found = segments.find(key())
    assert isinstance(found, Found)
    assert (found.tokens, found.tier, found.provenance) == (75, Tier.DEVICE, EXACT)
    with segments.use(found) as held:
        assert torch.equal(held.kv(), base)
    for other in (key(n=2), key(salt=b"other"), key(artifact="notes"), key(TEXT[:-1])):
        assert segments.find(other) is None


def test_blended_kv_is_never_a_base() -> None:
    with pytest.raises(NotABase):
        Segments(pool()).put(key(), TEXT, engine().prefill(TEXT).kv, approximate(1e-6))


def test_an_own_decode_is_a_base_turned_back_to_position_0() -> None:
    machine, segments = engine(), Segments(pool())
    written = machine.decode(machine.prefill(TEXT), 40)
    base = machine.rotation.shift(written.kv[:, :, written.start :], -written.start)
    text = list(written.tokens)
    assert segments.put(key(text), text, base, own_decode())
    assert segments.find(key(text)).provenance.own_decode
    assert segments.prefix(MODEL, SALT, text) is None, "it carries its writer's context"
    alone = machine.prefill(text).kv
    assert deviation(base[0], alone[0]) < 1e-5, "layer 0 does not depend on the context"


def test_what_is_better_replaces_what_is_worse_and_not_the_other_way() -> None:
    segments, base = Segments(pool()), engine().prefill(TEXT).kv
    assert segments.put(key(), TEXT, base + 1, own_decode())
    assert segments.put(key(), TEXT, base, EXACT)
    assert not segments.put(key(), TEXT, base + 2, own_decode())
    assert not segments.put(key(), TEXT, base + 2, EXACT)
    with segments.use(segments.find(key())) as held:
        assert torch.equal(held.kv(), base)


def test_the_tokens_of_the_key_are_those_of_the_kv() -> None:
    segments = Segments(pool())
    for text, kv in ((TEXT, engine().prefill(TEXT[:-1]).kv), (TEXT[::-1], engine().prefill(TEXT).kv)):
        with pytest.raises(WrongShape):
            segments.put(key(), text, kv, EXACT)


def test_a_dropped_version_is_not_found_and_others_are() -> None:
    it = pool()
    segments, base = Segments(it), engine().prefill(TEXT).kv
    short = TEXT[:40]
    segments.put(key(), TEXT, base, EXACT)
    segments.put(key(short), short, base[:, :, :40], EXACT)
    segments.put(key(n=2), TEXT, base, EXACT)
    segments.put(key(artifact="notes"), TEXT, base, EXACT)
    it.pin(key(short).digest)
    assert segments.drop_version(key()) == 1
    assert segments.find(key()) is None and segments.find(key(short)) is None
    assert segments.find(key(n=2)) and segments.find(key(artifact="notes"))
    assert segments.drop_version(key()) == 0
    it.unpin(key(short).digest)
    it.check()


def test_what_the_pool_evicts_is_forgotten() -> None:
    told: list[tuple] = []
    it = pool(blocks=3)
    it.on_change = lambda *change: told.append(change)
    segments, base = Segments(it), engine().prefill(TEXT).kv
    segments.put(key(), TEXT, base, EXACT)
    segments.put(key(n=2), TEXT, base, EXACT)
    assert segments.find(key()) is None and segments.find(key(n=2))
    assert segments.prefix(MODEL, SALT, TEXT).digest == key(n=2).digest
    assert told == [
        (key().digest, None, Tier.DEVICE),
        (key().digest, Tier.DEVICE, None),
        (key(n=2).digest, None, Tier.DEVICE),
    ]


def test_a_restart_finds_bases_with_their_provenance(tmp_path: Path) -> None:
    first = pool(folder=tmp_path)
    segments, base = Segments(first), engine().prefill(TEXT).kv
    segments.put(key(), TEXT, base, EXACT_BY_MASK)
    first.put("0" * 64, base)  # whatever it is, it does not say
    first.flush()
    second = pool(folder=tmp_path)
    again = Segments(second)
    assert again.find(key()).provenance == EXACT_BY_MASK
    assert len(second) == 1
    assert again.drop_version(key()) == 1 and not list(tmp_path.iterdir())


def test_the_exact_beginning_of_a_prompt_is_found_up_to_the_first_token_that_differs() -> None:
    machine, segments = engine(), Segments(pool())
    segments.put(key(), TEXT, machine.prefill(TEXT).kv, EXACT)
    prompt = TEXT[:70] + tokens(20, seed=9)
    prefix = segments.prefix(MODEL, SALT, prompt)
    assert prefix.tokens == 70
    with segments.use(prefix) as held:
        over = machine.prefill(prompt[70:], held.kv(70), last=0)
    assert deviation(over.logits, machine.prefill(prompt, last=0).logits[70:]) < 1e-5
    assert segments.prefix(MODEL, b"other", prompt) is None
    assert segments.prefix("other", SALT, prompt) is None
    assert segments.prefix(MODEL, SALT, prompt[1:]) is None
    assert segments.prefix(MODEL, SALT, prompt[:31]) is None


@pytest.mark.parametrize("provenance", [EXACT_BY_MASK, approximate(0.0), own_decode()])
def test_what_is_not_exact_never_enters_the_index_of_prefixes(provenance: object) -> None:
    index = PrefixIndex()
    with pytest.raises(NotExact):
        index.add("a", MODEL, SALT, TEXT, provenance)
    assert len(index) == 0


def test_entries_that_begin_alike_serve_for_each_other() -> None:
    index = PrefixIndex()
    index.add("long", MODEL, SALT, TEXT, EXACT)
    index.add("short", MODEL, SALT, TEXT[:40], EXACT)
    assert index.match(MODEL, SALT, TEXT[:33]) == ("short", 33)
    assert index.match(MODEL, SALT, [*TEXT[:36], 1, 1]) == ("short", 36)
    assert index.match(MODEL, SALT, TEXT) == ("long", 75)
    index.remove("long")
    assert index.match(MODEL, SALT, TEXT) == ("short", 40)
    index.remove("short")
    index.remove("short")
    assert index.match(MODEL, SALT, TEXT) is None and len(index) == 0


def test_texts_that_begin_alike_share_their_pages() -> None:
    machine, it = engine(), pool()
    segments = Segments(it)
    other = TEXT[:70] + tokens(40, seed=9)
    bases = {1: machine.prefill(TEXT).kv, 2: machine.prefill(other).kv}
    assert segments.put(key(), TEXT, bases[1], EXACT) and segments.put(key(other, n=2), other, bases[2], EXACT)
    assert it.bytes(Tier.DEVICE) == (3 + 2) * it.geometry.block_bytes  # 4 blocks, of which 2 are those of the first
    it.check()
    for n, text in ((1, TEXT), (2, other)):
        with segments.use(segments.find(key(text, n=n))) as held:
            assert deviation(held.kv(), bases[n]) < 1e-6
    segments.drop_version(key())
    assert it.bytes(Tier.DEVICE) == 4 * it.geometry.block_bytes  # what is left is nobody else's any more
    with segments.use(segments.find(key(other, n=2))) as held:
        assert deviation(held.kv(), bases[2]) < 1e-6
    it.check()


def test_a_retired_entry_is_found_as_a_beginning_and_by_nothing_else(tmp_path: Path) -> None:
    it = pool(folder=tmp_path)
    segments = Segments(it)
    segments.put(key(), TEXT, engine().prefill(TEXT).kv, EXACT)
    segments.retire(key().digest, key(), TEXT[:50])
    assert segments.find(key()) is None
    assert segments.prefix(MODEL, SALT, TEXT).tokens == 50
    segments.retire(key().digest, key(), TEXT[:31])
    assert segments.prefix(MODEL, SALT, TEXT) is None and len(it) == 1
    it.flush()
    assert Segments(pool(folder=tmp_path)).find(key()) is None
    assert not list(tmp_path.iterdir()), "a restart does not bring it back"


def test_what_an_earlier_run_kept_is_a_beginning_again_once_its_tokens_are_known(tmp_path: Path) -> None:
    first, base = pool(folder=tmp_path), engine().prefill(TEXT).kv
    Segments(first).put(key(), TEXT, base, EXACT)
    first.flush()
    segments = Segments(pool(folder=tmp_path))
    assert segments.find(key()) and segments.prefix(MODEL, SALT, TEXT) is None
    assert segments.put(key(), TEXT, base, EXACT) and not segments.put(key(), TEXT, base, EXACT)
    assert segments.prefix(MODEL, SALT, TEXT).tokens == 75
