"""The lock that keeps two trainings of one model apart."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout, UnixFileLock

from persuasion_rl.files import UserError
from persuasion_rl.runtime.command import is_main_process, note

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
