"""The lock that keeps two trainings of one model apart."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from persuasion_rl.files import UserError
from persuasion_rl.runtime import lock
from persuasion_rl.runtime.lock import LOCK, locked
from running import ROOT

HOLDER = """
import fcntl, os, sys, time
from pathlib import Path
from persuasion_rl.runtime.lock import locked
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
with locked(folder / "state"), (folder / "witness").open("a") as witness:
    try:  # the kernel knows whether another process is in here
        fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (folder / f"two at once {os.getpid()}").touch()
    print("holds", flush=True)
    time.sleep(seconds)
"""


def hold(folder: Path, seconds: float = 0) -> subprocess.Popen:
    """A process that holds the lock of a model for some seconds."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(seconds)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_waiting_processes_get_the_lock_one_at_a_time(tmp_path):
    holders = [hold(tmp_path, 0.3) for _ in range(5)]
    assert [holder.wait(timeout=60) for holder in holders] == [0] * 5
    assert list(tmp_path.glob("two at once*")) == []


def test_a_killed_holder_gives_the_lock_back_and_the_next_one_says_who_it_waits_for(tmp_path):
    first = hold(tmp_path, 60)
    assert first.stdout.readline() == "holds\n"
    second = hold(tmp_path)
    line = f"process {first.pid} on {socket.gethostname()} still trains this model"
    assert second.stderr.readline().startswith(line)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    assert second.wait(timeout=20) == 0
    assert first.wait() == -signal.SIGKILL


def test_a_training_that_does_not_end_is_named_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WAITS_S", 0.5)
    first = hold(tmp_path, 60)
    assert first.stdout.readline() == "holds\n"
    try:
        match = rf"state/lock: process {first.pid} on .* still trains this model after 0.5 s"
        with pytest.raises(UserError, match=match) as error, locked(tmp_path / "state"):
            pass
        assert "\n" not in str(error.value)
        assert first.poll() is None  # nothing happened to it
    finally:
        first.kill()
        first.wait()


def test_the_lock_is_given_back_after_an_error_and_its_file_stays(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError), locked(tmp_path):
            assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n{socket.gethostname()}\n"
            raise ValueError
    assert (tmp_path / LOCK).is_file()


def test_of_several_processes_of_a_training_the_first_holds_the_lock(tmp_path, monkeypatch):
    with locked(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path):  # does not wait for the first
            pass


def test_without_locks_of_the_kernel_the_file_is_the_lock(tmp_path, monkeypatch):
    """As on Lustre without `flock`: the lock of a dead process of this machine is taken over, one of another machine is not."""

    def missing(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock._unix.fcntl.flock", missing)
    monkeypatch.setattr(lock, "WAITS_S", 0.5)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    file = tmp_path / LOCK
    with pytest.warns(UserWarning, match="falling back"), locked(tmp_path):
        assert file.read_text().startswith(f"{os.getpid()}\n")
    assert not file.exists()
    file.write_text(f"{ended.pid}\n{socket.gethostname()}\n")
    old = time.time() - 60
    os.utime(file, (old, old))
    with pytest.warns(UserWarning), locked(tmp_path):
        pass
    file.write_text("77\nelsewhere\n")
    os.utime(file, (old, old))
    with pytest.warns(UserWarning), pytest.raises(UserError, match="process 77 on elsewhere"), locked(tmp_path):  # fmt: skip
        pass


@pytest.mark.parametrize("odd", ["a file as folder", "a folder as lock", "a link to nowhere"])
def test_a_lock_that_cannot_be_had_is_one_line(tmp_path, odd):
    state = tmp_path / "state"
    if odd == "a file as folder":
        state.touch()
    elif odd == "a folder as lock":
        (state / LOCK).mkdir(parents=True)
    else:
        state.mkdir()
        (state / LOCK).symlink_to(tmp_path / "not/there")
    with (
        pytest.raises(
            UserError, match=f"{state / LOCK}: cannot be locked .*a plain file"
        ) as raised,
        locked(state),
    ):
        pass
    assert "\n" not in str(raised.value)
