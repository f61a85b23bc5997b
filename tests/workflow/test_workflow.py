"""The workflow as users see it: dry runs, targets, house rules, mistakes. No job runs here."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from persuasion_rl.study.memory import ON_GPU_MB, UNKNOWN_MB
from running import ROOT, copy_project, planned, snakemake, study_file, succeed

DEMO = ("-n", "--configfile", "config/demo.yaml")


@pytest.fixture(scope="module")
def full_plan(empty_checkout):
    return succeed("-n", root=empty_checkout)


def test_the_full_study_is_planned_without_gpu_network_or_download(full_plan):
    rules = planned(full_plan)
    assert rules["fetch_base_model"] == rules["train_sft"] == 1
    assert rules["fetch_corpus"] == 2  # winning-args-corpus and subreddit-changemyview
    assert rules["train_dpo"] == 3
    assert rules["generate_responses"] == 9  # 8,000 prompts in shards of 1,000, and 300


def test_printed_commands_can_be_pasted(full_plan):
    """Each is a command of the package with flags that its command line knows."""
    commands = re.findall(r"^ +(python -m persuasion_rl(?:.|\n)+?) 2> >\(tee ", full_plan, re.M)
    assert len(commands) > 40
    entries = set()
    for command in commands:
        words = shlex.split(command.replace("\\\n", " "))
        entry = tuple(w for w in words[3:5] if not w.startswith("-"))
        if entry in entries or words[2].endswith((".sft", ".dpo", ".reward")):
            continue  # these take their trainer's own arguments too
        entries.add(entry)
        run = subprocess.run(
            [sys.executable, *words[1:3], *entry, "--help"], capture_output=True, text=True
        )
        flags = set(re.findall(r"--\w+", run.stdout))
        assert {w for w in words if w.startswith("--")} <= flags, command
    assert len(entries) >= 15


@pytest.mark.parametrize(
    ("target", "has", "has_not"),
    [
        ("data", {"check_leakage", "report_data"}, {"train_sft", "explore_data"}),
        ("explore_data", {"explore_data", "split"}, {"train_sft"}),
        ("sft", {"train_sft", "pretrain_standin"}, {"train_dpo", "label_ai"}),
        ("preferences", {"label_ai", "preference_pairs"}, {"train_dpo", "evaluate_model"}),
        ("dpo", {"train_dpo"}, {"evaluate_model", "report_study"}),
        ("evaluation", {"evaluate_verdicts", "judge_trust"}, {"report_study"}),
        ("report", {"report_study", "write_model_card"}, set()),
        ("unattended", {"report_study"}, {"report_unattended", "export_model"}),
        (
            "export_dataset",
            {"export_dataset", "check_leakage"},
            {"publish_dataset", "train_delta_judge"},
        ),
        (
            "results/demo/exported/sft/model.safetensors",
            {"export_model"},
            {"export_gguf", "train_dpo"},
        ),
        ("results/demo/exported/base/base.gguf", {"export_model", "export_gguf"}, {"train_sft"}),
        ("results/demo/splits/summary.json", {"split"}, {"train_sft"}),
    ],
)
def test_targets_build_what_they_are_named_for(empty_checkout, target, has, has_not):
    rules = planned(succeed(target, *DEMO, root=empty_checkout)).keys()
    is_file = target in ("explore_data", "export_dataset") or "/" in target
    assert has <= rules and ("record_config" in rules) == (not is_file)
    assert not has_not & rules


def test_unattended_leaves_out_what_waits_for_people(empty_checkout):
    plan = succeed("-n", "unattended", root=empty_checkout)
    assert "export_human_labels" not in planned(plan)
    assert planned(plan)["train_dpo"] == 1
    assert "preferences/human_pool_responses.jsonl" in plan, "what people label"
    assert "--pending rlhf rlaif_rlhf" in plan


def test_trust_is_measured_of_the_judge_that_labels_too(empty_checkout):
    """Even a judge that only labels is measured, above all on the other pool's labels."""
    changed = study_file(
        empty_checkout,
        labels={"ai": {"judge": "truth"}},
        evaluation={"judges": ["length", "delta"]},
    )
    plan = succeed(
        "results/changed/judges/trust.csv", "-n", "--configfile", changed, root=empty_checkout
    )
    assert "--judges delta interplay length truth" in plan


def test_interplay_gets_the_pairs_that_it_learns_from_wherever_it_judges(empty_checkout):
    changed = study_file(
        empty_checkout,
        labels={
            "ai": {"judge": "interplay"},
            "human": {"source": "simulated", "judge": "interplay"},
        },
        evaluation={"judges": ["interplay", "length"]},
    )
    plan = succeed("evaluation", "-n", "--configfile", changed, root=empty_checkout)
    folder = "results/changed"
    files = f"--delta_pairs {folder}/processed/delta_pairs.jsonl --sides {folder}/splits/sides.csv"
    commands = re.split(r"(?=python -m persuasion_rl\.)", plan)
    modules = {command.split()[2] for command in commands if files in command}
    assert modules == {
        f"persuasion_rl.{stage}"
        for stage in (
            "judges.judge_trust",
            "preferences.label_ai",
            "preferences.simulate_annotators",
            "evaluation.verdicts",
        )
    }


def test_one_more_model_is_one_more_training(empty_checkout):
    changed = study_file(
        empty_checkout,
        models={
            "rlaif_b5": {"parent": "sft", "method": "dpo", "pool": "ai", "recipe": {"beta": 0.5}}
        },
    )
    plan = succeed("dpo", "-n", "--configfile", changed, root=empty_checkout)
    assert planned(plan)["train_dpo"] == 4
    assert planned(plan)["train_sft"] == 1


def test_similarity_is_measured_where_a_model_of_embeddings_is_named(empty_checkout):
    assert "evaluate_similarity" not in planned(succeed("evaluation", *DEMO, root=empty_checkout))
    folder = empty_checkout / "embedder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    changed = study_file(empty_checkout, evaluation={"embedding_model": "./embedder"})
    plan = succeed("evaluation", "-n", "--configfile", changed, root=empty_checkout)
    assert planned(plan)["evaluate_similarity"] == 6
    assert "--model ./embedder" in plan and "--similarities base=" in plan


def test_no_key_of_one_study_leaks_into_another(empty_checkout):
    """The published study evaluates by steps; the demo does not set this and must not get it."""
    assert "--eval_steps 0.1" in succeed("-n", "sft", root=empty_checkout)
    assert "--eval_steps" not in succeed("sft", *DEMO, root=empty_checkout)
    assert "--eval_steps" not in succeed("sft", *DEMO, "--config", "seed=3", root=empty_checkout)


def test_every_working_rule_keeps_the_house_rules(empty_checkout):
    """Every rule with a command has a log, benchmark, conda, message and resources."""
    for path in sorted((empty_checkout / "workflow/rules").glob("*.smk")):
        text = path.read_text()
        assert text.startswith('"""'), path
        for rule in re.split(r"^ *rule ", text, flags=re.M)[1:]:
            name, _, body = rule.partition(":")
            command = "(?:shell|notebook):"
            for part in ("message:", "log:", "benchmark:", "conda:", "resources:", command):
                assert re.search(rf"^ +{part}", body, re.M), (
                    f"{path.name}: rule {name} has no {part}"
                )
            assert "run:" not in body
            # Without it a changed module makes nothing stale. Downloads, uploads and records stay as they are.
            without = name.startswith(("fetch_", "publish_")) or name == "record_config"
            assert without or re.search(r"^ +code=", body, re.M), (
                f"{path.name}: rule {name} has no code"
            )


def test_the_link_of_the_gpu_profile_resolves():
    assert (ROOT / "aws-gpu").is_symlink()
    assert (ROOT / "aws-gpu").resolve() == ROOT / "profiles/aws-gpu"


def test_the_command_of_the_readme_plans_the_study_within_the_memory_of_its_machine(empty_checkout):
    link = empty_checkout / "aws-gpu"
    link.symlink_to(os.readlink(ROOT / "aws-gpu"))
    command = [Path(sys.executable).parent / "snakemake", "--profile", "aws-gpu", "-n"]
    run = subprocess.run(command, cwd=empty_checkout, capture_output=True, text=True)
    plan = run.stdout + run.stderr
    assert run.returncode == 0, plan[-3000:]
    assert "Using profiles aws-gpu and " in plan
    assert planned(plan)["train_sft"] == 1
    (total_mb,) = [
        int(resource.removeprefix("mem_mb="))
        for resource in yaml.safe_load((link / "config.yaml").read_text())["resources"]
        if resource.startswith("mem_mb=")
    ]
    rules = "".join(path.read_text() for path in (empty_checkout / "workflow/rules").glob("*.smk"))
    rule_mb = re.findall(r"mem_mb=grows_with_attempt\(([\d_]+)\)", rules)
    asked_mb = [*map(int, rule_mb), *UNKNOWN_MB.values(), ON_GPU_MB]
    assert max(asked_mb) <= total_mb < 16_000  # each fits


def goes_on(rules: str) -> set[str]:
    """The rules that keep their progress in state/ and resume from it."""
    blocks = re.split(r"^(?=(?:use )?rule )", rules, flags=re.M)
    return {
        re.match(r"(?:use rule \w+ as|rule) (\w+)", block)[1]
        for block in blocks
        if re.search(r"^ +state=study", block, re.M)
    }


@pytest.mark.parametrize(("profile", "other", "further"), [("aws-gpu", 1, 3), ("slurm", 2, 4)])
def test_resumable_rules_are_retried_more_often_and_deterministic_ones_never(
    empty_checkout, profile, other, further
):
    (empty_checkout / "retries.smk").write_text(
        'include: "Snakefile"\n'
        "onstart:\n"
        "    for rule in workflow.rules: print('retries', rule.name, rule.restart_times)\n"
    )
    own = yaml.safe_load((empty_checkout / f"profiles/{profile}/config.yaml").read_text())
    retries = [f"--{key}={own[key]}" for key in ("retries", "preemptible-retries")]
    words = ["-s", "retries.smk", *retries, "--preemptible-rules", *own["preemptible-rules"]]
    output = succeed("results/cmv/config.yaml", "--cores", 1, "-F", *words, root=empty_checkout)
    restarts = {rule: int(n) for rule, n in re.findall(r"^retries (\w+) (\d+)$", output, re.M)}
    rules = "".join(path.read_text() for path in (empty_checkout / "workflow/rules").glob("*.smk"))
    not_retried = {"fetch_corpus", "fetch_package", "check_leakage", "export_human_labels"}
    assert {rule for rule, count in restarts.items() if count == further} == goes_on(rules)
    assert {rule for rule, count in restarts.items() if count == 0} == not_retried
    assert set(restarts.values()) == {0, other, further}


def test_a_retry_asks_for_more_memory_and_time(empty_checkout):
    """Three jobs always fail under a profile, and write their resources to a file."""
    (empty_checkout / "failing.smk").write_text(
        """
include: "workflow/rules/common.smk"
ASKS = {"train_sft": None, "other": None, "never_again": 0}
rule all:
    input: [f"{name}.txt" for name in ASKS]
for NAME, RETRIES in ASKS.items():
    rule:
        name: NAME
        output: f"{NAME}.txt"
        retries: RETRIES
        resources: mem_mb=grows_with_attempt(2_000), runtime=grows_with_attempt("2h")
        shell: "echo {output} {resources.mem_mb} {resources.runtime} >> asked; false"
"""
    )
    words = ["-s", "failing.smk", "--profile", "profiles/aws-gpu"]
    run = snakemake(*words, "--configfile", "config/demo.yaml", root=empty_checkout)
    assert run.returncode == 1, run.stdout[-3000:]
    rows = [line.split() for line in (empty_checkout / "asked").read_text().splitlines()]
    attempts = {
        name: [(int(mb), int(minutes)) for file, mb, minutes in rows if file == f"{name}.txt"]
        for name in ("train_sft", "other", "never_again")
    }
    assert attempts == {
        "train_sft": [(2000, 120), (4000, 240), (6000, 360), (8000, 480)],
        "other": [(2000, 120), (4000, 240)],
        "never_again": [(2000, 120)],
    }


def test_the_last_retry_fits_a_partition_of_the_cluster(empty_checkout):
    own = yaml.safe_load((empty_checkout / "profiles/slurm/config.yaml").read_text())
    partitions = yaml.safe_load((empty_checkout / "profiles/slurm/partitions.yaml").read_text())
    rules = "".join(path.read_text() for path in (empty_checkout / "workflow/rules").glob("*.smk"))
    tries = 1 + own["preemptible-retries"]
    memory = max(int(mb) for mb in re.findall(r"mem_mb=grows_with_attempt\(([\d_]+)\)", rules))
    hours = max(int(h) for h in re.findall(r'runtime=grows_with_attempt\("(\d+)h"\)', rules))
    for partition in partitions["partitions"].values():
        assert tries * memory <= partition["max_mem_mb"]
        assert tries * hours * 60 <= partition["max_runtime"]


def test_tracked_folders_exist_in_a_fresh_clone():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout
    if not tracked:
        pytest.skip("not a git checkout")
    assert {"resources/.gitkeep", "results/.gitkeep"} <= set(tracked.split())


@pytest.mark.parametrize(
    ("conda", "locks"),
    [
        ("persuasion-rl", ["requirements"]),
        ("notebook", ["requirements", "requirements-notebook"]),
    ],
)
def test_a_conda_environment_has_the_locked_packages(conda, locks):
    lines = [
        line
        for lock in locks
        for line in (ROOT / f"envs/{lock}.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    environment = yaml.safe_load((ROOT / f"envs/{conda}.yaml").read_text())
    assert environment["dependencies"][-1]["pip"] == lines


def pins(lines: list[str]) -> dict[str, str]:
    """Name -> version of locked packages, by the rules of pip's own parser."""
    versions = {}
    for requirement in map(Requirement, lines):
        (version,) = requirement.specifier
        assert version.operator == "==", requirement
        versions[canonicalize_name(requirement.name)] = version.version
    return versions


def locked_versions(name: str) -> dict[str, str]:
    lines = (ROOT / f"envs/{name}").read_text().splitlines()
    return pins([line for line in lines if not line.startswith("#")])


def test_the_environment_of_vllm_has_the_locked_versions_and_what_sampling_imports():
    environment = yaml.safe_load((ROOT / "envs/vllm.yaml").read_text())
    packages = pins(environment["dependencies"][-1]["pip"])
    assert {"transformers", "peft", "orjson"} <= packages.keys()
    assert packages.pop("vllm")
    assert packages.items() <= locked_versions("requirements.txt").items()


@pytest.mark.parametrize("conda", ["persuasion-rl", "notebook", "vllm"])
def test_a_conda_environment_takes_a_python_that_the_project_takes(conda):
    file = ROOT / f"envs/{conda}.yaml"
    assert "Never built" in file.read_text()
    environment = yaml.safe_load(file.read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    python, pip, packages = environment["dependencies"]
    assert pip == "pip" and list(packages) == ["pip"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (version,) = Requirement(python.replace("=", "==")).specifier
    assert SpecifierSet(project["requires-python"]).contains(version.version)


def test_the_locks_do_not_contradict_each_other():
    versions = {}
    for file in sorted((ROOT / "envs").glob("requirements*.txt")):
        for name, version in locked_versions(file.name).items():
            assert versions.setdefault(name, version) == version, f"{file.name}: {name}"


def test_the_containerfile_is_one_and_copies_what_is_there():
    """It was never built: a linter reads it, and the files that it copies and installs from exist."""
    file = ROOT / "envs/Containerfile"
    if not (linter := shutil.which("hadolint", path=Path(sys.executable).parent)):
        pytest.skip("no hadolint: pip install -r envs/requirements-dev.txt")
    run = subprocess.run([linter, "--no-color", file], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    text = file.read_text()
    sources = re.findall(r"^COPY (\S+) (?:\S+)$", text, re.M)
    lock_files = re.findall(r"envs/requirements\S*\.txt", text)
    assert sources == ["envs", "."] and len(lock_files) >= 3
    assert all((ROOT / name).exists() for name in sources + lock_files)
    (version,) = re.findall(r"^FROM \S+/python:(\d+\.\d+)-", text, re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(version)


@pytest.mark.parametrize(
    ("changes", "sources", "shards"),
    [
        ({}, {"process_cmv"}, 8),
        ({"data": {"max_examples": 30_000}}, {"process_cmv"}, 4),
        ({"data": {"max_examples": 100_000}}, {"process_cmv"}, 18),
        ({"data": {"use_cmv": False}}, {"process_cmv", "process_p4g"}, 8),
        ({"data": {"use_p4g": True}}, {"process_cmv", "process_p4g"}, 8),
    ],
)
def test_another_size_and_another_source_are_one_key_each(empty_checkout, changes, sources, shards):
    """The delta judge learns from ChangeMyView's pairs even if no example is from there."""
    changed = study_file(empty_checkout, extends="config.yaml", **changes)
    plan = succeed("-n", "unattended", "--configfile", changed, root=empty_checkout)
    rules = planned(plan)
    assert {rule for rule in rules if rule.startswith("process_")} == sources
    assert len(set(re.findall(r"shards/ai_1000_\d+", plan))) == shards
    examples = re.search(r"--examples((?: \S+)+) --sides", plan.replace("\\\n", " "))[1]
    assert ("cmv_examples" in examples) == (changes.get("data", {}).get("use_cmv", True))
    assert ("p4g_examples" in examples) == ("process_p4g" in sources)


@pytest.mark.parametrize("study", ["demo", "mine"])
def test_make_clean_leaves_answers_and_paid_labels(tmp_path, study):
    shutil.copy(ROOT / "Makefile", tmp_path)
    command = ["make", "clean"] + [f"STUDY={study}"] * (study != "demo")
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)  # nothing is there
    names = ("state/human_answers.sqlite", "state/llm.sqlite", "report.html", "models/sft/x")
    for path in (tmp_path / f"results/{folder}/{n}" for folder in (study, "other") for n in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    for folder, count in ((study, 2), ("other", 4)):
        files = [path for path in (tmp_path / "results" / folder).rglob("*") if path.is_file()]
        assert len(files) == count
        assert {path.name for path in files} >= {"human_answers.sqlite", "llm.sqlite"}
    assert subprocess.run(["make", "clean", "STUDY="], cwd=tmp_path).returncode != 0
    assert (tmp_path / "results/other/report.html").exists()


def test_every_rule_that_wants_a_gpu_gets_one_from_aws_batch(empty_checkout):
    rules = "".join(file.read_text() for file in (empty_checkout / "workflow/rules").glob("*.smk"))
    blocks = re.split(r"^(?=(?:use )?rule )", rules, flags=re.M)
    wants = {
        re.match(r"rule (\w+)", block)[1] for block in blocks if re.search(r"^ +gpu=", block, re.M)
    }
    inherits = {
        name
        for parent, name in re.findall(r"^use rule (\w+) as (\w+)", rules, re.M)
        if parent in wants
    }
    profile = yaml.safe_load((empty_checkout / "profiles/aws-batch/config.yaml").read_text())
    assert set(profile["set-resources"]) == wants | inherits
    assert all(resources == {"_gpus": 1} for resources in profile["set-resources"].values())


@pytest.mark.parametrize("home", ["/dev/null", "/proc/none"])
def test_a_home_folder_that_cannot_be_written_is_no_matter(tmp_path, home):
    """Snakemake's cache goes into the checkout, and so do those of what jobs load."""
    root = copy_project(tmp_path)
    words = ("results/cmv/config.yaml", "--cores", "1", "--config", "device=cpu")
    run = snakemake(*words, root=root, HOME=home, XDG_CACHE_HOME="", HF_HOME="", MPLCONFIGDIR="")
    assert run.returncode == 0, run.stdout
    assert f"{home}/.cache: cannot be written; caches are in .snakemake/cache" in run.stdout
    assert "Traceback" not in run.stdout and (root / ".snakemake/cache/snakemake").is_dir()


def test_results_that_cannot_be_written_are_one_line(tmp_path):
    root = copy_project(tmp_path)
    (root / "results").mkdir()
    (root / "results/cmv").symlink_to("/proc/none")
    run = snakemake("results/cmv/config.yaml", "--cores", "1", "--config", "device=cpu", root=root)
    assert run.returncode and "Traceback" not in run.stdout
