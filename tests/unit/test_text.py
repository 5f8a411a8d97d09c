"""A model's text as data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtask_kit.log.text import PairJoiner, make_valid_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain 家 👩‍🔬", "plain 家 👩‍🔬"),
        ("\ud83d\ude00", "😀"),
        ("\ud83d", "\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ufeffa\udc00", "\ufeffa\ufffd"),
    ],
)
def test_half_a_surrogate_pair_becomes_the_replacement_character(text: str, expected: str) -> None:
    assert make_valid_text(text) == expected


@given(st.text(st.characters()))
def test_any_text_can_be_encoded_once_it_is_made_valid(text: str) -> None:
    valid = make_valid_text(text)
    assert valid.encode().decode() == valid
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert valid == text


@pytest.mark.parametrize(
    ("deltas", "pieces"),
    [
        (["\ud83d", "\ude00"], ["", "😀"]),
        (["a\ud83d", "\ude00b"], ["a", "😀b"]),
        (["a\ud83d", "", "\ude00"], ["a", "", "😀"]),
        (["a\ud83d", "b"], ["a", "\ufffdb"]),
        (["\ud83d", "\ud83d", "\ude00"], ["", "\ufffd", "😀"]),
        (["\ude00", "a"], ["\ufffd", "a"]),
        (["a\ud83d"], ["a", "\ufffd"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_half_a_surrogate_pair_waits_for_the_delta_with_the_other(
    deltas: list[str], pieces: list[str]
) -> None:
    pairs = PairJoiner()
    fed = [pairs.feed(delta) for delta in deltas]
    end = pairs.end()
    assert fed + ([end] if end else []) == pieces
    assert pairs.end() == ""
