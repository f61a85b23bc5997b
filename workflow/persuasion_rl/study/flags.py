"""Settings and files as the words of a command line, and small helpers of rules."""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError


def flags(settings: Mapping[str, Any]) -> str:
    """Settings as one canonical string of `--name value` flags, sorted; None and empty lists are left out.

    Snakemake compares a param as a string, so that a changed setting, and only that, makes a file stale.
    """
    words = []
    for name, value in sorted(settings.items()):
        if value is None or value == [] or value == {}:
            continue
        if isinstance(value, Mapping):
            value = [f"{key}={_word(inner)}" for key, inner in value.items()]
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(shlex.quote(_word(each)) for each in values)]
    return " ".join(words)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def named(files: Iterable[str], declared: Mapping[str, str]) -> list[str]:
    """Arguments `name=file` for a rule's inputs, each found by the path that the study declares for its name.

    A remote storage gives an input another folder, so that files are told by how their paths end.
    """
    files = list(map(str, files))
    arguments = []
    for name, path in declared.items():
        (file,) = [file for file in files if file == path or file.endswith(f"/{path}")]
        arguments.append(f"{name}={file}")
    return arguments


def folders_of(files: Iterable[str]) -> list[str]:
    """The folders of some files, each once, in their order."""
    return list(dict.fromkeys(os.path.dirname(file) for file in files))


def folder_of(files: Iterable[str]) -> str:
    """The one folder that some files are in."""
    (folder,) = folders_of(files)
    return folder


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
    """What a command line asks for: of Snakemake's own the files and rules, of another program's all words.

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


def as_inputs(files: Mapping[str, Any]) -> dict[str, Any]:
    """Files by name as the inputs of a rule.

    Args:
        files: name -> a file, a list of files, or files by names of their own.
    """
    return {
        name: list(each.values()) if isinstance(each, Mapping) else each
        for name, each in files.items()
    }


def as_flags(input: Any, files: Mapping[str, Any]) -> str:
    """Files by name as flags, `--name FILE` or `--name KEY=FILE ...`, at the places of a rule's inputs.

    Args:
        input: the inputs of a job, by name. files: as for `as_inputs`.
    """
    return flags(
        {
            name: named(input[name], each) if isinstance(each, Mapping) else input[name]
            for name, each in files.items()
        }
    )


def grows_with_attempt(amount: int | str) -> Callable[..., int | str]:
    """A resource of which a retry gets more, since what ended the job may have been its limit.

    Args:
        amount: MB of memory, or a time as "2h".
    """
    if isinstance(amount, int):
        return lambda wildcards, attempt: attempt * amount
    return lambda wildcards, attempt: f"{attempt * int(amount[:-1])}{amount[-1]}"


def judging_time(judge: str | None, runtime: str, attempt: int) -> str:
    """How long judging may take: a batch of the judge llm a day, and asking it as long as limits demand.

    That is the most that profiles/slurm/partitions.yaml has; other times grow with the attempt.
    """
    return "48h" if judge == "llm" else str(grows_with_attempt(runtime)(None, attempt))


def launcher(gpus: int) -> str:
    """How a training starts: one process a GPU."""
    if gpus < 2:
        return "python -m"
    return (
        f"python -m persuasion_rl.runtime.leases {gpus}"
        f" accelerate launch --multi_gpu --num_processes {gpus} --num_machines 1"
        " --mixed_precision no --dynamo_backend no --main_process_port 0 --module"
    )
