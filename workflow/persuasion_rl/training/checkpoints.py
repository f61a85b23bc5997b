"""Checkpoints that outlive a killed training.

A checkpoint counts once it is marked as whole. A kill in the middle of a save leaves one without a mark, and the one
before is used. On SIGTERM, a spot instance's notice, the training saves after the current step and ends.
"""

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from persuasion_rl.files import file_digest, read_json, write_json
from persuasion_rl.runtime.command import note

MARK = "whole.json"
"""The file of a checkpoint with the digests of its other files."""
_NAME = re.compile(r"checkpoint-\d+").fullmatch


def whole_checkpoints(folder: Path) -> Iterator[Path]:
    """The checkpoints of a folder whose files match their mark, the latest first."""
    steps = {int(p.name.split("-")[1]): p for p in folder.glob("checkpoint-*") if _NAME(p.name)}
    for _, path in sorted(steps.items(), reverse=True):
        mark = path / MARK
        if mark.is_file() and read_json(mark) == _files_of(path):
            yield path


def _files_of(checkpoint: Path) -> dict[str, str]:
    """The digests of a checkpoint's files, by their paths in it."""
    return {
        str(path.relative_to(checkpoint)): file_digest(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != MARK
    }


def last_checkpoint(folder: Path, clean: bool = True) -> str | None:
    """The latest whole checkpoint of a folder; None if there is none.

    Args:
        clean: remove checkpoints that are not whole, and note it.
    """
    checkpoints = list(whole_checkpoints(folder))
    if not clean:
        return str(checkpoints[0]) if checkpoints else None
    for path in folder.glob("checkpoint-*"):
        if path not in checkpoints:
            note(f"{path} was cut off and is removed")
            shutil.rmtree(path)
    if not checkpoints:
        return None
    note(f"going on from {checkpoints[0]}")
    return str(checkpoints[0])


def remove_checkpoints(state: Path) -> None:
    """Remove all checkpoints of a model, also of former recipes. The caller holds the lock, so none is in use."""
    for entry in state.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)


def lacks_evaluation(checkpoint: Path, strategy: str) -> bool:
    """Whether a checkpoint was saved on SIGTERM instead of an evaluation that was due at its step.

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
    """SIGTERM came during an evaluation, which is stopped, since it can take long."""


def checkpoint_callbacks() -> list:
    """Trainer callbacks: one marks whole checkpoints, the other saves and stops on SIGTERM."""
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
    """Note that SIGTERM stopped the training, and return the exit status for it."""
    note(
        f"SIGTERM: stopped {where}; asked for again, the training goes on from its last checkpoint"
    )
    return 128 + signal.SIGTERM
