"""Trainings that are killed, stopped by a notice, or started twice end with the adapter of an undisturbed run."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from forks import Fork
from persuasion_rl.files import file_digest, write_json
from persuasion_rl.runtime.command import WORKFLOW
from persuasion_rl.runtime.lock import LOCK
from persuasion_rl.training.checkpoints import (
    MARK,
    last_checkpoint,
    remove_checkpoints,
    whole_checkpoints,
)
from running import ROOT
from tiny_trainings import ADAPTER, state_files, training_run, training_words

STEPS = {"max_steps": 10, "eval_steps": 2, "save_steps": 2}
WAIT_S = 90


def make_whole(checkpoint: Path, **contents: str) -> None:
    """Write a complete checkpoint: some files and their mark."""
    checkpoint.mkdir(parents=True)
    for name, content in contents.items():
        (checkpoint / name).write_text(content)
    write_json(checkpoint / MARK, {name: file_digest(checkpoint / name) for name in contents})


# Which checkpoint is taken


def test_the_latest_whole_checkpoint_is_taken_and_broken_ones_go(tmp_path):
    for step in (2, 10, 4):
        make_whole(tmp_path / f"checkpoint-{step}", weights=f"step {step}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10" / "weights").write_text("step 1")  # cut off
    (tmp_path / "checkpoint-12").mkdir()  # killed before its mark
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-4"}


def test_without_a_whole_checkpoint_a_training_begins_anew(tmp_path):
    assert last_checkpoint(tmp_path / "nothing") is None
    (tmp_path / "checkpoint-2").mkdir()
    assert last_checkpoint(tmp_path) is None


def test_all_checkpoints_of_a_model_are_removed_and_the_lock_stays(tmp_path):
    for name in ("former recipe", "own"):
        make_whole(tmp_path / name / "checkpoint-2", weights="step 2")
        (tmp_path / name / "batches.json").touch()
    (tmp_path / LOCK).touch()
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_checkpoints_belong_to_all_files_of_the_base_model(tmp_path):
    def checkpoints() -> Path:
        return training_run(tmp_path).checkpoints

    (tmp_path / "base").mkdir()
    folders = [checkpoints()]
    for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json", "model.py"):
        (tmp_path / "base" / name).write_text("{}")
        folders.append(checkpoints())
    assert checkpoints() == folders[-1] and len({*folders}) == len(folders)


# Whole trainings


class Training:
    """A training as the workflow runs it, in a process of its own."""

    def __init__(self, folder: Path, words: list[str]):
        self.folder = folder
        self.words = words
        self.log_file = folder / "log.txt"

    def start(self, **environment: str) -> Fork:
        self.folder.mkdir(exist_ok=True)
        variables = os.environ | {"PYTHONPATH": str(ROOT / "workflow")} | environment
        with self.log_file.open("w") as log:
            return Fork(self.words, variables, log, log, ROOT)

    @property
    def log(self) -> str:
        """The log of the last process of this training."""
        return self.log_file.read_text()

    def run(self) -> None:
        assert self.start().wait(timeout=200) == 0, self.log[-3000:]

    def checkpoints(self) -> list[Path]:
        folders = [path for path in (self.folder / "state").glob("*") if path.is_dir()]
        return list(whole_checkpoints(folders[0])) if folders else []

    def wait_for_checkpoint(self, process: Fork) -> None:
        until = time.monotonic() + WAIT_S
        while not self.checkpoints():
            assert process.poll() is None and time.monotonic() < until, self.log[-3000:]
            time.sleep(0.05)

    @property
    def adapter(self) -> bytes:
        return (self.folder / ADAPTER).read_bytes()

    @property
    def history(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "history.jsonl").open()]

    @property
    def eval_losses(self) -> list[tuple[int, float]]:
        return [(row["step"], row["eval_loss"]) for row in self.history if "eval_loss" in row]


@pytest.fixture(params=["sft", "dpo"])
def training(request, tiny_rows, tiny_sft, tmp_path):
    """A function that sets up the same training in a new folder."""

    def make(name: str, **changed) -> Training:
        recipe = STEPS | changed
        words = training_words(request.param, tiny_rows, tmp_path / name, tiny_sft, **recipe)
        return Training(tmp_path / name, words)

    return make


@pytest.mark.slow
def test_a_training_that_is_killed_ends_as_if_it_had_not_been(training):
    undisturbed, broken = training("whole"), training("broken")
    undisturbed.run()
    for _ in range(2):  # twice, the second time with the last checkpoint cut off
        process = broken.start()
        broken.wait_for_checkpoint(process)
        process.kill()
        process.wait()
    latest = broken.checkpoints()[0]
    damaged = next(latest.glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-10])
    broken.run()
    assert "was cut off and is removed" in broken.log
    assert broken.adapter == undisturbed.adapter
    assert state_files(broken.folder) == [LOCK]


@pytest.mark.slow
def test_a_notice_saves_at_once_and_a_rerun_goes_on(training):
    # An evaluation is due after every step: the notice comes before one or during one.
    undisturbed, noticed = training("whole", eval_steps=1), training("noticed", eval_steps=1)
    undisturbed.run()
    process = noticed.start()
    noticed.wait_for_checkpoint(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM, noticed.log[-3000:]
    assert "goes on from its last checkpoint" in noticed.log
    assert "Traceback" not in noticed.log
    noticed.run()
    assert "going on from" in noticed.log
    assert noticed.adapter == undisturbed.adapter
    assert noticed.eval_losses == undisturbed.eval_losses


@pytest.mark.slow
@pytest.mark.parametrize("training", ["sft"], indirect=True)
def test_a_training_that_outlived_its_workflow_is_waited_for(training):
    """It saves and ends a second after its workflow, here a process that sleeps. The next one resumes from there."""
    orphan, successor = (
        training("twice", max_steps=200, eval_steps=20, save_steps=20) for _ in range(2)
    )
    successor.log_file = orphan.folder / "log of the second.txt"
    workflow = subprocess.Popen(["sleep", "600"])
    first = orphan.start(**{WORKFLOW: str(workflow.pid)})
    orphan.wait_for_checkpoint(first)
    second = successor.start()
    waits = f"process {first.pid} on {socket.gethostname()} still trains this model"
    while waits not in successor.log:
        assert first.poll() is None and second.poll() is None, orphan.log[-3000:] + successor.log
        time.sleep(0.05)
    workflow.kill()
    workflow.wait()
    assert first.wait(timeout=60) == 128 + signal.SIGTERM
    assert second.wait(timeout=200) == 0, successor.log[-3000:]
    assert "going on from" in successor.log
    steps = [row["step"] for row in orphan.history if "loss" in row]
    assert steps == list(range(1, 201))


@pytest.mark.slow
@pytest.mark.parametrize(("training", "limit"), [("sft", 2), ("dpo", 3)], indirect=["training"])
def test_a_training_that_saves_often_keeps_few_checkpoints(training, limit):
    """Two, or the recipe's number, besides the one that is being written, and none at its end."""
    often = {"max_steps": 20, "eval_steps": 1, "save_steps": 1}
    many = training("many", **often, **({"save_total_limit": limit} if limit != 2 else {}))
    all_checkpoints, most = set(), 0
    process = many.start()
    until = time.monotonic() + WAIT_S
    while process.poll() is None:
        checkpoints = {path.name for path in many.folder.glob("state/*/checkpoint-*")}
        all_checkpoints, most = all_checkpoints | checkpoints, max(most, len(checkpoints))
        assert time.monotonic() < until, many.log[-3000:]
        time.sleep(0.01)
    assert process.returncode == 0, many.log[-3000:]
    assert len(all_checkpoints) > limit + 1, "it saved oftener than it may keep"
    assert limit <= most <= limit + 1
    assert state_files(many.folder) == [LOCK]
