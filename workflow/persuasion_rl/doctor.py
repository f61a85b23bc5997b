"""What this machine can run of a study, what the study would take on a GPU, and the one thing to do next.

Times on GPUs are estimates from numbers of floating-point operations; what was measured comes from a study's own benchmark
files. A key is only ever said to be set or not.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from persuasion_rl.config import (
    BASE,
    HUMAN,
    base_folder,
    load_study,
    needs_people,
    pool_sizes,
    recipe_of,
    split_sizes,
    uses_llm,
)
from persuasion_rl.costs import costs_of
from persuasion_rl.files import UserError

ROW_TOKENS = 600
"""Assumed tokens of an SFT row, prompt and response."""
PROMPT_TOKENS = 480
"""Assumed tokens of a pool's prompt."""
SUPERVISED = 0.5
"""Assumed share of an SFT row's tokens that are supervised, and so need the language-model head."""
SHARE = 0.4
"""Assumed share of a GPU's peak that a training reaches."""
GPUS = {"A10G (g5.xlarge)": (70, 1.006), "T4 (g4dn.xlarge)": (65, 0.526), "H200": (790, None)}
"""Dense 16-bit TFLOP/s, and USD an hour on demand in us-east-1 when this was written; spot prices are lower."""
SPARE_GB = 5
"""Free disk that a study needs besides its corpora and base model: rows, samples, checkpoints, reports."""
MEMORY_GB = 8
"""Memory of the largest rule."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `todo` is what to do about it, if anything."""

    what: str
    found: str
    todo: str = ""


@dataclass(frozen=True)
class Size:
    """A decoder's size: parameters of its layers and of its head, layers, width."""

    backbone: float
    head: float
    layers: int
    width: int

    def forward(self, tokens: float, context: float, head_share: float = 1.0) -> float:
        """FLOPs of a forward pass; causal attention over `context` tokens."""
        attention = 2 * context * self.width * self.layers
        return tokens * (2 * self.backbone + attention + 2 * self.head * head_share)


QWEN = Size(357.8e6, 136.1e6, 24, 896)
"""Qwen2.5-0.5B."""


def examine(study: dict[str, Any], file: Path) -> list[Finding]:
    """Look at this machine and at what a study needs of it."""
    return [
        Finding("study", f"{study['study']} ({file})"),
        *_machine(study),
        *_inputs(study),
        *_keys(study),
    ]


def _machine(study: dict[str, Any]) -> Iterator[Finding]:
    import psutil
    import torch

    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", f"{version}, torch {torch.__version__}")
    memory = psutil.virtual_memory()
    total, free = memory.total / 2**30, memory.available / 2**30
    few = f"the largest rules take up to {MEMORY_GB} GB" if total < MEMORY_GB else ""
    yield Finding(
        "memory", f"{total:.0f} GB, {free:.0f} GB of it free, {os.cpu_count()} cores", few
    )
    room = shutil.disk_usage(".").free / 2**30
    low = f"make room: besides corpora a study takes about {SPARE_GB} GB" if room < SPARE_GB else ""
    yield Finding("disk", f"{room:.0f} GB free here", low)
    yield _gpu(study)


def _gpu(study: dict[str, Any]) -> Finding:
    import torch

    wanted = study["device"]
    if not torch.cuda.is_available():
        todo = "run on a machine with a GPU, or set `device: cpu`" if wanted == "cuda" else ""
        return Finding("GPU", f"none (device: {wanted})", todo)
    names = [
        f"{torch.cuda.get_device_name(number)},"
        f" {torch.cuda.get_device_properties(number).total_memory / 2**30:.0f} GB"
        for number in range(torch.cuda.device_count())
    ]
    half = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return Finding("GPU", f"{'; '.join(names)}; {half}")


def _inputs(study: dict[str, Any]) -> Iterator[Finding]:
    """Corpora and the base model: here, made by the study, or to be downloaded."""
    data = study["data"]
    names = data["cmv_corpora"] + ([data["p4g_corpus"]] if data["use_p4g"] else [])
    if study["world"] is not None:
        yield Finding("corpora", "synthetic, made by the study")
    else:
        folder = Path(study["corpora_dir"] or "resources/corpora")
        for name in names:
            there = (folder / name / "utterances.jsonl").is_file()
            yield Finding(f"corpus {name}", f"in {folder}" if there else "to be downloaded")
    source = study["models"][BASE]["source"]
    if source == "standin":
        yield Finding("base model", "a stand-in, made by the study")
    else:
        there = Path(base_folder(study), "config.json").is_file()
        yield Finding("base model", f"{source}, {'here' if there else 'to be downloaded (1 GB)'}")


def _keys(study: dict[str, Any]) -> Iterator[Finding]:
    mode = study["wandb"]["mode"]
    tracked = _is_set("WANDB_API_KEY")
    offline = ", so runs are kept offline" if mode == "online" and tracked == "not set" else ""
    yield Finding("W&B", f"{mode}; WANDB_API_KEY {tracked}{offline}")
    if uses_llm(study):
        key = "ANTHROPIC_API_KEY" if study["llm"]["provider"] == "anthropic" else "OPENAI_API_KEY"
        needed = _is_set(key) == "not set" and study["llm"]["base_url"] is None
        yield Finding("judge llm", f"{key} {_is_set(key)}", f"set {key}" if needed else "")


def _is_set(name: str) -> str:
    return "set" if os.environ.get(name) else "not set"


def work(study: dict[str, Any], size: Size = QWEN) -> dict[str, float]:
    """FLOPs of what a study does with its models, by stage; at most, since pools may shrink."""
    parts, pools = split_sizes(study["data"]), pool_sizes(study["data"])
    longest = study["sampling"]["max_new_tokens"]
    found: dict[str, float] = {}
    for name, model in study["models"].items():
        if name == BASE:
            continue
        epochs = recipe_of(study, name)["num_train_epochs"]
        if model["method"] == "sft":
            tokens = parts["train"] * ROW_TOKENS * epochs
            # Forward, and back through the activations; LoRA's own gradients are small.
            found[f"train {name}"] = 2 * size.forward(tokens, ROW_TOKENS, SUPERVISED)
        else:
            length = PROMPT_TOKENS + longest
            tokens = pools[model["pool"]] * 2 * length * epochs
            reference = size.forward(tokens / epochs, length, longest / length)
            found[f"train {name}"] = 2 * size.forward(tokens, length, longest / length) + reference
    for pool in {model.get("pool") for model in study["models"].values()} - {None}:
        draws = study["pools"][pool]["responses"] * pools[pool]
        found[f"sample the {pool} pool"] = _sampling(size, pools[pool], draws, longest)
    players = [p for p in study["evaluation"]["players"] if p != HUMAN]
    prompts = len(players) * study["data"]["final_eval_size"]
    found["sample the evaluation"] = _sampling(size, prompts, prompts, longest)
    return found


def _sampling(size: Size, prompts: float, draws: float, longest: int) -> float:
    """A prompt is computed once; every draw runs to the limit."""
    start = size.forward(prompts * PROMPT_TOKENS, PROMPT_TOKENS, 0.0)
    return start + size.forward(draws * longest, PROMPT_TOKENS + longest)


def estimates(study: dict[str, Any]) -> list[list[str]]:
    """Rows of stage, PFLOP, and hours on each GPU; the last one is all of them, with its price."""
    stages = work(study)
    rows = [["estimate of", "PFLOP", *GPUS]]
    for stage, flops in [*stages.items(), ("all", sum(stages.values()))]:
        rows.append([stage, f"{flops / 1e15:.1f}"])
        for tera, price in GPUS.values():
            hours = flops / (tera * 1e12 * SHARE) / 3600
            cost = f", ${hours * price:.2f}" if stage == "all" and price else ""
            rows[-1].append((f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min") + cost)
    return rows


def next_step(study: dict[str, Any], findings: list[Finding], file: Path) -> str:
    """The one thing to do next."""
    for finding in findings:
        if finding.todo:
            return f"{finding.what}: {finding.todo}"
    results = Path("results", study["study"])
    named = "" if file == Path("config/config.yaml") else f" --configfile {file}"
    run = "--profile aws-gpu" if study["device"] != "cpu" else "--cores all"
    waiting = any(needs_people(study, model) for model in study["models"])
    if not (results / "splits/summary.json").is_file():
        return f"the data and a page about it: `snakemake data --cores all{named}`"
    if waiting and not (results / "preferences/human_pool_responses.jsonl").is_file():
        return f"all that needs no person: `snakemake unattended {run}{named}`"
    if waiting and not (results / "preferences/human_pool_labels.jsonl").is_file():
        return f"label the human pool: `persuasion-rl annotate --study {study['study']}`"
    if not (results / "report.html").is_file():
        return f"the rest: `snakemake {run}{named}`"
    return f"read {results / 'report.html'}; `snakemake -n{named}` tells what is stale"


def report(file: Path) -> str:
    """All of it as text.

    Raises:
        UserError: the study's configuration is not there, or is wrong.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such configuration")
    study = load_study(yaml.safe_load(file.read_text(encoding="utf-8")) or {}, file)
    findings = examine(study, file)
    width = max(len(finding.what) for finding in findings)
    lines = [
        f"{finding.what:<{width}}  {finding.found}"
        + (f"  -> {finding.todo}" if finding.todo else "")
        for finding in findings
    ]
    if study["models"][BASE]["source"] != "standin":
        lines += ["", *_columns(estimates(study)), _assumed()]
    if costs := costs_of(Path("results", study["study"])):
        seconds = sum(cost.seconds for cost in costs)
        lines += [
            "",
            f"measured so far: {seconds / 60:.0f} min in {len(costs)} jobs (their last runs)",
        ]
    return "\n".join([*lines, "", f"next: {next_step(study, findings, file)}"]) + "\n"


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _assumed() -> str:
    return (
        f"Estimates, not measured: Qwen2.5-0.5B's size, {ROW_TOKENS} tokens a row, {SHARE:.0%} of each GPU's 16-bit peak;"
        " sampling is often slower. Prices: on demand, us-east-1."
    )
