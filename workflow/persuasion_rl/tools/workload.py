"""Estimates what a study would take on a GPU: floating-point operations, hours and USD. Nothing is measured."""

from typing import Any

from persuasion_rl.study.model_size import QWEN, Size, size_in
from persuasion_rl.study.names import BASE, HUMAN
from persuasion_rl.study.study import Study
from persuasion_rl.tools.assumptions import ASSUMED

DEFAULT_EPOCHS = 3
"""Passes over the data without max_steps and num_train_epochs in the recipe: the default of transformers."""


def workload(study: Study) -> dict[str, float]:
    """The most FLOPs of a study's work with its models, by stage; pools may shrink."""
    size = size_in(study.base_folder) or QWEN
    pools = study.pool_sizes()
    longest = study.config.sampling.max_new_tokens
    flops = {f"train {name}": _training(study, name, size) for name in study.models if name != BASE}
    for pool in sorted({model.pool for model in study.models.values()} - {None}):
        replies = study.config.pools[pool].responses * pools[pool]
        flops[f"sample the {pool} pool"] = _sampling(size, pools[pool], replies, longest)
    players = [player for player in study.config.evaluation.players if player != HUMAN]
    replies = len(players) * study.config.data.final_eval_size
    flops["sample the evaluation"] = _sampling(size, replies, replies, longest)
    return flops | _judging(study, size, replies)


def _training(study: Study, name: str, size: Size) -> float:
    """FLOPs of a training: forward passes, and backward passes for activations only, since LoRA's own gradients are small.

    The reference of a dpo model reads each pair of its pool once, however long the training is.
    """
    model, recipe = study.models[name], study.recipe(name)
    if model.method == "sft":
        tokens = _rows_seen(recipe, study.split_sizes()["train"]) * ASSUMED.row_tokens
        return 2 * size.forward(tokens, ASSUMED.row_tokens, ASSUMED.supervised_share)
    longest = study.config.sampling.max_new_tokens
    length = ASSUMED.prompt_tokens + longest
    pairs = study.pool_sizes()[model.pool]
    reference = size.forward(pairs * 2 * length, length, longest / length)
    tokens = _rows_seen(recipe, pairs) * 2 * length
    return 2 * size.forward(tokens, length, longest / length) + reference


def _rows_seen(recipe: dict[str, Any], rows: int) -> float:
    """The number of rows, or pairs, that a training processes, counting repetitions.

    As in transformers, max_steps overrides num_train_epochs.

    Args:
        rows: the number of rows in the data.
    """
    if "max_steps" in recipe:
        return recipe["max_steps"] * recipe["effective_batch_size"]
    return rows * recipe.get("num_train_epochs", DEFAULT_EPOCHS)


def _judging(study: Study, size: Size, replies: int) -> dict[str, float]:
    """FLOPs of the delta judge and of measures of the models, which read each text once, without sampling."""
    length = ASSUMED.prompt_tokens + study.config.sampling.max_new_tokens
    # Every study measures its trust.
    rows = 2 * _rows_seen(study.config.recipes.reward.settings(), ASSUMED.delta_pairs)
    training = 2 * size.forward(rows * ASSUMED.row_tokens, ASSUMED.row_tokens, 0.0)
    flops = {"train the delta judge": training}
    if "delta" in (*study.config.evaluation.judges, study.config.labels.ai.judge):
        pool = study.config.pools["ai"].responses * study.pool_sizes()["ai"]
        flops["judge by delta"] = size.forward((pool + replies) * length, length, 0.0)
    trained = len(study.models) * study.config.data.final_eval_size
    flops["measure losses and KL"] = 3 * size.forward(trained * length, length)
    return flops


def _sampling(size: Size, prompts: float, replies: float, longest: int) -> float:
    """FLOPs of sampling; prompts are computed once, and every reply has the greatest length."""
    start = size.forward(prompts * ASSUMED.prompt_tokens, ASSUMED.prompt_tokens, 0.0)
    return start + size.forward(replies * longest, ASSUMED.prompt_tokens + longest)


def estimates(study: Study) -> list[list[str]]:
    """Rows of stage, PFLOP, and hours on each GPU; the last row is the total, with prices."""
    stages = workload(study)
    rows = [["estimate of", "PFLOP", *(gpu.name for gpu in ASSUMED.gpus)]]
    for stage, flops in [*stages.items(), ("all", sum(stages.values()))]:
        rows.append([stage, f"{flops / 1e15:.1f}"])
        for gpu in ASSUMED.gpus:
            hours = flops / (gpu.tflops * 1e12 * ASSUMED.peak_share) / 3600
            cost = f", ${hours * gpu.usd_per_hour:.2f}" if stage == "all" else ""
            rows[-1].append((f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min") + cost)
    return rows


def assumed(study: Study) -> str:
    """The assumptions behind the estimates, in a sentence."""
    size = (
        "the base model's size by its config.json"
        if size_in(study.base_folder)
        else "Qwen2.5-0.5B's size"
    )
    return (
        f"Estimates, not measured: {size}, {ASSUMED.row_tokens} tokens a row, {ASSUMED.delta_pairs:,} delta pairs,"
        f" {ASSUMED.peak_share:.0%} of each GPU's 16-bit peak; sampling is often slower. Prices: {ASSUMED.prices_are}."
    )
