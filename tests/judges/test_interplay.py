"""The baseline that learns from word overlap and style: its features, what it learns, its accuracy on real pairs."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csv_files import read_csv
from persuasion_rl.data.cmv import process_cmv
from persuasion_rl.data.delta_pairs import pairs_on
from persuasion_rl.data.examples import Budget
from persuasion_rl.files import UserError, read_jsonl, write_jsonl
from persuasion_rl.judges.base import Comparison, judge_both_orders
from persuasion_rl.judges.interplay import InterplayJudge, features, fit
from persuasion_rl.judges.judge_trust import judge_trust
from persuasion_rl.judges.make import JudgeSettings
from persuasion_rl.tables import write_table

WORDS = "the city should pay for buses because cars are loud and roads cost money".split()


def test_overlap_is_counted_by_hand():
    actual = features("The city should pay.", "Should the city really pay? A city can't pay.")
    # words of the reply: should the city really pay a can't; shared: should the city pay
    assert actual["common_words"] == pytest.approx(math.log(1 + 4))
    assert actual["words_of_reply_in_prompt"] == pytest.approx(4 / 7)
    assert actual["words_of_prompt_in_reply"] == 1
    # content words: city, pay in both; the reply's can't and really too
    assert actual["common_content"] == pytest.approx(math.log(1 + 2))
    assert actual["content_of_reply_in_prompt"] == pytest.approx(2 / 4)
    assert actual["stop_of_reply_in_prompt"] == pytest.approx(2 / 3)


def test_style_is_counted_by_hand():
    actual = features(
        "",
        'I think **you** might see "it", for example [here](https://a.b): 3 of 4.\n\n- We agree!\n- Do you?',
    )
    counts = {"questions": 1, "exclamations": 1, "quotes": 2, "examples": 1, "list_items": 2}
    counts |= {"emphasis": 1, "paragraphs": 1, "numbers": 2, "sentences": 3}
    for name, count in counts.items():
        assert actual[name] == pytest.approx(math.log(1 + count)), name
    words = "I think you might see it for example here https a b of We agree Do you".split()
    assert actual["length"] == pytest.approx(math.log(1 + len(words)))
    assert actual["you"] == pytest.approx(2 / len(words))
    assert actual["we"] == actual["i"] == actual["hedges"] == pytest.approx(1 / len(words))
    assert actual["links"] > 0


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_has_the_same_finite_features(prompt, reply):
    actual = features(prompt, reply)
    assert actual.keys() == features("a", "b").keys()
    assert all(math.isfinite(value) for value in actual.values())


def pairs(count: int, winner_overlaps: bool) -> list[dict]:
    """Pairs of replies of about the same length: one repeats words of the prompt, the other does not."""
    draw = random.Random(1)
    rows = []
    for i in range(count):
        prompt = " ".join(draw.sample(WORDS, 8))
        near = " ".join(draw.sample(prompt.split(), 6) + ["perhaps"])
        far = " ".join(draw.sample(["tea", "cat", "sun", "moon", "hat", "sock", "pen"], 6) + ["hm"])
        winner, loser = (near, far) if winner_overlaps else (far, near)
        metadata = {"conversation_id": f"c{i}", "winner_id": f"w{i}", "loser_id": f"l{i}"}
        rows.append({"prompt": prompt, "winner": winner, "loser": loser, "metadata": metadata})
    return rows


@pytest.fixture
def train_judge(tmp_path):
    """A function that trains the judge on pairs, of which every third is on the test side."""

    def train(rows: list[dict]) -> InterplayJudge:
        write_jsonl(tmp_path / "pairs.jsonl", rows)
        sides = [
            {"conversation_id": f"c{i}", "side": "train" if i % 3 else "test"}
            for i in range(len(rows))
        ]
        write_table(tmp_path / "sides.csv", sides, ["conversation_id", "side"])
        return InterplayJudge(tmp_path / "pairs.jsonl", tmp_path / "sides.csv")

    return train


@pytest.mark.parametrize("overlaps", [True, False])
def test_it_learns_what_wins(train_judge, overlaps):
    judge = train_judge(pairs(60, overlaps))
    held_out = pairs(60, True)[::3]
    judged = judge_both_orders(
        judge, [Comparison(row["prompt"], row["winner"], row["loser"]) for row in held_out]
    )
    assert [verdict for verdict, _ in judged] == ["1" if overlaps else "2"] * len(held_out)


def test_it_learns_nothing_from_the_test_side(train_judge):
    rows = pairs(60, True)
    swapped = [
        row | ({} if i % 3 else {"winner": row["loser"], "loser": row["winner"]})
        for i, row in enumerate(rows)
    ]
    comparison = [Comparison(rows[0]["prompt"], rows[0]["winner"], rows[0]["loser"])]
    assert train_judge(rows).prefer(comparison) == train_judge(swapped).prefer(comparison)


def test_a_swapped_pair_has_exactly_the_opposite_preference(train_judge):
    judge = train_judge(pairs(30, True))
    comparisons = [
        Comparison(r["prompt"], r["winner"], r["loser"] + " it is!") for r in pairs(9, True)
    ]
    forward, backward = judge.prefer(comparisons), judge.prefer([c.swapped() for c in comparisons])
    assert forward == [-preference for preference in backward]
    same = [Comparison(c.prompt, c.first, c.first) for c in comparisons]
    assert {verdict for verdict, _ in judge_both_orders(judge, same)} == {"tie"}


def test_a_feature_that_never_differs_has_no_weight():
    draw = np.random.default_rng(1)
    differences = np.stack([draw.normal(1, 1, 50), np.zeros(50)], axis=1)
    coefficients = fit(differences)
    assert coefficients[0] > 0 == coefficients[1]


def test_without_pairs_on_the_train_side_it_is_refused(train_judge):
    with pytest.raises(UserError, match="pairs.jsonl: no pair on the train side"):
        train_judge(pairs(1, True))


def test_pairs_are_taken_from_one_side(tmp_path):
    (tmp_path / "sides.csv").write_text("conversation_id,side\na,train\nb,val\nc,train\n")
    rows = [
        row | {"metadata": row["metadata"] | {"conversation_id": id_}, "n": n}
        for n, (row, id_) in enumerate(zip(pairs(5, True), "abcab", strict=True))
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    for side, numbers in (("train", [0, 2, 3]), ("val", [1, 4]), ("test", [])):
        selected = pairs_on(side, tmp_path / "pairs.jsonl", tmp_path / "sides.csv")
        assert [row["n"] for row in selected] == numbers


def test_on_real_pairs_it_is_as_accurate_as_a_similar_model_and_better_than_length(
    real_data, qwen_tokenizer, tmp_path
):
    """A model of this kind, trained on other pairs, was measured at .647 on these and some more."""
    process_cmv(
        corpora=[real_data / "winning-args-corpus"], tokenizer=qwen_tokenizer,
        examples=tmp_path / "examples.jsonl", pairs=tmp_path / "pairs.jsonl", counts=tmp_path / "counts.json",
        budget=Budget(min_tokens=1, max_tokens=4000, max_context_tokens=8000, max_seq_length=20000),
    )  # fmt: skip
    ids = conversations_of(tmp_path / "pairs.jsonl")
    correct = Counter()
    for fold in range(5):
        sides = [
            {"conversation_id": id_, "side": "test" if i % 5 == fold else "train"}
            for i, id_ in enumerate(ids)
        ]
        write_table(tmp_path / "sides.csv", sides, ["conversation_id", "side"])
        judge_trust(
            judges=["interplay", "length"], labels={}, output=tmp_path / "trust.csv", draws=500,
            settings=JudgeSettings(
                seed=1, threads=1, delta_pairs=tmp_path / "pairs.jsonl", sides=tmp_path / "sides.csv"
            ),
        )  # fmt: skip
        for row in read_csv(tmp_path / "trust.csv"):
            if row["measure"] == "delta_pairs":
                correct[row["judge"]] += float(row["value"]) * int(row["rows"])
                correct["pairs", row["judge"]] += int(row["rows"])
    accuracy = {
        judge: correct[judge] / correct["pairs", judge] for judge in ("interplay", "length")
    }
    assert correct["pairs", "interplay"] > 700
    assert abs(accuracy["interplay"] - 0.647) < 0.033
    assert accuracy["interplay"] > accuracy["length"] + 0.02


def conversations_of(pairs) -> list[str]:
    return list(dict.fromkeys(row["metadata"]["conversation_id"] for row in read_jsonl(pairs)))
