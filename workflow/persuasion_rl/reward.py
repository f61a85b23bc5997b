"""The delta judge: a reward model trained with trl's RewardTrainer on delta / no-delta reply pairs.

Trained on train-side pairs, its checkpoint chosen on val; the test side is left for `trust.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from persuasion_rl.command import stage
from persuasion_rl.devices import pick_device, pick_dtype, prepare_torch
from persuasion_rl.files import UserError, read_csv, read_jsonl
from persuasion_rl.models import base_digest, check_lineage, load_tokenizer
from persuasion_rl.training import (
    Run,
    checkpoint_folder,
    divide_recipe,
    lora_config,
    refuse_long_rows,
    trackers,
    train_and_write,
    trainer_arguments,
)


def pairs_on(side: str, pairs: Path, sides: Path) -> list[dict]:
    """The delta pairs whose conversation is on one side."""
    side_of = {row["conversation_id"]: row["side"] for row in read_csv(sides)}
    return [row for row in read_jsonl(pairs) if side_of[row["metadata"]["conversation_id"]] == side]


def _rows(pairs: list[dict]) -> list[dict[str, str]]:
    return [
        {"chosen": row["prompt"] + row["winner"], "rejected": row["prompt"] + row["loser"]}
        for row in pairs
    ]


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
    wandb_project: str | None = None,
    **recipe: Any,
) -> dict[str, float]:
    """Train a LoRA adapter and a scalar score on the base model; write it as `adapter`.

    What is written: see `train_and_write`. The checkpoint with the highest accuracy on
    val-side pairs is kept.
    """
    prepare_torch(threads, seed)
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    device = pick_device(device)
    settings, lora, _ = divide_recipe(recipe)
    train, val = (pairs_on(side, pairs, sides) for side in ("train", "val"))
    if not train or not val:
        raise UserError(
            f"{pairs}: {len(train)} delta pairs on the train side and {len(val)} on val; too few"
        )
    digest = base_digest(base)
    checkpoints = checkpoint_folder(
        state, "reward", [pairs, sides], {**recipe, "from": digest, "seed": seed}
    )
    tokenizer = load_tokenizer(base)
    refuse_long_rows(pairs, train + val, ("winner", "loser"), tokenizer, settings["max_length"])
    trainer = RewardTrainer(
        model=_load_classifier(base, device, tokenizer.pad_token_id, trust_remote_code),
        args=trainer_arguments(
            RewardConfig,
            settings,
            checkpoints,
            device,
            save_strategy=settings.get("eval_strategy", "epoch"),
            load_best_model_at_end=True,
            metric_for_best_model="eval_accuracy",
            seed=seed,
            report_to=trackers(wandb_project),
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(_rows(train)),
        eval_dataset=Dataset.from_list(_rows(val)),
        peft_config=lora_config(lora, task_type="SEQ_CLS", modules_to_save=["score"]),
    )
    run = Run(
        "reward", base, "base", digest, {"pairs": pairs, "sides": sides}, recipe, seed, device, checkpoints,
        adapter,
    )  # fmt: skip
    rows = {"train_rows": len(train), "val_rows": len(val)}
    measured = {"eval_loss": "eval_loss", "eval_accuracy": "eval_accuracy"}
    return train_and_write(run, trainer, measured, rows)


def load_scorer(
    base: Path, adapter: Path, device: str, batch_size: int
) -> Callable[[list[tuple[str, str]]], list[float]]:
    """A function from (prompt, response) pairs to rewards, of a reward model whose base is checked."""
    import torch
    from peft import PeftModel

    check_lineage(base, [adapter])
    device = pick_device(device)
    tokenizer = load_tokenizer(base)
    model = _load_classifier(base, device, tokenizer.pad_token_id)
    model = PeftModel.from_pretrained(model, adapter.parent).eval()

    def score(texts: list[tuple[str, str]]) -> list[float]:
        whole = [prompt + response + tokenizer.eos_token for prompt, response in texts]
        order = sorted(range(len(whole)), key=lambda i: len(whole[i]))
        rewards = [0.0] * len(whole)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = tokenizer(
                [whole[i] for i in batch], return_tensors="pt", padding=True, padding_side="right"
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
