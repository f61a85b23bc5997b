"""Text from people as it is let in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.text import is_blank, readable


@pytest.mark.parametrize(
    ("odd", "mended"),
    [
        ("half \ud83d of a pair", "half � of a pair"),
        ("\ude00", "�"),
        ("both halves \ud83d\ude00", "both halves 😀"),
        ("nul\x00 and bell\x07", "nul and bell"),
        ("a\r\nb\rc\u2028d\x85e\x0cf", "a\nb\nc\nd\ne\nf"),
    ],
)
def test_odd_characters_are_mended(odd, mended):
    assert readable(odd) == mended


@pytest.mark.parametrize("plain", ["", "a\tb\nc", "é 😀 ∆ שלום", "\u200d\ufeff"])
def test_what_is_not_odd_is_the_same_object(plain):
    assert readable(plain) is plain


@pytest.mark.parametrize(
    "text", ["", " \n", "\u200b", "\ufeff\u2060\u00ad", "\u202e", "\U000e0041", "\ufe0f", "\u3164\u2800", "\u0301"]
)  # fmt: skip
def test_a_text_that_shows_nothing_is_blank(text):
    assert is_blank(text)


@pytest.mark.parametrize(
    "text", ["a", ".", "\u200b\u00b7", "🐱", "👩\u200d👧", "\ue000", "\U0001fae9", "١", "क्"]
)
def test_a_text_that_shows_something_is_not_blank(text):
    assert not is_blank(text)


@given(st.text(st.characters()))
def test_every_text_can_be_encoded_and_is_mended_once(text):
    mended = readable(text)
    mended.encode()
    assert readable(mended) is mended
    assert mended.splitlines() == mended.removesuffix("\n").split("\n") or not mended
