"""Writes a model as an ordinary folder of transformers: its adapter merged into the base model's weights.

Whoever has the folder needs neither peft nor this project.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from persuasion_rl.models.devices import prepare_torch
from persuasion_rl.models.loading import load_for_inference
from persuasion_rl.models.plain import plain_log_probs, refuse_difference
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.machine import refuse_without_room
from persuasion_rl.study.base_folder import check_base_folder, read_header
from persuasion_rl.study.names import (
    GENERATION,
    MODEL_FILES,
    WEIGHTS,
    files_beside,
    weight_files,
)

ROW = list(range(1, 33))
"""Token ids on which the written model is compared with the adapter on its base."""
NUMBERS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Numbers of weights, as safetensors and torch name them."""


def export_model(
    *,
    base: Path,
    lineage: list[Path],
    output: Path,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    trust_remote_code: bool = False,
) -> None:
    """Merge a model's adapter into its base, and write weights, configuration and tokenizer to a folder.

    Weights are added in float32, and written in the kind of numbers that the base model's weights have: bfloat16 rounds a
    part of an adapter away. The files of the tokenizer are the base model's. `generation_config.json` holds the study's
    sampling and the tokens that end a reply, so that `generate` samples as the study does.

    Args:
        base: the folder of the base model. lineage: its adapters, from the first one above the base to the model's own;
            empty for the base itself.
        output: the folder. Its weights get their name last, when all else is there.
        temperature, top_p, max_new_tokens: the study's sampling.

    Raises:
        UserError: the adapters do not belong together, the disk has no room, or what was written does not compute what the
            adapter on its base computes.
    """
    check_base_folder(base)
    dtype, size = _numbers_of(base)
    refuse_without_room(output, size)
    prepare_torch(threads=1, seed=0, device="cpu")
    import torch

    model, _, _ = load_for_inference(base, lineage, "cpu", trust_remote_code)
    computed = plain_log_probs(model, ROW)
    model.generation_config.update(
        do_sample=True, temperature=temperature, top_p=top_p, top_k=0, max_new_tokens=max_new_tokens
    )
    note(f"writing {size / 1e6:,.0f} MB of weights in {dtype}, as the base model has them")
    output.mkdir(parents=True, exist_ok=True)
    with _part_of(output) as part:
        model.to(getattr(torch, dtype)).save_pretrained(part, max_shard_size="100TB")
        del model
        for file in _tokenizer_and_code(base):
            shutil.copyfile(file, part / file.name)
        _refuse_other_values(part, computed, trust_remote_code)
        for name in sorted(os.listdir(part), key=lambda name: name == WEIGHTS):
            os.replace(part / name, output / name)


@contextmanager
def _part_of(folder: Path) -> Iterator[Path]:
    """An empty folder inside of another one, always of the same name, so that the next start removes what a kill left."""
    part = folder / ".part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _numbers_of(base: Path) -> tuple[str, int]:
    """The kind of numbers that most of a model's weights are, as torch names it, and the bytes of all of them."""
    sizes: dict[str, int] = {}
    for name in weight_files(str(base)):
        if name.endswith(".safetensors"):
            for entry in read_header(base / name)[0].values():
                start, end = entry["data_offsets"]
                sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + end - start
    return NUMBERS.get(max(sizes, key=sizes.__getitem__), "float32"), sum(sizes.values())


def _tokenizer_and_code(base: Path) -> list[Path]:
    """What transformers does not write itself when a model is saved."""
    files = [base / name for name in MODEL_FILES if name.startswith("tokenizer")]
    return files + [Path(file) for file in files_beside(str(base)) if not file.endswith(GENERATION)]


def _refuse_other_values(folder: Path, computed, trust_remote_code: bool) -> None:
    """UserError unless a folder, loaded by transformers alone, computes these log-probabilities."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", trust_remote_code=trust_remote_code
    ).eval()
    refuse_difference("the exported model", model, [plain_log_probs(model, ROW)], [computed])


if __name__ == "__main__":
    stage(export_model)
