"""The estimated work of a study on a GPU, against a count by hand."""

from dataclasses import fields
from datetime import date

import pytest
import yaml
from transformers import TrainingArguments

from persuasion_rl.study.model_size import QWEN
from persuasion_rl.tools.assumptions import ASSUMED, TABLE
from persuasion_rl.tools.workload import DEFAULT_EPOCHS, estimates, workload
from published import PUBLISHED, published


def test_the_published_studys_work_is_that_of_a_count_by_hand():
    """Qwen2.5-0.5B: 716 MFLOP a token in the layers, 272 in the head, 43 in attention at 1,000 tokens."""
    assert QWEN.forward(1, 1000) == pytest.approx((715.6 + 272.2 + 43.0) * 1e6, rel=1e-3)
    work = workload(published())
    # 40,000 rows of 600 tokens, 3 epochs; forward and back, the head on half of them.
    assert work["train sft"] == pytest.approx(72e6 * 2 * (715.6 + 25.8 + 136.1) * 1e6, rel=1e-3)
    # 8,000 pairs of twice 736 tokens: forward, back, and the reference; the head on the responses.
    head = 272.2 * 256 / 736
    assert work["train rlaif"] == pytest.approx(
        8000 * 1472 * 3 * (715.6 + 31.7 + head) * 1e6, rel=1e-3
    )
    assert work.keys() == {
        "train sft", "train rlaif", "train rlhf", "train rlaif_rlhf",
        "sample the ai pool", "sample the human pool", "sample the evaluation",
        "train the delta judge", "judge by delta", "measure losses and KL",
    }  # fmt: skip


def test_one_model_more_is_that_much_more_work():
    models = yaml.safe_load(PUBLISHED.read_text())["models"]
    more = workload(
        published(models=models | {"sft_s2": {"parent": "base", "method": "sft", "seed": 2}})
    )
    assert more.pop("train sft_s2") == more["train sft"]
    before = workload(published())
    assert more.pop("measure losses and KL") > before.pop("measure losses and KL")
    assert more == before


def recipes(**method) -> dict:
    """The published recipes with these keys and without num_train_epochs."""
    methods = yaml.safe_load(PUBLISHED.read_text())["recipes"]
    for recipe in methods.values():
        recipe.pop("num_train_epochs", None)
    return {name: recipe | method for name, recipe in methods.items()}


def trainings(**changes) -> dict[str, float]:
    """FLOPs of the published trainings with some sections changed, and without recipes of single models."""
    models = yaml.safe_load(PUBLISHED.read_text())["models"]
    for model in models.values():
        model.pop("recipe", None)
    work = workload(published(models=models, **changes))
    return {name: flops for name, flops in work.items() if name.startswith("train ")}


def test_a_recipe_without_epochs_has_as_many_as_the_trainers_take():
    (epochs,) = (f.default for f in fields(TrainingArguments) if f.name == "num_train_epochs")
    assert epochs == DEFAULT_EPOCHS
    assert trainings(recipes=recipes()) == trainings(recipes=recipes(num_train_epochs=epochs))
    assert trainings(recipes=recipes()) != trainings(recipes=recipes(num_train_epochs=1))


def test_steps_override_epochs_and_count_as_the_rows_that_they_take():
    """40,000 SFT rows, 20,000 delta pairs; 8,000 AI pairs, whose reference is a third of one pass."""
    steps = recipes(max_steps=100, effective_batch_size=80)
    one_epoch = trainings(recipes=recipes(num_train_epochs=1))
    work = trainings(recipes=steps)
    assert work == trainings(recipes=recipes(max_steps=100, effective_batch_size=80, num_train_epochs=9))  # fmt: skip
    assert work["train sft"] == pytest.approx(one_epoch["train sft"] * 8_000 / 40_000)
    assert work["train the delta judge"] == pytest.approx(
        one_epoch["train the delta judge"] * 8 / 20
    )
    assert work["train rlaif"] == pytest.approx(one_epoch["train rlaif"])
    twice = trainings(recipes=recipes(max_steps=200, effective_batch_size=80))
    assert twice["train rlaif"] == pytest.approx(one_epoch["train rlaif"] * 5 / 3)


def test_times_fall_with_the_gpus_speed_and_the_last_row_has_a_price():
    header, *rows = estimates(published())
    assert header[2:] == [gpu.name for gpu in ASSUMED.gpus]
    assert rows[-1][0] == "all" and all("$" in cell for cell in rows[-1][2:])
    assert not any("$" in cell for row in rows[:-1] for cell in row)


def test_every_number_that_is_assumed_has_its_date_and_source():
    rows = yaml.safe_load(TABLE.read_text())
    prices = rows.pop("prices_are")
    rows |= rows.pop("gpus")
    assert prices and all(isinstance(row["date"], date) and row["source"] for row in rows.values())
    assert all("unit" in row or "usd_per_hour" in row for row in rows.values())
