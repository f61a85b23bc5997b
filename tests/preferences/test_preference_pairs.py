"""Preference pairs: ties make none, none is repeated, a conversation has one side, the report counts."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csv_files import read_csv
from persuasion_rl.files import UserError, read_json, read_jsonl, write_jsonl
from persuasion_rl.judges.base import OPPOSITE, Comparison, judge_both_orders
from persuasion_rl.judges.judge_trust import judge_trust
from persuasion_rl.judges.length import LengthJudge
from persuasion_rl.judges.make import JudgeSettings
from persuasion_rl.preferences.preference_pairs import (
    describe,
    preference_pairs,
    validation_conversations,
    without_duplicates,
)
from persuasion_rl.report.pool_labels import label_column
from persuasion_rl.statistics.intervals import wilson
from persuasion_rl.tables import write_table
from response_pairs import LeansToTheFirst, PrefersTheFirst

POST = "Poster: buses are slow."


def label(number: int, verdict: str, first: str, second: str, votes=(), prompt=POST, **metadata):
    """A label row of the conversation c{number}; votes are (order, verdict), None for no order."""
    return {
        "prompt": prompt,
        "response_1": first,
        "response_2": second,
        "metadata": {"prompt_id": f"p{number}", "conversation_id": f"c{number}"} | metadata,
        "verdict": verdict,
        "labeler": "someone",
        "votes": [
            {"labeler": "someone", "verdict": vote} | ({"order": order} if order else {})
            for order, vote in votes
        ],
    }


def labelled(number: int, verdict: str) -> dict:
    return label(number, verdict, f"first {number}", f"second {number}")


@pytest.fixture
def pairs(tmp_path):
    def run(labels, **settings):
        write_jsonl(tmp_path / "labels.jsonl", labels)
        arguments = dict(val_fraction=0.3, seed=1) | settings
        preference_pairs(
            labels=tmp_path / "labels.jsonl",
            train=tmp_path / "train.jsonl",
            val=tmp_path / "val.jsonl",
            report=tmp_path / "pairs.json",
            **arguments,
        )
        return [list(read_jsonl(tmp_path / f"{part}.jsonl")) for part in ("train", "val")]

    return run


def test_pairs_point_from_the_rejected_to_the_chosen_and_ties_make_none(pairs):
    labels = [labelled(i, ("1", "2", "tie", "none")[i % 4]) for i in range(80)]
    train, val = pairs(labels)
    assert len(train) + len(val) == 40
    for pair in train + val:
        number = int(pair["metadata"]["prompt_id"][1:])
        first, second = f"first {number}", f"second {number}"
        expected = (first, second) if number % 4 == 0 else (second, first)
        assert (pair["chosen"], pair["rejected"]) == expected
        assert pair["prompt"] == POST and pair["metadata"]["labeler"] == "someone"


def test_a_conversation_is_on_one_side_of_the_pairs(pairs):
    labels = [labelled(i, "1") for i in range(200)]
    for number, label in enumerate(labels):
        label["metadata"]["conversation_id"] = f"c{number // 4}"
    train, val = pairs(labels)
    assert not conversations(train) & conversations(val)
    assert 0.15 < len(val) / 200 < 0.45
    assert pairs(labels[::-1])[1] == val[::-1]
    assert pairs(labels, seed=2)[1] != val


def test_labels_without_a_decision_are_refused(pairs, tmp_path):
    with pytest.raises(UserError, match="no pair; 20 labels in .* are too few or all ties"):
        pairs([labelled(i, "tie") for i in range(20)])
    assert not (tmp_path / "train.jsonl").exists()
    lost = [{"excluded": reason, "metadata": {}} for reason in ("timeout", "connection", "timeout")]
    with pytest.raises(
        UserError, match="no pair; 0 labels .*; not labelled: connection 1, timeout 2"
    ):
        pairs(lost)


def conversations(rows):
    return {row["metadata"]["conversation_id"] for row in rows}


# Duplicates


def pair(chosen, rejected, prompt=POST):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_the_same_pair_is_kept_once_and_contradictions_not_at_all():
    one, other = pair("a", "b"), pair("a", "b", prompt="Poster: another.")
    assert without_duplicates([one, one, other, one]) == (
        [one, other],
        {"repeated": 2, "contradictory": 0},
    )
    assert without_duplicates([one, pair("b", "a"), one, other, pair("a", "c")]) == (
        [other, pair("a", "c")],
        {"repeated": 0, "contradictory": 3},
    )


TEXTS = st.sampled_from(["a", "b b", "c c c"])
ANSWERS = st.sampled_from(["1", "2", "tie", "none"])


@st.composite
def label_rows(draw) -> dict:
    """Labels of few prompts and texts, so that rows repeat and contradict one another."""
    first, second = draw(st.lists(TEXTS, min_size=2, max_size=2, unique=True))
    votes = draw(st.lists(st.tuples(st.sampled_from(["12", "21"]), ANSWERS), max_size=3))
    prompt = draw(st.sampled_from(["p", "q"]))
    return label(draw(st.integers(0, 5)), draw(ANSWERS), first, second, votes, prompt)


EXCLUDED = st.builds(lambda reason: {"excluded": reason, "metadata": {}}, st.sampled_from("xy"))
ENOUGH = [labelled(number, "1") for number in range(100, 140)]
"""So that both sides of the split have a pair."""


@given(rows=st.lists(st.one_of(label_rows(), label_rows(), EXCLUDED), max_size=25))
def test_pairs_are_distinct_and_nothing_is_lost_uncounted(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_jsonl(folder / "labels.jsonl", rows + ENOUGH)
    paths = {name: folder / f"{name}.jsonl" for name in ("train", "val")}
    preference_pairs(
        labels=folder / "labels.jsonl", **paths, report=folder / "r.json", val_fraction=0.4, seed=1
    )
    train, val = (list(read_jsonl(path)) for path in paths.values())
    report = read_json(folder / "r.json")
    assert not conversations(train) & conversations(val)
    pairs = [(row["prompt"], row["chosen"], row["rejected"]) for row in train + val]
    assert len({(prompt, frozenset(texts)) for prompt, *texts in pairs}) == len(pairs)
    decided = [
        (row["prompt"], *(row[f"response_{n}"] for n in (row["verdict"], OPPOSITE[row["verdict"]])))
        for row in rows + ENOUGH
        if row.get("verdict") in ("1", "2")
    ]
    assert set(pairs) == {(p, a, b) for p, a, b in decided if (p, b, a) not in decided}
    assert len(decided) == len(pairs) + sum(report["duplicates"].values())
    assert report["pairs"] == {"train": len(train), "val": len(val)}
    assert sum(report["verdicts"].values()) == report["labels"]
    assert report["labels"] + sum(report["excluded"].values()) == len(rows + ENOUGH)


# The report


def test_the_numbers_of_an_example_that_is_counted_by_hand(pairs, tmp_path):
    both = [("12", "1"), ("21", "1")], [("12", "2"), ("21", "2")]
    rows = [
        label(1, "1", "a b c", "a", both[0], tokens=[6, 4]),
        label(2, "2", "a b", "c d e f", both[1], tokens=[3, 5]),
        label(3, "tie", "x y", "z w", [("12", "1"), ("21", "2")]),  # the place decides
        label(4, "2", "a b c d", "b", both[1], tokens=[5, 1]),
        label(5, "tie", "x", "z", [("12", "tie"), ("21", "1")]),
        {"excluded": "unreadable", "metadata": {"conversation_id": "c6"}},
        label(7, "2", "a", "a b c", both[1], tokens=[4, 6]),  # the first row once more
        label(8, "1", "m n", "o", [(None, "1")]),
        label(9, "2", "m n", "o", [(None, "2")]),  # contradicts the row before
        label(10, "none", "q", "r", [(None, "none")]),
    ]
    train, val = pairs(rows, val_fraction=0.5, seed=2)
    assert Counter(row["chosen"] for row in train + val) == Counter(["a b c", "c d e f", "b"])
    report = read_json(tmp_path / "pairs.json")
    assert report["labels"] == 9 and report["verdicts"] == {"1": 2, "2": 4, "none": 1, "tie": 2}
    assert report["excluded"] == {"unreadable": 1}
    assert report["flips"] == {"asked": 6, "flipped": 2}  # rows 3 and 5
    assert report["duplicates"] == {"repeated": 1, "contradictory": 2}
    assert report["pairs"] == {"train": len(train), "val": len(val)}
    assert report["mean_tokens"] == (10 + 8 + 6) / 3
    # Votes for the response shown first, row by row: 1 2 3 4 5 7 8 9.
    votes = (1 + 1 + 2 + 1 + 0 + 1 + 1 + 0) / (2 + 2 + 2 + 2 + 1 + 2 + 1 + 1)
    assert report["first_shown"]["value"] == pytest.approx(votes)
    assert report["first_shown"]["rows"] == 13
    # Rows 1 2 4 7 8 9: these measures are of the labels, with contradictions and repetitions.
    assert report["longer_chosen"]["value"] == pytest.approx((1 + 1 + 0 + 1 + 1 + 0) / 6)
    assert report["words_more"]["value"] == pytest.approx((2 + 2 - 3 + 2 + 1 - 1) / 6)
    assert report["agreement"]["length"]["value"] == pytest.approx((1 + 1 + 0 + 1 + 1 + 0) / 6)
    for name in ("first_shown", "longer_chosen", "words_more"):
        assert report[name]["low"] < report[name]["value"] < report[name]["high"]


def test_what_cannot_be_measured_is_none(pairs, tmp_path):
    pairs([labelled(number, "1") for number in range(20)])
    report = read_json(tmp_path / "pairs.json")
    assert report["flips"] is report["first_shown"] is report["mean_tokens"] is None
    assert report["longer_chosen"]["value"] == 0.5  # as many words
    assert report["agreement"]["length"]["low"] < 0.5, "twenty ties are no certainty"


def test_the_report_has_the_numbers_as_text(pairs, tmp_path):
    both = [("12", "1"), ("21", "2")]
    excluded = {"excluded": "unreadable", "metadata": {}}
    pairs([*(label(n, "1", f"a a a{n}", "b", both, tokens=[4, 2]) for n in range(20)), excluded])
    column = label_column({"made": 1200, "cut": 30}, read_json(tmp_path / "pairs.json"))
    assert column["prompts"] == "1,230" and column["labels"] == "20"
    assert column["prompts without two usable responses"] == "cut: 30"
    assert column["verdicts"] == "1: 20" and column["could not be labelled"] == "unreadable: 1"
    assert column["judge's answers differ with the order"] == "20 of 20"
    assert column["votes for the response shown first"] == "1.000 [0.839, 1.000] of 40 votes"
    assert column["words that the chosen one is longer"] == "+2.0 [not known]"  # the same in all
    assert column["duplicates dropped"] == "none" and column["mean tokens of a pair"] == "6.0"
    pairs([labelled(number, "1") for number in range(20)])
    column = label_column({"made": 20}, read_json(tmp_path / "pairs.json"))
    assert column["judge's answers differ with the order"] == "not asked in both orders"
    assert column["votes for the response shown first"] == "none"
    assert column["mean tokens of a pair"] == "unknown"


def labels_of(judge, lengths):
    """Labels by a judge, in both orders, of responses with these numbers of words."""
    texts = [("a " * one, "b " * other) for one, other in lengths]
    judgments = judge_both_orders(judge, [Comparison(POST, *pair) for pair in texts])
    return [
        label(number, verdict, *pair, zip(("12", "21"), [o.verdict for o in answers], strict=True))
        for number, (pair, (verdict, answers)) in enumerate(zip(texts, judgments, strict=True))
    ]


@pytest.mark.parametrize(
    ("judge", "first_shown", "flipped"),
    [(PrefersTheFirst(), 1, 4), (LeansToTheFirst(), 5 / 8, 1), (LengthJudge(), 1 / 2, 0)],
)
def test_a_preference_for_the_place_shows(judge, first_shown, flipped):
    report = describe(labels_of(judge, [(4, 1), (1, 4), (3, 2), (6, 2)]), [], seed=1)
    assert report["first_shown"]["value"] == first_shown
    assert report["flips"] == {"asked": 4, "flipped": flipped}


@given(rows=st.lists(label_rows(), max_size=12))
def test_swapping_the_responses_changes_no_measure(rows):
    """Swapping the responses, with verdicts and orders of the votes, changes no measure."""
    swapped = [
        row
        | {"response_1": row["response_2"], "response_2": row["response_1"]}
        | {"verdict": OPPOSITE[row["verdict"]]}
        | {"votes": [_swapped(vote) for vote in row["votes"]]}
        for row in rows
    ]
    before, after = describe(rows, [], 1), describe(swapped, [], 1)
    assert before["verdicts"].get("1") == after["verdicts"].get("2")
    for name in ("labels", "flips", "first_shown"):
        assert before[name] == after[name]


def _swapped(vote):
    return vote | {"order": vote["order"][::-1], "verdict": OPPOSITE[vote["verdict"]]}


def test_intervals_are_over_conversations():
    """Rows of one conversation tell as much as one row."""
    rows = [label(1, "1", "a", "b", [("12", str(1 + n % 2))]) for n in range(20)]
    first_shown = describe(rows, [], seed=1)["first_shown"]
    assert first_shown == {**wilson(0.5, 1).columns("value"), "rows": 20}


def trust_rows(folder: Path, labels: Path, draws: int) -> dict[str, dict[str, str]]:
    """The trust in the length baseline by these labels and by one delta pair, in which the longer reply won: measure -> row."""
    metadata = {"conversation_id": "c1", "winner_id": "w", "loser_id": "l"}
    delta = {"prompt": POST, "winner": "a a a", "loser": "b", "metadata": metadata}
    write_jsonl(folder / "delta.jsonl", [delta])
    side = {"conversation_id": "c1", "side": "test"}
    write_table(folder / "sides.csv", [side], list(side))
    judge_trust(
        judges=["length"], labels={"ai": labels}, output=folder / "trust.csv", draws=draws,
        settings=JudgeSettings(
            seed=1, threads=1, delta_pairs=folder / "delta.jsonl", sides=folder / "sides.csv"
        ),
    )  # fmt: skip
    return {row["measure"]: row for row in read_csv(folder / "trust.csv")}


def test_rows_that_could_not_be_labelled_count_nowhere_in_trust(tmp_path):
    excluded = {"excluded": "unreadable", "metadata": {"conversation_id": "c9"}}
    write_jsonl(tmp_path / "ai.jsonl", [label(1, "1", "a a", "b"), excluded, labelled(2, "tie")])
    rows = trust_rows(tmp_path, tmp_path / "ai.jsonl", draws=10)
    for measure in ("delta_pairs", "ai_labels"):
        assert (rows[measure]["rows"], rows[measure]["value"]) == ("1", "1.0")
    assert rows["ai_kappa"]["rows"] == "2"


def test_agreement_with_the_length_baseline_is_the_one_of_the_table_of_trust(pairs, tmp_path):
    rows = [
        label(n // 2, ("1", "2", "tie")[n % 3], "a " * (n % 5 + 1), f"b{n} " * (n * 7 % 4 + 1))
        for n in range(60)
    ]
    pairs(rows)
    agreement = read_json(tmp_path / "pairs.json")["agreement"]["length"]
    row = trust_rows(tmp_path, tmp_path / "labels.jsonl", draws=2000)["ai_labels"]
    for name in ("value", "low", "high", "rows"):
        assert agreement[name] == pytest.approx(float(row[name]), abs=1e-6)


def test_a_few_pairs_leave_one_to_validate_and_most_stay_where_they_were():
    few = [f"c{i}" for i in range(5)]
    assert len(validation_conversations(few, 0.05, seed=1)) == 1
    many = [f"c{i}" for i in range(200)]
    validation = validation_conversations(many, 0.1, seed=1)
    assert len(validation) == 20 and validation != validation_conversations(many, 0.1, seed=2)
    fewer = validation_conversations(many[:-5], 0.1, seed=1)
    assert len(validation - fewer) <= 6 and len(fewer - validation) <= 6
