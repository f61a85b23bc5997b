"""Trainings report to Weights & Biases as the config says, and never wait for it."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from running import ROOT, succeed
from tiny_trainings import train_sft

SCRIPT = """
import sys
from persuasion_rl.runtime.tracking import end_tracking, start_tracking
print(start_tracking({"learning_rate": 1}, mode=sys.argv[1], project="p", name="n", folder=sys.argv[2]))
end_tracking()
"""


def track(mode: str, folder: Path, **environment: str) -> tuple[str, str]:
    """Where a training would report to, and its messages."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode, folder],
        env=clean | {"PYTHONPATH": str(ROOT / "workflow")} | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=150,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout.strip(), run.stderr


def test_off_imports_nothing(tmp_path):
    script = "import persuasion_rl.runtime.tracking as t, sys; print(t.start_tracking({}), 'wandb' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "[] False"


@pytest.mark.slow
def test_online_without_a_key_is_offline_and_asks_nothing(tmp_path):
    reports_to, notes = track("online", tmp_path)
    assert reports_to == "['wandb']" and "no WANDB_API_KEY" in notes
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.slow
def test_a_server_that_never_answers_is_not_waited_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        reports_to, notes = track("online", tmp_path, WANDB_API_KEY="a" * 40, WANDB_BASE_URL=url)
    assert time.monotonic() - started < 120
    assert reports_to == "['wandb']" and "the online run did not start" in notes
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.slow
def test_a_training_reports_under_its_name(tiny_rows, tmp_path):
    folder = tmp_path / "wandb"
    tracking = {
        "mode": "offline",
        "project": "p",
        "name": "qwen-sft-baseline",
        "folder": str(folder),
    }
    train_sft(tiny_rows, tmp_path, tracking=tracking)
    (run,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = run.read_bytes()
    for word in (b"qwen-sft-baseline", b"learning_rate", b"tokens_per_second", b"grad_norm"):
        assert word in content, word


def test_the_study_names_its_runs():
    plan = succeed("sft", "-np")
    for word in ("name=qwen-sft-baseline", "project=persuasion-rl-cs230", "mode=online"):
        assert word in plan
    assert "name=cmv-rlaif" in succeed("dpo", "-np")
