"""Dry runs of Snakemake in forks of one process that has imported it, which is most of what a short one takes."""

import contextlib
import multiprocessing
import os
import sys
import tempfile
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from pathlib import Path
from subprocess import CompletedProcess

FORKS = multiprocessing.get_context("forkserver")
IMPORTED = ["snakemake.cli", "snakemake.dag", "snakemake.scheduling.job_scheduler", "pydantic"]


def dry_run(words: list[str], root: Path, environment: dict[str, str]) -> CompletedProcess:
    """What `snakemake WORDS` in a checkout ends with; standard error is part of the output."""
    FORKS.set_forkserver_preload(IMPORTED)
    with contextlib.chdir("/"):  # no checkout: the plugin of the logger is imported in each fork
        forkserver.ensure_running()
    with tempfile.TemporaryFile("w+") as output:
        arguments = (words, root, environment, DupFd(output.fileno()))
        child = FORKS.Process(target=_snakemake, args=arguments)
        child.start()
        child.join()
        output.seek(0)
        return CompletedProcess(words, child.exitcode, output.read())


def _snakemake(words: list[str], root: Path, environment: dict[str, str], output) -> None:
    os.chdir(root)
    os.environ.clear()
    os.environ.update(environment)
    descriptor = output.detach()
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.argv = ["snakemake", *words]
    from snakemake.cli import main

    main()
