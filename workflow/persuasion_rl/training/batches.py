"""Decides how many rows a device takes at once, so that an update always has as many as the recipe says.

Rows at once change the order of sums, the last bits of a result: recipe.json records them, and a training that goes on
divides an update as it began.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from persuasion_rl.files import UserError, read_json, write_json
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.environment import PROCESSES
from persuasion_rl.runtime.machine import free_memory
from persuasion_rl.study.memory import CPU_ROWS, FLOAT32, rows_on_cpu, training_bytes
from persuasion_rl.study.model_size import size_of
from persuasion_rl.training.tokenize import RESPONSES, Tokens

HEADROOM = 0.9
"""The share of memory that the largest batch may take; the allocator needs the rest."""


@dataclass(frozen=True)
class Batches:
    """The parts of an update of `rows * accumulation * processes` rows."""

    rows: int
    accumulation: int
    processes: int
    gradient_checkpointing: bool


def candidate_rows(effective: int, processes: int, at_most: int) -> list[int]:
    """The numbers of rows that a device can take at once, the largest first: divisors of its share of an update.

    Raises:
        UserError: the processes cannot share an update evenly.
    """
    if effective % processes:
        raise UserError(
            f"effective_batch_size {effective} is not a multiple of the {processes} processes"
        )
    share = effective // processes
    return [rows for rows in range(min(share, at_most), 0, -1) if share % rows == 0]


def fitting_batches(
    attempt: Callable[[int, bool], None],
    *,
    effective: int,
    per_device_rows: int | None,
    gradient_checkpointing: bool,
    device: str,
    remembered: Path,
    cpu_rows: int = CPU_ROWS,
) -> Batches:
    """The batches of a training: those of the recipe, or the largest that fit in the device's memory.

    Gradient checkpointing is switched on if not even one row fits without it.

    Args:
        attempt: runs a step on the given number of the longest rows, with gradient checkpointing or without.
        per_device_rows: the recipe's `per_device_train_batch_size`. If it is set, it is the most.
        cpu_rows: the most on a CPU, where the recipe sets none.
        remembered: a file that keeps the result, so that a resumed training divides an update as before.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState(cpu=device == "cpu")
    if remembered.is_file():
        batches = read_json(remembered)
        per_device_rows, gradient_checkpointing = batches["rows"], batches["gradient_checkpointing"]
    most = per_device_rows or (cpu_rows if device == "cpu" else effective)
    candidates = candidate_rows(effective, state.num_processes, most)
    rows = candidates[0]
    if not remembered.is_file():
        fitting = _largest(attempt, candidates, gradient_checkpointing, device)
        if fitting is None and not gradient_checkpointing:
            note("not one row fits: gradients are checkpointed from here on")
            gradient_checkpointing = True
            fitting = _largest(attempt, candidates, True, device)
        if fitting is None:
            less = "set use_4bit: true" if device == "cuda" else "end other programs"
            raise UserError(
                "out of memory: not one row fits, even with gradient checkpointing; lower"
                f" data.max_seq_length, or {less}"
            )
        rows = fitting
        if per_device_rows is not None and rows < candidates[0]:
            note(
                f"per_device_train_batch_size: {per_device_rows} do not fit, {rows} are taken at once"
            )
    decision = [(rows, gradient_checkpointing)]
    if state.num_processes > 1:  # devices may differ; the first process decides
        broadcast_object_list(decision)
    rows, gradient_checkpointing = decision[0]
    if state.is_main_process:
        write_json(remembered, {"rows": rows, "gradient_checkpointing": gradient_checkpointing})
    accumulation = effective // (rows * state.num_processes)
    note(
        f"an update: {effective} rows, {rows} at once x {accumulation} x {state.num_processes} process(es)"
        + (", gradients checkpointed" if gradient_checkpointing else "")
    )
    return Batches(rows, accumulation, state.num_processes, gradient_checkpointing)


def _largest(attempt, candidates: list[int], checkpointing: bool, device: str) -> int | None:
    """The first of some batch sizes whose step ends within the device's memory."""
    import torch
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    for rows in candidates:
        try:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            attempt(rows, checkpointing)
            if device == "cuda":
                total_memory = torch.cuda.get_device_properties(
                    torch.cuda.current_device()
                ).total_memory
                if torch.cuda.max_memory_reserved() > HEADROOM * total_memory:
                    continue
            return rows
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                raise
        finally:
            clear_device_cache(garbage_collection=True)
        note(f"{rows} rows at once do not fit in memory")
    return None


def refuse_beyond_memory(
    model, method: str, tokens: Tokens, rows: int, checkpointing: bool
) -> None:
    """MemoryError if an update with the longest rows would not fit the memory that is free, by the estimate.

    On a CPU nothing can be tried: where memory runs out, the kernel ends the process.

    Args:
        model: as it is loaded, with its adapter.
        rows: rows at once; for DPO and the delta judge, pairs.
    """
    size = size_of(model.get_base_model().config.to_dict())
    if size is None:
        return
    adapter = model.peft_config["default"]
    shape = {"lora_r": adapter.r, "lora_target_modules": sorted(adapter.target_modules)}
    lengths = _lengths(tokens)
    longest = (sorted(lengths, key=sum, reverse=True) * rows)[:rows]
    needed = training_bytes(
        method,
        size,
        shape,
        tokens=sum(map(sum, longest)),
        labelled=sum(labelled for labelled, _ in longest),
        length=max(map(sum, longest)),
        checkpointing=checkpointing,
        numbers=FLOAT32,
    )
    needed -= size.parameters * FLOAT32.weight  # loaded already
    processes = int(os.environ.get(PROCESSES, 1))  # they share the machine
    if processes * needed > HEADROOM * free_memory():
        raise MemoryError


def _lengths(tokens: Tokens) -> list[tuple[int, int]]:
    """For each row or pair, the tokens of its responses and of its prompt."""
    prompts = tokens.columns["prompt_ids"]
    responses = [tokens.columns[name] for name in RESPONSES if name in tokens.columns]
    return [
        (sum(map(len, each)), len(prompt))
        for prompt, *each in zip(prompts, *responses, strict=True)
    ]


def cpu_rows(model, tokens: Tokens) -> int:
    """Rows, or pairs, that a CPU trains on at once where a recipe says nothing (`study.memory.rows_on_cpu`)."""
    size = size_of(model.get_base_model().config.to_dict())
    return CPU_ROWS if size is None else rows_on_cpu(size.width, max(map(sum, _lengths(tokens))))
