"""What the trainers share: seeds and threads, recipes, checks before the first update, checkpoints, records."""

import importlib.metadata
import json
import os
import platform
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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

LORA_DEFAULTS = {
    "lora_r": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
}
LISTS = ("lora_target_modules", "loss_type", "loss_weights")
"""Settings that are lists also where they have one entry, which a command line cannot tell."""
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def prepare_torch(threads: int, seed: int) -> None:
    """Fix threads and seeds before anything is made; nothing here looks for a network.

    Fixed threads make a run on the CPU repeatable to the bit.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # trl sets deprecated names of transformers' arguments, and dataloaders warn where no GPU is.
    warnings.filterwarnings("ignore", message=".*is deprecated and will be removed in v6.*")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.set_seed(seed)


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


def last_checkpoint(folder: Path) -> str | None:
    from transformers.trainer_utils import get_last_checkpoint

    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if found:
        note(f"going on from {found}")
    return found


def write_adapter(model, adapter: Path, checkpoints: Path) -> None:
    """Save the adapter named "default" as `adapter` with its config beside it."""
    staging = checkpoints / "final"
    model.save_pretrained(staging, selected_adapters=["default"])
    for name in ("adapter_config.json", adapter.name):
        with written_whole(adapter.parent / name) as part:
            shutil.copyfile(staging / name, part)


def write_record(
    folder: Path,
    *,
    parent: str,
    parent_digest: str,
    base_digest: str,
    recipe: dict[str, Any],
    data: dict[str, Path],
    seed: int,
    device: str,
    history: list[dict],
    metrics: dict[str, Any],
) -> None:
    """Write recipe.json, history.jsonl and metrics.json beside an adapter."""
    write_jsonl(folder / "history.jsonl", history)
    write_json(folder / "metrics.json", metrics)
    write_json(
        folder / "recipe.json",
        {
            "parent": parent,
            "parent_digest": parent_digest,
            "base_digest": base_digest,
            "adapter_digest": file_digest(folder / "adapter_model.safetensors"),
            "recipe": recipe,
            "data": {name: file_digest(path) for name, path in data.items()},
            "seed": seed,
            "device": device,
            "python": platform.python_version(),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        },
    )
