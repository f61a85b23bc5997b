"""Supervised fine-tuning: LoRA on a base model (or on a parent's adapter), loss on the response only."""

from pathlib import Path
from typing import Any

from persuasion_rl.models.devices import pick_device, prepare_torch
from persuasion_rl.models.loading import check_lineage, load_base, load_tokenizer
from persuasion_rl.runtime.command import stage
from persuasion_rl.training.tokenize import Tokens


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
    tracking: dict[str, str] = {},
    **recipe: Any,
) -> dict[str, float]:
    """Train a LoRA adapter with trl's SFTTrainer and write it as `adapter` (see `training.train_and_write`).

    The checkpoint with the lowest validation loss is kept.

    Args:
        train, val: SFT rows as `tokens.tokenize` writes them.
        lineage: the adapters between the base and the model to start from, its own last.
        state: a folder for checkpoints that outlives a failed job.
        tracking: see `tracking.start_tracking`.
        recipe: SFTConfig's own arguments, `effective_batch_size`, `lora_*`, `use_4bit`.

    Returns:
        eval_loss_before and eval_loss: mean negative log-likelihood (nats a response token) on `val`.
    """
    prepare_torch(threads, seed, device)
    from peft import PeftModel
    from trl import SFTConfig, SFTTrainer

    from persuasion_rl.training import trainer as training
    from persuasion_rl.training.meter import monitored
    from persuasion_rl.training.unpadding import compute_without_padding

    device = pick_device(device)
    parent_digest = check_lineage(base, lineage)
    settings, lora, batching = training.divide_recipe(recipe)
    data = {"train": Tokens.read(train), "val": Tokens.read(val)}
    for tokens in data.values():
        tokens.refuse_long(settings["max_length"])
    run = training.Run(
        "sft", base, parent, parent_digest, data, recipe, seed, device, state, adapter, tracking
    )
    tokenizer = load_tokenizer(base, trust_remote_code)
    model = load_base(base, device, trust_remote_code, lora["use_4bit"])
    work = compute_without_padding(model)
    if lineage:
        model = PeftModel.from_pretrained(model, lineage[-1].parent, is_trainable=True)
    else:
        model = training.add_lora(model, lora, task_type="CAUSAL_LM")
    training.assert_trainable(model)
    batches = training.choose_batches(run, model, batching, data["train"])
    trainer = monitored(SFTTrainer)(
        model=model,
        args=training.trainer_arguments(
            SFTConfig,
            settings,
            run,
            batches,
            dataset_kwargs={"skip_prepare_dataset": True},
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
        ),
        processing_class=tokenizer,
        train_dataset=labelled(data["train"]),
        eval_dataset=labelled(data["val"]),
    )
    training.assert_effective_batch(trainer, batching["effective"])
    assert_batch(trainer, tokenizer, data["train"])
    return training.train_and_write(run, trainer, batches, work, ("eval_loss",))


def labelled(tokens: Tokens):
    """SFT rows as trl's collator takes them: input_ids, and labels that hide the prompt."""
    from datasets import Dataset

    rows = list(zip(tokens.columns["prompt_ids"], tokens.columns["response_ids"], strict=True))
    return Dataset.from_dict(
        {
            "input_ids": [prompt + response for prompt, response in rows],
            "labels": [[-100] * len(prompt) + response for prompt, response in rows],
        }
    )


def assert_batch(trainer, tokenizer, tokens: Tokens) -> None:
    """Check what the trainer's own collator makes of the first batch."""
    from persuasion_rl.training.trainer import assert_supervised, runs

    batch = next(iter(trainer.get_train_dataloader()))
    rows = zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
    stretches = [
        stretch
        for ids, labels in rows
        for stretch in runs(ids, [label != -100 for label in labels])
    ]
    assert_supervised(stretches, tokenizer, tokens.responses())


if __name__ == "__main__":
    stage(train_sft)
