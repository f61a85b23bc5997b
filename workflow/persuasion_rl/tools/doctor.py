"""What this machine can run of a study, what the study would take on a GPU, and the one thing to do next.

Times on GPUs are estimates from numbers of floating-point operations, their memory from what a step keeps; what was measured
comes from a study's own benchmark files. A key is only ever said to be set or not.
"""

import os
import shlex
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

import psutil
import yaml

from persuasion_rl.annotation.plan import pair_id, tally
from persuasion_rl.annotation.store import read_answers
from persuasion_rl.files import UserError, read_json, read_jsonl
from persuasion_rl.report.costs import costs_of
from persuasion_rl.runtime.keys import VARIABLES, is_loopback
from persuasion_rl.study.config import (
    base_folder,
    lineage,
    load_study,
    model_folder,
    needs_people,
    pool_sizes,
    recipe_of,
    split_sizes,
    uses_llm,
)
from persuasion_rl.study.names import BASE, HUMAN, MODEL_FILES
from persuasion_rl.training.batches import HEADROOM

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
GPUS = {
    "A10G (g5.xlarge)": (70, 1.006),
    "T4 (g4dn.xlarge)": (65, 0.526),
    "H200 (1/8 p5en)": (790, 5.41),
}
"""Dense 16-bit TFLOP/s, and USD an hour: on demand in us-east-1 when this was written; of an H200, which Amazon rents eight
at a time, an eighth of what a Capacity Block of p5en.48xlarge cost in Ohio at the end of 2024. Spot prices are lower."""
MEMORY_GB = 12
"""Memory of the largest rule."""
SYSTEM_GB = 2
"""Memory that is left to the system where jobs take turns for want of it."""
CUDA_GB = 1.0
"""Assumed memory of a GPU that CUDA and the allocator's gaps take."""
HEAD_TILE = (4096, 32768)
"""Tokens and entries of the vocabulary whose logits trl's fused head computes at once."""
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
    """A decoder's size: layers, width, widths of its MLP, queries and keys, vocabulary."""

    layers: int
    width: int
    inner: int
    queries: int
    keys: int
    vocab: int

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's linear modules."""
        return {
            "q_proj": (self.width, self.queries),
            "k_proj": (self.width, self.keys),
            "v_proj": (self.width, self.keys),
            "o_proj": (self.queries, self.width),
            "gate_proj": (self.width, self.inner),
            "up_proj": (self.width, self.inner),
            "down_proj": (self.inner, self.width),
        }

    @property
    def backbone(self) -> int:
        """Parameters of the layers; norms and biases are too few to count."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear.values())

    @property
    def head(self) -> int:
        """Parameters of the embedding, which is the head too."""
        return self.vocab * self.width

    def forward(self, tokens: float, context: float, head_share: float = 1.0) -> float:
        """FLOPs of a forward pass; causal attention over `context` tokens."""
        attention = 2 * context * self.width * self.layers
        return tokens * (2 * self.backbone + attention + 2 * self.head * head_share)

    def adapter(self, rank: int, modules: list[str]) -> int:
        """Parameters of a LoRA adapter; a module that is not known here has none."""
        known = [sum(self.linear[name]) for name in modules if name in self.linear]
        return self.layers * rank * sum(known)


QWEN = Size(layers=24, width=896, inner=4864, queries=896, keys=128, vocab=151_936)
"""Qwen2.5-0.5B."""


def size_of(study: dict[str, Any]) -> Size | None:
    """The size of a study's base model, by its config.json; None where it is not here, or of another form.

    Raises:
        UserError: the file was cut off.
    """
    try:
        config = read_json(Path(base_folder(study), "config.json"))
        heads, width = config["num_attention_heads"], config["hidden_size"]
        per_head = config.get("head_dim") or width // heads
        return Size(
            layers=config["num_hidden_layers"],
            width=width,
            inner=config["intermediate_size"],
            queries=heads * per_head,
            keys=config.get("num_key_value_heads", heads) * per_head,
            vocab=config["vocab_size"],
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def examine(study: dict[str, Any], file: Path) -> list[Finding]:
    """Look at this machine and at what a study needs of it."""
    return [
        Finding("study", f"{study['study']} ({file})"),
        *_machine(study),
        *_corpora(study, _naming(file)),
        *_models(study, _naming(file)),
        *_keys(study),
    ]


def _naming(file: Path) -> str:
    """How a command names a study that is not the one of config/config.yaml."""
    return "" if file == Path("config/config.yaml") else f" --configfile {shlex.quote(str(file))}"


def _machine(study: dict[str, Any]) -> Iterator[Finding]:
    import torch

    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", f"{version}, torch {torch.__version__}")
    memory = psutil.virtual_memory()
    total, free = memory.total / 2**30, memory.available / 2**30
    few = f"; {turns}" if (turns := taking_turns(study, total)) else ""
    yield Finding(
        "memory", f"{total:.0f} GB, {free:.0f} GB of it free, {os.cpu_count()} cores{few}"
    )
    parts = footprint(study)
    room, needed = shutil.disk_usage(".").free / 2**30, sum(parts.values())
    told = ", ".join(f"{what} {size:.1f}" for what, size in parts.items() if size)
    low = f"make room: this study takes about {needed:.1f} GB" if room < needed else ""
    yield Finding("disk", f"{room:.0f} GB free; needed, about: {needed:.1f} GB ({told})", low)
    devices = _gpus()
    yield _gpu(study, devices)
    yield from gpu_memory(study, devices)


def taking_turns(study: dict[str, Any], total: float) -> str:
    """What a machine with few GB of memory in all does: the largest rules then run alone."""
    if total >= MEMORY_GB or study["models"][BASE]["source"] == "standin":
        return ""
    return (
        f"the largest rules ask for {MEMORY_GB}: with `--resources {limit(total)}` nothing runs beside one that"
        " asks for more than there is"
    )


def limit(total: float) -> str:
    """The memory that jobs may ask for together, as `--resources` takes it, of so many GB in all."""
    return f"mem_mb={max(1, round(total - SYSTEM_GB)) * 1000}"


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


def _gpus() -> list[tuple[str, float]]:
    """The GPUs of this machine and their GB of memory."""
    import torch

    if not torch.cuda.is_available():
        return []
    devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [(device.name, device.total_memory / 2**30) for device in devices]


def _gpu(study: dict[str, Any], devices: list[tuple[str, float]]) -> Finding:
    """The GPU beside what the study wants of it."""
    wanted = study["device"]
    if not devices:
        todo = "run on a machine with a GPU, or set `device: cpu`" if wanted == "cuda" else ""
        return Finding("GPU", f"none (device: {wanted})", todo)
    from persuasion_rl.models.devices import pick_dtype

    half = str(pick_dtype("cuda")).removeprefix("torch.")
    in_four = any(recipe.get("use_4bit") for _, _, recipe, _ in _trainings(study))
    lacks = in_four and not find_spec("bitsandbytes")
    todo = "use_4bit needs bitsandbytes: pip install -e '.[qlora]'" if lacks else ""
    named = "; ".join(f"{name}, {size:.0f} GB" for name, size in devices)
    return Finding("GPU", f"{named}; {half}", todo)


def gpu_memory(study: dict[str, Any], devices: list[tuple[str, float]]) -> Iterator[Finding]:
    """What each training takes of a GPU's memory, estimated, beside the GPUs that are here (GB)."""
    if study["device"] == "cpu" or study["models"][BASE]["source"] == "standin":
        return
    size = size_of(study) or QWEN
    told: dict[tuple[str, str], list[str]] = {}
    for name, method, recipe, shape in _trainings(study):
        need = Need.of(method, recipe, shape, size)
        small = [(device, gb) for device, gb in devices if need.least > HEADROOM * gb]
        todo = "{} has {:.0f} GB: {}".format(*small[0], need.advice) if small else ""
        told.setdefault((need.told, todo), []).append(name)
    for (found, todo), names in told.items():
        yield Finding("GPU memory", f"{', '.join(names)}: {found}", todo)


def _trainings(study: dict[str, Any]) -> Iterator[tuple[str, str, dict, dict]]:
    """Name, method and recipe of each training, and the recipe that shapes its adapter: DPO goes on with its parent's."""
    for name, model in study["models"].items():
        if name != BASE:
            first = next(iter(lineage(study["models"], name)))
            yield name, model["method"], recipe_of(study, name), recipe_of(study, first)
    reward = study["recipes"]["reward"]
    yield "delta judge", "reward", reward, reward


@dataclass(frozen=True)
class Need:
    """What a training takes of a GPU's memory: the least (GB), all of it in words, what to do where that is too much."""

    least: float
    told: str
    advice: str

    @classmethod
    def of(cls, method: str, recipe: dict, shape: dict, size: Size) -> "Need":
        given = recipe.get("per_device_train_batch_size")
        rows = min(given or 1, recipe["effective_batch_size"])
        pairs = "pair" if method != "sft" else "row"

        def takes(rows: int, checkpointing: bool) -> float:
            return training_memory(method, recipe, shape, size, rows, checkpointing)

        length = f"{recipe['max_length']:,} tokens" + (" each" if pairs == "pair" else "")
        at_once = f"{rows} {pairs}{'s' if rows > 1 else ''} of {length} at once"
        saving, whole = takes(rows, True), takes(rows, False)
        if given:
            in_small = recipe.get("gradient_checkpointing", False)
            least = saving if in_small else whole
            told = f"about {least:.1f} GB with {at_once}"
            advice = f"leave per_device_train_batch_size out, and as many {pairs}s are taken as fit"
        else:
            least, further = saving, takes(2, False) - whole
            told = (
                f"about {least:.1f} GB with {at_once} and gradients checkpointed, {whole:.1f} without,"
                f" {further:.1f} for each {pairs} more; as many are taken as fit"
            )
            advice = "lower data.max_seq_length and then max_length, or take a larger GPU"
            if method != "reward" and not recipe.get("use_4bit"):
                advice = f"set use_4bit: true in its recipe, {advice}"
        return cls(least, f"{told} (estimate)", advice)


def training_memory(
    method: str, recipe: dict, shape: dict, size: Size, rows: int, checkpointing: bool
) -> float:
    """GB of a GPU's memory that an update takes at its peak, estimated; no GPU was here to measure it on.

    Weights take 2 bytes, or 4.127 bits in the layers and 4 bytes in the embedding with use_4bit (NF4 quantised twice,
    Dettmers et al. 2023, arXiv:2305.14314). An adapter's weights, gradients and Adam's two moments take 4 bytes each, and
    DPO's reference is a frozen copy of it. What a layer keeps for the backward pass is counted in the manner of Korthikanti
    et al. (2022, arXiv:2205.05198, section 4), by what autograd keeps of this code in 16 bits (a test counts it again): 24
    bytes a token for each unit of the width, 6 for each of the MLP, 4 for each input of an adapted module, and nothing of
    attention's matrices. Checkpointed gradients leave a layer's input (2 bytes), and all of it of one layer. Whole logits
    never exist (trl's fused head works in tiles), nor does padding, so that every row is counted at its longest.

    Args:
        recipe: of the training. shape: the recipe that says which adapter it is.
        rows: at once; of DPO and the delta judge, pairs.
    """
    from persuasion_rl.training.trainer import LORA_DEFAULTS

    lora = LORA_DEFAULTS | {key: value for key, value in shape.items() if key in LORA_DEFAULTS}
    in_four = recipe.get("use_4bit", False)
    weights = size.backbone * (4.127 / 8 if in_four else 2) + size.head * (4 if in_four else 2)
    modules = lora["lora_target_modules"]
    adapter = size.adapter(lora["lora_r"], modules) * 4 * (5 if method == "dpo" else 4)
    tokens = rows * recipe["max_length"] * (1 if method == "sft" else 2)
    inputs = sum(size.linear[name][0] for name in modules if name in size.linear)
    layer = tokens * (24 * size.width + 6 * size.inner + 4 * inputs)
    kept = size.layers * tokens * 2 * size.width + layer if checkpointing else size.layers * layer
    # Hidden states and their gradients, in 16 bits and in 32; the classifier has no vocabulary.
    head = tokens * 8 * size.width
    if method != "reward":
        head += 2 * min(tokens, HEAD_TILE[0]) * min(size.vocab, HEAD_TILE[1])
    return (weights + adapter + kept + head) / 2**30 + CUDA_GB


def _corpus_names(study: dict[str, Any]) -> list[str]:
    data = study["data"]
    return data["cmv_corpora"] + ([data["p4g_corpus"]] if data["use_p4g"] else [])


def _corpora(study: dict[str, Any], named: str) -> Iterator[Finding]:
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
            target = f"resources/corpora/{name}/utterances.jsonl"
            yield _to_be_downloaded(f"corpus {name}", CORPUS_GB.get(name), CONVOKIT, target, named)


def _sources(study: dict[str, Any]) -> list[str]:
    """Models that are not made by the study: its base, other players."""
    others = study["evaluation"]["other_players"].values()
    named = [study["models"][BASE]["source"], *(o["source"] for o in others if "source" in o)]
    return [source for source in dict.fromkeys(named) if source != "standin"]


def _models(study: dict[str, Any], named: str) -> Iterator[Finding]:
    """Models from elsewhere: here, or to be downloaded."""
    if study["models"][BASE]["source"] == "standin":
        yield Finding("base model", "a stand-in, made by the study")
    for source in _sources(study):
        folder = Path(model_folder(source))
        if all((folder / name).is_file() for name in MODEL_FILES):
            yield Finding(f"model {source}", f"in {folder}")
        else:
            hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
            target = f"{folder}/config.json"
            yield _to_be_downloaded(f"model {source}", HUB_MODEL_GB, hub, target, named)
    if embedding := study["evaluation"]["embedding_model"]:
        yield Finding("embedding model", embedding)


def _to_be_downloaded(
    what: str, size: float | None, address: str, target: str, named: str
) -> Finding:
    about = "" if size is None else f" (about {size:g} GB)"
    if _answers(address):
        return Finding(what, f"to be downloaded{about}; {address} answers")
    todo = (
        f"where there is a network `snakemake {target} --cores 1{named}`; then copy {Path(target).parent} to the"
        " same place here"
    )
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


def work(study: dict[str, Any]) -> dict[str, float]:
    """FLOPs of what a study does with its models, by stage; at most, since pools may shrink."""
    size = size_of(study) or QWEN
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
    # Its trust is measured in every study.
    rows = 2 * DELTA_PAIRS * study["recipes"]["reward"]["num_train_epochs"]
    found = {"train the delta judge": 2 * size.forward(rows * ROW_TOKENS, ROW_TOKENS, 0.0)}
    if "delta" in (*study["evaluation"]["judges"], study["labels"]["ai"]["judge"]):
        pool = study["pools"]["ai"]["responses"] * pool_sizes(study["data"])["ai"]
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
            cost = f", ${hours * price:.2f}" if stage == "all" else ""
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
    named = _naming(file)
    total = psutil.virtual_memory().total / 2**30
    few = limit(total) if taking_turns(study, total) else ""
    cores = "--cores all" + (f" --resources {few}" if few else "")
    run, where = cores, ""
    if study["models"][BASE]["source"] != "standin" and study["device"] != "cpu":
        here = any(f.what == "GPU" and not f.found.startswith("none") for f in findings)
        # A list on the command line takes the place of the profile's.
        run = "--profile aws-gpu" + (f" --resources gpu=1 {few}" if few and here else "")
        where = "" if here else ", on a machine with a GPU"
    waiting = any(needs_people(study, model) for model in study["models"])
    if not (results / "splits/summary.json").is_file():
        return f"the data and a page about it: `snakemake data {cores}{named}`"
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
        lines += ["", *_columns(estimates(study)), _assumed(study)]
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


def _assumed(study: dict[str, Any]) -> str:
    size = "the base model's size by its config.json" if size_of(study) else "Qwen2.5-0.5B's size"
    return (
        f"Estimates, not measured: {size}, {ROW_TOKENS} tokens a row, {DELTA_PAIRS:,} delta pairs, {SHARE:.0%} of each GPU's 16-bit peak;"
        " sampling is often slower. Prices: on demand, us-east-1; of an H200 an eighth of a reserved p5en.48xlarge."
    )
