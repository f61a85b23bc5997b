"""Checkpoints that outlive a killed training, and the lock that keeps two trainings of one model apart.

A checkpoint counts once it is marked as whole: a kill in the middle of a save leaves one without a mark, and
the one before it is used. SIGTERM, a spot instance's notice, saves after the step that is running and ends.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import TextIO

import psutil

from persuasion_rl.files import UserError, file_digest, read_json, write_json
from persuasion_rl.runtime.command import note

MARK = "whole.json"
LOCK = "lock.json"
STOPS_WITHIN_S = 60
"""How long a training that outlived its workflow gets to save before it is killed."""
RENEWS_EVERY_S = 5
GONE_AFTER_S = 120
"""A lock of another machine that is not renewed for so long was left by a process that is gone."""


def whole_checkpoints(folder: Path) -> Iterator[Path]:
    """The checkpoints of a folder whose files are those of their mark, the latest first."""
    steps = {int(p.name.split("-")[1]): p for p in folder.glob("checkpoint-*") if _NAME(p.name)}
    for _, path in sorted(steps.items(), reverse=True):
        mark = path / MARK
        if mark.is_file() and read_json(mark) == _files_of(path):
            yield path


_NAME = re.compile(r"checkpoint-\d+").fullmatch


def _files_of(checkpoint: Path) -> dict[str, str]:
    return {
        str(path.relative_to(checkpoint)): file_digest(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != MARK
    }


def last_checkpoint(folder: Path, tell: bool = True) -> str | None:
    """The latest whole checkpoint; broken ones are removed, by whoever tells of it."""
    whole = list(whole_checkpoints(folder))
    if not tell:
        return str(whole[0]) if whole else None
    for path in folder.glob("checkpoint-*"):
        if path not in whole:
            note(f"{path} was cut off and is removed")
            shutil.rmtree(path)
    if not whole:
        return None
    note(f"going on from {whole[0]}")
    return str(whole[0])


def lacks_evaluation(checkpoint: Path, strategy: str) -> bool:
    """Whether a checkpoint was saved, on SIGTERM, in place of an evaluation that was due at its step.

    Args:
        strategy: the trainer's `eval_strategy`.
    """
    state = read_json(checkpoint / "trainer_state.json")
    step = state["global_step"]
    due = {
        "epoch": lambda: float(state["epoch"]).is_integer(),
        "steps": lambda: step % state["eval_steps"] == 0,
        "no": lambda: False,
    }[strategy]()
    return due and not any(r["step"] == step and "eval_loss" in r for r in state["log_history"])


class EvaluationStopped(Exception):
    """SIGTERM came during an evaluation. Evaluations can be long: they are not waited for."""


def callbacks() -> list:
    """For a trainer: marks whole checkpoints, and on SIGTERM saves and stops."""
    import torch
    from transformers import TrainerCallback

    class MarkWhole(TrainerCallback):
        def on_save(self, args, state, control, **_):
            if args.world_size > 1:
                torch.distributed.barrier()  # every process writes its random state
            checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
            if state.is_world_process_zero:
                write_json(checkpoint / MARK, _files_of(checkpoint))

    class StopOnSigterm(TrainerCallback):
        stopped = False

        def on_train_begin(self, args, state, control, **_):
            self.before = signal.signal(signal.SIGTERM, self._stop)

        def _stop(self, *_):
            self.stopped = True

        def on_step_end(self, args, state, control, **_):
            if args.world_size > 1:  # all stop after the same step
                told = torch.tensor(float(self.stopped), device=args.device)
                torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
                self.stopped = bool(told)
            if self.stopped:
                control.should_save = control.should_training_stop = True
                control.should_evaluate = False

        def on_prediction_step(self, args, state, control, **_):
            if not self.stopped:
                return
            if args.world_size > 1 or args.metric_for_best_model or not state.global_step:
                raise SystemExit(_ended("during an evaluation"))
            raise EvaluationStopped

        def on_train_end(self, args, state, control, **_):
            signal.signal(signal.SIGTERM, self.before)
            if self.stopped:
                raise SystemExit(_ended(f"at step {state.global_step}"))

    return [MarkWhole(), StopOnSigterm()]


def _ended(where: str) -> int:
    note(
        f"SIGTERM: stopped {where}; asked for again, the training goes on from its last checkpoint"
    )
    return 128 + signal.SIGTERM


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a training's folder. One that runs there still, left over by a workflow that was killed, is
    stopped first: it saves, and this one goes on from there. Where another machine had it, nodes of a cluster that
    share a file system say, this one waits to see whether that process is gone.

    A process that finds its lock taken, since it was suspended for long, ends at once and writes nothing more.

    Raises:
        UserError: it runs on another machine.
    """
    lock, mine, gone = folder / LOCK, _own_text(), ""
    while True:
        with _in_hand(lock) as file:
            theirs = file.read()
            if theirs in ("", gone):
                file.truncate(0)
                file.write(mine)
                break
        _end_holder(lock, theirs)
        gone = theirs
    released = Event()
    Thread(target=_renew, args=(lock, mine, released), daemon=True).start()
    try:
        yield
    finally:
        released.set()
        with _in_hand(lock) as file:
            if file.read() in ("", mine):
                lock.unlink()
        with suppress(OSError):  # a folder with checkpoints stays
            folder.rmdir()


@contextmanager
def _in_hand(lock: Path) -> Iterator[TextIO]:
    """The file of a lock, empty where nobody holds it. As long as the block lasts no other process looks at it or
    changes it: of two that waited for one holder, only the first finds it gone."""
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                continue  # removed by the process that had it in hand
            file.seek(0)
            yield file
            return


@cache
def _own_text() -> str:
    """What this process writes into its locks."""
    me = psutil.Process()
    holder = {"host": socket.gethostname(), "pid": me.pid, "started": me.create_time()}
    return json.dumps(holder)


def _text_of(lock: Path) -> str:
    return lock.read_text() if lock.is_file() else ""


def _renew(lock: Path, mine: str, released: Event) -> None:
    """Give a lock the time of now, again and again, for other machines to see that it is held. End this process
    where it is no longer its own."""
    while not released.wait(RENEWS_EVERY_S):
        if _text_of(lock) == mine:
            os.utime(lock)
        elif not released.is_set():
            note(f"error: {lock} was taken by another process; this one ends and writes no more")
            os._exit(1)


def forget(state: Path) -> None:
    """Remove the checkpoints of a model that is whole, those of former recipes too; not those of a training
    that still runs. The lock of this process stays until it is released."""
    for folder in state.iterdir():
        with _in_hand(folder / LOCK) as file:
            text = file.read()
            if text == _own_text():
                for entry in folder.iterdir():
                    if entry.is_dir():
                        shutil.rmtree(entry)
                    elif entry.name != LOCK:
                        entry.unlink()
            elif not text or not _may_run(json.loads(text)):
                shutil.rmtree(folder)


def _may_run(holder: dict) -> bool:
    return holder["host"] != socket.gethostname() or _running(holder) is not None


def _end_holder(lock: Path, text: str) -> None:
    """Stop the process that a lock of this text names, if it runs."""
    holder = json.loads(text)
    if holder["host"] != socket.gethostname():
        _wait_for_gone(lock, text, holder)
        return
    if process := _running(holder):
        note(f"process {process.pid} still trains this model: it is asked to save and to end")
        until = time.monotonic() + STOPS_WITHIN_S
        with suppress(psutil.NoSuchProcess):
            process.terminate()
            while _running(holder):
                if time.monotonic() > until:
                    process.kill()
                time.sleep(0.2)


def _wait_for_gone(lock: Path, text: str, holder: dict) -> None:
    """Wait until a lock of another machine is released, or has not been renewed for long enough.

    Raises:
        UserError: it is renewed.
    """
    note(f"{holder['host']} has this training: waiting for {GONE_AFTER_S} s to see whether it runs")
    with suppress(FileNotFoundError):
        found = lock.stat().st_mtime
        until = time.monotonic() + GONE_AFTER_S
        while time.monotonic() < until and _text_of(lock) == text:
            if lock.stat().st_mtime != found:
                raise UserError(
                    f"{lock}: this training runs on {holder['host']} (process {holder['pid']}); stop it there"
                )
            time.sleep(1)


def _running(holder: dict) -> psutil.Process | None:
    """The process that wrote a lock, if it runs: not another with its number, not one that only waits to be
    reaped, not this one."""
    try:
        process = psutil.Process(holder["pid"])
        same = abs(process.create_time() - holder["started"]) < 1
        alive = process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same and alive and process.pid != os.getpid() else None
