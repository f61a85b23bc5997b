"""Invalid input is one line before any job, and nothing more than necessary is refused."""

import re
import shutil

import pytest

from persuasion_rl.runtime.leases import visible_devices
from running import snakemake, study_file, succeed

DEMO = ("-n", "--configfile", "config/demo.yaml")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"devise": "cpu"}, "devise: unknown key"),
        ({"seed": "one"}, "seed: 'one' must be an integer"),
        ({"data": {"human_pool_size": 900}}, "data.human_pool_size + data.final_eval_size: 1,300"),
        ({"models": {"sft": {"parent": "rlaif", "method": "sft"}}}, "a cycle"),
        ({"models": {"base": {"source": "./nowhere"}}}, "models.base.source: './nowhere' is not"),
        ({"evaluation": {"embedding_model": "~/nowhere"}}, "nowhere' is not the folder of a model"),
    ],
)
def test_a_mistake_in_the_config_is_one_line_before_any_job(empty_checkout, changes, line):
    run = snakemake(
        "-n", "--configfile", study_file(empty_checkout, **changes), root=empty_checkout
    )
    assert run.returncode != 0
    assert line in run.stdout
    assert "Traceback" not in run.stdout
    assert "Job stats" not in run.stdout


def test_the_unattended_comparison_needs_two_players(empty_checkout):
    """Without them, the comparison is an error before its trainings, and other targets run."""
    labels = {"human": {"source": "people", "min_labels": 50}}
    evaluation = {"players": ["rlhf", "human"], "comparisons": ["rlhf:human"]}
    file = study_file(empty_checkout, labels=labels, evaluation=evaluation)
    for target in ("unattended", "results/changed/unattended/report.html"):
        run = snakemake("-n", target, "--configfile", file, root=empty_checkout)
        assert run.returncode == 1 and "Traceback" not in run.stdout
        assert f"{target}: of evaluation.players only human needs no labels" in run.stdout
        assert "Job stats" not in run.stdout
    for target in ("all", "dpo", "results/changed/unattended/trust.csv"):
        succeed("-n", target, "--configfile", file, root=empty_checkout)


def test_a_path_of_another_study_names_its_config(empty_checkout):
    run = snakemake("-n", "results/demo/report.html", root=empty_checkout)
    assert run.returncode != 0
    assert "--configfile config/demo.yaml" in run.stdout


@pytest.mark.parametrize(
    "words",
    ["--report results/reports/page.zip", "--shadow-prefix results/shadow/x", "--forcerun results/demo/report.html"],
)  # fmt: skip
def test_only_targets_are_checked_for_another_study(empty_checkout, words):
    run = snakemake("-n", *words.split(), root=empty_checkout)
    assert ("is of study 'demo'" in run.stdout) == (
        "demo" in words
    ) and "'reports'" not in run.stdout


@pytest.mark.parametrize(
    "target",
    [
        "resources/models/nope/config.json",
        "resources/corpora/nope/utterances.jsonl",
        "results/demo/evaluation/similarities/base.jsonl",
        "results/demo/evaluation/readings/base.jsonl",
    ],
)
def test_no_rule_makes_files_that_the_study_does_not_have(empty_checkout, target):
    run = snakemake(target, *DEMO, root=empty_checkout)
    assert run.returncode == 1 and f"No rule to produce {target}" in run.stdout
    assert "Traceback" not in run.stdout and "InputFunctionException" not in run.stdout


def test_a_folder_may_be_named_from_here_and_snakemake_does_not_warn_of_it(empty_checkout):
    names = ("resources/models/mine/config.json", "mine/winning-args-corpus/utterances.jsonl")
    for name in names:
        (empty_checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (empty_checkout / name).write_text('{"model_type": "qwen2"}')

    def planned(base: str) -> str:
        file = study_file(
            empty_checkout,
            world=None,
            corpora_dir="./mine/",
            models={"base": {"source": base}},
            data={"cmv_corpora": ["winning-args-corpus"]},
            labels={"human": {"source": "people", "min_labels": 50}, "ai": {"judge": "delta"}},
            llm={"rubric": "./resources/rubrics/persuasiveness.md"},
            evaluation={"judges": ["delta", "length"]},
        )
        return snakemake("-n", "--configfile", file, root=empty_checkout).stdout

    # No rule makes the user's own files.
    told = planned("./resources/models/mine")
    assert (
        "base model resources/models/mine: tokenizer.json is missing" in told and "./" not in told
    )
    told = planned("standin")
    assert "mine/winning-args-corpus has no conversations.json" in told and "./" not in told
    (empty_checkout / "mine/winning-args-corpus/conversations.json").touch()
    told = planned("standin")
    # Settings are recorded as they were written.
    assert "./" not in told.replace("=./", "=") and "Job stats" in told, told[-2000:]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "publish.namespace: write the user"),
        ({"publish": {"namespace": "me"}}, "publish: an adapter on 'standin'"),
        ({"publish": {"namespace": "me-"}, "models": {"base": {"source": "a/b"}}}, "publish: the Hub takes no repository me-/changed-"),
        ({"publish": {"namespace": "me"}, "models": {"base": {"source": "a/b"}}}, "publish: no token"),
    ],
)  # fmt: skip
def test_what_cannot_be_published_is_said_before_a_model_is_trained(
    tmp_path, empty_checkout, changes, line
):
    root = tmp_path / "checkout"
    shutil.copytree(empty_checkout, root, symlinks=True)
    words = ("publish", "--configfile", study_file(root, **changes))
    run = snakemake(*words, "--cores", 1, root=root, HF_TOKEN="", HF_HOME=str(tmp_path))
    assert run.returncode == 1
    (error,) = [text for text in run.stdout.splitlines() if text.startswith("error: ")]
    assert error.startswith(f"error: {line}")
    assert not list((root / "results/changed").rglob("*.json*"))
    succeed(*words, "-n", root=root)  # a plan sends nothing


@pytest.mark.parametrize(
    "name",
    [
        "results",
        *(
            f"results/demo/{name}"
            for name in ("models", "benchmarks", "state/samples", "state/trainings", "wandb")
        ),
    ],
)
@pytest.mark.parametrize("links", [False, True])
def test_a_file_where_a_folder_belongs_is_one_line(tmp_path, empty_checkout, name, links):
    root = tmp_path / "checkout"
    shutil.copytree(empty_checkout, root, symlinks=True)
    shutil.rmtree(root / "results", ignore_errors=True)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    if links:
        (root / name).symlink_to("/not/mounted")
    else:
        (root / name).touch()
    run = snakemake(*DEMO, "--config", 'wandb={"mode": "offline"}', root=root)
    assert run.returncode == 1 and "Traceback" not in run.stdout
    kind = "a link to /not/mounted, which is no" if links else "a file, and a folder "
    assert re.match(f"(error: )?{name}: (it is )?{kind}", run.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["state", "state/human_answers.sqlite"])
def test_a_dangling_link_to_peoples_answers_is_an_error(tmp_path, empty_checkout, name):
    root = tmp_path / "checkout"
    shutil.copytree(empty_checkout, root, symlinks=True)
    (link := root / "results/demo" / name).parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("/not/mounted")
    run = snakemake(*DEMO, root=root)
    assert run.returncode == 1 and "Traceback" not in run.stdout
    error = run.stdout.splitlines()[-1]
    assert error.startswith(
        f"error: results/demo/{name}: a link to /not/mounted, which is not there"
    )


@pytest.mark.parametrize("folder", ["models", "state/trainings"])
def test_a_file_where_a_models_folder_belongs_is_said_before_the_first_job(
    tmp_path, empty_checkout, folder
):
    root = tmp_path / "checkout"
    shutil.copytree(empty_checkout, root, symlinks=True)
    (root / "results/demo" / folder).mkdir(parents=True)
    (root / "results/demo" / folder / "rlhf").touch()
    run = snakemake(*DEMO[1:], "--cores", 1, root=root)
    assert run.returncode == 1 and "Traceback" not in run.stdout
    (error,) = [text for text in run.stdout.splitlines() if text.startswith("error: ")]
    assert error.startswith(f"error: results/demo/{folder}/rlhf: it is a file")


def test_braces_in_the_path_of_a_checkout_are_one_line(tmp_path, empty_checkout):
    root = tmp_path / "a {b}"
    shutil.copytree(empty_checkout, root, symlinks=True)
    run = snakemake(*DEMO, root=root)
    assert run.returncode == 1 and "Traceback" not in run.stdout
    assert run.stdout.splitlines()[-1].endswith("rename the folder"), run.stdout[-1000:]


def test_a_missing_gpu_is_said_before_the_first_job(tmp_path, empty_checkout):
    if visible_devices():
        pytest.skip("this machine has a GPU")
    root = tmp_path / "checkout"
    shutil.copytree(empty_checkout, root, symlinks=True)
    config = ("--cores", 1, "--configfile", "config/demo.yaml", "--config", "device=cuda")
    run = snakemake("results/demo/models/sft/adapter_model.safetensors", *config, root=root)
    assert run.returncode == 1
    (error,) = [line for line in run.stdout.splitlines() if line.startswith("error: ")]
    assert (
        "train_sft: need a GPU" in error
        and "`snakemake --profile aws-gpu --configfile config/demo.yaml`" in error
    )
    assert not (root / "results").exists() or not any((root / "results").rglob("*.jsonl"))
    succeed("results/demo/config.yaml", *config, root=root)  # needs none
