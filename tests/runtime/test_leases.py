"""Concurrent jobs get different devices, and a killed job returns its device."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from persuasion_rl.models.devices import prepare_torch
from persuasion_rl.runtime import leases
from running import WORKFLOW

JOB = """
import sys, time
from pathlib import Path
from persuasion_rl.runtime.leases import lease
count, folder, hold = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
devices = lease(count, ["0", "1"], folder)
print(*devices, time.monotonic(), flush=True)
time.sleep(hold)
print(time.monotonic(), flush=True)
"""


def job(folder, count=1, hold=0.4):
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(count), str(folder), str(hold)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
    )


@pytest.mark.parametrize("counts", [[1] * 6, [1, 2, 1, 2, 1]])
def test_no_two_jobs_have_a_device_at_once_and_all_get_one(tmp_path, counts):
    jobs = [job(tmp_path / "gpus", count) for count in counts]
    spans = []
    for count, process in zip(counts, jobs, strict=True):
        out, _ = process.communicate(timeout=60)
        (*devices, start), end = out.splitlines()[0].split(), float(out.splitlines()[1])
        assert len(set(devices)) == count
        spans += [(device, float(start), end) for device in devices]
    for device in ("0", "1"):
        own = sorted(span[1:] for span in spans if span[0] == device)
        assert all(before[1] <= after[0] for before, after in pairwise(own))
    assert {device for device, *_ in spans} == {"0", "1"}


def test_a_killed_job_gives_its_device_back(tmp_path):
    holding = [job(tmp_path / "gpus", hold=100) for _ in range(2)]
    for process in holding:
        process.stdout.readline()
    waiting = job(tmp_path / "gpus")
    time.sleep(1)
    assert waiting.poll() is None
    holding[0].send_signal(signal.SIGKILL)
    out, _ = waiting.communicate(timeout=20)
    assert len(out.splitlines()) == 2
    holding[1].kill()
    for process in holding:
        process.wait()


def test_more_devices_than_there_are_is_said_and_not_waited_for(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", JOB, "3", str(tmp_path / "gpus"), "0"],
        capture_output=True, text=True, timeout=20, env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
    )  # fmt: skip
    assert (
        run.returncode == 1 and run.stderr == "error: 3 GPUs are asked for, and 2 are here: 0, 1\n"
    )


def test_a_schedulers_share_is_kept_to(monkeypatch):
    monkeypatch.setattr(leases, "glob", lambda _: ["/dev/nvidia0", "/dev/nvidia10", "/dev/nvidia2"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert leases.visible_devices() == ["0", "1", "2"]  # as CUDA counts
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-3f")
    assert leases.visible_devices() == ["2", "GPU-3f"]
    monkeypatch.setattr(leases, "glob", lambda _: [])
    assert leases.visible_devices() == []


def test_a_job_sees_its_own_device_only_and_one_on_the_cpu_leases_none(monkeypatch, tmp_path):
    monkeypatch.setattr(leases, "visible_devices", lambda: ["4", "5"])
    monkeypatch.setattr(leases, "_held", [])
    monkeypatch.setattr(leases.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    prepare_torch(1, 1, "cpu")
    assert not leases._held and os.environ["CUDA_VISIBLE_DEVICES"] == ""
    prepare_torch(1, 1, "auto")
    prepare_torch(1, 1, "auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4" and len(leases._held) == 1
    os.close(leases._held[0])


def test_a_command_keeps_its_devices_as_long_as_it_runs(tmp_path):
    """The launcher of several processes becomes accelerate, which keeps the locks."""
    shim = (
        "import sys; from persuasion_rl.runtime import leases; leases.visible_devices = lambda: ['0', '1'];"
        "sys.argv = ['x', '2', 'sleep', '3']; leases.main()"
    )
    environment = os.environ | {"PYTHONPATH": str(WORKFLOW), "TMPDIR": str(tmp_path)}
    holder = subprocess.Popen([sys.executable, "-c", shim], env=environment)
    (folder,) = wait_for_folder(tmp_path)
    time.sleep(0.5)
    started = time.monotonic()
    out, _ = job(folder, hold=0).communicate(timeout=30)
    assert len(out.splitlines()) == 2 and time.monotonic() - started > 1
    assert holder.wait() == 0


def wait_for_folder(parent):
    for _ in range(100):
        if paths := list(parent.glob("*/1")):
            return [paths[0].parent]
        time.sleep(0.1)
    raise AssertionError("no lease was taken")
