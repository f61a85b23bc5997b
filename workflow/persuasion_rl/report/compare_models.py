"""Compares a study's trained models: their inputs, their final metrics, and the spread over seeds.

Models that differ in nothing but the seed, their own or that of a model above them, are one group. A spread
over seeds is about the noise of training (initial adapter, order of rows, dropout): all models of a group
learn from the same rows and are measured on the same rows, so it says nothing about other data. For that
there are intervals: of a reward accuracy, where its training measured one, and of the evaluation.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from persuasion_rl.files import read_made
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.settings import from_words
from persuasion_rl.tables import write_table

FROM_METRICS = (
    "train_rows",
    "steps",
    "trainable_parameters",
    "eval_loss_before",
    "eval_loss",
    "eval_reward_accuracy",
    "eval_reward_accuracy_low",
    "eval_reward_accuracy_high",
    "eval_reward_margin",
)
MODEL_COLUMNS = ["model", "parent", "method", "pool", "seed", "differs", "group", *FROM_METRICS]
SPREAD = ("eval_loss", "eval_reward_accuracy")
SEED_COLUMNS = ["group", "models", "method", "pool", "differs", "seeds"] + [
    f"{name}_{statistic}" for name in SPREAD for statistic in ("mean", "sd")
]


@dataclass(frozen=True)
class Trained:
    """A trained model: its inputs, from its recipe.json and the study, and its metrics.

    Attributes:
        pool: the pool whose labels a dpo model learned from; None for a supervised one.
        recipe: the whole recipe, not only differences.
    """

    parent: str
    method: str
    pool: str | None
    seed: int
    recipe: dict[str, Any]
    metrics: dict[str, Any]


def compare_models(
    *,
    models: Path,
    seeds: Path,
    metrics: dict[str, Path] = {},
    recipes: dict[str, Path] = {},
    common: dict[str, str] = {},
    pools: dict[str, str] = {},
    groups: dict[str, str] = {},
) -> None:
    """Write one table with a row a model, and one with a row a group of several seeds; either may have none.

    Losses are in nats. The field of a metric that a model does not have (reward accuracy of a supervised one) is empty.
    Standard deviations are those of a sample (n - 1).

    Args:
        models, seeds: the tables to write.
        metrics: model -> its metrics.json, in the order of the study. recipes: model -> its recipe.json.
        common: the recipe of each method, as `method.argument` -> value in YAML. pools: dpo model -> its pool.
        groups: model -> the first of the models that differ only in seeds.
    """
    trained = {
        name: _trained_model(metrics[name], recipes[name], pools.get(name)) for name in metrics
    }
    rows = model_rows(trained, groups, from_words(common))
    spread = seed_rows(rows)
    write_table(models, rows, MODEL_COLUMNS)
    write_table(seeds, spread, SEED_COLUMNS)
    note(f"{models}: {len(rows)} models, {len(spread)} groups of several seeds")


def _trained_model(metrics: Path, recipe: Path, pool: str | None) -> Trained:
    measures = read_made(metrics, "method")
    training = read_made(recipe, "parent", "seed", "recipe")
    return Trained(
        *(training["parent"], measures["method"], pool, training["seed"], training["recipe"]),
        metrics=measures,
    )


def model_rows(
    trained: dict[str, Trained], groups: dict[str, str], common: dict[str, dict]
) -> list[dict[str, Any]]:
    """One row a model, with the keys of MODEL_COLUMNS; groups are named by their first model and have adjacent rows.

    Args:
        groups: model -> the first of its group; a model without one is a group of its own. common: method -> its recipe.
    """
    rows = [
        {
            "model": name,
            "parent": model.parent,
            "method": model.method,
            "pool": model.pool,
            "seed": model.seed,
            "differs": differences(model.recipe, common[model.method]),
            "group": groups.get(name, name),
        }
        | {key: model.metrics.get(key) for key in FROM_METRICS}
        for name, model in trained.items()
    ]
    order = [row["group"] for row in rows]
    return sorted(rows, key=lambda row: order.index(row["group"]))


def differences(recipe: dict[str, Any], common: dict[str, Any]) -> str:
    """The differences of a recipe from the common one, as in "beta=0.5, loss_type=sigmoid+sft"."""
    return ", ".join(
        f"{key}={_as_text(recipe.get(key))}"
        for key in sorted(recipe.keys() | common.keys())
        if _as_text(recipe.get(key)) != _as_text(common.get(key))
    )


def _as_text(value: Any) -> str:
    """A setting as text. A list of one entry reads as that entry, since recipe.json does not distinguish the two."""
    if isinstance(value, list):
        return "+".join(map(_as_text, value))
    return value if isinstance(value, str) else json.dumps(value)


def seed_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a group that has more than one seed, with the keys of SEED_COLUMNS."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return [_spread(trainings) for trainings in groups.values() if len(trainings) > 1]


def _spread(trainings: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of a group: the common values of its models, then means and standard deviations."""
    row = {key: trainings[0][key] for key in ("group", "method", "pool", "differs")}
    row |= {
        "models": " ".join(training["model"] for training in trainings),
        "seeds": len(trainings),
    }
    for name in SPREAD:
        values = [training[name] for training in trainings]
        if None not in values:
            row |= {f"{name}_mean": fmean(values), f"{name}_sd": stdev(values)}
    return row


if __name__ == "__main__":
    stage(compare_models)
