"""Estimates the GPU memory of each training from the tensors that a step keeps."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from persuasion_rl.study.memory import FOUR_BITS, HALF, training_bytes
from persuasion_rl.study.model_size import Size
from persuasion_rl.study.names import BASE
from persuasion_rl.study.study import Study
from persuasion_rl.tools.assumptions import ASSUMED


@dataclass(frozen=True)
class Training:
    """A training of a study: its name, method and recipe, and the recipe that shapes its adapter."""

    name: str
    method: str
    recipe: dict[str, Any]
    shape: dict[str, Any]


def trainings(study: Study) -> Iterator[Training]:
    """The trainings of a study, the delta judge's last. DPO continues its parent's adapter."""
    for name, model in study.models.items():
        if name != BASE:
            first = next(study.config.lineage(name))
            shape = study.recipe(first)
            yield Training(name, model.method, study.recipe(name), shape)
    reward = study.config.recipes.reward.settings()
    yield Training("delta judge", "reward", reward, reward)


@dataclass(frozen=True)
class Need:
    """The GPU memory of a training: the least (GB), a description, and what to do if it is too much."""

    least: float
    words: str
    advice: str

    @classmethod
    def of(cls, training: Training, size: Size) -> "Need":
        """Estimate the need for one row or pair at once, or for as many as the recipe says."""
        recipe = training.recipe
        per_device = recipe.get("per_device_train_batch_size")
        rows = min(per_device or 1, recipe["effective_batch_size"])
        pairs = "pair" if training.method != "sft" else "row"

        def takes(rows: int, checkpointing: bool) -> float:
            return training_memory(
                *(training.method, recipe, training.shape, size), rows, checkpointing
            )

        length = f"{recipe['max_length']:,} tokens" + (" each" if pairs == "pair" else "")
        at_once = f"{rows} {pairs}{'s' if rows > 1 else ''} of {length} at once"
        checkpointed_gb, full_gb = takes(rows, True), takes(rows, False)
        if per_device:
            checkpointed = recipe.get("gradient_checkpointing", False)
            least = checkpointed_gb if checkpointed else full_gb
            words = f"about {least:.1f} GB with {at_once}"
            advice = f"leave per_device_train_batch_size out, and as many {pairs}s are taken as fit"
        else:
            least, gb_per_pair = checkpointed_gb, takes(2, False) - full_gb
            words = (
                f"about {least:.1f} GB with {at_once} and gradients checkpointed, {full_gb:.1f} without,"
                f" {gb_per_pair:.1f} for each {pairs} more; as many are taken as fit"
            )
            advice = "lower data.max_seq_length and then max_length, or take a larger GPU"
            if training.method != "reward" and not recipe.get("use_4bit"):
                advice = f"set use_4bit: true in its recipe, {advice}"
        return cls(least, f"{words} (estimate)", advice)


def training_memory(
    method: str, recipe: dict, shape: dict, size: Size, rows: int, checkpointing: bool
) -> float:
    """The estimated peak of GPU memory in an update, in GB (`study.memory.training_bytes`); it was not measured on a GPU.

    Args:
        recipe: the recipe of the training. shape: the recipe with the adapter's shape.
        rows: rows at once; for DPO and the delta judge, pairs. Every row is counted with the greatest length.
    """
    tokens = rows * recipe["max_length"] * (1 if method == "sft" else 2)
    needed = training_bytes(
        method,
        size,
        shape,
        tokens=tokens,
        labelled=tokens,
        length=recipe["max_length"],
        checkpointing=checkpointing,
        numbers=FOUR_BITS if recipe.get("use_4bit") else HALF,
    )
    return needed / 2**30 + ASSUMED.cuda_gb
