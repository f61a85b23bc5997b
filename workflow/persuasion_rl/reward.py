"""The delta judge: a reward model trained with trl's RewardTrainer on delta / no-delta reply pairs.

Trained on train-side pairs, its checkpoint chosen on val; the test side is left for `trust.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from persuasion_rl.command import stage
from persuasion_rl.delta_pairs import conversations_on
from persuasion_rl.devices import pick_device, pick_dtype, prepare_torch
from persuasion_rl.files import UserError
from persuasion_rl.models import base_digest, check_lineage, load_tokenizer
from persuasion_rl.tokens import Tokens


def _load_classifier(base: Path, device: str, pad_token_id: int, trust_remote_code: bool = False):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=pick_dtype(device), trust_remote_code=trust_remote_code
    )
    model.config.pad_token_id = pad_token_id
    return model.to(device)


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

    from persuasion_rl import training
    from persuasion_rl.monitoring import monitored
    from persuasion_rl.unpadding import compute_without_padding

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
    model = _load_classifier(base, device, tokenizer.pad_token_id, trust_remote_code)
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


def load_scorer(
    base: Path, adapter: Path, device: str, batch_size: int
) -> Callable[[list[tuple[str, str]]], list[float]]:
    """A function from (prompt, response) pairs to rewards, of a reward model whose base is checked."""
    import torch
    from peft import PeftModel

    from persuasion_rl.unpadding import compute_without_padding

    check_lineage(base, [adapter])
    device = pick_device(device)
    tokenizer = load_tokenizer(base)
    model = _load_classifier(base, device, tokenizer.pad_token_id)
    compute_without_padding(model)
    model = PeftModel.from_pretrained(model, adapter.parent).eval()

    def score(texts: list[tuple[str, str]]) -> list[float]:
        if not texts:
            return []
        prompts = tokenizer([prompt for prompt, _ in texts])["input_ids"]
        replies = tokenizer([reply for _, reply in texts], add_special_tokens=False)["input_ids"]
        whole = [p + r + [tokenizer.eos_token_id] for p, r in zip(prompts, replies, strict=True)]
        order = sorted(range(len(whole)), key=lambda i: len(whole[i]))
        rewards = [0.0] * len(whole)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = tokenizer.pad(
                {"input_ids": [whole[i] for i in batch]}, padding_side="right", return_tensors="pt"
            ).to(device)
            with torch.inference_mode():
                logits = model(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
                ).logits
            for i, reward in zip(batch, logits[:, 0].float().tolist(), strict=True):
                rewards[i] = reward
        return rewards

    return score


if __name__ == "__main__":
    stage(train_delta_judge)
