"""Reports what this machine can run of a study, what the study would take on a GPU, and the next step.

Times on GPUs are estimates from numbers of floating-point operations, memory from the tensors that a step keeps;
measured times come from a study's own benchmark files. Of a key it only says whether it is set.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

from persuasion_rl.annotation.plan import pair_id, tally
from persuasion_rl.annotation.store import read_answers
from persuasion_rl.files import UserError
from persuasion_rl.records import ResponsePair, read_rows
from persuasion_rl.report.costs import costs_of
from persuasion_rl.runtime.keys import VARIABLES, is_loopback
from persuasion_rl.runtime.leases import visible_devices
from persuasion_rl.runtime.machine import cores, free_memory, memory
from persuasion_rl.study.loading import load_config_file
from persuasion_rl.study.memory import JobMemory
from persuasion_rl.study.model_size import QWEN, size_in
from persuasion_rl.study.names import (
    BASE,
    CORPUS_FILES,
    kind_of,
    model_files,
    model_folder,
    package_of,
    packed_file,
)
from persuasion_rl.study.recorded import IN_CHECKOUT, naming
from persuasion_rl.study.rules import MEMORY_SHARE
from persuasion_rl.study.section import check_address
from persuasion_rl.study.study import Study
from persuasion_rl.tools.assumptions import ASSUMED
from persuasion_rl.tools.gpu_memory import Need, trainings
from persuasion_rl.tools.workload import assumed, estimates
from persuasion_rl.training.batches import HEADROOM

ANSWERS_WITHIN_S = 5
HUB = "https://huggingface.co"
INDEX = "https://pypi.org/simple/"
CONVOKIT = "http://zissou.infosci.cornell.edu/convokit/datasets/"


@dataclass(frozen=True)
class Finding:
    """One checked thing: its name, its state, and what to do about it, if anything."""

    what: str
    state: str
    todo: str = ""


def examine(study: Study, file: Path) -> list[Finding]:
    """Check this machine against the needs of a study."""
    return [
        Finding("study", f"{study.name} ({file})"),
        *_checkout(),
        *_machine(study),
        *_corpora(study, naming(file)),
        *_models(study, naming(file)),
        *_keys(study),
    ]


def _checkout() -> Iterator[Finding]:
    """A finding if the current folder is not the checkout: the doctor can be installed without it."""
    if not Path("Snakefile").is_file():
        yield Finding("workflow", "not in this folder; the commands below are for its checkout")


def _machine(study: Study) -> Iterator[Finding]:
    import torch

    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", f"{version}, torch {torch.__version__}")
    total, free = memory() / 2**30, free_memory() / 2**30
    shared = MEMORY_SHARE * total
    yield Finding(
        "memory",
        f"{total:.0f} GB, {free:.0f} GB of it free, {cores()} cores; jobs run side by side as long as they ask for"
        f" {shared:.0f} GB together; what asks for more runs alone",
    )
    yield from _trainings_on_cpu(study)
    parts = footprint(study)
    room, needed = shutil.disk_usage(".").free / 2**30, sum(parts.values())
    sizes = ", ".join(f"{what} {size:.1f}" for what, size in parts.items() if size)
    todo = f"make room: this study takes about {needed:.1f} GB" if room < needed else ""
    yield Finding("disk", f"{room:.0f} GB free; needed, about: {needed:.1f} GB ({sizes})", todo)
    devices = _gpus()
    yield _gpu(study, devices)
    yield from gpu_memory(study, devices)


def _trainings_on_cpu(study: Study) -> Iterator[Finding]:
    """The estimated memory of each training, and its threads, where trainings use no GPU."""
    if study.config.device == "cuda" or (study.config.device == "auto" and visible_devices()):
        return
    jobs = JobMemory(study, here=True)
    megabytes = {name: jobs.training(SimpleNamespace(model=name), 1) for name in study.trained()}
    megabytes["delta judge"] = jobs.delta_judge(None, 1)
    sizes = ", ".join(f"{name} {each * 1e6 / 2**30:.1f} GB" for name, each in megabytes.items())
    threads = f"threads: {study.threads} each, whatever --cores says"
    yield Finding("trainings", f"memory, about: {sizes}; {threads}")


def footprint(study: Study) -> dict[str, float]:
    """The approximate most GB of disk that a study takes, by what takes them; existing files count too."""
    if study.synthetic:
        return {"all of it, synthetic": ASSUMED.synthetic_study_gb}
    # Twice, because reading splits a large file into parts in the temporary folder.
    corpora = sum(
        2 * ASSUMED.corpus_gb.get(name, ASSUMED.other_corpus_gb) for name in _corpus_names(study)
    )
    absent = [source for source in _sources(study) if not Path(model_folder(source)).is_dir()]
    return {
        "corpora": corpora,
        "models from elsewhere": ASSUMED.hub_model_gb * len(absent),
        "rows": study.config.data.max_examples * ASSUMED.example_kb / 1e6,
        "trained models": ASSUMED.trained_model_gb * len(study.models),
    }


def _gpus() -> list[tuple[str, float]]:
    """The GPUs of this machine and their GB of memory."""
    import torch

    if not torch.cuda.is_available():
        return []
    try:
        devices = [*map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))]
    except RuntimeError:  # CUDA_VISIBLE_DEVICES may name no device
        return []
    return [(device.name, device.total_memory / 2**30) for device in devices]


def _gpu(study: Study, devices: list[tuple[str, float]]) -> Finding:
    """The GPU of this machine, and whether it suits the study."""
    device = study.config.device
    if not devices:
        todo = "run on a machine with a GPU, or set `device: cpu`" if device == "cuda" else ""
        return Finding("GPU", f"none (device: {device})", todo)
    from persuasion_rl.models.devices import pick_dtype

    half = str(pick_dtype("cuda")).removeprefix("torch.")
    in_four_bits = any(training.recipe.get("use_4bit") for training in trainings(study))
    lacks = in_four_bits and not find_spec("bitsandbytes")
    todo = "use_4bit needs bitsandbytes: pip install -e '.[qlora]'" if lacks else ""
    named = "; ".join(f"{name}, {size:.0f} GB" for name, size in devices)
    return Finding("GPU", f"{named}; {half}", todo)


def gpu_memory(study: Study, devices: list[tuple[str, float]]) -> Iterator[Finding]:
    """The estimated GPU memory of each training, compared with the GPUs of this machine (GB)."""
    if study.config.device == "cpu" or study.models[BASE].source == "standin":
        return
    size = size_in(study.base_folder) or QWEN
    names: dict[tuple[str, str], list[str]] = {}
    for training in trainings(study):
        need = Need.of(training, size)
        small = [(device, gb) for device, gb in devices if need.least > HEADROOM * gb]
        todo = "{} has {:.0f} GB: {}".format(*small[0], need.advice) if small else ""
        names.setdefault((need.words, todo), []).append(training.name)
    for (words, todo), alike in names.items():
        yield Finding("GPU memory", f"{', '.join(alike)}: {words}", todo)


def _corpus_names(study: Study) -> list[str]:
    data = study.config.data
    return data.cmv_corpora + ([data.p4g_corpus] if data.use_p4g else [])


def _corpora(study: Study, named: str) -> Iterator[Finding]:
    """Corpora: present, made by the study, or to be downloaded."""
    if study.synthetic:
        yield Finding("corpora", "synthetic, made by the study")
        return
    folder = Path(study.config.corpora_dir or "resources/corpora")
    for name in _corpus_names(study):
        if all((folder / name / file).is_file() for file in CORPUS_FILES):
            yield Finding(f"corpus {name}", f"in {folder}")
        elif study.config.corpora_dir:
            todo = f"put it into {folder}, or leave corpora_dir out to download it"
            yield Finding(f"corpus {name}", f"not in {folder}", todo)
        else:
            target = f"resources/corpora/{name}/utterances.jsonl"
            yield _to_be_downloaded(
                f"corpus {name}", ASSUMED.corpus_gb.get(name), CONVOKIT, target, named
            )


def _sources(study: Study) -> list[str]:
    """Models that the study does not make: its base model, other players."""
    others = study.other_players.values()
    named = [study.models[BASE].source, *(other.source for other in others if other.source)]
    return [source for source in dict.fromkeys(named) if source != "standin"]


def _models(study: Study, named: str) -> Iterator[Finding]:
    """Models from elsewhere: present, or to be downloaded."""
    if study.models[BASE].source == "standin":
        yield Finding("base model", "a stand-in, made by the study")
    for source in _sources(study):
        folder = model_folder(source)
        if all(map(os.path.isfile, model_files(source))):
            yield Finding(f"model {source}", f"in {folder}")
        elif kind_of(source) == "hub":
            yield _from_server(
                f"model {source}",
                ASSUMED.hub_model_gb,
                "HF_ENDPOINT",
                HUB,
                f"{folder}/config.json",
                named,
            )
        else:
            yield _packed(f"model {source}", source, f", to be unpacked to {folder}", named)
    embedding = study.config.evaluation.embedding_model
    if embedding and package_of(embedding):
        yield _packed("embedding model", embedding, "", named)
    elif embedding:
        yield Finding("embedding model", embedding)


def _packed(what: str, source: str, then: str, named: str) -> Finding:
    """A model in a file: there, or a package to be downloaded."""
    file = packed_file(source)
    if Path(file).is_file():
        return Finding(what, f"in {file}{then}")
    return _from_server(what, None, "PIP_INDEX_URL", INDEX, file, named)


def _from_server(
    what: str, size: float | None, variable: str, default: str, target: str, named: str
) -> Finding:
    """A download from an address that a variable of the environment may change."""
    address = os.environ.get(variable, default)
    try:
        check_address(address)
    except ValueError:
        state = f"to be downloaded; {variable} is {address!r}, which is no address"
        return Finding(what, state, f"set {variable} to one like {default}")
    return _to_be_downloaded(what, size, address, target, named)


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
    """Whether a server answers at all; False also for a proxy with a malformed address."""
    try:
        urlopen(UrlRequest(address, method="HEAD"), timeout=ANSWERS_WITHIN_S).close()
    except HTTPError:
        return True
    except (OSError, ValueError, HTTPException):
        return False
    return True


def _keys(study: Study) -> Iterator[Finding]:
    mode = study.config.wandb.mode
    tracked = _is_set("WANDB_API_KEY")
    offline = ", so runs are kept offline" if mode == "online" and tracked == "not set" else ""
    yield Finding("W&B", f"{mode}; WANDB_API_KEY {tracked}{offline}")
    if any(kind_of(source) == "hub" for source in _sources(study)):
        yield Finding("Hub", f"HF_TOKEN {_is_set('HF_TOKEN')}; public models need none")
    for who, provider, address in _asked(study):
        needed = _is_set(VARIABLES[provider]) == "not set" and not is_loopback(address)
        yield Finding(
            who,
            f"{VARIABLES[provider]} {_is_set(VARIABLES[provider])}",
            f"set {VARIABLES[provider]}" if needed else "",
        )


def _asked(study: Study) -> Iterator[tuple[str, str, str | None]]:
    """Servers that a study asks: their role, the provider of their key, their address."""
    if study.llm:
        yield "judge llm", study.config.llm.provider, study.config.llm.base_url
    if study.config.sampling.engine == "openai":
        yield "engine openai", "openai", study.config.sampling.base_url
    for name, other in study.other_players.items():
        if other.endpoint:
            yield f"player {name}", "openai", other.endpoint


def _is_set(name: str) -> str:
    return "set" if os.environ.get(name) else "not set"


def _have_labelled(study: Study, results: Path) -> bool:
    """Whether people have answered enough pairs of the human pool for its export."""
    store = results / "state/human_answers.sqlite"
    if not store.is_file():
        return False
    pool = read_rows(results / "preferences/human_pool_responses.jsonl", ResponsePair)
    answers = tally(map(pair_id, pool), read_answers(store))
    return answers.answered >= answers.needed(study.config.labels.human.min_labels)


def next_step(study: Study, findings: list[Finding], file: Path) -> str:
    """The next step, in one line."""
    for finding in findings:
        if finding.todo:
            return f"{finding.what}: {finding.todo}"
    results = Path("results", study.name)
    named = naming(file)
    run, where = "--cores all", ""
    if study.models[BASE].source != "standin" and study.config.device != "cpu":
        here = any(f.what == "GPU" and not f.state.startswith("none") for f in findings)
        run = "--profile aws-gpu"
        where = "" if here else ", on a machine with a GPU"
    waiting = study.waits_for_people
    if not (results / "splits/summary.json").is_file():
        return f"the data and a page about it: `snakemake data --cores all{named}`"
    if waiting and not (results / "preferences/human_pool_responses.jsonl").is_file():
        return f"all that needs no person: `snakemake unattended {run}{named}`{where}"
    if waiting and not _have_labelled(study, results):
        return f"label the human pool: `persuasion-rl annotate --study {study.name}`"
    if not (results / "report.html").is_file():
        return f"the rest: `snakemake {run}{named}`{where}"
    return f"read {results / 'report.html'}; `snakemake -n{named}` tells what is stale"


def report(file: Path) -> str:
    """The whole report as text.

    Raises:
        UserError: the study's configuration does not exist or is wrong.
    """
    if not file.exists() and not file.is_absolute() and not Path("Snakefile").is_file():
        raise UserError(f"{file}: does not exist: {IN_CHECKOUT}")
    study = Study(load_config_file(file), file)
    findings = examine(study, file)
    width = max(len(finding.what) for finding in findings)
    lines = [
        f"{finding.what:<{width}}  {finding.state}"
        + (f"  -> {finding.todo}" if finding.todo else "")
        for finding in findings
    ]
    if study.models[BASE].source != "standin":
        lines += ["", *_columns(estimates(study)), assumed(study)]
    costs, unread = costs_of(Path("results", study.name, "benchmarks"))
    if costs:
        seconds = sum(cost.seconds for cost in costs)
        dearest = sorted(costs, key=lambda cost: cost.seconds, reverse=True)[:3]
        named = ", ".join(f"{cost.rule} {cost.seconds / 60:.1f}" for cost in dearest)
        lines += [
            "",
            f"measured: {seconds / 60:.1f} min in {len(costs)} jobs (their last runs), most of it {named}",
        ]
    lines += ["", *(f"not counted: {problem}" for problem in unread)] if unread else []
    return "\n".join([*lines, "", f"next: {next_step(study, findings, file)}"]) + "\n"


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
