"""Trainings that are killed, asked to stop, or doubled: a rerun ends with the adapter of an undisturbed run."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from test_training import (
    ADAPTER,
    COMMON,
    DPO,
    SFT,
    files,  # noqa: F401
    sft,  # noqa: F401
    tiny_base,  # noqa: F401
)

from persuasion_rl.files import UserError, file_digest, write_json
from persuasion_rl.study.config import flags
from persuasion_rl.training import checkpoints
from persuasion_rl.training.checkpoints import (
    LOCK,
    MARK,
    alone,
    forget,
    last_checkpoint,
    whole_checkpoints,
)

ROOT = Path(__file__).parents[2]
STEPS = {"max_steps": 10, "eval_steps": 2, "save_steps": 2}
WAIT_S = 90


def make_whole(checkpoint: Path, **contents: str) -> None:
    """A checkpoint of some files with their mark."""
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


# The lock


def test_a_lock_whose_process_is_gone_is_taken_over(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = {"host": socket.gethostname(), "pid": gone.pid, "started": time.time()}
    write_json(tmp_path / LOCK, holder)
    with alone(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_a_process_that_has_the_number_of_a_dead_one_is_left_alone(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = psutil.Process(other.pid).create_time() - 100
        holder = {"host": socket.gethostname(), "pid": other.pid, "started": started}
        write_json(tmp_path / LOCK, holder)
        with alone(tmp_path):
            assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_training_on_another_machine_is_named(tmp_path):
    lock = tmp_path / LOCK
    write_json(lock, {"host": "elsewhere", "pid": 77, "started": 1.0})
    renewed = threading.Timer(2, os.utime, args=[lock])
    renewed.start()
    with pytest.raises(UserError, match="elsewhere .process 77"), alone(tmp_path):
        pass
    assert lock.exists()


def test_a_lock_that_another_machine_no_longer_renews_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "GONE_AFTER_S", 2)
    write_json(tmp_path / LOCK, {"host": "elsewhere", "pid": 77, "started": 1.0})
    with alone(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_lock_is_renewed_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "RENEWS_EVERY_S", 0.1)
    with alone(tmp_path):
        lock = tmp_path / LOCK
        os.utime(lock, (1, 1))
        until = time.monotonic() + 5
        while lock.stat().st_mtime == 1 and time.monotonic() < until:
            time.sleep(0.05)
        assert lock.stat().st_mtime > 1


HOLDER = """
import fcntl, os, sys, time
from pathlib import Path
from persuasion_rl.training import checkpoints
folder, hold, renews = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
checkpoints.RENEWS_EVERY_S = renews
with checkpoints.alone(folder / "state"), (folder / "witness").open("a") as witness:
    until = time.monotonic() + 0.5
    while True:
        try:  # the kernel knows who else is in here
            fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:  # at first perhaps a process that was ended, whose last thread has not let go of its files
            if time.monotonic() > until:
                (folder / f"two at once {os.getpid()}").touch()
                break
            time.sleep(0.01)
    print("holds", flush=True)
    time.sleep(hold)
print("released", flush=True)
"""


def hold(folder: Path, seconds: float = 0, renews: float = 5) -> subprocess.Popen:
    """A process that holds the lock of a folder for some seconds."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(seconds), str(renews)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_many_that_wait_for_a_holder_one_goes_on_at_a_time(tmp_path):
    first = hold(tmp_path, 60)
    assert first.stdout.readline() == "holds\n"
    waiting = [hold(tmp_path, 1) for _ in range(6)]
    codes = {process.wait(timeout=60) for process in waiting}
    assert first.wait(timeout=5) == -signal.SIGTERM
    # A later one asks an earlier one to end; nobody fails for another reason.
    assert 0 in codes and codes <= {0, -signal.SIGTERM}, [p.stderr.read() for p in waiting]
    assert list(tmp_path.glob("two at once*")) == []
    assert not (tmp_path / "state" / LOCK).exists()


def test_a_suspended_process_whose_lock_was_taken_ends_and_leaves_the_lock(tmp_path):
    suspended = hold(tmp_path, 60, renews=0.2)
    assert suspended.stdout.readline() == "holds\n"
    suspended.send_signal(signal.SIGSTOP)
    lock = tmp_path / "state" / LOCK
    write_json(lock, {"host": "elsewhere", "pid": 77, "started": 1.0})
    elsewhere = lock.read_bytes()
    os.utime(lock, (1, 1))
    suspended.send_signal(signal.SIGCONT)
    assert suspended.wait(timeout=20) == 1
    assert "was taken by another process" in suspended.stderr.read()
    assert suspended.stdout.read() == ""
    assert (lock.read_bytes(), lock.stat().st_mtime) == (elsewhere, 1)


def test_former_checkpoints_go_but_not_those_of_a_training_that_runs(tmp_path):
    for name in ("former", "killed", "elsewhere", "running", "own"):
        make_whole(tmp_path / name / "checkpoint-2", weights="step 2")
    here = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = psutil.Process(other.pid).create_time()
        write_json(tmp_path / "killed" / LOCK, here | {"pid": other.pid, "started": started - 100})
        write_json(tmp_path / "running" / LOCK, here | {"pid": other.pid, "started": started})
        write_json(tmp_path / "elsewhere" / LOCK, here | {"host": "elsewhere"})
        with alone(tmp_path / "own"):
            (tmp_path / "own/final").mkdir()
            (tmp_path / "own/batches.json").touch()
            forget(tmp_path)
            assert {path.name for path in tmp_path.iterdir()} == {"running", "elsewhere", "own"}
            assert [path.name for path in (tmp_path / "own").iterdir()] == [LOCK]
        assert {path.name for path in tmp_path.iterdir()} == {"running", "elsewhere"}
    finally:
        other.kill()
        other.wait()


# Whole trainings


class Training:
    """A training as the workflow runs it, in a process of its own."""

    def __init__(self, module: str, folder: Path, words: list):
        self.folder = folder
        self.command = [sys.executable, "-m", f"persuasion_rl.{module}", *map(str, words)]

    def start(self) -> subprocess.Popen:
        self.folder.mkdir(exist_ok=True)
        with self.told_file.open("w") as told:
            return subprocess.Popen(
                self.command, env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")}, stderr=told
            )

    @property
    def told_file(self) -> Path:
        return self.folder / "told.txt"

    @property
    def told(self) -> str:
        """What the last process of this training said."""
        return self.told_file.read_text()

    def run(self) -> None:
        assert self.start().wait(timeout=200) == 0, self.told[-3000:]

    def checkpoints(self) -> list[Path]:
        folders = [path for path in (self.folder / "state").glob("*") if path.is_dir()]
        return list(whole_checkpoints(folders[0])) if folders else []

    def wait_for_checkpoint(self, process: subprocess.Popen) -> None:
        until = time.monotonic() + WAIT_S
        while not self.checkpoints():
            assert process.poll() is None and time.monotonic() < until, process.stderr.read()[
                -3000:
            ]
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
def training(request, files, sft, tmp_path):  # noqa: F811
    """A function that makes the same training in a folder of its own."""
    method = request.param
    recipe = (SFT if method == "sft" else DPO) | STEPS

    def make(name: str, **changed) -> Training:
        folder = tmp_path / name
        words = ["--base", files.base, "--adapter", folder / ADAPTER, "--state", folder / "state"]
        for part in ("train", "val"):
            words += [f"--{part}", files.tokens(getattr(files, f"{method}_{part}"))]
        words += ["--lineage", sft, "--parent", "sft"] if method == "dpo" else []
        words += flags(COMMON | recipe | changed).split()
        return Training(method, folder, words)

    return make


@pytest.mark.slow
def test_a_training_that_is_killed_ends_as_if_it_had_not_been(training):
    whole, broken = training("whole"), training("broken")
    whole.run()
    for _ in range(2):  # twice, the second time with the last checkpoint cut off
        process = broken.start()
        broken.wait_for_checkpoint(process)
        process.kill()
        process.wait()
    latest = broken.checkpoints()[0]
    damaged = next(latest.glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-10])
    broken.run()
    assert "was cut off and is removed" in broken.told
    assert broken.adapter == whole.adapter
    assert list((broken.folder / "state").iterdir()) == []


@pytest.mark.slow
def test_a_notice_saves_at_once_and_a_rerun_goes_on(training):
    # An evaluation is due after every step: the notice comes before one or during one.
    whole, noticed = training("whole", eval_steps=1), training("noticed", eval_steps=1)
    whole.run()
    process = noticed.start()
    noticed.wait_for_checkpoint(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM, noticed.told[-3000:]
    assert "goes on from its last checkpoint" in noticed.told
    assert "Traceback" not in noticed.told
    noticed.run()
    assert "going on from" in noticed.told
    assert noticed.adapter == whole.adapter
    assert noticed.eval_losses == whole.eval_losses


@pytest.mark.slow
@pytest.mark.parametrize("training", ["sft"], indirect=True)
def test_a_training_that_outlived_its_workflow_is_never_doubled(training):
    doubled = training("doubled", max_steps=200)
    first = doubled.start()
    doubled.wait_for_checkpoint(first)
    doubled.run()
    assert first.wait(timeout=5) == 128 + signal.SIGTERM
    assert "still trains this model" in doubled.told and "going on from" in doubled.told
    steps = [row["step"] for row in doubled.history if "loss" in row]
    assert steps == list(range(1, 201))


@pytest.mark.slow
@pytest.mark.parametrize(("training", "limit"), [("sft", 2), ("dpo", 3)], indirect=["training"])
def test_a_training_that_saves_often_keeps_few_checkpoints(training, limit):
    """Two, or as many as its recipe says, besides the one that is being written; at its end none."""
    often = {"max_steps": 20, "eval_steps": 1, "save_steps": 1}
    many = training("many", **often, **({"save_total_limit": limit} if limit != 2 else {}))
    seen, most = set(), 0
    process = many.start()
    until = time.monotonic() + WAIT_S
    while process.poll() is None:
        there = {path.name for path in many.folder.glob("state/*/checkpoint-*")}
        seen, most = seen | there, max(most, len(there))
        assert time.monotonic() < until, many.told[-3000:]
        time.sleep(0.01)
    assert process.returncode == 0, many.told[-3000:]
    assert len(seen) > limit + 1, "it saved oftener than it may keep"
    assert limit <= most <= limit + 1
    assert list((many.folder / "state").iterdir()) == []
