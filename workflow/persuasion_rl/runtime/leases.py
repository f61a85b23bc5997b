"""Leases GPUs to jobs that run side by side on one machine. Each gets its own, and returns it however it ends.

Snakemake counts `gpu` slots but does not say which device a job is to use. A device is leased by a lock on a file with its
number. The kernel releases the lock when the process ends or is killed.

    python -m persuasion_rl.runtime.leases 2 python -m torch.distributed.run ...    # runs a command on two devices of its own
"""

import fcntl
import os
import sys
import tempfile
import time
from glob import glob
from pathlib import Path

from persuasion_rl.runtime.environment import PROCESSES

NOTES_EVERY_S = 60
"""Seconds between two messages about waiting."""
_held: list[int] = []
"""Descriptors of the lock files that this process holds; they stay open as long as it lives."""


def visible_devices() -> list[str]:
    """The GPUs that this process may use: those of CUDA_VISIBLE_DEVICES (set by a scheduler), else all of the machine.

    CUDA numbers them from 0, whatever the numbers of their files: a container may have only /dev/nvidia3.
    """
    count = len(glob("/dev/nvidia[0-9]*"))
    if not count:
        return []
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip()]
    return [str(index) for index in range(count)]


def lease(count: int, devices: list[str], folder: Path | None = None) -> list[str]:
    """Wait for `count` free devices, and hold them until this process ends.

    Leases hold among all processes of a user on a machine, also those of different studies.

    Args:
        devices: as `visible_devices` names them.
        folder: the folder of the locks, the same for all that share the devices.

    Returns:
        The held devices. SystemExit if there are fewer than `count`.
    """
    folder = folder or Path(tempfile.gettempdir(), f"persuasion-rl-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if count > len(devices):
        sys.exit(
            f"error: {count} GPUs are asked for, and {len(devices)} are here: {', '.join(devices)}"
        )
    noted = time.monotonic() - NOTES_EVERY_S
    while True:
        locks: dict[str, int] = {}
        for device in devices:
            if len(locks) < count and (lock := _lock(folder / device)) is not None:
                locks[device] = lock
        if len(locks) == count:
            _held.extend(locks.values())
            return list(locks)
        # All or none, so that two jobs with two devices each never wait for each other.
        for lock in locks.values():
            os.close(lock)
        if time.monotonic() - noted >= NOTES_EVERY_S:
            print(f"waiting for {count} of the GPUs {', '.join(devices)}", file=sys.stderr)
            noted = time.monotonic()
        time.sleep(0.2)


def _lock(path: Path) -> int | None:
    """Lock a file and return its descriptor; None if another process holds the lock."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def lease_one() -> None:
    """Lease a GPU, if there are any, and hide the others from this process. A second call changes nothing.

    The processes of a training by several use the devices that their parent leased.
    """
    if _held or "LOCAL_RANK" in os.environ:
        return
    if devices := visible_devices():
        os.environ["CUDA_VISIBLE_DEVICES"] = lease(1, devices)[0]


def main() -> None:
    """Lease devices and become the command that uses them, which keeps the locks."""
    count, *command = sys.argv[1:]
    # torch's launcher would set the second, and say so; each process sets its own number.
    os.environ |= {PROCESSES: count, "OMP_NUM_THREADS": "1"}
    if devices := visible_devices():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease(int(count), devices))
        for descriptor in _held:
            os.set_inheritable(descriptor, True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
