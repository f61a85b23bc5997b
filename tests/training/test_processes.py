"""Two processes train the same as one: as on two GPUs, here on the CPU with gloo."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from forks import run_fork
from persuasion_rl.files import read_json, read_jsonl
from persuasion_rl.runtime.lock import LOCK
from persuasion_rl.study.rules import launcher
from persuasion_rl.training.checkpoints import whole_checkpoints
from running import ROOT, WORKFLOW, succeed
from tiny_trainings import ADAPTER, state_files, training_words, weights

NO_DROPOUT = {"max_steps": 4, "eval_steps": 2, "save_steps": 2}


def words_of(method, folder: Path, tiny_rows, tiny_sft, **changed) -> list[str]:
    recipe = NO_DROPOUT | ({"lora_dropout": 0.0} if method == "sft" else {}) | changed
    return training_words(method, tiny_rows, folder, tiny_sft, **recipe)


def by_two(words: list[str]) -> list[str]:
    """A training as the workflow launches it on two GPUs, on the CPU."""
    _, *launch = launcher(2).split()
    return [sys.executable, *launch, *words]


def run(words: list[str]) -> str:
    """Run a training to its end, and return its output."""
    done = subprocess.run(
        words,
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_two_processes_train_as_one(method, tiny_rows, tiny_sft, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    words = words_of(method, one, tiny_rows, tiny_sft)
    alone = run_fork(words, os.environ | {"PYTHONPATH": str(WORKFLOW)}, ROOT)
    assert alone.returncode == 0, alone.stderr[-4000:]
    log = run(by_two(words_of(method, two, tiny_rows, tiny_sft)))
    assert "8 rows, 4 at once x 1 x 2 process(es)" in log
    assert log.count("checked: ") == 3  # the second process checks too, and is silent
    records = [read_json(folder / "recipe.json") for folder in (one, two)]
    assert [r["batches"]["processes"] for r in records] == [1, 2]
    assert [r["batches"]["accumulation"] for r in records] == [2, 1]
    losses = [
        [row["loss"] for row in read_jsonl(folder / "history.jsonl") if "loss" in row]
        for folder in (one, two)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    metrics = [read_json(folder / "metrics.json") for folder in (one, two)]
    # Trainer's mean over an uneven last batch differs if two processes share it; margins are exact.
    exact = "eval_loss" if method == "sft" else "eval_reward_margin"
    assert metrics[0][exact] == pytest.approx(metrics[1][exact], rel=1e-3)
    for name, tensor in weights(one / ADAPTER).items():
        torch.testing.assert_close(weights(two / ADAPTER)[name], tensor, rtol=1e-2, atol=1e-4)
    assert state_files(two) == [LOCK]


@pytest.mark.slow
def test_two_processes_save_at_a_notice_and_go_on(tiny_rows, tiny_sft, tmp_path):
    folder = tmp_path / "two"
    words = by_two(words_of("sft", folder, tiny_rows, tiny_sft, max_steps=60))
    folder.mkdir()
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            words, env=os.environ | {"PYTHONPATH": str(WORKFLOW)}, stderr=output
        )
    until = time.monotonic() + 120
    while not any(True for state in (folder / "state").glob("*") for _ in whole_checkpoints(state)):
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) != 0
    assert "goes on from its last checkpoint" in log.read_text()
    assert "going on from" in run(words)
    steps = [row["step"] for row in read_jsonl(folder / "history.jsonl") if "loss" in row]
    assert steps == list(range(1, 61))


def test_more_gpus_are_more_processes():
    """test_staleness.py checks that they make nothing stale."""
    plan = succeed("sft", "-np", "--set-resources", "train_sft:gpu=4")
    assert f"{launcher(4)} persuasion_rl.training.sft" in plan
    assert "python -m persuasion_rl.training.sft" in succeed("sft", "-np")
