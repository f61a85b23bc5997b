"""Checks before the first job of a run what it needs: a GPU, a key, a place that keeps paid answers, room for rows."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from snakemake.settings.types import SharedFSUsage

from persuasion_rl.files import UserError
from persuasion_rl.runtime.keys import check_hub_token, key_for
from persuasion_rl.runtime.leases import visible_devices
from persuasion_rl.study.checks import check_publication, check_repositories
from persuasion_rl.study.names import BASE
from persuasion_rl.study.plan_checks import check_lengths
from persuasion_rl.study.recorded import naming
from persuasion_rl.study.rules import refuse_files_as_folders, written_by
from persuasion_rl.study.study import Study


def check(study: Study, workflow: Any) -> None:
    """End Snakemake with one line if some of its jobs cannot run.

    Jobs on a cluster look for a GPU and a key themselves.
    """
    jobs = list(workflow.dag.needrun_jobs())
    _refuse_files_as_folders(jobs)
    _refuse_to_publish(study, jobs)
    if not workflow.touch:
        _refuse_long_rows(study)
    if workflow.non_local_exec:
        _refuse_to_lose_answers(study, jobs, workflow.storage_settings)
    else:
        _refuse_without_gpu(study, jobs)
        _refuse_without_key(study, jobs)


def _refuse_files_as_folders(jobs: Iterable[Any]) -> None:
    """End if a file stands where a model, corpus or player needs a folder; the Snakefile checks paths without wildcards."""
    try:
        refuse_files_as_folders(path for job in jobs for path in written_by(job))
    except UserError as error:
        sys.exit(f"error: {error}")


def _refuse_long_rows(study: Study) -> None:
    """End if a model that is here has a tokenizer, chat template or length that the plan's rows do not fit."""
    try:
        check_lengths(study.config, exactly=True)
    except UserError as error:
        sys.exit(f"{study.file}: {error}")


def _refuse_to_publish(study: Study, jobs: Iterable[Any]) -> None:
    """End if some of these jobs publish what the Hub would not take. They run on the machine of Snakemake."""
    jobs = [job for job in jobs if job.rule.name in ("publish_model", "publish_dataset")]
    models = [job.wildcards.model for job in jobs if job.rule.name == "publish_model"]
    namespace = study.config.publish.namespace or ""
    if jobs:
        names = [study.publication(model)["name"] for model in models]
        try:
            if models:
                check_publication(namespace, study.models[BASE].source, names)
            check_repositories(namespace, [study.dataset_publication()["name"]])
            check_hub_token()
        except UserError as error:
            sys.exit(f"error: {error}")


def _refuse_without_gpu(study: Study, jobs: Iterable[Any]) -> None:
    """End if the study needs a GPU for some of these jobs and this machine has none."""
    if study.config.device != "cuda":
        return
    rules = sorted({job.rule.name for job in jobs if job.resources.get("gpu", 0)})
    if rules and not visible_devices():
        sys.exit(
            f"error: {', '.join(rules)}: need a GPU (device: cuda), and this machine has none; use"
            f" `snakemake --profile aws-gpu{naming(study.file)}` on a machine with one, or `--config device=cpu` here"
        )


def _asking_rules(jobs: Iterable[Any]) -> list[str]:
    """The rules among some jobs that ask the judge llm."""
    with_judges = (job for job in jobs if job.rule.params.get("asking"))
    return sorted({job.rule.name for job in with_judges if job.params.asking})


def _refuse_to_lose_answers(study: Study, jobs: Iterable[Any], storage: Any) -> None:
    """End if some of these jobs ask the judge llm on machines without the folder that keeps its answers."""
    rules = _asking_rules(jobs)
    if rules and SharedFSUsage.INPUT_OUTPUT not in storage.shared_fs_usage:
        sys.exit(
            f"error: the judge llm keeps its paid answers in {study.path('state/')}, which these jobs do not share:"
            f" {', '.join(rules)}; make what they make where snakemake runs, or take the judge delta"
        )


def _refuse_without_key(study: Study, jobs: Iterable[Any]) -> None:
    """End if some of these jobs ask the judge llm and its key is missing or malformed.

    If answers were kept, the jobs may have nothing to ask, so it is only a warning.
    """
    rules = _asking_rules(jobs)
    if not rules:
        return
    try:
        key_for(study.config.llm.provider, study.config.llm.base_url, ", ".join(rules))
    except UserError as error:
        if not os.path.exists(study.llm_answers):
            sys.exit(f"error: {error}")
        print(f"warning: {error}, unless all is answered in {study.llm_answers}", file=sys.stderr)
