"""What the trainers share: recipes, checks before the first update, the training itself, its records."""

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persuasion_rl.checkpoints import alone, callbacks, last_checkpoint
from persuasion_rl.code_digest import module_digests
from persuasion_rl.command import note
from persuasion_rl.files import (
    UserError,
    file_digest,
    text_digest,
    write_json,
    write_jsonl,
    written_whole,
)
from persuasion_rl.models import base_digest

LORA_DEFAULTS = {
    "lora_r": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
}
LISTS = ("lora_target_modules", "loss_type", "loss_weights")
"""Settings that are lists also where they have one entry, which a command line cannot tell."""
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def divide_recipe(recipe: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Divide a recipe into trainer arguments, LoRA settings, and whether the base is quantized.

    `effective_batch_size` becomes gradient accumulation for the devices that are there.
    """
    trainer = {
        key: [value] if key in LISTS and not isinstance(value, list) else value
        for key, value in recipe.items()
    }
    lora = {key: trainer.pop(key, default) for key, default in LORA_DEFAULTS.items()}
    use_4bit = trainer.pop("use_4bit", False)
    effective = trainer.pop("effective_batch_size")
    together = trainer["per_device_train_batch_size"] * int(os.environ.get("WORLD_SIZE", 1))
    if effective % together:
        raise UserError(
            f"effective_batch_size {effective} is not a multiple of per_device_train_batch_size"
            f" times the number of processes ({together})"
        )
    trainer["gradient_accumulation_steps"] = effective // together
    return trainer, lora, use_4bit


def lora_config(settings: dict[str, Any], **further: Any):
    from peft import LoraConfig

    return LoraConfig(
        r=settings["lora_r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings["lora_dropout"],
        target_modules=settings["lora_target_modules"],
        **further,
    )


def trainer_arguments(
    config_class, settings: dict[str, Any], checkpoints: Path, device: str, **fixed: Any
):
    """A trl config of the recipe's own argument names; an unknown one is the user's mistake."""
    import torch

    device_has = {
        "use_cpu": device == "cpu",
        "bf16": device == "cuda" and torch.cuda.is_bf16_supported(),
        "fp16": device == "cuda" and not torch.cuda.is_bf16_supported(),
    }
    defaults = {
        "save_total_limit": 2,
        "logging_first_step": True,
        "gradient_checkpointing": False,
        "report_to": [],
        "disable_tqdm": False,
    }
    try:
        return config_class(
            output_dir=str(checkpoints), **{**defaults, **device_has, **settings, **fixed}
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"the recipe does not fit {config_class.__name__}: {error}") from None


def trackers(project: str | None) -> list[str]:
    """Where to report to: Weights & Biases where `wandb.project` names a project."""
    if not project:
        return []
    os.environ["WANDB_PROJECT"] = project
    return ["wandb"]


def refuse_long_rows(
    path: Path, rows: list[dict[str, str]], responses: tuple[str, ...], tokenizer, max_length: int
) -> None:
    """UserError where a prompt with one of its responses and EOS is longer than `max_length` tokens.

    trl would cut such a response, or drop the row without a word.
    """
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    for key in responses:
        answers = tokenizer([row[key] for row in rows])["input_ids"]
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), 1):
            if (tokens := len(prompt) + len(answer) + 1) > max_length:
                raise UserError(
                    f"{path}, line {number}: prompt and {key} are {tokens} tokens, more than the"
                    f" recipe's max_length {max_length}"
                )


def runs(values: list[int], mask: list[bool]) -> list[tuple[int, ...]]:
    """The stretches of `values` where `mask` holds."""
    found: list[tuple[int, ...]] = []
    current: list[int] = []
    for value, inside in zip(values, mask, strict=True):
        if inside:
            current.append(value)
        elif current:
            found.append(tuple(current))
            current = []
    return found + ([tuple(current)] if current else [])


def assert_supervised(stretches: Iterable[tuple[int, ...]], tokenizer, responses: Iterable[str]):
    """Check that what a batch teaches is exactly whole responses, each closed by EOS.

    Args:
        stretches: the supervised token ids of one batch, as the trainer's own collator made it.
        responses: all responses of the training data.

    Raises:
        AssertionError: a prompt token is supervised, a response is cut, or its EOS is masked.
    """
    eos = tokenizer.eos_token_id
    expected = {(*ids, eos) for ids in tokenizer(list(responses))["input_ids"]}
    stretches = list(stretches)
    assert stretches, "no token of the first batch is supervised"
    for stretch in stretches:
        assert stretch in expected, (
            "the first batch does not supervise exactly a response and its EOS, but:"
            f" {tokenizer.decode(stretch)!r}"
        )
    note(f"checked: {len(stretches)} supervised stretches are whole responses that end with EOS")


def checkpoint_folder(
    state: Path, module: str, files: Iterable[Path], recipe: dict[str, Any]
) -> Path:
    """The folder for a training's checkpoints, named by what it is made from: code, data and recipe."""
    made_from = module_digests(module) + [file_digest(path) for path in files]
    return state / text_digest(*made_from, json.dumps(recipe, sort_keys=True))


def write_adapter(model, adapter: Path, checkpoints: Path) -> None:
    """Save the adapter named "default" as `adapter` with its config beside it."""
    staging = checkpoints / "final"
    model.save_pretrained(staging, selected_adapters=["default"])
    for name in ("adapter_config.json", adapter.name):
        with written_whole(adapter.parent / name) as part:
            shutil.copyfile(staging / name, part)


@dataclass
class Run:
    """What a training is made from and where it goes: what its record says of it.

    Attributes:
        checkpoints: a folder that outlives a failed job, named by what the training is made from.
        data: the files learned from, by what they are called in the record.
        recipe: as the config has it.
    """

    method: str
    base: Path
    parent: str
    parent_digest: str
    data: dict[str, Path]
    recipe: dict[str, Any]
    seed: int
    device: str
    checkpoints: Path
    adapter: Path


def train_and_write(run: Run, trainer, measured: dict[str, str], rows: dict[str, int]) -> dict:
    """Train from the last whole checkpoint, if there is one, and write the adapter with its records.

    Beside the adapter go adapter_config.json, history.jsonl (one logged step a row), metrics.json and
    recipe.json. The checkpoints are removed when all of it is written.

    Args:
        measured: metric -> the trainer's name of it; each is measured on the validation data before and after.
        rows: what the metrics say of the size of the data.
    """
    for callback in callbacks():
        trainer.add_callback(callback)
    with alone(run.checkpoints):
        before = trainer.evaluate()
        outcome = trainer.train(resume_from_checkpoint=last_checkpoint(run.checkpoints))
        after = trainer.evaluate()
        write_adapter(trainer.model, run.adapter, run.checkpoints)
        metrics = {"method": run.method, **rows}
        for name, trainers in measured.items():
            metrics |= {f"{name}_before": before[trainers], name: after[trainers]}
        metrics |= {
            "train_loss": outcome.training_loss,
            "steps": trainer.state.global_step,
            "trainable_parameters": trainer.model.num_parameters(only_trainable=True),
        }
        write_record(run, trainer.state.log_history, metrics)
        shutil.rmtree(run.checkpoints)
    note(
        ", ".join(
            f"{name} {metrics[f'{name}_before']:.3f} -> {metrics[name]:.3f}" for name in measured
        )
    )
    return metrics


def write_record(run: Run, history: list[dict], metrics: dict[str, Any]) -> None:
    """Write recipe.json, history.jsonl and metrics.json beside the adapter."""
    folder = run.adapter.parent
    write_jsonl(folder / "history.jsonl", history)
    write_json(folder / "metrics.json", metrics)
    write_json(
        folder / "recipe.json",
        {
            "parent": run.parent,
            "parent_digest": run.parent_digest,
            "base_digest": base_digest(run.base),
            "adapter_digest": file_digest(run.adapter),
            "recipe": run.recipe,
            "data": {name: file_digest(path) for name, path in run.data.items()},
            "seed": run.seed,
            "device": run.device,
            "python": platform.python_version(),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        },
    )
