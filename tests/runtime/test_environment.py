"""Variables of the environment that would change results reach no stage."""

import os
import re
import subprocess
import sys

import pytest

from forks import run_fork
from persuasion_rl.files import read_json
from persuasion_rl.runtime.environment import PROCESSES, settle
from running import ROOT, WORKFLOW, snakemake
from tiny_trainings import ADAPTER, training_words

HOSTILE = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "10.0.0.1",
    "PMI_SIZE": "4",
    "NVIDIA_TF32_OVERRIDE": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "OMP_THREAD_LIMIT": "1",
    "TORCH_LINEAR_FLATTEN_3D": "1",
    "PYTHONOPTIMIZE": "1",
}


def test_what_changes_results_is_dropped_with_a_line_and_the_rest_stays(capsys):
    others = {
        "HF_HOME": "/models",
        "CUDA_VISIBLE_DEVICES": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    others |= {"ATEN_CPU_CAPABILITY": "avx2", "OMP_WAIT_POLICY": "PASSIVE", "TORCH_HOME": "/torch"}
    environment = HOSTILE | others | {"OMP_NUM_THREADS": "7"}
    assert settle(environment) == sorted(HOSTILE)
    assert environment == others | {"OPENBLAS_NUM_THREADS": "1"}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(HOSTILE) and "ACCELERATE_MIXED_PRECISION=bf16" in "".join(lines)


def test_the_ranks_that_our_own_launcher_gives_stay():
    environment = {PROCESSES: "2", "RANK": "1", "WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}
    assert settle(environment) == ["ACCELERATE_USE_FSDP"]
    assert environment["RANK"] == "1" and environment["WORLD_SIZE"] == "2"


def test_no_module_loads_numpy_or_torch_before_variables_are_dropped():
    code = "import sys, persuasion_rl; print(*({'numpy', 'torch', 'pandas'} & sys.modules.keys()))"
    words = [sys.executable, "-c", code]
    run = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": str(WORKFLOW)}, stdout=-1, text=True
    )
    assert run.returncode == 0 and run.stdout == "\n"


def test_a_plan_is_made_in_spite_of_them():
    """Snakemake's own process drops them too, so that its jobs say it once."""
    run = snakemake("sft", "-n", "--configfile", "config/demo.yaml", **HOSTILE)
    assert run.returncode == 0
    assert "ACCELERATE_MIXED_PRECISION=bf16 is in the environment" in run.stdout


def test_commands_do_not_depend_on_cores():
    """Also where a study asks for more threads than Snakemake may use."""
    plans = [
        snakemake(
            "dpo", "results/demo/judges/trust.csv", "-np", "--cores", cores,
            *("--configfile", "config/demo.yaml", "--config", "threads=2"),
        ).stdout
        for cores in (1, 2, 8)
    ]  # fmt: skip
    commands = [re.findall(r"^ +python -m (?:.|\n)+?2>", plan, re.M) for plan in plans]
    assert len(commands[0]) > 15 and sorted(commands[0]) == sorted(commands[1])
    assert sorted(commands[0]) == sorted(commands[2])
    trainings = [c for c in commands[0] if re.search(r"training\.(sft|dpo|reward|standin)", c)]
    assert len(trainings) == 6 and all("--threads 2" in command for command in trainings)


@pytest.mark.slow
def test_a_training_is_the_same_in_any_environment_and_on_any_cores(tiny_rows, tmp_path):
    """Snakemake gives a job of a smaller --cores fewer of OpenMP's threads, and one core of the machine may be all."""
    adapters, records = [], []
    for name, more in (("plain", {}), ("hostile", HOSTILE | {"OMP_NUM_THREADS": "1"})):
        words = training_words("sft", tiny_rows, tmp_path / name, threads=2)
        run = run_fork(words, os.environ | {"PYTHONPATH": str(WORKFLOW)} | more, ROOT)
        assert run.returncode == 0, run.stderr[-3000:]
        adapters.append((tmp_path / name / ADAPTER).read_bytes())
        records.append(read_json(tmp_path / name / "recipe.json"))
    assert adapters[0] == adapters[1]
    assert records[0] == records[1] and records[0]["threads"] == 2
    assert records[0]["precision"] == "float32" and "RANK" not in records[0]["environment"]
