"""Copied spans against values computed by hand and against a naive search."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.evaluation import memorised
from persuasion_rl.evaluation.markers import words
from persuasion_rl.evaluation.memorised import SPAN, TrainingText

TRAINING = [
    "One two three four five six seven eight nine ten.",
    "Alpha beta gamma delta epsilon zeta eta theta iota",
]


@pytest.mark.parametrize(
    ("reply", "share", "longest"),
    [
        ("", 0.0, 0),
        ("one two three four five six seven", 0.0, 0),  # one word too short
        ("ONE, two; three four five six seven \u2013 eight!", 1.0, 8),  # case, punctuation
        ("so one two three four five six seven eight no", 8 / 10, 8),
        ("two three four five six seven eight nine ten", 1.0, 9),
        ("one two three four five six seven ate nine ten", 0.0, 0),
        # seven words of each, and the end of one reply with the start of the next
        ("four five six seven eight nine ten alpha beta gamma delta epsilon zeta eta", 0.0, 0),
        (
            "one two three four five six seven eight alpha beta gamma delta epsilon zeta eta theta",
            1.0,
            8,
        ),
    ],
)
def test_copied_spans_known_by_hand(reply, share, longest):
    assert TrainingText(TRAINING).copied(reply) == (pytest.approx(share), longest)


def naive(training: list[str], reply: str) -> tuple[float, int]:
    """Search every span of the reply in every training reply."""
    text = words(reply)
    replies = [f" {' '.join(words(one))} " for one in training]
    covered, longest = set(), 0
    for start in range(len(text)):
        for end in range(start + SPAN, len(text) + 1):
            if any(f" {' '.join(text[start:end])} " in one for one in replies):
                covered.update(range(start, end))
                longest = max(longest, end - start)
    return len(covered) / max(1, len(text)), longest


few_words = st.lists(st.sampled_from(["a", "b", "it's"]), max_size=40).map(" ".join)


@given(st.lists(few_words, max_size=4), few_words)
def test_copied_spans_are_those_of_a_naive_search(training, reply):
    assert TrainingText(training).copied(reply) == pytest.approx(naive(training, reply))


@given(st.lists(few_words, max_size=4), few_words)
def test_where_windows_stand_more_often_than_is_followed_the_share_stays_exact(training, reply):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorised, "MOST", 2)
        share, longest = TrainingText(training).copied(reply)
    expected, true_longest = naive(training, reply)
    assert share == pytest.approx(expected)
    assert longest <= true_longest and bool(longest) == bool(true_longest)


@given(st.lists(few_words, min_size=1, max_size=4), st.data())
def test_pieces_of_training_replies_between_new_words_are_found(training, data):
    pieces = [words(data.draw(st.sampled_from(training))) for _ in range(3)]
    reply = " ".join(chain.from_iterable([*piece, "new"] for piece in pieces))
    assert TrainingText(training).copied(reply) == pytest.approx(naive(training, reply))


def test_windows_of_equal_hash_are_compared_word_by_word(monkeypatch):
    monkeypatch.setattr(
        memorised, "FACTOR", memorised.np.uint64(0)
    )  # only a window's last word counts
    reply = "two three four five six seven eight nine iota x x x x x x x x nine"
    assert TrainingText(TRAINING).copied(reply) == pytest.approx(naive(TRAINING, reply))


def test_a_span_is_as_long_as_in_one_training_reply():
    """Two training replies together contain its windows, but neither contains the whole span."""
    span = [f"w{i}" for i in range(12)]
    training = [" ".join(span[:10]), " ".join(span[2:])]
    assert TrainingText(training).copied(" ".join(span)) == (1.0, 10)
