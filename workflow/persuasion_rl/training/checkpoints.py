"""Checkpoints that outlive a killed training, and the lock that keeps two trainings of one model apart.

A checkpoint counts once it is marked as whole: a kill in the middle of a save leaves one without a mark, and
the one before it is used. SIGTERM, a spot instance's notice, saves after the step that is running and ends.
"""

import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout, UnixFileLock

from persuasion_rl.files import UserError, file_digest, read_json, write_json
from persuasion_rl.runtime.command import is_main_process, note

MARK = "whole.json"
LOCK = "lock"
WAITS_S = 300
"""How long another training of the model gets to save and to end."""


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Lock a model's trainings for this process: while the block lasts, no other one of that model writes.

    A stage ends a second after its workflow (`runtime.command`). So what holds the lock is in most cases a training that
    saves its last step: this one waits for it, and then goes on from its last whole checkpoint. Where several processes
    train together, the first holds the lock for all.

    The lock is one of the kernel on the file `state`/lock (flock). It goes with its process, also when that is killed.
    Processes on several machines see it where their file system shares such locks: NFS 4, which takes the lock from a
    machine that is lost when its lease ends (about 90 s); Lustre mounted with `flock`; BeeGFS with global file locks.
    With Lustre's `localflock` and BeeGFS's default it keeps processes of one machine apart, not those of two. Where
    a file system has no such locks, filelock takes the existence of the file instead: what a killed process of this
    machine left is then recognised by its number, but a file that another machine left must be removed by hand.
    The file itself stays, because on NFS a process that waits could lock a removed file.

    Args:
        state: the folder with the checkpoints of all trainings of the model.

    Raises:
        UserError: another process holds the lock for WAITS_S.
    """
    if not is_main_process():
        yield
        return
    state.mkdir(parents=True, exist_ok=True)
    path = state / LOCK
    lock = FileLock(path, poll_interval=0.2)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        note(f"{_holder(path)} still trains this model: waiting for it to save and to end")
        try:
            lock.acquire(timeout=WAITS_S)
        except Timeout:
            raise UserError(
                f"{path}: {_holder(path)} still trains this model after {WAITS_S} s; wait for its end or stop it,"
                " then ask again"
            ) from None
    try:
        if isinstance(lock, UnixFileLock):  # without such locks, filelock itself writes this
            path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(lock: Path) -> str:
    """Who holds a lock, as its file has it: the process in the first line, the machine in the second."""
    with suppress(OSError, ValueError):
        process, host, *_ = lock.read_text(encoding="utf-8").splitlines()
        return f"process {process} on {host}"
    return "another process"


def remove_checkpoints(state: Path) -> None:
    """Remove all checkpoints of a model, those of former recipes too. The caller holds the lock, so none is in use."""
    for entry in state.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)


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


def last_checkpoint(folder: Path, clean: bool = True) -> str | None:
    """The latest whole checkpoint of a folder, None where there is none.

    Args:
        clean: remove those that are not whole, and note what is done.
    """
    whole = list(whole_checkpoints(folder))
    if not clean:
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


def checkpoint_callbacks() -> list:
    """Callbacks of a trainer: one marks whole checkpoints, the other saves and stops on SIGTERM."""
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
                stopped = torch.tensor(float(self.stopped), device=args.device)
                torch.distributed.all_reduce(stopped, op=torch.distributed.ReduceOp.MAX)
                self.stopped = bool(stopped)
            if self.stopped:
                control.should_save = control.should_training_stop = True
                control.should_evaluate = False

        def on_prediction_step(self, args, state, control, **_):
            if not self.stopped:
                return
            if args.world_size > 1 or args.metric_for_best_model or not state.global_step:
                raise SystemExit(_stop_status("during an evaluation"))
            raise EvaluationStopped

        def on_train_end(self, args, state, control, **_):
            signal.signal(signal.SIGTERM, self.before)
            if self.stopped:
                raise SystemExit(_stop_status(f"at step {state.global_step}"))

    return [MarkWhole(), StopOnSigterm()]


def _stop_status(where: str) -> int:
    """Note that SIGTERM stopped the training, and return the exit status of a process that it ends."""
    note(
        f"SIGTERM: stopped {where}; asked for again, the training goes on from its last checkpoint"
    )
    return 128 + signal.SIGTERM
