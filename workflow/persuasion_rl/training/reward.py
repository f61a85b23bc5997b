"""The delta judge: a reward model trained with trl's RewardTrainer on delta / no-delta reply pairs.

Trained on train-side pairs, its checkpoint chosen on val; the test side is left for `trust.py`.
"""

from pathlib import Path
from typing import Any

from persuasion_rl.data.delta_pairs import conversations_on
from persuasion_rl.files import UserError
from persuasion_rl.models.devices import pick_device, prepare_torch
from persuasion_rl.models.loading import base_digest, load_classifier, load_tokenizer
from persuasion_rl.runtime.command import stage
from persuasion_rl.training.tokenize import Tokens


def train_delta_judge(
    *,
    base: Path,
    pairs: Path,
    sides: Path,
    adapter: Path,
    state: Path,
    seed: int,
    threads: int,
    device: str = "auto",
    trust_remote_code: bool = False,
    tracking: dict[str, str] = {},
    **recipe: Any,
) -> dict[str, float]:
    """Train a LoRA adapter and a scalar score on the base model; write it as `adapter`.

    What is written: see `training.train_and_write`. The checkpoint with the highest accuracy on
    val-side pairs is kept.

    Args:
        pairs: delta pairs as `tokens.tokenize` writes them.
        tracking: see `tracking.start_tracking`.
    """
    prepare_torch(threads, seed, device)
    from trl import RewardConfig, RewardTrainer

    from persuasion_rl.training import trainer as training
    from persuasion_rl.training.meter import monitored
    from persuasion_rl.training.unpadding import compute_without_padding

    device = pick_device(device)
    settings, lora, batching = training.divide_recipe(recipe)
    every = Tokens.read(pairs)
    data = {side: every.only(conversations_on(side, sides)) for side in ("train", "val")}
    if not all(map(len, data.values())):
        raise UserError(
            f"{pairs}: {len(data['train'])} delta pairs on the train side and {len(data['val'])} on val;"
            " too few"
        )
    every.refuse_long(settings["max_length"])
    digest = base_digest(base)
    run = training.Run(
        "reward", base, "base", digest, data, recipe, seed, device, state, adapter, tracking,
        {"sides": sides},
    )  # fmt: skip
    tokenizer = load_tokenizer(base, trust_remote_code)
    model = load_classifier(base, device, tokenizer.pad_token_id, trust_remote_code)
    work = compute_without_padding(model, paired=True)
    model = training.add_lora(model, lora, task_type="SEQ_CLS", modules_to_save=["score"])
    training.assert_trainable(model, heads=["score"])
    batches = training.choose_batches(run, model, batching, data["train"])
    trainer = monitored(RewardTrainer)(
        model=model,
        args=training.trainer_arguments(
            RewardConfig,
            settings,
            run,
            batches,
            load_best_model_at_end=True,
            metric_for_best_model="eval_accuracy",
        ),
        processing_class=tokenizer,
        train_dataset=whole_texts(data["train"]),
        eval_dataset=whole_texts(data["val"]),
    )
    training.assert_effective_batch(trainer, batching["effective"])
    measured = ("eval_loss", "eval_accuracy")
    return training.train_and_write(run, trainer, batches, work, measured)


def whole_texts(tokens: Tokens):
    """Delta pairs as trl's collator takes them: a prompt with each of its replies."""
    from datasets import Dataset

    prompts = tokens.columns["prompt_ids"]
    return Dataset.from_dict(
        {
            name: [p + r for p, r in zip(prompts, tokens.columns[name], strict=True)]
            for name in ("chosen_ids", "rejected_ids")
        }
    )


if __name__ == "__main__":
    stage(train_delta_judge)
