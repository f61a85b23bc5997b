"""Splits a recipe by what its settings are for, and lists the arguments and packages to record."""

from typing import Any

LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
"""Settings of an adapter's shape. Recipes of DPO, which keeps the parent's shape, have none of them."""
LISTS = ("lora_target_modules", "loss_type", "loss_weights")
"""Settings that are always lists: a command line does not show that of a single entry."""
RESOLVED = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "num_train_epochs",
    "max_steps", "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "beta", "loss_type", "loss_weights",
    "label_smoothing", "disable_dropout", "bf16", "fp16", "eval_strategy", "eval_steps", "save_strategy",
    "metric_for_best_model",
)  # fmt: skip
"""Trainer arguments whose final values are recorded, defaults included."""
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
"""Packages whose versions are recorded."""


def split_recipe(recipe: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Split a recipe into trainer arguments, LoRA settings, and settings of the batches.

    Args:
        recipe: a trl config's own arguments, `effective_batch_size`, `lora_*`, `use_4bit`. It is not changed.

    Returns:
        Arguments of the trl config; LoRA settings with `use_4bit`; arguments of `batches.fitting_batches`.
    """
    trainer = {
        key: [value] if key in LISTS and not isinstance(value, list) else value
        for key, value in recipe.items()
    }
    lora = {key: trainer.pop(key) for key in LORA if key in trainer}
    lora["use_4bit"] = trainer.pop("use_4bit", False)
    batches = {
        "effective": trainer.pop("effective_batch_size"),
        "per_device_rows": trainer.pop("per_device_train_batch_size", None),
        "gradient_checkpointing": trainer.pop("gradient_checkpointing", False),
    }
    return trainer, lora, batches
