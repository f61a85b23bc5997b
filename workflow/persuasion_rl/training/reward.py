"""The delta judge: a reward model trained with trl's RewardTrainer on delta / no-delta reply pairs.

It is trained on train-side pairs, and its checkpoint is chosen on val; the test side is for `judges.judge_trust`.
"""

from pathlib import Path
from typing import Any

from persuasion_rl.data.delta_pairs import conversations_on
from persuasion_rl.files import UserError
from persuasion_rl.models.devices import pick_device, prepare_torch
from persuasion_rl.models.lineage import base_digest
from persuasion_rl.models.loading import load_classifier, load_tokenizer
from persuasion_rl.runtime.command import stage
from persuasion_rl.runtime.lock import locked
from persuasion_rl.study.names import BASE
from persuasion_rl.training.arguments import JobArguments
from persuasion_rl.training.assertions import (
    assert_as_plain,
    assert_effective_batch,
    assert_trainable,
)
from persuasion_rl.training.recipe import split_recipe
from persuasion_rl.training.tokenize import Tokens


def train_delta_judge(
    *, job: JobArguments, pairs: Path, sides: Path, **recipe: Any
) -> dict[str, float]:
    """Train a LoRA adapter and a scalar score on the base model; write them with their records.

    For the files see `trainer.train_and_write`. The checkpoint with the highest accuracy on val-side pairs is kept.

    Args:
        pairs: delta pairs as `training.tokenize` writes them.
        sides: the side of every conversation.
        recipe: RewardConfig's own arguments, `effective_batch_size`, `lora_*`.

    Returns:
        validation loss and accuracy (the share of pairs whose winner scores higher), before and after.

    Raises:
        UserError: there is no pair on the train side, or none on val.
    """
    prepare_torch(job.threads, job.seed, job.device)
    from trl import RewardConfig, RewardTrainer

    from persuasion_rl.training import trainer as training
    from persuasion_rl.training.fused import fuse
    from persuasion_rl.training.meter import monitored
    from persuasion_rl.training.unpadding import compute_without_padding

    device = pick_device(job.device)
    settings, lora, batching = split_recipe(recipe)
    tokens = Tokens.read(pairs)
    data = {side: tokens.only(conversations_on(side, sides)) for side in ("train", "val")}
    if not all(map(len, data.values())):
        raise UserError(
            f"{pairs}: {len(data['train'])} delta pairs on the train side and {len(data['val'])} on val;"
            " too few"
        )
    tokens.refuse_long(settings["max_length"])
    run = training.TrainingRun(
        "reward", job, device, data, recipe, BASE, base_digest(job.base), {"sides": sides}
    )
    with locked(job.state):
        tokenizer = load_tokenizer(job.base, job.trust_remote_code)
        model = load_classifier(job.base, device, tokenizer.pad_token_id, job.trust_remote_code)
        workload = compute_without_padding(model, paired=True)
        model = training.add_lora(model, lora, task_type="SEQ_CLS", modules_to_save=["score"])
        fuse(model)
        assert_trainable(model, heads=["score"])

        batches = training.choose_batches(run, model, batching)
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
            train_dataset=pair_dataset(data["train"]),
            eval_dataset=pair_dataset(data["val"]),
        )
        assert_effective_batch(trainer, batching["effective"])
        assert_as_plain("reward", trainer.model, data["train"].longest(1))
        measured = ("eval_loss", "eval_accuracy")
        return training.train_and_write(run, trainer, batches, workload, measured)


def pair_dataset(tokens: Tokens):
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
