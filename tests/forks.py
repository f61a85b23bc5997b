"""Programs as forks of a process that has imported Snakemake, and trl for slow tests: imports take most of their time."""

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
    """Preload trl too. Call it before the first fork."""
    FORKS.set_forkserver_preload([*SNAKEMAKE, *TRAINERS])


class Fork:
    """`python -m WORDS` in a forked process, with the interface of subprocess.Popen that the tests use."""

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
    """Run `python -m WORDS` in a folder to its end; stdout and stderr are text."""
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
    """Run `snakemake WORDS` in a checkout to its end; stderr is part of stdout."""
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
