"""The study of `small.yaml`: its paths, its models, and how tests run it. `workflow/conftest.py` makes it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from running import ROOT, planned, succeed

CONFIG = ROOT / "tests/small.yaml"
STUDY = ROOT / "results/small"
NO_NETWORK = ROOT / "tests/no_network"
PLAYED = ("sft", "rlaif", "rlhf", "rlaif_rlhf")
PLAYERS = ("base", "base_length", *PLAYED, "human")
MODELS = (*PLAYED, "rlhf_s2", "rlhf_b5")
ON_SMALL = ("--configfile", "tests/small.yaml")
"""Snakemake's options for this study, in a checkout."""


def run_jobs(root: Path, *words: object, cores: int = 2, config: str = "tests/small.yaml") -> str:
    """Make targets of the study in a copy of the project, and return Snakemake's output."""
    return succeed(*words, "--cores", cores, "--configfile", config, root=root)


def stale(root: Path, config: str = "tests/small.yaml", target: str = "all") -> set[str]:
    """The rules that would run again for a target."""
    output = succeed(target, "-n", "--configfile", config, root=root)
    return set(planned(output)) if "Job stats:" in output else set()


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def difference(folder: Path, model: str, against: str) -> tuple[float, float]:
    """The interval of a row of truth_differences.csv."""
    (row,) = (
        row
        for row in table(folder / "truth_differences.csv")
        if (row["model"], row["against"]) == (model, against)
    )
    return float(row["low"]), float(row["high"])


def run_module(module: str, *words: object, root: Path = ROOT, **keywords):
    """Run a module of the package in a checkout as a command, with its output as text."""
    return subprocess.run(
        [sys.executable, "-m", f"persuasion_rl.{module}", *map(str, words)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "workflow")},
        capture_output=True,
        text=True,
        **keywords,
    )
