"""Refuses recipes that a trainer would refuse hours later, when it starts, and settings that it would silently ignore."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.study.base_folder import linear_modules
from persuasion_rl.study.config import Config
from persuasion_rl.study.names import BASE, kind_of, model_folder
from persuasion_rl.study.recipes import Model

ONLY_OF = {
    **dict.fromkeys(("beta", "label_smoothing", "loss_type", "loss_weights"), ("dpo",)),
    **dict.fromkeys(
        ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"), ("sft", "reward")
    ),
    "use_4bit": ("sft", "dpo"),
}
"""The methods that use a key of a recipe; keys that are not here are for all methods."""
NEVER_SET = {
    "packing": "rows are computed without padding anyway, and effective_batch_size counts rows, not packs",
    "padding_free": "rows are computed without padding anyway; trl's own switch does nothing for dpo",
    "precompute_ref_log_probs": "the reference is computed once anyway",
}
"""trl arguments that a recipe cannot set, and why."""
NOT_ADAPTED = {
    **dict.fromkeys(
        ("lm_head", "embed_out", "output_layer"),
        "trl computes the head from its own weights alone, so an adapter of it would never learn",
    ),
    **dict.fromkeys(
        ("embed_tokens", "embed_in", "wte", "wpe", "word_embeddings"),
        "many models have one matrix for embeddings and head, and an adapter would be merged into both",
    ),
    "score": "the delta judge trains it as a whole anyway",
    "all-linear": "name the modules, as the base model names them",
}
"""Names in lora_target_modules that no adapter is for, and why."""


LOADS_BEST = ("sft", "reward")
"""Methods that keep the best checkpoint, so that each evaluated one must be saved."""
STEPS = {"logging_steps": 10, "save_steps": 500}
"""trl's defaults; without eval_steps a training evaluates whenever it logs."""


def check_recipes(config: Config) -> None:
    """UserError where the recipe of a method or model does not fit the method or the study."""
    for method, recipe in config.recipes.items():
        settings = recipe.settings()
        _check_recipe(f"recipes.{method}", method, settings, settings, config)
    for name, model in config.models.items():
        if name == BASE:
            continue
        key, key_settings = f"models.{name}.recipe", model.recipe.settings() if model.recipe else {}
        _check_recipe(key, model.method, key_settings, config.recipe_of(name), config)
        lora = next((each for each in key_settings if each.startswith("lora_")), None)
        if lora and model.parent != BASE:
            raise UserError(f"{key}.{lora}: {name} keeps the shape of its parent's adapter")


def _check_recipe(
    key: str, method: str, key_settings: dict[str, Any], recipe: dict[str, Any], config: Config
) -> None:
    """UserError where a recipe does not fit its method or the study.

    Args:
        key_settings: the settings at the key. recipe: these laid over the recipe of the method.
    """
    for name in key_settings:
        if method not in ONLY_OF.get(name, (method,)):
            why = (
                "a dpo model keeps the shape of its parent's adapter"
                if name.startswith("lora_")
                else f"it means something for {' and '.join(ONLY_OF[name])} only"
            )
            raise UserError(f"{key}.{name}: {why}")
    _check_target_modules(key, key_settings.get("lora_target_modules", ()), config.models[BASE])
    longest_row = config.data.max_seq_length
    if recipe["max_length"] < longest_row:
        raise UserError(
            f"{key}: max_length {recipe['max_length']} must be at least data.max_seq_length"
            f" {longest_row}, or rows would be cut"
        )
    if recipe.get("use_4bit") and config.device == "cpu":
        raise UserError(f"{key}.use_4bit: needs a CUDA device, and device is cpu")
    _check_schedule(key, recipe)
    _check_steps(key, method, recipe)
    for name in ("eval_steps", "save_steps"):
        if name in key_settings and recipe["eval_strategy"] == "epoch":
            raise UserError(
                f"{key}.{name}: means nothing with eval_strategy: epoch; write eval_strategy: steps, or leave {name} out"
                " (null where it is inherited)"
            )
    _check_losses(key, recipe)


def _modules_here(source: str) -> set[str]:
    """The modules of a base model that an adapter can have; none where it is not here yet."""
    if source == "standin":
        return set()
    folder = Path(model_folder(source))
    if kind_of(source) == "folder":
        return linear_modules(folder)
    with suppress(UserError, OSError):  # a download that is not whole
        return linear_modules(folder)
    return set()


def _check_target_modules(key: str, names: Iterable[str], base: Model) -> None:
    """UserError where a module cannot be adapted, or is not in a base model whose folder is here."""
    modules = _modules_here(base.source) if names else set()
    for name in names:
        if name in NOT_ADAPTED:
            raise UserError(
                f"{key}.lora_target_modules: {name!r} cannot be adapted: {NOT_ADAPTED[name]}; take projections of"
                " layers, as q_proj"
            )
        if modules and name not in modules:
            raise UserError(
                f"{key}.lora_target_modules: the base model has no module {name!r} to adapt; there are"
                f" {', '.join(sorted(modules))}"
            )


def _check_schedule(key: str, recipe: dict[str, Any]) -> None:
    warmup = recipe.get("warmup_steps", 0)
    if warmup > 1 and warmup != int(warmup):
        raise UserError(
            f"{key}.warmup_steps: {warmup} must be a whole number, or below 1 for a share of all steps"
        )
    if warmup and recipe.get("lr_scheduler_type") == "constant":
        raise UserError(
            f"{key}.warmup_steps: the schedule constant has no warm-up; use lr_scheduler_type:"
            " constant_with_warmup, or warmup_steps: 0"
        )


def _check_steps(key: str, method: str, recipe: dict[str, Any]) -> None:
    """Check how often a training logs, evaluates and saves, as transformers' TrainingArguments does."""
    for name in ("logging_steps", "eval_steps", "save_steps"):
        steps = recipe.get(name, 1)
        if steps > 1 and steps != int(steps):
            raise UserError(
                f"{key}.{name}: {steps} must be a whole number, or below 1 for a share of all steps"
            )
    if recipe["eval_strategy"] != "steps" or method not in LOADS_BEST:
        return
    save = recipe.get("save_steps", STEPS["save_steps"])
    evaluate = recipe.get("eval_steps", recipe.get("logging_steps", STEPS["logging_steps"]))
    shares = [steps for steps in (save, evaluate) if steps < 1]
    scale = 1_000_000 if shares else 1  # as transformers does: 0.3 is no multiple of 0.1 in floats
    if save % evaluate and (len(shares) == 1 or (save * scale) % (evaluate * scale)):
        why = "both are steps or both are shares" if len(shares) == 1 else "or the best is not kept"
        raise UserError(
            f"{key}.save_steps: {save} must be a multiple of eval_steps {evaluate}, {why}"
        )


def _check_losses(key: str, recipe: dict[str, Any]) -> None:
    losses = recipe.get("loss_type", ["sigmoid"])
    if recipe.get("label_smoothing") and ("sigmoid" in losses or "robust" not in losses):
        raise UserError(
            f"{key}.label_smoothing: trl ignores it with the loss {losses[0]}; use loss_type: [robust]"
        )
    if len(recipe.get("loss_weights", losses)) != len(losses):
        raise UserError(f"{key}.loss_weights: {len(losses)} losses need as many weights")
    if not any(recipe.get("loss_weights", [1])):
        raise UserError(f"{key}.loss_weights: one must be above 0, or there is nothing to learn")
