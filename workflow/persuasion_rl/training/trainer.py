"""What the trainers share: recipes, checks before the first update, the training itself, its records."""

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from persuasion_rl.files import (
    UserError,
    check,
    file_digest,
    text_digest,
    write_json,
    write_jsonl,
    written_whole,
)
from persuasion_rl.models.devices import pick_dtype
from persuasion_rl.models.loading import ADAPTER_CONFIG, base_digest
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.tracking import end_tracking, start_tracking
from persuasion_rl.study.code import module_digests
from persuasion_rl.training import meter as monitoring
from persuasion_rl.training.batches import Batches, fitting_batches
from persuasion_rl.training.checkpoints import (
    alone,
    callbacks,
    forget,
    lacks_evaluation,
    last_checkpoint,
)
from persuasion_rl.training.tokenize import Tokens
from persuasion_rl.training.unpadding import Work

LORA_DEFAULTS = {
    "lora_r": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
}
LISTS = ("lora_target_modules", "loss_type", "loss_weights")
"""Settings that are lists also where they have one entry, which a command line cannot tell."""
RESOLVED = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "num_train_epochs",
    "max_steps", "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "beta", "loss_type", "loss_weights",
    "label_smoothing", "disable_dropout", "bf16", "fp16", "eval_strategy", "eval_steps", "save_strategy",
    "metric_for_best_model",
)  # fmt: skip
"""Arguments of a trainer that are recorded as they were in the end, its defaults among them."""
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


@dataclass
class Run:
    """What a training is made from and where it goes: what its record says of it.

    Attributes:
        state: a folder that outlives a failed job; checkpoints go to a folder in it, named by all that the
            training is made from.
        data: the tables of tokens that are learned from, by what they are called in the record.
        recipe: as the config has it.
        tracking: where and under which name the training is tracked: see `tracking.start_tracking`.
        further: files that decide what is learned from, too.
    """

    method: str
    base: Path
    parent: str
    parent_digest: str
    data: dict[str, Tokens]
    recipe: dict[str, Any]
    seed: int
    device: str
    state: Path
    adapter: Path
    tracking: dict[str, str]
    further: dict[str, Path] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        made_from = module_digests(f"training.{self.method}") + [self.parent_digest, self.seed]
        files = [tokens.path for tokens in self.data.values()] + list(self.further.values())
        made_from += [file_digest(path) for path in files]
        return self.state / text_digest(*made_from, json.dumps(self.recipe, sort_keys=True))


def divide_recipe(recipe: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Divide a recipe into trainer arguments, LoRA settings, and what decides the batches."""
    trainer = {
        key: [value] if key in LISTS and not isinstance(value, list) else value
        for key, value in recipe.items()
    }
    lora = {key: trainer.pop(key, default) for key, default in LORA_DEFAULTS.items()}
    lora["use_4bit"] = trainer.pop("use_4bit", False)
    batches = {
        "effective": trainer.pop("effective_batch_size"),
        "wanted": trainer.pop("per_device_train_batch_size", None),
        "gradient_checkpointing": trainer.pop("gradient_checkpointing", False),
    }
    return trainer, lora, batches


def add_lora(model, settings: dict[str, Any], **further: Any):
    """A new adapter on a base model; its weights are float32 whatever the base's are.

    Raises:
        UserError: a module to adapt is not in the model.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    there = {name.split(".")[-1] for name, _ in model.named_modules()}
    for name in settings["lora_target_modules"]:
        if name not in there:
            raise UserError(f"lora_target_modules: the base model has no module {name!r}")
    model = get_peft_model(
        model,
        LoraConfig(
            r=settings["lora_r"],
            lora_alpha=settings["lora_alpha"],
            lora_dropout=settings["lora_dropout"],
            target_modules=settings["lora_target_modules"],
            **further,
        ),
    )
    for parameter in model.parameters():
        if parameter.requires_grad:  # fp16's scaler refuses gradients in fp16
            parameter.data = parameter.data.to(torch.float32)
    return model


def choose_batches(run: Run, model, wanted: dict[str, Any], tokens: Tokens) -> Batches:
    """The batches of a training on `tokens`, tried on its longest rows where the recipe leaves them open."""
    return fitting_batches(
        lambda rows, checkpointing: _try_step(
            model, tokens.longest(rows), run.device, checkpointing
        ),
        device=run.device,
        remembered=run.checkpoints / "batches.json",
        **wanted,
    )


def _try_step(model, sequences: list[list[int]], device: str, checkpointing: bool) -> None:
    """A forward and a backward pass on some sequences, every token labelled."""
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
    run: Run,
    batches: Batches,
    **fixed: Any,
):
    """A trl config of the recipe's own argument names; an unknown one is the user's mistake."""
    import torch

    cuda = run.device == "cuda"
    half = pick_dtype(run.device) if cuda else None
    own = {
        "output_dir": str(run.checkpoints),
        "seed": run.seed,
        "use_cpu": not cuda,
        "bf16": half == torch.bfloat16,
        "fp16": half == torch.float16,
        "per_device_train_batch_size": batches.rows,
        "gradient_accumulation_steps": batches.accumulation,
        "gradient_checkpointing": batches.gradient_checkpointing,
        "max_length": None,  # no row is longer than the recipe's, which was checked
        "ddp_find_unused_parameters": False,
    }
    defaults = {
        "save_strategy": settings.get("eval_strategy", "epoch"),
        "save_total_limit": 2,
        "logging_first_step": True,
        "per_device_eval_batch_size": 2 * batches.rows,  # no gradients
        # trl and transformers average a NaN away in what they log.
        "logging_nan_inf_filter": False,
        "report_to": start_tracking(run.recipe, **run.tracking),
        "disable_tqdm": False,
    }
    try:
        return config_class(**{**defaults, **settings, **own, **fixed})
    except (TypeError, ValueError) as error:
        raise UserError(f"the recipe does not fit {config_class.__name__}: {error}") from None


# Checks before the first update: they stop a training, and they hold in every process.


def runs(values: list[int], mask: list[bool]) -> list[tuple[int, ...]]:
    """The stretches of `values` where `mask` holds."""
    found: list[tuple[int, ...]] = []
    current: list[int] = []
    for value, inside in zip(values, mask, strict=True):
        if inside:
            current.append(value)
        elif current:
            found.append(tuple(current))
            current = []
    return found + ([tuple(current)] if current else [])


def assert_supervised(stretches: Iterable[tuple[int, ...]], tokenizer, responses: Iterable) -> None:
    """Check that what a batch teaches is exactly whole responses, each closed by EOS.

    Args:
        stretches: the supervised token ids of one batch, as the trainer's own collator made it.
        responses: the ids of all responses of the training data.

    Raises:
        AssertionError: a prompt token is supervised, a response is cut, or its EOS is masked.
    """
    eos = tokenizer.eos_token_id
    expected = {tuple(ids) for ids in responses}
    stretches = list(stretches)
    check(bool(stretches), "no token of the first batch is supervised")
    for stretch in stretches:
        check(
            stretch in expected and stretch[-1] == eos and eos not in stretch[:-1],
            "the first batch does not supervise exactly a response and its EOS, but:"
            f" {tokenizer.decode(stretch)!r}",
        )
    note(f"checked: {len(stretches)} supervised stretches are whole responses that end with EOS")


def assert_trainable(model, heads: Iterable[str] = ()) -> None:
    """Check that what trains is the adapter's two matrices on every module that its config names, and no more.

    Args:
        heads: names of modules that train as a whole (a classifier's score).
    """
    config = model.peft_config["default"]
    targets, heads = set(config.target_modules), set(heads)
    expected = 0
    for name, module in model.named_modules():
        last = name.split(".")[-1]
        if last in targets and hasattr(module, "in_features"):
            expected += config.r * (module.in_features + module.out_features)
        elif last == "default" and name.split(".")[-2] == "modules_to_save":
            expected += sum(parameter.numel() for parameter in module.parameters())
    training = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    stray = [
        name
        for name in training
        if not (".lora_A.default." in name or ".lora_B.default." in name)
        and not (".modules_to_save.default." in name and heads & set(name.split(".")))
    ]
    check(not stray, f"{' '.join(stray[:1])} trains, and is not part of the adapter")
    check(
        sum(training.values()) == expected,
        f"{sum(training.values()):,} parameters train, and an adapter of rank {config.r} on"
        f" {', '.join(sorted(targets))} has {expected:,}",
    )
    note(f"checked: {expected:,} trainable parameters, all of the adapter")


def assert_effective_batch(trainer, effective: int) -> None:
    """Check that an update is made from as many rows as the recipe says, over all processes."""
    loader = trainer.get_train_dataloader()
    rows = loader.total_batch_size * trainer.args.gradient_accumulation_steps
    check(
        rows == effective,
        f"an update would have {rows} rows, and effective_batch_size is {effective}",
    )


# The training itself


def train_and_write(
    run: Run,
    trainer,
    batches: Batches,
    work: Work,
    measured: tuple[str, ...],
    examine: Callable[[Any], dict[str, float]] = lambda trainer: {},
) -> dict:
    """Train from the last whole checkpoint, if there is one, and write the adapter with its records.

    Beside the adapter go adapter_config.json, history.jsonl (one logged step a row), metrics.json and
    recipe.json. The checkpoints are removed when all of it is written. With several processes each trains,
    and the first writes.

    Args:
        work: what the model counts of its work (`unpadding.compute_without_padding`).
        measured: what the trainer measures on the validation data, before the training and after it.
        examine: measures more on the trained model, in the first process.
    """
    meter = monitoring.Meter(trainer.model, work, run.device, batches.processes)
    trainer.meter = meter
    for callback in [*callbacks(), monitoring.callback(meter)]:
        trainer.add_callback(callback)
    main = trainer.is_world_process_zero()
    together = trainer.accelerator.wait_for_everyone
    metrics: dict[str, Any] = {}
    with alone(run.checkpoints) if main else nullcontext():
        found = last_checkpoint(run.checkpoints) if main else None
        together()  # broken checkpoints are gone before anyone looks
        found = found if main else last_checkpoint(run.checkpoints, tell=False)
        # Not by trainer.evaluate(): accelerate would take the model for prepared, and never share gradients.
        trainer.args.eval_on_start = found is None or lacks_evaluation(
            Path(found), trainer.args.eval_strategy
        )
        outcome = train_or_say_why(trainer, found)
        before = next(row for row in trainer.state.log_history if "eval_loss" in row)
        after = trainer.evaluate()
        if main:
            write_adapter(trainer.model, run.adapter, run.checkpoints)
            metrics = {"method": run.method}
            metrics |= {f"{name}_rows": len(tokens) for name, tokens in run.data.items()}
            for name in measured:
                metrics |= {f"{name}_before": before[name], name: after[name]}
            metrics |= examine(trainer)
            metrics |= {
                "train_loss": outcome.training_loss,
                "steps": trainer.state.global_step,
                "trainable_parameters": trainer.model.num_parameters(only_trainable=True),
                **speed(trainer.state.log_history),
                "peak_flops_per_second": meter.peak,
            }
            resolved = {name: getattr(trainer.args, name, None) for name in RESOLVED}
            write_record(run, trainer.state.log_history, metrics, asdict(batches), resolved)
        together()
        if main:
            forget(run.state)
    end_tracking()
    note(
        ", ".join(
            f"{name} {before[name]:.3f} -> {after[name]:.3f}" for name in measured if name in after
        )
    )
    return metrics


def train_or_say_why(trainer, checkpoint: str | None):
    """Train, and turn running out of memory into what to set."""
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
    """The medians of what the meter read, and the highest memory."""
    from statistics import median

    read = [row for row in history if "tokens_per_second" in row]
    if not read:
        return {}
    names = ("tokens_per_second", "labelled_tokens_per_second", "share_of_peak")
    return {name: median(row[name] for row in read) for name in names} | {
        "memory_gb": max(row["memory_gb"] for row in read)
    }


def write_adapter(model, adapter: Path, checkpoints: Path) -> None:
    """Save the adapter named "default" as `adapter` with its config beside it."""
    staging = checkpoints / "final"
    model.save_pretrained(staging, selected_adapters=["default"])
    for name in (ADAPTER_CONFIG, adapter.name):
        with written_whole(adapter.parent / name) as part:
            shutil.copyfile(staging / name, part)


def write_record(
    run: Run,
    history: list[dict],
    metrics: dict[str, Any],
    batches: dict[str, Any],
    resolved: dict[str, Any],
) -> None:
    """Write recipe.json, history.jsonl and metrics.json beside the adapter.

    Args:
        resolved: the trainer's arguments as they were in the end.
    """
    folder = run.adapter.parent
    write_jsonl(folder / "history.jsonl", history)
    write_json(folder / "metrics.json", metrics)
    write_json(
        folder / "recipe.json",
        {
            "method": run.method,
            "parent": run.parent,
            "parent_digest": run.parent_digest,
            "base_digest": base_digest(run.base),
            "adapter_digest": file_digest(run.adapter),
            "config_digest": file_digest(folder / ADAPTER_CONFIG),
            "recipe": run.recipe,
            "resolved": {name: value for name, value in resolved.items() if value is not None},
            "batches": batches,
            "data": {name: tokens.rows["digest"] for name, tokens in run.data.items()}
            | {name: file_digest(path) for name, path in run.further.items()},
            "seed": run.seed,
            "device": run.device,
            "precision": str(pick_dtype(run.device)).removeprefix("torch."),
            "python": platform.python_version(),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        },
    )
