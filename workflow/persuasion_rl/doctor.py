"""What this machine can run of a study, what the study would take on a GPU, and the one thing to do next.

Times on GPUs are estimates from numbers of floating-point operations; what was measured comes from a study's own benchmark
files. A key is only ever said to be set or not.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

import yaml

from persuasion_rl.answers import pair_id, read_answers, tally
from persuasion_rl.config import (
    BASE,
    HUMAN,
    MODEL_FILES,
    load_study,
    model_folder,
    needs_people,
    pool_sizes,
    recipe_of,
    split_sizes,
    uses_llm,
)
from persuasion_rl.costs import costs_of
from persuasion_rl.files import UserError, read_jsonl
from persuasion_rl.keys import VARIABLES, is_loopback

ROW_TOKENS = 600
"""Assumed tokens of an SFT row, prompt and response."""
PROMPT_TOKENS = 480
"""Assumed tokens of a pool's prompt."""
SUPERVISED = 0.5
"""Assumed share of an SFT row's tokens that are supervised, and so need the language-model head."""
SHARE = 0.4
"""Assumed share of a GPU's peak that a training reaches."""
DELTA_PAIRS = 20_000
"""Assumed delta pairs that the delta judge learns from; how many there are shows when the data is made."""
GPUS = {"A10G (g5.xlarge)": (70, 1.006), "T4 (g4dn.xlarge)": (65, 0.526), "H200": (790, None)}
"""Dense 16-bit TFLOP/s, and USD an hour on demand in us-east-1 when this was written, where one is sold by itself;
spot prices are lower."""
MEMORY_GB = 12
"""Memory of the largest rule."""
GPU_GB = 6
"""Assumed memory of a GPU that a training needs: weights, and a row at a time with gradients checkpointed."""
CORPUS_GB = {
    "winning-args-corpus": 0.4,
    "subreddit-changemyview": 7.0,
    "persuasionforgood-corpus": 0.02,
}
"""About what a published corpus takes, at 1.4 kB an utterance."""
HUB_MODEL_GB = 1.0
EXAMPLE_KB = 30
"""About what an example takes in all files of rows, tokens and pairs."""
TRAINED_MODEL_GB = 0.1
"""About what an adapter takes with its checkpoints, of which two are kept while it trains."""
ANSWERS_WITHIN_S = 5
CONVOKIT = "http://zissou.infosci.cornell.edu/convokit/datasets/"


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
        *_corpora(study),
        *_models(study),
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
    parts = footprint(study)
    room, needed = shutil.disk_usage(".").free / 2**30, sum(parts.values())
    told = ", ".join(f"{what} {size:.1f}" for what, size in parts.items() if size)
    low = f"make room: this study takes about {needed:.1f} GB" if room < needed else ""
    yield Finding("disk", f"{room:.0f} GB free; needed, about: {needed:.1f} GB ({told})", low)
    yield _gpu(study)


def footprint(study: dict[str, Any]) -> dict[str, float]:
    """About how many GB of disk a study takes by what takes them, at most: what is here already, too."""
    if study["world"] is not None:
        return {"all of it, synthetic": 0.2}
    # Twice: a large file is dealt into parts in the temporary folder while it is read.
    corpora = sum(2 * CORPUS_GB.get(name, 1.0) for name in _corpus_names(study))
    hub = [source for source in _sources(study) if not Path(model_folder(source)).is_dir()]
    return {
        "corpora": corpora,
        "models from the Hub": HUB_MODEL_GB * len(hub),
        "rows": study["data"]["max_examples"] * EXAMPLE_KB / 1e6,
        "trained models": TRAINED_MODEL_GB * len(study["models"]),
    }


def _gpu(study: dict[str, Any]) -> Finding:
    """The GPU beside what the recipes want of it."""
    import torch

    wanted = study["device"]
    if not torch.cuda.is_available():
        todo = "run on a machine with a GPU, or set `device: cpu`" if wanted == "cuda" else ""
        return Finding("GPU", f"none (device: {wanted})", todo)
    devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    memory = {device.name: device.total_memory / 2**30 for device in devices}
    half = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    small = [name for name, size in memory.items() if size < GPU_GB]
    todo = f"{small[0]} has less than the {GPU_GB} GB that a training takes" if small else ""
    if any(recipe.get("use_4bit") for recipe in study["recipes"].values()) and not find_spec(
        "bitsandbytes"
    ):
        todo = "use_4bit needs bitsandbytes: pip install -e '.[qlora]'"
    named = "; ".join(f"{name}, {size:.0f} GB" for name, size in memory.items())
    return Finding("GPU", f"{named}; {half}", todo)


def _corpus_names(study: dict[str, Any]) -> list[str]:
    data = study["data"]
    return data["cmv_corpora"] + ([data["p4g_corpus"]] if data["use_p4g"] else [])


def _corpora(study: dict[str, Any]) -> Iterator[Finding]:
    """Corpora: here, made by the study, or to be downloaded."""
    if study["world"] is not None:
        yield Finding("corpora", "synthetic, made by the study")
        return
    folder = Path(study["corpora_dir"] or "resources/corpora")
    for name in _corpus_names(study):
        if (folder / name / "utterances.jsonl").is_file():
            yield Finding(f"corpus {name}", f"in {folder}")
        elif study["corpora_dir"]:
            todo = f"put it into {folder}, or leave corpora_dir out to download it"
            yield Finding(f"corpus {name}", f"not in {folder}", todo)
        else:
            yield _to_be_downloaded(f"corpus {name}", CORPUS_GB.get(name), CONVOKIT)


def _sources(study: dict[str, Any]) -> list[str]:
    """Models that are not made by the study: its base, other players."""
    others = study["evaluation"]["other_players"].values()
    named = [study["models"][BASE]["source"], *(o["source"] for o in others if "source" in o)]
    return [source for source in dict.fromkeys(named) if source != "standin"]


def _models(study: dict[str, Any]) -> Iterator[Finding]:
    """Models from elsewhere: here, or to be downloaded."""
    if study["models"][BASE]["source"] == "standin":
        yield Finding("base model", "a stand-in, made by the study")
    for source in _sources(study):
        folder = Path(model_folder(source))
        if all((folder / name).is_file() for name in MODEL_FILES):
            yield Finding(f"model {source}", f"in {folder}")
        else:
            hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
            yield _to_be_downloaded(f"model {source}", HUB_MODEL_GB, hub)
    if embedding := study["evaluation"]["embedding_model"]:
        yield Finding("embedding model", embedding)


def _to_be_downloaded(what: str, size: float | None, address: str) -> Finding:
    about = "" if size is None else f" (about {size:g} GB)"
    if _answers(address):
        return Finding(what, f"to be downloaded{about}; {address} answers")
    todo = "get it on a machine with a network, or see that this one has one"
    return Finding(what, f"to be downloaded{about}; {address} does not answer", todo)


def _answers(address: str) -> bool:
    """Whether a server answers at all."""
    try:
        urlopen(UrlRequest(address, method="HEAD"), timeout=ANSWERS_WITHIN_S).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True


def _keys(study: dict[str, Any]) -> Iterator[Finding]:
    mode = study["wandb"]["mode"]
    tracked = _is_set("WANDB_API_KEY")
    offline = ", so runs are kept offline" if mode == "online" and tracked == "not set" else ""
    yield Finding("W&B", f"{mode}; WANDB_API_KEY {tracked}{offline}")
    if _sources(study):
        yield Finding("Hub", f"HF_TOKEN {_is_set('HF_TOKEN')}; public models need none")
    for who, provider, address in _asked(study):
        needed = _is_set(VARIABLES[provider]) == "not set" and not is_loopback(address)
        yield Finding(
            who,
            f"{VARIABLES[provider]} {_is_set(VARIABLES[provider])}",
            f"set {VARIABLES[provider]}" if needed else "",
        )


def _asked(study: dict[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """Servers that a study asks: who they are to it, whose key they want, their address."""
    if uses_llm(study):
        yield "judge llm", study["llm"]["provider"], study["llm"]["base_url"]
    if study["sampling"]["engine"] == "openai":
        yield "engine openai", "openai", study["sampling"]["base_url"]
    for name, other in study["evaluation"]["other_players"].items():
        if "endpoint" in other:
            yield f"player {name}", "openai", other["endpoint"]


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
    for pool in sorted({model.get("pool") for model in study["models"].values()} - {None}):
        draws = study["pools"][pool]["responses"] * pools[pool]
        found[f"sample the {pool} pool"] = _sampling(size, pools[pool], draws, longest)
    players = [p for p in study["evaluation"]["players"] if p != HUMAN]
    held_out = study["data"]["final_eval_size"]
    prompts = len(players) * held_out
    found["sample the evaluation"] = _sampling(size, prompts, prompts, longest)
    return found | _judging(study, size, prompts)


def _judging(study: dict[str, Any], size: Size, replies: int) -> dict[str, float]:
    """The delta judge, and what is measured of the models: each text is read once, without sampling."""
    length = PROMPT_TOKENS + study["sampling"]["max_new_tokens"]
    judges = {*study["evaluation"]["judges"], study["labels"]["ai"]["judge"]}
    pool = study["pools"]["ai"]["responses"] * pool_sizes(study["data"])["ai"]
    found = {}
    if "delta" in judges:
        epochs = study["recipes"]["reward"]["num_train_epochs"]
        rows = 2 * DELTA_PAIRS * epochs
        found["train the delta judge"] = 2 * size.forward(rows * ROW_TOKENS, ROW_TOKENS, 0.0)
        found["judge by delta"] = size.forward((pool + replies) * length, length, 0.0)
    trained = len(study["models"]) * study["data"]["final_eval_size"]
    found["measure losses and KL"] = 3 * size.forward(trained * length, length)
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
            cost = f", {f'${hours * price:.2f}' if price else 'price unknown'}"
            cost = cost if stage == "all" else ""
            rows[-1].append((f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min") + cost)
    return rows


def _have_labelled(study: dict[str, Any], results: Path) -> bool:
    """Whether people have answered as many pairs of the human pool as its export asks for."""
    store = results / "state/human_answers.sqlite"
    if not store.is_file():
        return False
    pool = read_jsonl(results / "preferences/human_pool_responses.jsonl")
    found = tally(map(pair_id, pool), read_answers(store))
    return found.answered >= found.needed(study["labels"]["human"]["min_labels"])


def next_step(study: dict[str, Any], findings: list[Finding], file: Path) -> str:
    """The one thing to do next."""
    for finding in findings:
        if finding.todo:
            return f"{finding.what}: {finding.todo}"
    results = Path("results", study["study"])
    named = "" if file == Path("config/config.yaml") else f" --configfile {file}"
    run, where = "--cores all", ""
    if study["models"][BASE]["source"] != "standin" and study["device"] != "cpu":
        here = any(f.what == "GPU" and not f.found.startswith("none") for f in findings)
        run, where = "--profile aws-gpu", "" if here else ", on a machine with a GPU"
    waiting = any(needs_people(study, model) for model in study["models"])
    if not (results / "splits/summary.json").is_file():
        return f"the data and a page about it: `snakemake data --cores all{named}`"
    if waiting and not (results / "preferences/human_pool_responses.jsonl").is_file():
        return f"all that needs no person: `snakemake unattended {run}{named}`{where}"
    if waiting and not _have_labelled(study, results):
        return f"label the human pool: `persuasion-rl annotate --study {study['study']}`"
    if not (results / "report.html").is_file():
        return f"the rest: `snakemake {run}{named}`{where}"
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
        dearest = sorted(costs, key=lambda cost: cost.seconds, reverse=True)[:3]
        named = ", ".join(f"{cost.rule} {cost.seconds / 60:.1f}" for cost in dearest)
        lines += [
            "",
            f"measured: {seconds / 60:.1f} min in {len(costs)} jobs (their last runs), most of it {named}",
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
        f"Estimates, not measured: Qwen2.5-0.5B's size, {ROW_TOKENS} tokens a row, {DELTA_PAIRS:,} delta pairs, {SHARE:.0%} of each GPU's 16-bit peak;"
        " sampling is often slower. Prices: on demand, us-east-1."
    )
