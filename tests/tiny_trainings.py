"""Trainings of a tiny model on a synthetic corpus: a second or two each, on the CPU.

The fixtures `tiny_rows`, `tiny_sft`, `tiny_dpo` and `tiny_delta` (conftest.py) hold what they make, once for all tests.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from csv_files import read_csv
from persuasion_rl.data.delta_pairs import pairs_on
from persuasion_rl.files import read_jsonl, write_jsonl
from persuasion_rl.models.loading import load_base
from persuasion_rl.study.flags import flags
from persuasion_rl.training import dpo, reward, sft
from persuasion_rl.training.arguments import JobArguments, PolicyArguments
from persuasion_rl.training.tokenize import tokenize
from running import ROOT

SEED = 1
COMMON = dict(seed=SEED, threads=1, device="cpu")
RECIPE = {
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 64,
    "effective_batch_size": 8,
    "max_length": 640,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_steps": 3,
    "logging_steps": 1,
}
LORA = {
    "lora_r": 4,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "lora_target_modules": ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"],
}
SFT_STEPS = 8
SFT = RECIPE | LORA | dict(max_steps=SFT_STEPS, eval_steps=SFT_STEPS, save_steps=SFT_STEPS)
DPO = RECIPE | {"beta": 0.1, "loss_type": "sigmoid"}
ADAPTER = "adapter_model.safetensors"


@dataclass
class TrainingRows:
    """The rows that trainings learn from, as text."""

    base: Path
    sft_train: Path
    sft_val: Path
    dpo_train: Path
    dpo_val: Path
    pairs: Path
    sides: Path

    def tokens(self, rows: Path) -> Path:
        """The table of their token ids, written once beside them."""
        path = rows.with_suffix(".parquet")
        if not path.exists():
            tokenize(rows=rows, base=self.base, output=path)
        return path


def write_rows(tiny_base: Path, folder: Path) -> TrainingRows:
    """SFT rows and preference pairs, by side.

    Args:
        tiny_base: a folder of `make_tiny_base`.
    """
    side_of = {row["conversation_id"]: row["side"] for row in read_csv(tiny_base / "sides.csv")}
    pairs = tiny_base / "pairs.jsonl"
    for side in ("train", "val"):
        rows = read_jsonl(tiny_base / "examples.jsonl")
        on_side = [row for row in rows if side_of[row["metadata"]["conversation_id"]] == side]
        write_jsonl(folder / f"sft_{side}.jsonl", on_side[:24])
        preferences = [
            {
                "prompt": row["prompt"],
                "chosen": row["winner"],
                "rejected": row["loser"],
                "metadata": row["metadata"],
            }
            for row in pairs_on(side, pairs, tiny_base / "sides.csv")
        ]
        write_jsonl(folder / f"dpo_{side}.jsonl", preferences[:16])
    return TrainingRows(
        base=tiny_base / "base",
        sft_train=folder / "sft_train.jsonl",
        sft_val=folder / "sft_val.jsonl",
        dpo_train=folder / "dpo_train.jsonl",
        dpo_val=folder / "dpo_val.jsonl",
        pairs=pairs,
        sides=tiny_base / "sides.csv",
    )


# In this process


def train_sft(rows: TrainingRows, folder: Path, **changed) -> dict:
    """Train in a folder; `changed` overrides flags, text rows (train, val) and the recipe."""
    values = _common(rows, folder) | {"train": rows.sft_train, "val": rows.sft_val} | SFT | changed
    return sft.train_sft(**_groups(rows, values))


def train_dpo(rows: TrainingRows, folder: Path, parent: Path, **changed) -> dict:
    """Train in a folder, from an SFT adapter; see `train_sft`."""
    own = {"train": rows.dpo_train, "val": rows.dpo_val, "parent": "sft", "lineage": [parent]}
    return dpo.train_dpo(**_groups(rows, _common(rows, folder) | own | DPO | changed))


def train_delta(rows: TrainingRows, folder: Path, **changed) -> dict:
    """Train a delta judge in a folder; see `train_sft`."""
    values = _common(rows, folder) | {"sides": rows.sides} | RECIPE | LORA | changed
    job = _group(JobArguments, values)
    return reward.train_delta_judge(job=job, pairs=rows.tokens(rows.pairs), **values)


def _common(rows: TrainingRows, folder: Path) -> dict:
    paths = {"base": rows.base, "adapter": folder / ADAPTER, "state": folder / "state"}
    return COMMON | paths


def _groups(rows: TrainingRows, values: dict) -> dict:
    """Group values by name into the arguments of a training, with text rows replaced by their tokens."""
    values |= {name: rows.tokens(values[name]) for name in ("train", "val")}
    job, policy = _group(JobArguments, values), _group(PolicyArguments, values)
    return {"job": job, "policy": policy, **values}


def _group(kind: type, values: dict):
    names = [field.name for field in fields(kind) if field.name in values]
    return kind(**{name: values.pop(name) for name in names})


def training_run(folder: Path, **changed):
    """A TrainingRun of an SFT that does not run, for its record. `changed` overrides its fields and those of the job."""
    from persuasion_rl.training.trainer import TrainingRun

    paths = {"base": folder / "base", "adapter": folder / ADAPTER, "state": folder / "state"}
    values = COMMON | paths | changed
    fixed = {"method": "sft", "data": {}, "recipe": {}, "parent": "base", "parent_digest": ""}
    return TrainingRun(job=_group(JobArguments, values), **(fixed | {"device": "cpu"} | values))


# In a separate process, as the workflow runs them


def training_words(
    method: str, rows: TrainingRows, folder: Path, sft: Path | None = None, **changed
) -> list[str]:
    """The module and the flags of an SFT or a DPO in a folder, without `python -m`.

    Args:
        sft: the adapter that a DPO goes on from.
        changed: settings of the recipe; None removes one.
    """
    words = ["--base", rows.base, "--adapter", folder / ADAPTER, "--state", folder / "state"]
    for part in ("train", "val"):
        words += [f"--{part}", rows.tokens(getattr(rows, f"{method}_{part}"))]
    words += ["--lineage", sft, "--parent", "sft"] if method == "dpo" else []
    recipe = COMMON | (SFT if method == "sft" else DPO) | changed
    words += flags({key: value for key, value in recipe.items() if value is not None}).split()
    return [f"persuasion_rl.training.{method}", *map(str, words)]


def run_training(words: list[str]) -> subprocess.CompletedProcess:
    """Run a training to its end; its messages are in stderr."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
        capture_output=True,
        text=True,
        timeout=240,
    )


# Results


def state_files(folder: Path) -> list[str]:
    """The names in the state folder of a model after its training."""
    return sorted(path.name for path in (folder / "state").iterdir())


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(adapter)


def log_probability(model, tokenizer, prompt: str, response: str) -> float:
    """The log probability of a response and its EOS given its prompt, without a batch or padding."""
    prompt_ids = tokenizer(prompt)["input_ids"]
    response_ids = [*tokenizer(response)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([prompt_ids + response_ids])).logits[
            0, len(prompt_ids) - 1 : -1
        ]
    return logits.log_softmax(dim=-1)[range(len(response_ids)), response_ids].sum().item()


def with_adapter(base: Path, adapter: Path, **options):
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(base, "cpu"), adapter.parent, **options)


def dpo_trainer(rows: TrainingRows, sft: Path, tokenizer, folder: Path, **arguments):
    """trl's trainer from an SFT adapter, by text rows and with padding."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = Dataset.from_list(
        [
            {key: row[key] for key in ("prompt", "chosen", "rejected")}
            for row in read_jsonl(rows.dpo_train)
        ]
    )
    return DPOTrainer(
        model=with_adapter(rows.base, sft, is_trainable=True),
        ref_model=None,
        args=DPOConfig(output_dir=str(folder), use_cpu=True, report_to=[], **arguments),
        processing_class=tokenizer,
        train_dataset=pairs,
        eval_dataset=pairs,
    )
