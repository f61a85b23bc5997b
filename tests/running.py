"""How the tests run the workflow: as a person does, through its command line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from forks import dry_run

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / "workflow"


def copy_project(folder: Path) -> Path:
    """Copy what a run needs of the project, without results, to a folder."""
    parts = ["Snakefile", "Makefile", "aws-gpu", "workflow", "config", "envs", "profiles", "tests"]
    parts += ["benchmarks", "resources/annotation", "resources/markers", "resources/rubrics"]
    parts += ["resources/assumptions.yaml"]
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--parents", *parts, folder], cwd=ROOT, check=True)
    return folder


LARGE = ("utterances.jsonl", "model.safetensors")
"""Files that are larger than Snakemake's default limit for comparing contents."""


def finished_study(folder: Path, config: str, *targets: str) -> Path:
    """A checkout with a study that Snakemake takes for finished, though no job ran: every file contains its own path.

    `--touch` makes Snakemake record the files, whatever they contain.
    """
    root = copy_project(folder)
    summary = succeed(*targets, "--summary", "--configfile", config, root=root)
    for line in summary.split("output_file\tdate")[1].splitlines()[1:]:
        path = root / line.split("\t")[0]
        if path.name == "figures":
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{path.relative_to(root)}\n")
            if path.name in LARGE:
                os.truncate(path, 2_000_000)
    succeed(*targets, "--touch", "--forceall", "--configfile", config, root=root)
    return root


def snakemake(*words: object, root: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run snakemake in a checkout; standard error is part of the output."""
    command = list(map(str, words))
    if {"-n", "-np"} & {*command} and "PYTHONPATH" not in environment:
        return dry_run(command, root, os.environ | environment)
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *command],
        cwd=root,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def succeed(*words: object, root: Path = ROOT, **environment: str) -> str:
    """Run snakemake and return its output; the test fails if it fails."""
    run = snakemake(*words, root=root, **environment)
    assert run.returncode == 0, run.stdout[-4000:]
    return run.stdout


def planned(output: str) -> dict[str, int]:
    """Rule -> number of jobs, from the job statistics of a dry run, without targets."""
    targets = {
        "all",
        "data",
        "sft",
        "preferences",
        "dpo",
        "evaluation",
        "report",
        "unattended",
        "export",
        "publish",
        "total",
    }
    statistics = output.split("Job stats:")[-1].split("Reasons:")[0]
    jobs = re.findall(r"^(\w+) +(\d+)$", statistics, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in jobs if rule not in targets}


def study_file(folder: Path, **changes) -> Path:
    """The demo with some sections changed, in a checkout."""
    path = folder / "config/changed.yaml"
    path.write_text(yaml.safe_dump({"extends": "demo.yaml", "study": "changed"} | changes))
    return path
