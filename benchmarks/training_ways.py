"""The ways to train that benchmarks/training.py times."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training_material import ADAPTER, LENGTH, SEED, Plan, lora_settings

from persuasion_rl.training.tokenize import Tokens

LEARNING_RATE = {"sft": 1e-4, "dpo": 5e-5}
"""Those of config/config.yaml, held constant here."""


@dataclass
class Turn:
    """One training of a comparison: what `make` wrote, its plan, and a folder for what it writes itself."""

    method: str
    way: str
    made: Path
    out: Path
    plan: Plan

    @property
    def base(self) -> Path:
        return self.made / "base"

    @property
    def adapter(self) -> Path:
        return self.made / "adapter" / ADAPTER

    @property
    def table(self) -> Path:
        return self.made / f"{self.method}.parquet"

    @property
    def is_cuda(self) -> bool:
        return self.plan.device == "cuda"

    def schedule(self) -> dict:
        """What every way has in common, in the trainers' own argument names."""
        return {
            "num_train_epochs": 1,
            "learning_rate": LEARNING_RATE[self.method],
            "lr_scheduler_type": "constant",
            "train_sampling_strategy": "sequential",  # `make` shuffled the rows
            "logging_steps": 1,
        }

    def arguments(self, **further) -> dict:
        """The schedule with what decides batches, for the ways that are not ours."""
        rows = self.plan.at_once[self.method][self.way]
        return {
            **self.schedule(),
            "output_dir": str(self.out),
            "seed": SEED,
            "use_cpu": not self.is_cuda,
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": self.plan.effective[self.method] // rows,
            "save_strategy": "no",
            "report_to": [],
            **further,
        }


def predecessor_sft(turn: Turn) -> None:
    """transformers' Trainer: every row padded to the full length, a loss on all its tokens."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from persuasion_rl.training.trainer import add_lora

    tokens = Tokens.read(turn.table)
    model = AutoModelForCausalLM.from_pretrained(
        turn.base, dtype=torch.float16 if turn.is_cuda else torch.float32
    )
    pad = model.config.pad_token_id
    model = add_lora(model, lora_settings(), task_type="CAUSAL_LM")
    model.enable_input_require_grads()

    def collate(rows: list[dict]) -> dict:
        lengths = [len(row["input_ids"]) for row in rows]
        ids = torch.tensor([row["input_ids"] + [pad] * (LENGTH - len(row["input_ids"])) for row in rows])  # fmt: skip
        mask = (torch.arange(LENGTH) < torch.tensor(lengths)[:, None]).long()
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": ids.masked_fill(mask == 0, -100),
        }

    columns = tokens.columns
    rows = [p + r for p, r in zip(columns["prompt_ids"], columns["response_ids"], strict=True)]
    Trainer(
        model=model,
        args=TrainingArguments(**turn.arguments(gradient_checkpointing=True, fp16=turn.is_cuda)),
        data_collator=collate,
        train_dataset=Dataset.from_dict({"input_ids": rows}),
    ).train()


def plain_sft(turn: Turn) -> None:
    """trl's SFTTrainer as it comes: it loads the model itself and checkpoints gradients."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from persuasion_rl.models.loading import load_tokenizer
    from persuasion_rl.training.sft import labelled_dataset

    lora = lora_settings()
    config = SFTConfig(
        **turn.arguments(dataset_kwargs={"skip_prepare_dataset": True}), **precision(turn)
    )
    SFTTrainer(
        model=str(turn.base),
        args=config,
        processing_class=load_tokenizer(turn.base),
        train_dataset=labelled_dataset(Tokens.read(turn.table)),
        peft_config=LoraConfig(
            r=lora["lora_r"],
            lora_alpha=lora["lora_alpha"],
            lora_dropout=lora["lora_dropout"],
            target_modules=lora["lora_target_modules"],
            task_type="CAUSAL_LM",
        ),
    ).train()


def precision(turn: Turn) -> dict:
    """trl's default where the device has it: bfloat16 on a GPU, and never on a CPU here."""
    import torch

    from persuasion_rl.models.devices import pick_dtype

    dtype = pick_dtype(turn.plan.device)
    return {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}


def our_sft(turn: Turn) -> None:
    from persuasion_rl.training.sft import train_sft

    train_sft(**our_arguments(turn), **lora_settings())


def our_arguments(turn: Turn, **start: object) -> dict:
    """Arguments of the project's own stages; they evaluate on two rows, outside the updates.

    Args:
        start: the parent and its lineage, where it is not the base.
    """
    from persuasion_rl.training.arguments import JobArguments, PolicyArguments

    return {
        **turn.schedule(),
        "job": JobArguments(
            base=turn.base,
            adapter=turn.out / "trained" / ADAPTER,
            state=turn.out / "state",
            seed=SEED,
            threads=turn.plan.threads,
            device=turn.plan.device,
        ),
        "policy": PolicyArguments(
            train=turn.table, val=turn.table.with_stem(f"{turn.method}_val"), **start
        ),
        "effective_batch_size": turn.plan.effective[turn.method],
        "max_length": LENGTH,
        "eval_strategy": "epoch",
    }


def second_model_dpo(turn: Turn) -> None:
    """trl's DPOTrainer with the reference as a second whole model."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    dtype = torch.float16 if turn.is_cuda else torch.float32

    def load(**further):
        model = AutoModelForCausalLM.from_pretrained(turn.base, dtype=dtype)
        return PeftModel.from_pretrained(model, turn.adapter.parent, **further)

    train_dpo(turn, load(is_trainable=True), load().merge_and_unload(), fp16=turn.is_cuda, bf16=False)  # fmt: skip


def plain_dpo(turn: Turn) -> None:
    """trl's DPOTrainer as it comes, going on from an adapter."""
    from peft import PeftModel

    from persuasion_rl.models.loading import load_base

    model = load_base(turn.base, turn.plan.device)
    model = PeftModel.from_pretrained(model, turn.adapter.parent, is_trainable=True)
    train_dpo(turn, model, None, **precision(turn))


def train_dpo(turn: Turn, model, reference, **further) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from persuasion_rl.models.loading import load_tokenizer

    class Tokenized(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    columns = Tokens.read(turn.table).columns
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    Tokenized(
        model=model,
        ref_model=reference,
        args=DPOConfig(**turn.arguments(**further)),
        processing_class=load_tokenizer(turn.base),
        train_dataset=Dataset.from_dict({name: columns[name] for name in names}),
    ).train()


def our_dpo(turn: Turn) -> None:
    from persuasion_rl.training.dpo import train_dpo

    train_dpo(**our_arguments(turn, lineage=[turn.adapter], parent="sft"))


WAYS: dict[str, dict[str, Callable[[Turn], None]]] = {
    "sft": {"predecessor": predecessor_sft, "plain trl": plain_sft, "ours": our_sft},
    "dpo": {"second model": second_model_dpo, "plain trl": plain_dpo, "ours": our_dpo},
}
