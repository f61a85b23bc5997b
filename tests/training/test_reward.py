"""The delta judge: its training with the real libraries, and the scores of the trained model."""

import math
import shutil

import pytest
import torch

from persuasion_rl.data.delta_pairs import pairs_on
from persuasion_rl.files import UserError, file_digest, read_json
from persuasion_rl.judges.base import TIE, Comparison, judge_both_orders
from persuasion_rl.judges.delta import DeltaJudge, load_scorer
from persuasion_rl.models.lineage import base_digest, check_lineage
from persuasion_rl.models.loading import load_base
from persuasion_rl.runtime.lock import LOCK
from tiny_trainings import state_files, train_delta, weights


@pytest.mark.slow
def test_the_delta_judge_writes_its_files(tiny_delta, tiny_rows):
    folder = tiny_delta.parent
    metrics, recipe = read_json(folder / "metrics.json"), read_json(folder / "recipe.json")
    assert metrics["method"] == "reward" and metrics["steps"] == 3
    for side, count in (("train", metrics["train_rows"]), ("val", metrics["val_rows"])):
        assert count == len(pairs_on(side, tiny_rows.pairs, tiny_rows.sides)) > 5
    assert recipe["parent_digest"] == recipe["base_digest"] == base_digest(tiny_rows.base)
    assert (
        recipe["adapter_digest"]
        == file_digest(tiny_delta)
        == check_lineage(tiny_rows.base, [tiny_delta])
    )
    assert recipe["data"] == {
        "train": file_digest(tiny_rows.pairs),
        "val": file_digest(tiny_rows.pairs),
        "sides": file_digest(tiny_rows.sides),
    }
    assert any("score" in name for name in weights(tiny_delta))  # its head is saved with it
    assert state_files(folder) == [LOCK]


@pytest.fixture(scope="module")
def texts(tiny_rows) -> list[tuple[str, str]]:
    rows = pairs_on("val", tiny_rows.pairs, tiny_rows.sides)
    return [(row["prompt"], row[key]) for row in rows for key in ("winner", "loser")]


@pytest.fixture(scope="module")
def scores(tiny_delta, tiny_rows, texts) -> list[float]:
    return load_scorer(tiny_rows.base, tiny_delta, "cpu", batch_size=1)(texts)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [3, 64])
def test_scores_do_not_depend_on_the_batch(batch_size, tiny_delta, tiny_rows, texts, scores):
    score = load_scorer(tiny_rows.base, tiny_delta, "cpu", batch_size)
    assert max(scores) - min(scores) > 0.01
    assert score(texts) == pytest.approx(scores, abs=1e-4)
    assert score(texts[::-1])[::-1] == pytest.approx(scores, abs=1e-4)
    assert score(texts[4:5]) == pytest.approx(scores[4:5], abs=1e-4)


@pytest.mark.slow
def test_the_loaded_scorer_is_the_model_that_was_measured(tiny_delta, scores):
    wins = [winner > loser for winner, loser in zip(scores[::2], scores[1::2], strict=True)]
    metrics = read_json(tiny_delta.parent / "metrics.json")
    assert len(wins) == metrics["val_rows"]
    assert sum(wins) / len(wins) == pytest.approx(metrics["eval_accuracy"], abs=1e-6)
    losses = [
        math.log1p(math.exp(loser - winner))
        for winner, loser in zip(scores[::2], scores[1::2], strict=True)
    ]
    assert sum(losses) / len(losses) == pytest.approx(metrics["eval_loss"], abs=1e-4)


@pytest.mark.slow
def test_the_delta_judge_prefers_antisymmetrically(tiny_delta, tiny_rows, texts, scores):
    judge = DeltaJudge(tiny_rows.base, tiny_delta, "cpu")
    comparisons = [
        Comparison(prompt, winner, loser)
        for (prompt, winner), (_, loser) in zip(texts[::2], texts[1::2], strict=True)
    ]
    forward = judge.prefer(comparisons)
    assert judge.prefer([c.swapped() for c in comparisons]) == [-p for p in forward]
    for preference, first, second in zip(forward, scores[::2], scores[1::2], strict=True):
        probability = 1 / (1 + math.exp(second - first))
        assert abs(preference - (2 * probability - 1)) < 1e-4
    verdicts = judge_both_orders(judge, comparisons)
    for (verdict, opinions), preference in zip(verdicts, forward, strict=True):
        assert [o.verdict for o in opinions] == [verdict, verdict]
        assert (verdict == TIE) == (abs(preference) <= judge.tie_margin)
    same = Comparison(texts[0][0], "As good.", "As good.")
    assert judge.prefer([same]) == [0.0]
    assert judge_both_orders(judge, [same])[0][0] == TIE


@pytest.mark.slow
def test_the_delta_judge_refuses_another_base(tiny_delta, tiny_rows, tmp_path):
    other = tmp_path / "base"
    shutil.copytree(tiny_rows.base, other)
    model = load_base(tiny_rows.base, "cpu")
    with torch.no_grad():
        model.model.norm.weight += 0.1
    model.save_pretrained(other)
    with pytest.raises(UserError, match="another base model"):
        DeltaJudge(other, tiny_delta, "cpu")


@pytest.mark.slow
def test_too_few_pairs_are_refused_in_one_line(tiny_rows, tmp_path):
    sides = tmp_path / "sides.csv"
    sides.write_text(tiny_rows.sides.read_text().replace(",val", ",test"))
    with pytest.raises(UserError, match="0 on val") as error:
        train_delta(tiny_rows, tmp_path, sides=sides)
    assert "\n" not in str(error.value)
