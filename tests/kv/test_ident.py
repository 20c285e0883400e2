"""Keys of KV: equal when, and only when, model, tenant, artifact, version and tokens are."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from homenode_kv.ident import SegmentKey, Version, fingerprint, token_hash, weights_hash
from homenode_kv.provenance import EXACT, EXACT_BY_MASK, Kind, Provenance, approximate, own_decode, weakest

CONFIG = {"model_type": "llama", "hidden_size": 64, "rope_parameters": {"rope_theta": 1e4}, "_name_or_path": "/a"}
WEIGHTS = weights_hash([("a", "float32", (2, 1), b"12345678"), ("b", "float32", (1,), b"1234")])
BASE = {"config": CONFIG, "weights": WEIGHTS, "dtype": "bf16", "rope": {"kind": "default"}, "tokenizer": "t"}


def key(**changes: object) -> SegmentKey:
    parts: dict = {"fingerprint": "f", "salt": b"s", "tokens": [1, 2], "artifact": "a", "version": Version(1, 2)}
    return SegmentKey.of(**{**parts, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"config": {**CONFIG, "hidden_size": 65}},
        {"config": {**CONFIG, "rope_parameters": {"rope_theta": 1e5}}},
        {"weights": weights_hash([("a", "float32", (1, 2), b"12345678"), ("b", "float32", (1,), b"1234")])},
        {"dtype": "fp16"},
        {"rope": {"kind": "yarn"}},
        {"tokenizer": "u"},
    ],
)
def test_a_model_that_differs_in_anything_that_matters_has_another_fingerprint(change: dict) -> None:
    assert fingerprint(**{**BASE, **change}) != fingerprint(**BASE)


def test_where_a_model_was_loaded_from_does_not_matter() -> None:
    moved = {
        **CONFIG,
        "_name_or_path": "/b",
        "transformers_version": "5.17.0",
        "rope_parameters": {"rope_theta": 10000},
    }
    assert fingerprint(**{**BASE, "config": moved}) == fingerprint(**BASE)


def test_weights_are_hashed_in_any_order() -> None:
    assert weights_hash([("b", "float32", (1,), b"1234"), ("a", "float32", (2, 1), memoryview(b"12345678"))]) == WEIGHTS


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "g"},
        {"salt": b"t"},
        {"artifact": "b"},
        {"version": Version(1, 3)},
        {"version": Version(2, 2)},
        {"version": None},
        {"tokens": [2, 1]},
        {"tokens": [1, 2, 0]},
    ],
)
def test_a_segment_is_found_by_all_parts_of_its_key(change: dict) -> None:
    assert key(**change).digest != key().digest
    assert key().digest == key().digest


def test_parts_do_not_run_into_each_other() -> None:
    assert key(fingerprint="fa", artifact="").digest != key(fingerprint="f", artifact="a").digest
    assert key(version=Version(1, 12)).digest != key(version=Version(11, 2)).digest


def test_the_salt_is_not_shown_and_not_empty() -> None:
    assert "secret" not in repr(key(salt=b"secret"))
    with pytest.raises(ValueError, match="salt"):
        key(salt=b"")


def test_an_artifact_is_named_apart_from_its_version() -> None:
    assert key().artifact_digest == key(version=Version(9, 9), tokens=[5]).artifact_digest
    assert key().artifact_digest != key(salt=b"t").artifact_digest
    assert key().version_digest == key(tokens=[5]).version_digest != key(version=Version(1, 3)).version_digest


def test_token_ids_are_hashed_as_they_are() -> None:
    assert token_hash([1, 2]) == token_hash((1, 2)) != token_hash([12])


def test_what_is_composed_is_as_good_as_its_weakest_part() -> None:
    assert weakest([]) == EXACT
    assert weakest([EXACT, EXACT_BY_MASK]) == EXACT_BY_MASK
    assert weakest([approximate(0.1), EXACT, approximate(0.2)]) == approximate(0.2)
    assert not weakest([own_decode(), EXACT]).may_be_base, "a prompt around a decode is no base"


def test_only_exact_kv_and_own_decodes_may_be_bases() -> None:
    assert [p.may_be_base for p in (EXACT, EXACT_BY_MASK, own_decode(), approximate(1e-9))] == [True, True, True, False]


def test_provenance_survives_a_file() -> None:
    for provenance in (EXACT, EXACT_BY_MASK, own_decode(), approximate(0.125)):
        assert Provenance.parse(provenance.text()) == provenance
    with pytest.raises(ValueError, match="error"):
        Provenance(Kind.EXACT, 0.1)


def test_the_package_and_its_names_need_no_tensor_library() -> None:
    pure = ["errors", "ident", "provenance", "ledger", "recency", "costs", "prefix"]
    probe = f"import json, sys, homenode_kv, {', '.join('homenode_kv.' + name for name in pure)}; " + (
        "print(json.dumps([name for name in ('torch', 'transformers', 'numpy', 'grpc') if name in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []
