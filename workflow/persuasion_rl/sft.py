"""Supervised fine-tuning: LoRA on a base model (or on a parent's adapter), loss on the response only."""

from pathlib import Path
from typing import Any

from persuasion_rl.command import stage
from persuasion_rl.devices import pick_device, prepare_torch
from persuasion_rl.files import UserError, read_jsonl
from persuasion_rl.models import check_lineage, load_base, load_tokenizer
from persuasion_rl.training import (
    Run,
    assert_supervised,
    checkpoint_folder,
    divide_recipe,
    lora_config,
    refuse_long_rows,
    runs,
    trackers,
    train_and_write,
    trainer_arguments,
)


def read_rows(path: Path) -> list[dict[str, str]]:
    """SFT rows as trl's prompt / completion pairs."""
    rows = []
    for number, row in enumerate(read_jsonl(path), 1):
        if not row["response"].strip():
            raise UserError(f"{path}, line {number}: the response is empty")
        rows.append({"prompt": row["input_text"], "completion": row["response"]})
    if not rows:
        raise UserError(f"{path}: no rows")
    return rows


def train_sft(
    *,
    base: Path,
    train: Path,
    val: Path,
    adapter: Path,
    state: Path,
    seed: int,
    threads: int,
    device: str = "auto",
    trust_remote_code: bool = False,
    parent: str = "base",
    lineage: list[Path] = [],
    wandb_project: str | None = None,
    **recipe: Any,
) -> dict[str, float]:
    """Train a LoRA adapter with trl's SFTTrainer and write it as `adapter` (see `train_and_write`).

    The checkpoint with the lowest validation loss is kept.

    Args:
        lineage: the adapters between the base and the model to start from, its own last.
        state: a folder for checkpoints that outlives a failed job.
        recipe: SFTConfig's own arguments, `effective_batch_size`, `lora_*`, `use_4bit`.

    Returns:
        eval_loss_before and eval_loss: mean negative log-likelihood (nats a response token) on `val`.
    """
    prepare_torch(threads, seed)
    from datasets import Dataset
    from peft import PeftModel
    from trl import SFTConfig, SFTTrainer

    device = pick_device(device)
    parent_digest = check_lineage(base, lineage)
    settings, lora, use_4bit = divide_recipe(recipe)
    train_rows, val_rows = read_rows(train), read_rows(val)
    checkpoints = checkpoint_folder(
        state, "sft", [train, val], {**recipe, "from": parent_digest, "seed": seed}
    )
    model = load_base(base, device, trust_remote_code, use_4bit)
    tokenizer = load_tokenizer(base)
    for path, rows in ((train, train_rows), (val, val_rows)):
        refuse_long_rows(path, rows, ("completion",), tokenizer, settings["max_length"])
    if lineage:
        model = PeftModel.from_pretrained(model, lineage[-1].parent, is_trainable=True)
    trainer = SFTTrainer(
        model=model,
        args=trainer_arguments(
            SFTConfig,
            settings,
            checkpoints,
            device,
            completion_only_loss=True,
            save_strategy=settings.get("eval_strategy", "epoch"),
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            seed=seed,
            report_to=trackers(wandb_project),
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(train_rows),
        eval_dataset=Dataset.from_list(val_rows),
        peft_config=None if lineage else lora_config(lora, task_type="CAUSAL_LM"),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert_supervised(
        (
            stretch
            for ids, labels in zip(
                batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True
            )
            for stretch in runs(ids, [label != -100 for label in labels])
        ),
        tokenizer,
        (row["completion"] for row in train_rows),
    )
    run = Run(
        "sft", base, parent, parent_digest, {"train": train, "val": val}, recipe, seed, device, checkpoints,
        adapter,
    )  # fmt: skip
    rows = {"train_rows": len(train_rows), "val_rows": len(val_rows)}
    return train_and_write(run, trainer, {"eval_loss": "eval_loss"}, rows)


if __name__ == "__main__":
    stage(train_sft)
