"""Shared by SFT, DPO and the delta judge: a training from its first batch to its records."""

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from persuasion_rl.files import (
    UserError,
    file_digest,
    text_digest,
    write_json,
    write_jsonl,
    written_whole,
)
from persuasion_rl.models.devices import pick_dtype
from persuasion_rl.models.lineage import ADAPTER_CONFIG, base_digest, settings_digest
from persuasion_rl.models.plain import refuse_beyond_positions
from persuasion_rl.records import HistoryRow
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.environment import recorded
from persuasion_rl.runtime.tracking import end_tracking, start_tracking
from persuasion_rl.study.code import module_digests
from persuasion_rl.study.names import TRAINED_FILES
from persuasion_rl.training.arguments import JobArguments
from persuasion_rl.training.batches import (
    Batches,
    cpu_rows,
    fitting_batches,
    refuse_beyond_memory,
)
from persuasion_rl.training.checkpoints import (
    checkpoint_callbacks,
    lacks_evaluation,
    last_checkpoint,
    remove_checkpoints,
)
from persuasion_rl.training.meter import Meter, meter_callback
from persuasion_rl.training.recipe import PACKAGES, RESOLVED
from persuasion_rl.training.tokenize import Tokens
from persuasion_rl.training.unpadding import Workload


@dataclass
class TrainingRun:
    """The inputs and outputs of a training, which its record lists.

    Attributes:
        method: "sft", "dpo" or "reward", also the name of the module in this package.
        device: "cuda" or "cpu".
        data: the tables of tokens, by their names in the record: "train" and "val".
        recipe: the recipe as configured.
        other_files: further files that decide the training data, by their names in the record.
    """

    method: str
    job: JobArguments
    device: str
    data: dict[str, Tokens]
    recipe: dict[str, Any]
    parent: str
    parent_digest: str
    other_files: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def checkpoints(self) -> Path:
        """The folder in `state` for checkpoints, named by a digest of all inputs of the training."""
        digest_parts = module_digests(f"training.{self.method}") + [
            self.parent_digest,
            self.job.seed,
            self.job.threads,
        ]
        digest_parts.append(settings_digest(self.job.base))
        files = [tokens.path for tokens in self.data.values()] + list(self.other_files.values())
        digest_parts += [file_digest(path) for path in files]
        return self.job.state / text_digest(*digest_parts, json.dumps(self.recipe, sort_keys=True))


def add_lora(model, settings: dict[str, Any], **lora_arguments: Any):
    """A new adapter on a base model; its weights are float32 whatever the base's are.

    Args:
        settings: lora_r, lora_alpha, lora_dropout and lora_target_modules of a recipe.
        lora_arguments: more arguments of peft's LoraConfig.

    Raises:
        UserError: a module to adapt is not in the model, or is no linear one of its layers.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    of_layers = {
        name.split(".")[-1]
        for name, module in model.base_model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D))
    }
    for name in settings["lora_target_modules"]:
        if name not in of_layers:
            raise UserError(
                f"lora_target_modules: the base model has no module {name!r} to adapt; there are"
                f" {', '.join(sorted(of_layers))}"
            )
    model = get_peft_model(
        model,
        LoraConfig(
            r=settings["lora_r"],
            lora_alpha=settings["lora_alpha"],
            lora_dropout=settings["lora_dropout"],
            target_modules=settings["lora_target_modules"],
            **lora_arguments,
        ),
    )
    for parameter in model.parameters():
        if parameter.requires_grad:  # fp16's scaler refuses gradients in fp16
            parameter.data = parameter.data.to(torch.float32)
    return model


def choose_batches(run: TrainingRun, model, batching: dict[str, Any]) -> Batches:
    """The batches of a training, tried on the longest rows of the data; on a CPU by the estimate of their memory.

    Args:
        batching: the recipe's settings for them (`recipe.split_recipe`).

    Raises:
        UserError: the model has no positions for the longest row.
    """
    tokens = run.data["train"]
    refuse_beyond_positions(model, max(max(part.lengths()) for part in run.data.values()))

    def attempt(rows: int, checkpointing: bool) -> None:
        if run.device == "cpu":
            refuse_beyond_memory(model, run.method, tokens, rows, checkpointing)
        else:
            try_step(model, tokens.longest(rows), run.device, checkpointing)

    return fitting_batches(
        attempt,
        device=run.device,
        remembered=run.checkpoints / "batches.json",
        cpu_rows=cpu_rows(model, tokens),
        **batching,
    )


def try_step(model, sequences: list[list[int]], device: str, checkpointing: bool) -> None:
    """Run a forward and a backward pass on some sequences, with every token labelled."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from trl.trainer.utils import add_fused_lm_head

    rows = [torch.tensor(ids, device=device) for ids in sequences]
    inputs = {
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    }
    classifies = model.get_base_model().get_output_embeddings() is None
    if not classifies:
        add_fused_lm_head(model.get_base_model())
        inputs |= {"labels": inputs["input_ids"], "fused_lm_head": True}
    model.train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    try:
        with (
            torch.random.fork_rng(),
            torch.autocast(device, pick_dtype(device), enabled=device == "cuda"),
        ):
            output = model(**inputs)
            loss = (output.logits if classifies else output.log_probs).sum()
        loss.backward()
    finally:
        model.zero_grad(set_to_none=True)


def trainer_arguments(
    config_class,
    settings: dict[str, Any],
    run: TrainingRun,
    batches: Batches,
    **fixed: Any,
):
    """A trl config from the recipe's settings.

    Args:
        settings: the recipe's settings for the trainer (`recipe.split_recipe`), which override this project's defaults.
        fixed: arguments that a method needs, which override the recipe.

    Raises:
        UserError: the config has no such argument, or does not accept a value.
    """
    import torch

    cuda = run.device == "cuda"
    half = pick_dtype(run.device) if cuda else None
    run_arguments = {
        "output_dir": str(run.checkpoints),
        "seed": run.job.seed,
        "use_cpu": not cuda,
        "bf16": half == torch.bfloat16,
        "fp16": half == torch.float16,
        "per_device_train_batch_size": batches.rows,
        "gradient_accumulation_steps": batches.accumulation,
        "gradient_checkpointing": batches.gradient_checkpointing,
        "max_length": None,  # the lengths of rows were checked already
        "ddp_find_unused_parameters": False,
    }
    defaults = {
        "save_strategy": settings.get("eval_strategy", "epoch"),
        "save_total_limit": 2,
        "logging_first_step": True,
        "per_device_eval_batch_size": 2 * batches.rows,  # no gradients
        # With the filter, NaN losses would vanish from the logs.
        "logging_nan_inf_filter": False,
        "report_to": start_tracking(run.recipe, **run.job.tracking),
        "disable_tqdm": True,  # the lines of runtime.progress say how far it is
    }
    try:
        return config_class(**{**defaults, **settings, **run_arguments, **fixed})
    except (TypeError, ValueError) as error:
        raise UserError(f"the recipe does not fit {config_class.__name__}: {error}") from None


def train_and_write(
    run: TrainingRun,
    trainer,
    batches: Batches,
    workload: Workload,
    measured: tuple[str, ...],
    examine: Callable[[Any], dict[str, float]] = lambda trainer: {},
) -> dict:
    """Train from the last whole checkpoint, if there is one, and write the adapter with its records.

    Beside the adapter go adapter_config.json, history.jsonl (one logged step a row), metrics.json and
    recipe.json. The checkpoints are removed when all of that is written. If several processes train together, only the first
    writes. The caller holds the lock of the model's trainings (`runtime.lock.locked`).

    Args:
        workload: the model's counts of its work (`unpadding.compute_without_padding`).
        measured: the trainer's metrics on the validation data to record, before and after the training.
        examine: computes more metrics of the trained model, in the first process.

    Returns:
        The content of metrics.json; empty in processes other than the first.
    """
    meter = Meter(trainer.model, workload, run.device, batches.processes)
    trainer.meter = meter
    for callback in [*checkpoint_callbacks(), meter_callback(meter)]:
        trainer.add_callback(callback)
    main = trainer.is_world_process_zero()
    wait_for_all = trainer.accelerator.wait_for_everyone
    metrics: dict[str, Any] = {}
    checkpoint = last_checkpoint(run.checkpoints) if main else None
    wait_for_all()  # the first process removes broken checkpoints before others look
    checkpoint = checkpoint if main else last_checkpoint(run.checkpoints, clean=False)
    # Not trainer.evaluate(): accelerate would take the model for prepared, and never share gradients.
    trainer.args.eval_on_start = checkpoint is None or lacks_evaluation(
        Path(checkpoint), trainer.args.eval_strategy
    )
    trainer.evaluation_tokens = run.data["val"].count / batches.processes
    trainer.progress.begin(total_tokens=tokens_to_come(run, trainer, batches, checkpoint))
    train_or_say_why(trainer, checkpoint)
    before = next(row for row in trainer.state.log_history if "eval_loss" in row)
    after = trainer.evaluate()
    if main:
        write_adapter(trainer.model, run.job.adapter, run.checkpoints)
        metrics = {"method": run.method}
        metrics |= {f"{name}_rows": len(tokens) for name, tokens in run.data.items()}
        for name in measured:
            metrics |= {f"{name}_before": before[name], name: after[name]}
        metrics |= examine(trainer)
        metrics |= {
            "steps": trainer.state.global_step,
            "trainable_parameters": trainer.model.num_parameters(only_trainable=True),
            **speed(trainer.state.log_history),
            "peak_flops_per_second": meter.peak,
        }
        resolved = {name: getattr(trainer.args, name, None) for name in RESOLVED}
        write_record(run, trainer.state.log_history, metrics, asdict(batches), resolved)
    wait_for_all()
    if main:
        remove_checkpoints(run.job.state)
    end_tracking()
    note(
        ", ".join(
            f"{name} {before[name]:.3f} -> {after[name]:.3f}" for name in measured if name in after
        )
    )
    return metrics


def tokens_to_come(run: TrainingRun, trainer, batches: Batches, checkpoint: str | None) -> float:
    """The tokens that this process is still to learn from, on average; each distinct token of a pair counts once."""
    tokens = run.data["train"].count
    update = tokens / len(run.data["train"]) * batches.rows * batches.accumulation
    all_tokens = trainer.args.num_train_epochs * tokens / batches.processes
    if trainer.args.max_steps > 0:
        all_tokens = trainer.args.max_steps * update
    done = int(Path(checkpoint).name.split("-")[1]) if checkpoint else 0
    return max(0.0, all_tokens - done * update)


def train_or_say_why(trainer, checkpoint: str | None):
    """Train; if memory runs out, raise a UserError that says what to set."""
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        return trainer.train(resume_from_checkpoint=checkpoint)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        rows = trainer.args.per_device_train_batch_size
        raise UserError(
            f"out of memory with {rows} rows at once: set per_device_train_batch_size to {max(1, rows // 2)}"
            " (the effective batch stays as it is), gradient_checkpointing: true, or use_4bit: true"
        ) from None


def speed(history: list[dict]) -> dict[str, float]:
    """The medians of the meter's readings, and the highest memory."""
    metered = [row for row in history if "tokens_per_second" in row]
    if not metered:
        return {}
    names = ("tokens_per_second", "labelled_tokens_per_second", "share_of_peak")
    return {name: median(row[name] for row in metered) for name in names} | {
        "memory_gb": max(row["memory_gb"] for row in metered)
    }


def write_adapter(model, adapter: Path, checkpoints: Path) -> None:
    """Save the adapter named "default" as `adapter` with its config beside it."""
    staging = checkpoints / "final"
    model.save_pretrained(staging, selected_adapters=["default"])
    for name in (ADAPTER_CONFIG, adapter.name):
        with written_whole(adapter.parent / name) as part:
            shutil.copyfile(staging / name, part)


def write_record(
    run: TrainingRun,
    history: list[HistoryRow],
    metrics: dict[str, Any],
    batches: dict[str, Any],
    resolved: dict[str, Any],
) -> None:
    """Write recipe.json, history.jsonl and metrics.json beside the adapter.

    Args:
        resolved: the final values of the trainer's arguments.
    """
    folder = run.job.adapter.parent
    write_jsonl(folder / TRAINED_FILES["history"], history)
    write_json(folder / TRAINED_FILES["metrics"], metrics)
    write_json(
        folder / TRAINED_FILES["recipe"],
        {
            "method": run.method,
            "parent": run.parent,
            "parent_digest": run.parent_digest,
            "base_digest": base_digest(run.job.base),
            "adapter_digest": file_digest(run.job.adapter),
            "config_digest": file_digest(folder / ADAPTER_CONFIG),
            "recipe": run.recipe,
            "resolved": {name: value for name, value in resolved.items() if value is not None},
            "batches": batches,
            "data": {name: tokens.rows["digest"] for name, tokens in run.data.items()}
            | {name: file_digest(path) for name, path in run.other_files.items()},
            "seed": run.job.seed,
            "device": run.device,
            "threads": run.job.threads,
            "environment": recorded(),
            "precision": str(pick_dtype(run.device)).removeprefix("torch."),
            "python": platform.python_version(),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        },
    )
