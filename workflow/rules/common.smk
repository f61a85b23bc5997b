"""
What every rule uses: the study, the code as a param, resources that grow with each attempt, labels of Snakemake's report.
"""

import os
import sys
from pathlib import Path

# Jobs find the package here too where it is not installed (conda environments).
PACKAGE = str(Path(workflow.basedir) / "workflow")
sys.path.insert(0, PACKAGE)
os.environ |= {
    "PYTHONPATH": os.pathsep.join(filter(None, [PACKAGE, os.getenv("PYTHONPATH")])),
    "PERSUASION_RL_WORKFLOW": str(os.getpid()),  # jobs end when this process is gone
}

from persuasion_rl.files import UserError, file_digest
from persuasion_rl.study import preflight
from persuasion_rl.study.code import module_digests as code
from persuasion_rl.study.flags import (
    branch_of,
    flags,
    folder_of,
    folders_of,
    named,
    one_of,
    scope_of,
)
from persuasion_rl.study.lineage import POOLS
from persuasion_rl.study.names import HUMAN, MODEL_FILES
from persuasion_rl.study.study import Study

CONFIG_FILE = Path(
    workflow.overwrite_configfiles[-1]
    if workflow.overwrite_configfiles
    else "config/config.yaml"
)


def or_exit(read, *arguments, prefix=""):
    """What a function returns, or one line where it refuses what a person gave; a WorkflowError would trace the
    Snakefile."""
    try:
        return read(*arguments)
    except UserError as error:
        sys.exit(f"{prefix}{error}")


study = or_exit(Study.read, config, CONFIG_FILE, prefix=f"{CONFIG_FILE}: ")
or_exit(study.refuse_other_studies, sys.argv[1:], prefix=f"{CONFIG_FILE}: ")


# A param that takes `input` is not compared by Snakemake: what it holds makes nothing stale. Where files are is one, since
# the files themselves are inputs.


def place_of_base(wildcards, input):
    """The folder of the base model."""
    return folder_of(input.base)


def corpus_folders(wildcards, input):
    """The folders of the corpora, also where a remote storage was copied to."""
    return folders_of(input.corpora)


def scope_of_job(wildcards):
    """The scope of the evaluation that a job is of, by its wildcard."""
    folder = wildcards.get("branch", wildcards.get("folder", ""))
    return wildcards.get("scope", scope_of(folder))


def as_inputs(files):
    """Files by name as the inputs of a rule: name -> a file, or files by names of their own."""
    return {
        name: list(each.values()) if isinstance(each, dict) else each
        for name, each in files.items()
    }


def as_flags(input, files):
    """The same files as flags, `--name FILE` or `--name KEY=FILE ...`, where a rule's inputs are."""
    return flags(
        {
            name: named(input[name], each) if isinstance(each, dict) else input[name]
            for name, each in files.items()
        }
    )


def declared(paths):
    """An input: the files of a job's scope, as the study declares them."""
    return lambda wildcards: list(paths(scope_of_job(wildcards)).values())


def named_inputs(**paths):
    """A param: these inputs as flags `--name KEY=FILE ...`; each is a function from a scope to key -> path."""
    return lambda wildcards, input: as_flags(
        input, {name: each(scope_of_job(wildcards)) for name, each in paths.items()}
    )


def grows_with_attempt(amount):
    """A resource of which a retry gets more, as what ended the job may have been its limit: MB, or a time ("2h")."""
    if isinstance(amount, int):
        return lambda wildcards, attempt: attempt * amount
    return lambda wildcards, attempt: f"{attempt * int(amount[:-1])}{amount[-1]}"


def digest_of(path):
    """A digest of a file that need not exist, for a param."""
    return file_digest(path) if os.path.isfile(path) else "none"


def templates(*names):
    """The digests of the templates of a page."""
    folder = Path(PACKAGE) / "persuasion_rl/report/templates"
    return [digest_of(str(folder / f"{name}.j2")) for name in names]


def reported(path, category):
    """A file that Snakemake's own report shows too, with the caption of its name."""
    name = Path(path).stem
    return report(
        path,
        category=category,
        caption=f"../report/{name}.rst",
        labels={"what": name.replace("_", " ")},
    )


def reported_figures(folder):
    """A folder of figures that Snakemake's own report shows too."""
    return report(
        directory(folder),
        category="Figures",
        caption="../report/figures.rst",
        patterns=["{figure}.svg"],
        labels={"what": "{figure}"},
    )
