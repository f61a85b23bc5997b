"""Programs in forks of one process that has imported what most of their time goes into: Snakemake, and for slow tests trl."""

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO

FORKS = multiprocessing.get_context("forkserver")
SNAKEMAKE = ["snakemake.cli", "snakemake.dag", "snakemake.scheduling.job_scheduler", "pydantic"]
TRAINERS = ["trl.trainer.sft_trainer", "trl.trainer.dpo_trainer"]
FORKS.set_forkserver_preload(SNAKEMAKE)


def import_trainers_too() -> None:
    """Before the first fork, where many of them train."""
    FORKS.set_forkserver_preload([*SNAKEMAKE, *TRAINERS])


class Fork:
    """`python -m WORDS` in a process of its own, with what the tests use of subprocess.Popen."""

    def __init__(
        self, words: list[str], environment: dict[str, str], stdout: IO, stderr: IO, root: Path
    ):
        with contextlib.chdir(
            "/"
        ):  # no checkout: the plugin of the logger is imported in each fork
            forkserver.ensure_running()
        files = [DupFd(file.fileno()) for file in (stdout, stderr)]
        self._process = FORKS.Process(target=_run, args=(words, root, environment, *files))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_fork(
    words: list[str], environment: dict[str, str], root: Path, timeout: float | None = None
) -> subprocess.CompletedProcess:
    """What `python -m WORDS` in a folder ends with, its output and its errors as text."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        fork = Fork(words, environment, stdout, stderr, root)
        try:
            fork.wait(timeout)
        finally:
            if fork.poll() is None:
                fork.kill()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(words, fork.returncode, stdout.read(), stderr.read())


def dry_run(
    words: list[str], root: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess:
    """What `snakemake WORDS` in a checkout ends with; standard error is part of the output."""
    with tempfile.TemporaryFile("w+") as output:
        fork = Fork(["snakemake", *words], environment, output, output, root)
        fork.wait()
        output.seek(0)
        return subprocess.CompletedProcess(words, fork.returncode, output.read())


def _run(words: list[str], root: Path, environment: dict[str, str], stdout, stderr) -> None:
    os.chdir(root)
    os.environ.clear()
    os.environ.update(environment)
    for stream, file in ((1, stdout), (2, stderr)):
        os.dup2(file.detach(), stream)
    sys.argv = list(words)
    if words[0] == "snakemake":
        from snakemake.cli import main

        main()
    else:
        sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
