"""The tokenizer loses nothing, and segments may be tokenised apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homenode_kv.demo.tokenizer import END_ID, KEYS, MARKS, VOCABULARY, decode, encode

texts = st.one_of(st.text(), st.lists(st.sampled_from([*KEYS[:3], *MARKS, " ", "k1x", "é"])).map(" ".join))


@given(texts)
def test_any_text_comes_back(text: str) -> None:
    assert decode(encode(text)) == text


@given(texts, texts)
def test_segments_that_end_in_a_space_can_be_joined(first: str, second: str) -> None:
    assert encode(f"{first} ") + encode(second) == encode(f"{first} {second}")


def test_a_known_word_is_one_id_and_another_word_its_bytes() -> None:
    assert len(encode("k1 v63 w0 ")) == 3
    assert len(encode("k1000 ")) == 6
    assert encode("k1") != encode("k1 ")[:1]
    assert encode("") == []
    assert encode(". ") == [END_ID]


@pytest.mark.parametrize("wrong", [-1, VOCABULARY])
def test_an_id_outside_the_vocabulary_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary"):
        decode([wrong])


def test_padding_has_no_text_and_broken_bytes_are_shown_as_such() -> None:
    assert decode([0, 0]) == ""
    assert decode(encode("é")[:1]) == "�"
