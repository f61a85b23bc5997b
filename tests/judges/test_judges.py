"""Judges compare both orders: verdicts that differ are a tie, an abstention or a failure decides nothing."""

import pytest

from persuasion_rl.data.synthetic.grammar import truth
from persuasion_rl.files import UserError
from persuasion_rl.judges.base import Comparison, Judgment, judge_both_orders
from persuasion_rl.judges.length import LengthJudge
from persuasion_rl.judges.make import make_judge
from persuasion_rl.judges.truth import TruthJudge
from response_pairs import (
    BAD,
    GOOD,
    POST,
    SETTINGS,
    LeansToTheFirst,
    PrefersTheFirst,
    Scripted,
    many,
)


def judge_pairs(judge, *pairs):
    """Return the verdict of each pair of responses, and the answers in both orders behind it."""
    judged = judge_both_orders(judge, [Comparison("p", *pair) for pair in pairs])
    return [(verdict, [j.verdict for j in judgments]) for verdict, judgments in judged]


def test_a_verdict_that_flips_with_the_order_is_a_tie():
    assert judge_pairs(PrefersTheFirst(), ("a", "b")) == [("tie", ["1", "2"])]
    assert judge_pairs(LeansToTheFirst(), ("a b c d", "a"), ("a", "a b c d"), ("a b", "a")) == [
        ("1", ["1", "1"]),
        ("2", ["2", "2"]),
        ("tie", ["1", "2"]),
    ]


@pytest.mark.parametrize(
    ("forward", "backward", "verdict", "failure"),
    [
        (Judgment("1", "it answers"), Judgment("2", "so it does"), "1", None),
        (Judgment("tie"), Judgment("1"), "tie", None),
        (Judgment("none"), Judgment("1"), "none", None),
        (Judgment("tie"), Judgment("none"), "none", None),
        (Judgment("1"), Judgment(None, failure="timeout"), None, "timeout"),
        (Judgment(None, failure="refused"), Judgment("none"), None, "refused"),
    ],
)
def test_an_abstention_or_a_failure_in_either_order_leaves_no_decision(
    forward, backward, verdict, failure
):
    (judged,) = judge_both_orders(Scripted(forward, backward), [Comparison("p", "a", "b")])
    assert (judged.verdict, judged.failure) == (verdict, failure)
    assert [o.reason for o in judged.judgments] == [forward.reason, backward.reason]


def test_the_truth_judge_tells_the_difference_of_the_probabilities():
    comparison = Comparison(POST, GOOD, BAD)
    (preference,) = TruthJudge().prefer([comparison])
    assert preference == pytest.approx(truth(POST, GOOD) - truth(POST, BAD))
    assert preference > 0.2
    assert TruthJudge().prefer([comparison.swapped()]) == [-preference]


@pytest.mark.parametrize(
    "first, second, verdict",
    [(GOOD, BAD, "1"), (BAD, GOOD, "2"), (GOOD, GOOD, "tie"), (BAD, f"{BAD} {BAD}", "tie")],
)
def test_the_truth_judge_decides_and_knows_ties(first, second, verdict):
    assert judge_both_orders(TruthJudge(), [Comparison(POST, first, second)])[0][0] == verdict


@pytest.mark.parametrize(
    "first, second, verdict",
    [
        ("a b c", "a", "1"),
        ("a", "b c", "2"),
        ("a b", "longer words", "tie"),
        ("", "", "tie"),
        ("", "a", "2"),
    ],
)
def test_the_length_judge_counts_words(first, second, verdict):
    assert judge_both_orders(LengthJudge(), [Comparison(POST, first, second)])[0][0] == verdict


def test_preferences_are_within_their_bounds():
    comparisons = [Comparison(r["prompt"], r["response_1"], r["response_2"]) for r in many(25)]
    for judge in (TruthJudge(), LengthJudge()):
        assert all(-1 <= preference <= 1 for preference in judge.prefer(comparisons))


def test_an_unknown_judge_is_named():
    judges = "truth, delta, length, interplay and llm"
    with pytest.raises(UserError, match=f"unknown judge 'gpt'; there are {judges}"):
        make_judge("gpt", SETTINGS)
    with pytest.raises(UserError, match="needs --base and --delta_adapter"):
        make_judge("delta", SETTINGS)
    with pytest.raises(UserError, match="needs --delta_pairs and --sides"):
        make_judge("interplay", SETTINGS)
