"""
What all rules share: the study, the code as a param, resources that grow with each attempt, labels of the report.
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

from persuasion_rl.annotation.battles import votes_digest
from persuasion_rl.files import UserError
from persuasion_rl.study import preflight
from persuasion_rl.study.code import module_digests as code
from persuasion_rl.study.flags import as_flags, as_inputs, flags, folder_of, folders_of
from persuasion_rl.study.loading import the_one_file
from persuasion_rl.study.memory import JobMemory
from persuasion_rl.study.names import MODEL_FILES, ORIGIN, own_file
from persuasion_rl.study.rules import (
    asked_for,
    grows_with_attempt,
    judging_time,
    launcher,
    limit_memory,
    one_of,
    refuse_files_as_folders,
    scope_of,
    written_by,
)
from persuasion_rl.study.study import Study


def or_exit(read, *arguments, prefix=""):
    """What a function returns, or one line where it refuses; a WorkflowError would trace the Snakefile."""
    try:
        return read(*arguments)
    except UserError as error:
        sys.exit(f"{prefix}{error}")


if "{" in os.getcwd() or "}" in os.getcwd():
    sys.exit(
        f"{os.getcwd()}: Snakemake takes braces in the path of a checkout for wildcards; rename the folder"
    )

CONFIG_FILE = or_exit(
    the_one_file, workflow.overwrite_configfiles or ["config/config.yaml"]
)
study = or_exit(Study.read, config, CONFIG_FILE, prefix=f"{CONFIG_FILE}: ")
memory = JobMemory(study, workflow.local_exec)
ASKED_FOR = asked_for(sys.argv)
for refuse in (study.refuse_other_studies, study.refuse_unattended_without_players):
    or_exit(refuse, ASKED_FOR, prefix=f"{CONFIG_FILE}: ")


wildcard_constraints:
    scope="evaluation|unattended",
    judge=one_of(study.judges),


# What several stages name.
MARKERS = [
    local(own_file(f"resources/markers/{name}.txt"))
    for name in ("boosters", "disrespect", "experience", "figures", "hedges", "sources")
]
BOOTSTRAP = study.flags("seed", draws="evaluation.bootstrap")
SAMPLING_ENVIRONMENT = f"../../envs/{'vllm' if study.config.sampling.engine == 'vllm' else 'persuasion-rl'}.yaml"

# Snakemake does not compare a param that takes `input`: what it holds makes nothing stale. Paths are such params, since a
# storage copies inputs to other folders, and the inputs themselves are compared.


def uncompared(setting):
    """A param that makes nothing stale; `setting` is a function of the wildcards."""
    return lambda wildcards, input: setting(wildcards)


def place_of_base(wildcards, input):
    """The folder of the base model."""
    return folder_of(input.base)


def corpus_folders(wildcards, input):
    """The folders of the corpora. Their order is another param, `order`, which is compared: inputs are compared sorted."""
    return folders_of(input.corpora)


def judge_inputs(*judges):
    """What some judges read. A rubric is a file of the checkout, wherever the study's files are."""
    files = study.judge_files(*judges)
    if "rubric" in files:
        files["rubric"] = local(files["rubric"])
    return files


def judge_place(wildcards, input):
    """Where the files of judges are; not compared, since they are inputs."""
    files = {
        name: input.get(name) for name in ("delta_adapter", "delta_pairs", "sides")
    }
    base = input.get("judge_base")
    return flags(files | {"base": folder_of(base) if base else None})


def scope_of_job(wildcards):
    """The scope of the evaluation that a job is of, by its wildcard."""
    folder = wildcards.get("branch", wildcards.get("folder", ""))
    return wildcards.get("scope", scope_of(folder))


def declared(paths):
    """An input: the files of a job's scope, as the study declares them."""
    return lambda wildcards: list(paths(scope_of_job(wildcards)).values())


def named_inputs(**paths):
    """A param: these inputs as flags `--name KEY=FILE ...`; each is a function from a scope to key -> path."""
    return lambda wildcards, input: as_flags(
        input, {name: each(scope_of_job(wildcards)) for name, each in paths.items()}
    )


def reported(path, category):
    """A file that Snakemake's own report shows too, with the caption of its name."""
    name = Path(path.rpartition("}")[2]).stem  # a wildcard may have "/" in it
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


# People's answers outlive every clean-up and are no input: a digest of what is read of them is what makes a file stale.
HUMAN_ANSWERS = study.path("state/human_answers.sqlite")


def digest_of_store(digest):
    """A digest of people's answers or votes, or one line that says what is wrong with their store. It is only read."""
    return or_exit(digest, Path(HUMAN_ANSWERS), prefix="error: ")


ARENA_VOTES = digest_of_store(votes_digest)
