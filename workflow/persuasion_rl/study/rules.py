"""What rules need besides settings and files: scopes and wildcards, targets, resources, how a training starts."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.runtime.machine import memory


def branch_of(scope: str) -> str:
    """The folder of a scope's own pages and tables among the study's: "" or "unattended/"."""
    return "" if scope == "evaluation" else f"{scope}/"


def scope_of(folder: str) -> str:
    """The scope of what lies in a folder of the study: that of "unattended/" is unattended, else it is all."""
    return "unattended" if folder.startswith("unattended") else "evaluation"


def one_of(names: Iterable[str]) -> str:
    """A wildcard constraint: just these names. It matches nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def asked_for(words: list[str]) -> list[str]:
    """The files and rules that a command line asks Snakemake for; of another program all words.

    Snakemake knows its targets only after the Snakefile.
    """
    from snakemake.cli import get_argument_parser

    program, *rest = words
    if "snakemake" not in Path(program).parts[-2:]:
        return rest
    arguments, _ = get_argument_parser().parse_known_args(rest)
    return [*arguments.targets, *arguments.forcerun, *arguments.until]


def written_by(job: Any) -> list[str]:
    """Where a rule or a job of Snakemake writes: outputs, logs, its benchmark, and the folder of what outlives it."""
    state = job.params.get("state")
    paths = [*job.output, *job.log, *filter(None, [job.benchmark])]
    return [*map(str, paths), *([f"{state}/"] if state else [])]


def refuse_files_as_folders(paths: Iterable[str]) -> None:
    """UserError where a file, or a link that leads nowhere, stands where some of these paths have a folder.

    Args:
        paths: what rules make, folders with a / at their end; of those with wildcards only what comes before the first
            one is looked at.
    """
    folders = {
        folder for path in paths for folder in Path(f"{str(path).partition('{')[0]}x").parents
    }
    for folder in sorted(folders):
        if os.path.lexists(folder) and not folder.is_dir():
            what = "a file, and a folder belongs there; move it away"
            if folder.is_symlink():
                what = f"a link to {os.readlink(folder)}, which is no folder; mount or make that, or move the link away"
            raise UserError(f"{folder}: it is {what}")


def grows_with_attempt(amount: int | str) -> Callable[..., int | str]:
    """A resource of which a retry gets more, since what ended the job may have been its limit.

    Args:
        amount: MB of memory, or a time as "2h".
    """
    if isinstance(amount, int):
        return lambda wildcards, attempt: attempt * amount
    return lambda wildcards, attempt: f"{attempt * int(amount[:-1])}{amount[-1]}"


MEMORY_SHARE = 0.8
"""The share of this machine's memory that running jobs may ask for together."""


def limit_memory(workflow: Any) -> None:
    """Tell Snakemake how much memory this machine has, so that jobs that do not fit side by side run one after the other.

    A limit of the user's (`--resources mem_mb=...`, a profile's) stays, and a cluster has its own. A job that asks for more
    than there is runs alone.
    """
    given = {"mem_mb", "mem_mib", "mem"} & {*workflow.global_resources}
    if workflow.local_exec and not given:
        workflow.global_resources["mem_mb"] = int(MEMORY_SHARE * memory() / 1e6)


def judging_time(judge: str | None, runtime: str, attempt: int) -> str:
    """How long judging may take: a batch of the judge llm a day, and asking it as long as limits demand.

    That is the most that profiles/slurm/partitions.yaml has; other times grow with the attempt.
    """
    return "48h" if judge == "llm" else str(grows_with_attempt(runtime)(None, attempt))


def launcher(gpus: int) -> str:
    """How a training starts: one process a GPU. torch's own launcher reads no configuration of the user's."""
    if gpus < 2:
        return "python -m"
    return (
        f"python -m persuasion_rl.runtime.leases {gpus}"
        f" python -m torch.distributed.run --standalone --nproc-per-node {gpus} -m"
    )
