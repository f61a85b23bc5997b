"""Direct preference optimisation (Rafailov et al. 2023) of a parent's adapter, with the parent as reference."""

import math
import os
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError, check
from persuasion_rl.models.devices import pick_device, prepare_torch
from persuasion_rl.models.lineage import check_lineage
from persuasion_rl.models.loading import load_base, load_tokenizer
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.lock import locked
from persuasion_rl.statistics.intervals import wilson
from persuasion_rl.training.arguments import JobArguments, PolicyArguments
from persuasion_rl.training.assertions import (
    assert_as_plain,
    assert_batch,
    assert_effective_batch,
    assert_trainable,
)
from persuasion_rl.training.recipe import split_recipe
from persuasion_rl.training.tokenize import Tokens


def train_dpo(*, job: JobArguments, policy: PolicyArguments, **recipe: Any) -> dict[str, float]:
    """Continue the parent's adapter with trl's DPOTrainer; write it with its records (`trainer.train_and_write`).

    The reference is a frozen copy of that adapter, and its log-probabilities are computed once, before the training.

    Args:
        recipe: DPOConfig's own arguments and `effective_batch_size`; the adapter's shape is its parent's.

    Returns:
        validation loss before and after; reward accuracy with its interval (as many trials as
        conversations), and margin.

    Raises:
        UserError: the parent has no adapter.
    """
    prepare_torch(job.threads, job.seed, job.device)
    from peft import PeftModel
    from trl import DPOConfig, DPOTrainer

    from persuasion_rl.training import trainer as training
    from persuasion_rl.training.fused import fuse
    from persuasion_rl.training.meter import monitored
    from persuasion_rl.training.unpadding import compute_without_padding

    class TokenizedDPOTrainer(monitored(DPOTrainer)):
        def _prepare_dataset(self, dataset, *_):
            return dataset

        def _precompute_ref_logps(self, dataset, name: str, *args):
            self.reading.begin(total_tokens=data["train" if name == "train" else "val"].count)
            return super()._precompute_ref_logps(dataset, name, *args)

    device = pick_device(job.device)
    if not policy.lineage:
        raise UserError("DPO goes on from its parent's adapter, and --lineage names none")
    parent_digest = check_lineage(job.base, policy.lineage)
    settings, lora, batching = split_recipe(recipe)
    data = policy.read_tokens(settings["max_length"])
    run = training.TrainingRun("dpo", job, device, data, recipe, policy.parent, parent_digest)
    with locked(job.state):
        tokenizer = load_tokenizer(job.base, job.trust_remote_code)
        model = load_base(job.base, device, job.trust_remote_code, lora["use_4bit"])
        workload = compute_without_padding(model, paired=True)
        model = PeftModel.from_pretrained(model, policy.lineage[-1].parent, is_trainable=True)
        fuse(model)
        assert_trainable(model)

        batches = training.choose_batches(run, model, batching)
        trainer = TokenizedDPOTrainer(
            model=model,
            ref_model=None,
            args=training.trainer_arguments(
                DPOConfig,
                settings,
                run,
                batches,
                precompute_ref_log_probs=True,
                router_aux_loss_coef=0.0,
            ),
            processing_class=tokenizer,
            train_dataset=preference_dataset(data["train"], run.checkpoints / "train"),
            eval_dataset=preference_dataset(data["val"], run.checkpoints / "val"),
        )
        assert_effective_batch(trainer, batching["effective"])
        assert_batch(trainer, tokenizer, data["train"])
        assert_as_plain("dpo", trainer.model, data["train"].longest(1))
        assert_start(trainer, trainer.args.beta)
        return training.train_and_write(
            run,
            trainer,
            batches,
            workload,
            ("eval_loss",),
            lambda trainer: rewards_on(data["val"], trainer),
        )


def preference_dataset(tokens: Tokens, folder: Path):
    """Preference pairs as trl's collator takes them, kept in `folder`.

    trl adds the reference's log-probabilities there, for all processes and for a training that is resumed.
    """
    from accelerate import PartialState
    from datasets import Dataset, load_from_disk

    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    with PartialState().main_process_first():
        if not folder.is_dir():
            part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
            Dataset.from_dict({name: tokens.columns[name] for name in names}).save_to_disk(part)
            part.rename(folder)
    return load_from_disk(folder)


def assert_start(trainer, beta: float) -> None:
    """Check on a batch that the policy equals its reference: rewards 0, and a sigmoid term of ln 2.

    The check is in evaluation mode: in training mode dropout makes the two differ.
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
    check(
        abs(chosen) <= tolerance and abs(rejected) <= tolerance,
        f"DPO does not start from its reference: rewards {chosen:.4f} and {rejected:.4f}, not 0",
    )
    check(abs(sigmoid - math.log(2)) <= tolerance, f"sigmoid term {sigmoid:.4f}, not ln 2")


def rewards_on(val: Tokens, trainer) -> dict[str, float]:
    """The accuracy of the implicit rewards on validation pairs, its interval, and the mean margin."""
    margins = reward_margins(trainer)
    conversations = len(set(val.columns["conversation_id"]))
    correct_pairs = sum(margin > 0 for margin in margins)
    accuracy = wilson(correct_pairs / len(margins), conversations)
    return {
        "eval_reward_accuracy": accuracy.value,
        "eval_reward_accuracy_low": accuracy.low,
        "eval_reward_accuracy_high": accuracy.high,
        "eval_reward_margin": sum(margins) / len(margins),
    }


def reward_margins(trainer) -> list[float]:
    """For each validation pair, in order, the implicit reward of the chosen response minus the rejected one's.

    They are exact, while trl averages over batches of which the last is smaller.
    """
    import torch

    trainer.model.eval()
    margins: list[float] = []
    rows, size = trainer.eval_dataset, trainer.args.per_device_eval_batch_size
    trainer.reading.begin(total_tokens=trainer.evaluation_tokens)
    for start in range(0, len(rows), size):
        batch_rows = [rows[i] for i in range(start, min(start + size, len(rows)))]
        batch = trainer._prepare_inputs(trainer.data_collator(batch_rows))
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            output = trainer.model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                labels=labels,
                fused_lm_head=True,
            )
        chosen, rejected = output.log_probs.sum(dim=1).chunk(2)
        reference = batch["ref_chosen_logps"] - batch["ref_rejected_logps"]
        margins += (trainer.beta * (chosen - rejected - reference)).tolist()
    return margins


if __name__ == "__main__":
    stage(train_dpo)
