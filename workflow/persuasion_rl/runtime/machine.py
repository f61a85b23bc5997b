"""What this machine has, or the container that limits it: cores, memory, room on a disk."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from persuasion_rl.files import UserError

CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """The cores that this process may use: those that it is allowed on, within the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for folder in _groups():
        match _words(folder / "cpu.max"):
            case [quota, period] if quota.isdigit():
                count = min(count, math.ceil(int(quota) / int(period)))
        match _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"):
            case [quota, period] if quota.isdigit():
                count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, count or 1)


def memory() -> int:
    """The bytes of memory that there are: the machine's, or less where a control group limits it."""
    return min([psutil.virtual_memory().total, *(limit for _, limit in _limits())])


def free_memory() -> int:
    """The bytes of memory that are free now, files that are only cached included."""
    rooms = [
        limit - _number(folder, "memory.current", "memory.usage_in_bytes") + _cached(folder)
        for folder, limit in _limits()
    ]
    return max(0, min([psutil.virtual_memory().available, *rooms]))


def refuse_without_room(folder: Path, size: float) -> None:
    """UserError where the disk of a folder, which need not be there yet, has no room for `size` bytes more."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if free < size:
        raise UserError(
            f"{folder}: {size / 1e9:,.2f} GB are to be written there, and its disk has {free / 1e9:,.2f} GB free: make room"
        )


def _limits() -> Iterator[tuple[Path, int]]:
    """The control groups of this process that limit its memory, with their limits in bytes."""
    for folder in _groups():
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        if 0 < limit < 2**60:  # version 1 writes a huge number for none
            yield folder, limit


def _groups() -> Iterator[Path]:
    """The folders of this process's control groups and of those above them, of versions 1 and 2.

    In a container the path may be the host's, and the group is then at the root.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        root = CGROUPS / kinds if kinds else CGROUPS
        if kinds in ("", "memory", "cpu", "cpu,cpuacct"):
            inner = root / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _number(folder: Path, *names: str) -> int:
    """The number in the first of some files that is there; 0 without one, or where it says "max"."""
    words = next(filter(None, (_words(folder / name) for name in names)), ["0"])
    return int(words[0]) if words[0].isdigit() else 0


def _cached(folder: Path) -> int:
    """The bytes of a group's memory that hold files and can be had back."""
    words = _words(folder / "memory.stat")
    stat = dict(zip(words[::2], words[1::2], strict=False))
    return int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))
