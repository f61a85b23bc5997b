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

WAITED_S = 60
"""Seconds between two words about waiting."""
_held: list[int] = []
"""File descriptors of this process' leases: open as long as it lives."""


def visible_devices() -> list[str]:
    """The GPUs that this process may use: those of CUDA_VISIBLE_DEVICES (a scheduler's share), else all that are here.

    CUDA counts these from 0, whatever the numbers of their files: a container may have /dev/nvidia3 alone.
    """
    here = len(glob("/dev/nvidia[0-9]*"))
    if not here:
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(index) for index in range(here)]


def lease(count: int, devices: list[str], folder: Path | None = None) -> list[str]:
    """Wait for `count` of some devices that nobody holds, and hold them until this process ends.

    Leases are between the processes of a user on a machine, whatever study they are of.

    Args:
        folder: where the locks are; the same for all that share the devices.
    """
    folder = folder or Path(tempfile.gettempdir(), f"persuasion-rl-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if count > len(devices):
        sys.exit(
            f"error: {count} GPUs are asked for, and {len(devices)} are here: {', '.join(devices)}"
        )
    told = time.monotonic() - WAITED_S
    while True:
        got = {}
        for device in devices:
            if len(got) < count and (held := _try(folder / device)) is not None:
                got[device] = held
        if len(got) == count:
            _held.extend(got.values())
            return list(got)
        for (
            held
        ) in got.values():  # all or none, so that two that want two each never wait for each other
            os.close(held)
        if time.monotonic() - told >= WAITED_S:
            print(f"waiting for {count} of the GPUs {', '.join(devices)}", file=sys.stderr)
            told = time.monotonic()
        time.sleep(0.2)


def _try(path: Path) -> int | None:
    """An open, locked file, or None where somebody else holds it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def lease_one() -> None:
    """Make one GPU of its own the only one that this process sees, where there are any. Again changes nothing.

    One of several processes of a training (accelerate launch) has its devices from the process that started it.
    """
    if _held or "LOCAL_RANK" in os.environ:
        return
    if devices := visible_devices():
        os.environ["CUDA_VISIBLE_DEVICES"] = lease(1, devices)[0]


def main() -> None:
    """Become a command that has the devices; the locks stay with it."""
    count, *command = sys.argv[1:]
    if devices := visible_devices():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease(int(count), devices))
        for held in _held:
            os.set_inheritable(held, True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
