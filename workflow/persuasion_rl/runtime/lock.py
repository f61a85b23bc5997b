"""The lock that keeps two trainings of a model from running at once."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout, UnixFileLock

from persuasion_rl.files import UserError
from persuasion_rl.runtime.command import is_main_process, note

LOCK = "lock"
WAITS_S = 300
"""Seconds that another training of the model gets to save and end."""


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Lock the trainings of a model: inside the block, no other process trains that model.

    A stage ends a second after its workflow (`runtime.command`). So the lock is usually held by a training that saves
    its last step: this one waits, and then goes on from the last whole checkpoint. If several processes train together,
    the first holds the lock for all.

    It is a kernel lock on the file `state`/lock (flock), which is released when its process ends or is killed. Processes on
    several machines see it if their file system shares such locks: NFS 4, which releases the lock of a lost machine when
    its lease ends (about 90 s); Lustre mounted with `flock`; BeeGFS with global file locks. With Lustre's `localflock`
    and BeeGFS's default it works only among processes of one machine. On a file system without such locks, filelock
    uses the existence of the file: it then recognises files of killed processes of this machine by their process id, but
    a file of another machine must be removed by hand. The file itself stays, because on NFS a waiting process could lock
    a removed file.

    Args:
        state: the folder with the checkpoints of all trainings of the model.

    Raises:
        UserError: another process holds the lock for longer than WAITS_S, or the file cannot be locked.
    """
    if not is_main_process():
        yield
        return
    path = state / LOCK
    lock = FileLock(path, poll_interval=0.2)
    try:
        state.mkdir(parents=True, exist_ok=True)
        _acquire(lock, path)
    except OSError as error:
        raise UserError(cannot_be_locked(path, error)) from None
    try:
        if isinstance(lock, UnixFileLock):  # without kernel locks, filelock itself writes this
            path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, path: Path) -> None:
    """Acquire the lock, and wait for another training that holds it; UserError if that takes longer than WAITS_S."""
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


def cannot_be_locked(path: Path, error: OSError) -> str:
    """What is wrong with the file of a lock, in one line."""
    return f"{path}: cannot be locked ({error.strerror or error}); it must be a plain file in a folder that can be written"


def _holder(lock: Path) -> str:
    """The holder of a lock, by its file: the process in the first line, the machine in the second."""
    with suppress(OSError, ValueError):
        process, host, *_ = lock.read_text(encoding="utf-8").splitlines()
        return f"process {process} on {host}"
    return "another process"
