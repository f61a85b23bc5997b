"""GPUs for the jobs that run side by side on one machine: each gets its own, and gives it back however it ends.

Snakemake counts `gpu` slots but does not say which device a job is to use. A device is leased by a lock on a file of its
number, which the kernel releases with the process that holds it, also when it is killed.

    python -m persuasion_rl.runtime.leases 2 accelerate launch ...    # runs a command on two devices of its own
"""

import fcntl
import os
import sys
import tempfile
import time
from glob import glob
from pathlib import Path

NOTES_EVERY_S = 60
"""Seconds between two messages about waiting."""
_held: list[int] = []
"""Descriptors of the lock files that this process holds: open as long as it lives."""


def visible_devices() -> list[str]:
    """The GPUs that this process may use: those of CUDA_VISIBLE_DEVICES (a scheduler's share), else all that are here.

    CUDA counts these from 0, whatever the numbers of their files: a container may have /dev/nvidia3 alone.
    """
    count = len(glob("/dev/nvidia[0-9]*"))
    if not count:
        return []
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip()]
    return [str(index) for index in range(count)]


def lease(count: int, devices: list[str], folder: Path | None = None) -> list[str]:
    """Wait for `count` of some devices that nobody holds, and hold them until this process ends.

    Leases are between the processes of a user on a machine, whatever study they are of.

    Args:
        devices: as `visible_devices` names them.
        folder: where the locks are; all that share the devices have the same folder.

    Returns:
        The devices that are held. SystemExit where fewer exist than are wanted.
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
        # All or none, so that two jobs that want two devices each never wait for each other.
        for lock in locks.values():
            os.close(lock)
        if time.monotonic() - noted >= NOTES_EVERY_S:
            print(f"waiting for {count} of the GPUs {', '.join(devices)}", file=sys.stderr)
            noted = time.monotonic()
        time.sleep(0.2)


def _lock(path: Path) -> int | None:
    """The descriptor of a file that is locked from now on, or None where another process holds it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def lease_one() -> None:
    """Make one GPU of its own the only one that this process sees, where there are any. A second call changes nothing.

    One of several processes of a training (accelerate launch) has its devices from the process that started it.
    """
    if _held or "LOCAL_RANK" in os.environ:
        return
    if devices := visible_devices():
        os.environ["CUDA_VISIBLE_DEVICES"] = lease(1, devices)[0]


def main() -> None:
    """Lease devices and become the command that uses them; the locks stay with it."""
    count, *command = sys.argv[1:]
    if devices := visible_devices():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease(int(count), devices))
        for held in _held:
            os.set_inheritable(held, True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
