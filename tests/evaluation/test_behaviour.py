"""Measures of replies with values computed by hand, and their table."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csv_files import read_csv
from persuasion_rl.evaluation.behaviour import distinct, evaluate_behaviour, repeated_share
from persuasion_rl.files import write_json, write_jsonl
from replies import player_rows
from small_splits import sft_row

CONCESSION = Path(__file__).parents[2] / "resources/markers/concession.txt"
TRAINING = ["One two three four five six seven eight nine ten."]


# Repetition and variety


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two three", 0.0),
        ("a b c d a b c d", 1 / 5),  # abcd bcda cdab dabc abcd
        ("no no no no no no", 2 / 3),
        ("a b c d e f g h", 0.0),
    ],
)
def test_the_share_of_repeated_4grams(text, share):
    assert repeated_share(text.split()) == pytest.approx(share)


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_a_doubled_text_repeats_more_and_its_share_stays_below_one(text):
    assert 0 <= repeated_share(text) <= repeated_share(text + text) < 1


def test_distinct_ngrams_are_counted_over_all_replies_and_not_across_them():
    texts = ["a b a b".split(), "a b c".split()]
    assert distinct(texts, 1) == 3 / 7
    assert distinct(texts, 2) == 3 / 5  # ab ba ab, ab bc
    assert distinct([], 2) == 0.0


# The table


@pytest.fixture
def table(tmp_path):
    """A function that tabulates two players and returns the rows by player and measure."""
    rows = {
        "rlaif": player_rows(["You're right that a b c d.", "no no no no no no"], cut=(1,)),
        "human": player_rows([TRAINING[0], "Fair enough"]),
    }
    for name, responses in rows.items():
        write_jsonl(tmp_path / f"{name}.jsonl", responses)
    write_jsonl(
        tmp_path / "train.jsonl", [sft_row("c", 1, "p", response=text) for text in TRAINING]
    )
    write_json(tmp_path / "loss.json", {"validation_loss": 2.0, "perplexity": math.exp(2)})
    accuracy = {"": 0.7, "_low": 0.6, "_high": 0.8}
    write_json(
        tmp_path / "metrics.json", {f"eval_reward_accuracy{k}": v for k, v in accuracy.items()}
    )
    ids = [{"prompt_id": f"p{i}", "conversation_id": f"c{i}"} for i in range(2)]
    write_jsonl(
        tmp_path / "kl.jsonl",
        [
            {**ids[0], "tokens": 10, "kl": 1.0, "log_ratio": 2.0},
            {**ids[1], "tokens": 20, "kl": 6.0, "log_ratio": -4.0},
        ],
    )
    write_jsonl(
        tmp_path / "similarity.jsonl",
        [{**id_, "similarity": value} for id_, value in zip(ids, (0.5, 0.7), strict=True)],
    )

    def tabulate(**changed) -> dict[tuple[str, str], dict]:
        arguments = dict(
            responses={name: tmp_path / f"{name}.jsonl" for name in rows},
            losses={"rlaif": tmp_path / "loss.json"},
            metrics={"rlaif": tmp_path / "metrics.json"},
            kl={"rlaif": tmp_path / "kl.jsonl"},
            similarities={"rlaif": tmp_path / "similarity.jsonl"},
            train=tmp_path / "train.jsonl",
            concession=CONCESSION,
            output=tmp_path / "behaviour.csv",
            draws=200,
            seed=1,
        )
        evaluate_behaviour(**(arguments | changed))
        measures = read_csv(tmp_path / "behaviour.csv")
        return {(row["player"], row["measure"]): row for row in measures}

    tabulate.output = tmp_path / "behaviour.csv"
    return tabulate


def test_the_measures_of_two_players_known_by_hand(table):
    values = {key: row["value"] for key, row in table().items()}
    assert {measure: float(value) for (p, measure), value in values.items() if p == "rlaif"} == {
        "tokens": 15, "words": 6.5, "eos_rate": 0.5, "repeated_4grams": pytest.approx(1 / 3, abs=1e-6),
        "distinct_1": pytest.approx(8 / 13, abs=1e-6), "distinct_2": pytest.approx(7 / 11, abs=1e-6),
        "copied_words": 0, "longest_copied_span": 0, "concession_markers": 0.5, "similarity_to_human": 0.6,
        "validation_loss": 2, "perplexity": pytest.approx(math.exp(2), abs=1e-6), "pair_accuracy": 0.7,
        "kl_a_token": 0.2, "kl_a_reply": 3.5, "log_ratio_a_token": 0.0, "log_ratio_a_reply": -1.0,
    }  # fmt: skip
    assert values["human", "copied_words"] == "0.5"
    assert values["human", "longest_copied_span"] == "10"
    assert values["human", "concession_markers"] == "0.5"


def test_what_was_not_measured_is_said_and_what_cannot_be_has_no_row(table):
    rows = table()
    assert rows["human", "similarity_to_human"]["value"] == "not measured"
    for measure in ("validation_loss", "pair_accuracy", "kl_a_token"):
        assert ("human", measure) not in rows
    assert all(row["unit"] for row in rows.values())


def test_rates_have_intervals_that_hold_them_and_the_same_seed_the_same_bytes(table):
    for (_, measure), row in table().items():
        if row["low"]:
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        else:
            assert measure in (
                "distinct_1", "distinct_2", "longest_copied_span", "validation_loss", "perplexity",
                "similarity_to_human",
            )  # fmt: skip
    first = table.output.read_bytes()
    table()
    assert table.output.read_bytes() == first


@pytest.mark.parametrize(
    ("reply", "concedes"),
    [
        ("I completely agree, but cars are loud.", True),
        ("That\u2019s a fair point. Still, no.", True),
        ("You make a very good point about cost.", True),
        ("I share your worry about money when it comes to bike lanes.", True),
        ("It is true that buses are slow.", True),
        ("> I agree with you\n\nNo.", False),  # quoted
        ("Everybody disagrees with that.", False),
        ("Buses are cheap.", False),
        ("The right of way is theirs.", False),
    ],
)
def test_markers_of_concession(table, tmp_path, reply, concedes):
    write_jsonl(tmp_path / "human.jsonl", player_rows([reply, reply]))
    rows = table(responses={"human": tmp_path / "human.jsonl"}, losses={})
    assert float(rows["human", "concession_markers"]["value"]) == concedes
