"""Direct preference optimisation (Rafailov et al. 2023) of a parent's adapter, with the parent as reference."""

import math
from pathlib import Path
from typing import Any

from persuasion_rl.command import note, stage
from persuasion_rl.devices import pick_device, prepare_torch
from persuasion_rl.files import UserError, read_jsonl
from persuasion_rl.models import check_lineage, load_base, load_tokenizer
from persuasion_rl.training import (
    Run,
    assert_supervised,
    checkpoint_folder,
    divide_recipe,
    refuse_long_rows,
    runs,
    trackers,
    train_and_write,
    trainer_arguments,
)

MEASURED = {
    "eval_loss": "eval_loss",
    "eval_reward_accuracy": "eval_rewards/accuracies",
    "eval_reward_margin": "eval_rewards/margins",
}


def read_pairs(path: Path) -> list[dict[str, str]]:
    """Preference pairs as trl takes them."""
    pairs = []
    for number, row in enumerate(read_jsonl(path), 1):
        for key in ("chosen", "rejected"):
            if not row[key].strip():
                raise UserError(f"{path}, line {number}: the {key} response is empty")
        pairs.append({key: row[key] for key in ("prompt", "chosen", "rejected")})
    if not pairs:
        raise UserError(f"{path}: no pairs; were all verdicts ties?")
    return pairs


def assert_start(trainer, beta: float) -> None:
    """Check on a batch that the policy is its reference: rewards 0, and a sigmoid term of ln 2.

    In evaluation mode, since dropout alone makes policy and reference differ in training mode.
    """
    import torch

    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    losses = trainer.loss_types, trainer.loss_weights
    trainer.loss_types, trainer.loss_weights = ["sigmoid"], [1.0]
    trainer.model.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        sigmoid = trainer.compute_loss(trainer.model, batch).item()
    trainer.loss_types, trainer.loss_weights = losses
    metrics = trainer._metrics["eval"]
    chosen, rejected = metrics["rewards/chosen"][-1], metrics["rewards/rejected"][-1]
    metrics.clear()
    trainer.model.train()
    # bf16 and fp16 keep 8 and 11 bits, and log-probabilities of whole responses are in the hundreds.
    tolerance = 1e-3 if trainer.model.dtype == torch.float32 else 0.5 * beta
    note(
        f"before the first update: rewards {chosen:.2g} and {rejected:.2g}, sigmoid term {sigmoid:.4f}"
    )
    assert abs(chosen) <= tolerance and abs(rejected) <= tolerance, (
        f"DPO does not start from its reference: rewards {chosen:.4f} and {rejected:.4f}, not 0"
    )
    assert abs(sigmoid - math.log(2)) <= tolerance, f"sigmoid term {sigmoid:.4f}, not ln 2"


def train_dpo(
    *,
    base: Path,
    lineage: list[Path],
    parent: str,
    train: Path,
    val: Path,
    adapter: Path,
    state: Path,
    seed: int,
    threads: int,
    device: str = "auto",
    trust_remote_code: bool = False,
    wandb_project: str | None = None,
    **recipe: Any,
) -> dict[str, float]:
    """Continue the last adapter of `lineage` with trl's DPOTrainer and write it, complete, as `adapter`.

    The reference is a frozen copy of that adapter. What is written: see `train_and_write`.

    Args:
        lineage: the adapters between the base and the parent, the parent's own last.
        recipe: DPOConfig's own arguments and `effective_batch_size`; the adapter's shape is its parent's.

    Returns:
        validation loss, reward accuracy and margin, before and after.
    """
    prepare_torch(threads, seed)
    from datasets import Dataset
    from peft import PeftModel
    from trl import DPOConfig, DPOTrainer

    device = pick_device(device)
    parent_digest = check_lineage(base, lineage)
    settings, _, use_4bit = divide_recipe(recipe)
    train_pairs, val_pairs = read_pairs(train), read_pairs(val)
    checkpoints = checkpoint_folder(
        state, "dpo", [train, val], {**recipe, "from": parent_digest, "seed": seed}
    )
    tokenizer = load_tokenizer(base)
    for path, rows in ((train, train_pairs), (val, val_pairs)):
        refuse_long_rows(path, rows, ("chosen", "rejected"), tokenizer, settings["max_length"])
    model = PeftModel.from_pretrained(
        load_base(base, device, trust_remote_code, use_4bit), lineage[-1].parent, is_trainable=True
    )
    trainer = DPOTrainer(
        model=model,
        ref_model=None,
        args=trainer_arguments(
            DPOConfig,
            settings,
            checkpoints,
            device,
            save_strategy=settings.get("eval_strategy", "epoch"),
            seed=seed,
            report_to=trackers(wandb_project),
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(train_pairs),
        eval_dataset=Dataset.from_list(val_pairs),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert_supervised(
        (
            stretch
            for ids, mask in zip(
                batch["input_ids"].tolist(), batch["completion_mask"].tolist(), strict=True
            )
            for stretch in runs(ids, [bool(inside) for inside in mask])
        ),
        tokenizer,
        (pair[key] for pair in train_pairs for key in ("chosen", "rejected")),
    )
    assert_start(trainer, trainer.args.beta)
    run = Run(
        "dpo", base, parent, parent_digest, {"train": train, "val": val}, recipe, seed, device, checkpoints,
        adapter,
    )  # fmt: skip
    rows = {"train_rows": len(train_pairs), "val_rows": len(val_pairs)}
    return train_and_write(run, trainer, MEASURED, rows)


if __name__ == "__main__":
    stage(train_dpo)
