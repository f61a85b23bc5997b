"""Commands of the documentation that need a study, and how a test runs them."""

import os
import subprocess
import sys
from pathlib import Path

RUN_ON_A_STUDY = {
    "persuasion-rl chat --study cmv --model rlaif_rlhf": "^rlaif_rlhf: .",
    "persuasion-rl chat --study NAME --model rlaif_rlhf": "^rlaif_rlhf: .",
    "persuasion-rl compare cmv cmv-beta5": "^Settings: no difference$",
    "python benchmarks/costs.py --study results/cmv": r"^\| train_dpo/rlaif \| ",
    "python benchmarks/costs.py --study results/demo": r"^\| train_dpo/rlaif \| ",
    "python benchmarks/seeds.py --studies results/demo results/demo-seed-2 results/demo-seed-3": r"^\| rlaif \|",
    "snakemake explore_data --cores 1": r"\(100%\) done$",
    "snakemake results/STUDY/look/MODEL.md --cores 2": r"\(100%\) done$",
    "snakemake results/STUDY/preferences/human_pool_labels.jsonl --cores 1": r"\(100%\) done$",
    "snakemake results/cmv/look/sft.md --cores 2": r"\(100%\) done$",
}  # fmt: skip
"""Command -> pattern of its output. test_study_changes.py runs them on the small study."""


def run_as_typed(command, root, **keywords):
    """Run a shell command in a checkout without network and return its output."""
    paths = {
        "PATH": Path(sys.executable).parent,
        "PYTHONPATH": f"{root}/tests/no_network:{root}/workflow",
    }
    environment = {name: f"{value}:{os.environ.get(name, '')}" for name, value in paths.items()}
    run = subprocess.run(
        ["bash", "-c", command],
        cwd=root,
        env=os.environ | environment | {"NETWORK_LOG": os.devnull},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **keywords,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    return run.stdout
