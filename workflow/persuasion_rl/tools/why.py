"""Explains why a file would be made again: which setting, module or input changed, what follows, and what it would cost.

Snakemake plans the file as for `snakemake -n`, and its records of the last run are compared with the current state.
"""

import ast
import contextlib
import io
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.report.costs import cost_of
from persuasion_rl.study.parsing import read_config_file
from persuasion_rl.study.recorded import IN_CHECKOUT

LARGEST_CHECKED = 10_000_000_000
"""Inputs up to this many bytes are compared by content, as in profiles/default."""


def explain(target: str, configfile: Path | None) -> str:
    """The jobs that would run for a file or target, and why, as text.

    Raises:
        UserError: the current folder is no checkout, Snakemake cannot plan the target (with its last message), or the
            configuration is no YAML file.
    """
    if not Path("Snakefile").is_file():
        raise UserError(f"{target}: {IN_CHECKOUT}")
    if configfile is not None:
        read_config_file(configfile)
    jobs, unrecorded = _planned(target, configfile)
    if not jobs and not unrecorded:
        return f"{target}: nothing to do, it is what its settings, code and inputs make\n"
    lines, missing, derived = [], [], []
    for job, reason in jobs:
        causes = list(_causes(job, reason))
        if causes:
            lines += [f"{_name(job)} would run:", *(f"  {cause}" for cause in causes)]
        elif reason.missing_output:
            missing.append(job)
        else:
            derived.append(_name(job))
    if missing:
        lines.append(f"not there: {', '.join(str(path) for job in missing for path in job.output)}")
    if derived:
        lines.append(f"made again, because what they read is: {', '.join(derived)}")
    if unrecorded:
        lines.append(
            "Snakemake has no record of how these were made, so that changed settings and code do not show: "
            + ", ".join(unrecorded)
        )
    lines.append(_cost(job for job, _ in jobs) if jobs else "nothing would run")
    return "\n".join(lines) + "\n"


def _planned(target: str, configfile: Path | None) -> tuple[list[tuple[Any, Any]], list[str]]:
    """Jobs that would run and their reasons, in the order of the DAG; and files of other jobs without Snakemake's record."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import (
        ConfigSettings,
        DAGSettings,
        OutputSettings,
        ResourceSettings,
    )

    messages = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(messages),
            contextlib.redirect_stderr(messages),
            SnakemakeApi(OutputSettings(dryrun=True)) as api,
        ):
            planned = api.workflow(
                resource_settings=ResourceSettings(cores=1),
                config_settings=ConfigSettings(configfiles=[configfile] if configfile else []),
                snakefile=Path("Snakefile"),
            )
            settings = DAGSettings(
                targets={target}, max_checksum_file_size=LARGEST_CHECKED, force_incomplete=True
            )
            # Neither a dry run, which ticks its jobs off, nor a drawing of the DAG keeps the reasons.
            workflow = planned.dag(settings).workflow_api._workflow
            workflow._prepare_dag(forceall=False, ignore_incomplete=False, lock_warn_only=True)
            workflow._build_dag()
            dag = workflow.dag
            jobs = [job for level in dag.toposorted() for job in level if job.output]
            unrecorded = [
                str(path)
                for job in jobs
                if not dag.needrun(job) and dag.reason(job).no_metadata
                for path in job.output
                if Path(path).exists()
            ]
            return [(job, dag.reason(job)) for job in jobs if dag.needrun(job)], unrecorded
    except (Exception, SystemExit) as error:
        last = [line for line in f"{messages.getvalue()}\n{error}".splitlines() if line.strip()]
        raise UserError(
            f"{target}: Snakemake cannot plan it: {last[-1] if last else error}"
        ) from None


def _causes(job: Any, reason: Any) -> Iterable[str]:
    """Why a job would run again, other than because another one runs."""
    if reason.forced:
        yield f"a run was cut off before it ended: {', '.join(sorted(map(str, job.output)))}"
    if reason.updated_input:
        yield f"changed: {', '.join(sorted(map(str, reason.updated_input)))}"
    if reason.input_changed:
        yield "it reads other files than the last time"
    if reason.params_changed:
        yield from differences(reason.params_changed.only_old, reason.params_changed.only_new)
    if reason.code_changed:
        yield f"the command of the rule {job.rule.name} changed"
    if reason.software_stack_changed:
        # Environments are compared only in runs that use them, and this one does not.
        yield "it was made with --sdm conda; a dry run with --sdm conda tells whether its file in envs/ changed"


def differences(before: set[str], now: set[str]) -> list[str]:
    """The differences between the recorded and the current params of a job, in words.

    Args:
        before, now: params that only one of the two has, as Snakemake records them: a list of "module:digest", or flags.
    """
    old, new = [[ast.literal_eval(param) for param in sorted(params)] for params in (before, now)]
    modules = [_modules(params) for params in (old, new)]
    lines = [
        f"code of {name} {_change(name in modules[0], name in modules[1])}"
        for name in sorted(modules[0].keys() | modules[1].keys())
        if modules[0].get(name) != modules[1].get(name)
    ]
    flags = [_flags(params) for params in (old, new)]
    for name in sorted(flags[0].keys() | flags[1].keys()):
        one, other = (values.get(name) for values in flags)
        if one != other:
            lines.append(f"{name}: {_shown(one)} -> {_shown(other)}")
    return lines or ["an unnamed setting changed"]


def _modules(params: list[Any]) -> dict[str, str]:
    """Module -> digest, from params that are lists of "module:digest"."""
    lists = [param for param in params if isinstance(param, list)]
    return dict(entry.split(":", 1) for param in lists for entry in param if ":" in str(entry))


def _flags(params: list[Any]) -> dict[str, str]:
    """Flag -> its values, from params that are flags; any other text is under "setting".

    Each key of a flag with `KEY=VALUE` pairs is a separate entry.
    """
    settings: dict[str, str] = {}
    for param in params:
        if isinstance(param, list):
            continue
        flag = "setting"
        for word in shlex.split(str(param)) if isinstance(param, str) else [str(param)]:
            if word.startswith("--"):
                flag = word[2:]
                settings.setdefault(flag, "")
                continue
            key, equals, value = word.partition("=")
            pair = equals and flag != "setting"
            name, value = (f"{flag} {key}", value) if pair else (flag, word)
            settings[name] = f"{settings.get(name, '')} {value}".strip()
    return settings


def _change(before: bool, now: bool) -> str:
    return "changed" if before and now else "is new in it" if now else "is used no more"


def _shown(value: str | None) -> str:
    return "(none)" if value is None else value or "(empty)"


def _name(job: Any) -> str:
    wildcards = ", ".join(str(value) for value in job.wildcards)
    return f"{job.rule.name}{f' ({wildcards})' if wildcards else ''}"


def _cost(jobs: Iterable[Any]) -> str:
    """The time of the last runs of jobs, as far as it is known, in words."""
    jobs = list(jobs)
    seconds_of_jobs = []
    for job in jobs:
        # A missing or broken file gives no time.
        with contextlib.suppress(UserError):
            seconds_of_jobs += [cost_of(Path(job.benchmark)).seconds] if job.benchmark else []
    seconds = sum(seconds_of_jobs)
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    if len(jobs) == 1:
        return (
            f"1 job; it took {time} when it last ran"
            if seconds_of_jobs
            else "1 job; it has not run yet"
        )
    if not seconds_of_jobs:
        return f"{len(jobs)} jobs; none of them has run yet"
    return f"{len(jobs)} jobs; {len(seconds_of_jobs)} of them took {time} when they last ran, one after the other"
