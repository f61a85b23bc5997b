"""Supervised fine-tuning: LoRA on a base model (or on a parent's adapter), loss on the response only."""

from typing import Any

from persuasion_rl.models.devices import pick_device, prepare_torch
from persuasion_rl.models.lineage import check_lineage
from persuasion_rl.models.loading import load_base, load_tokenizer
from persuasion_rl.runtime.command import stage
from persuasion_rl.runtime.lock import locked
from persuasion_rl.training.arguments import JobArguments, PolicyArguments
from persuasion_rl.training.assertions import (
    assert_as_plain,
    assert_batch,
    assert_effective_batch,
    assert_trainable,
)
from persuasion_rl.training.recipe import split_recipe
from persuasion_rl.training.tokenize import Tokens


def train_sft(*, job: JobArguments, policy: PolicyArguments, **recipe: Any) -> dict[str, float]:
    """Train a LoRA adapter with trl's SFTTrainer and write it with its records (`trainer.train_and_write`).

    The checkpoint with the lowest validation loss is kept. Without a parent the adapter is new.

    Args:
        recipe: SFTConfig's own arguments, `effective_batch_size`, `lora_*`, `use_4bit`.

    Returns:
        eval_loss_before and eval_loss: mean negative log-likelihood (nats a response token) on `val`.
    """
    prepare_torch(job.threads, job.seed, job.device)
    from peft import PeftModel
    from trl import SFTConfig, SFTTrainer

    from persuasion_rl.training import trainer as training
    from persuasion_rl.training.fused import fuse
    from persuasion_rl.training.meter import monitored
    from persuasion_rl.training.unpadding import compute_without_padding

    device = pick_device(job.device)
    parent_digest = check_lineage(job.base, policy.lineage)
    settings, lora, batching = split_recipe(recipe)
    data = policy.read_tokens(settings["max_length"])
    run = training.TrainingRun("sft", job, device, data, recipe, policy.parent, parent_digest)
    with locked(job.state):
        tokenizer = load_tokenizer(job.base, job.trust_remote_code)
        model = load_base(job.base, device, job.trust_remote_code, lora["use_4bit"])
        workload = compute_without_padding(model)
        if policy.lineage:
            adapter = policy.lineage[-1].parent
            model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
        else:
            model = training.add_lora(model, lora, task_type="CAUSAL_LM")
        fuse(model)
        assert_trainable(model)

        batches = training.choose_batches(run, model, batching)
        trainer = monitored(SFTTrainer)(
            model=model,
            args=training.trainer_arguments(
                SFTConfig,
                settings,
                run,
                batches,
                dataset_kwargs={"skip_prepare_dataset": True},
                router_aux_loss_coef=0.0,
                load_best_model_at_end=True,
                metric_for_best_model="eval_loss",
            ),
            processing_class=tokenizer,
            train_dataset=labelled_dataset(data["train"]),
            eval_dataset=labelled_dataset(data["val"]),
        )
        assert_effective_batch(trainer, batching["effective"])
        assert_batch(trainer, tokenizer, data["train"])
        (longest,) = data["train"].longest(1)
        assert_as_plain("sft", trainer.model, [longest, longest[: len(longest) // 2]])
        return training.train_and_write(run, trainer, batches, workload, ("eval_loss",))


def labelled_dataset(tokens: Tokens):
    """SFT rows as trl's collator takes them: input_ids, and labels that mask the prompt."""
    from datasets import Dataset

    rows = list(zip(tokens.columns["prompt_ids"], tokens.columns["response_ids"], strict=True))
    return Dataset.from_dict(
        {
            "input_ids": [prompt + response for prompt, response in rows],
            "labels": [[-100] * len(prompt) + response for prompt, response in rows],
        }
    )


if __name__ == "__main__":
    stage(train_sft)
