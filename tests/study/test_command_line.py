"""--configfile and --config on Snakemake's command line."""

from pathlib import Path

import pytest

from running import copy_project, snakemake


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    return copy_project(tmp_path_factory.mktemp("checkout"))


def test_two_files_are_no_study_and_a_dotted_key_no_config(checkout):
    for arguments, message in (
        (("--configfile", "config/config.yaml", "config/demo.yaml"), "--configfile: a study is one file, not "),
        (("--config", "sampling.temperature=1"), "--config sampling.temperature: only whole keys"),
        (("--config", "seed=1", "--config", "device=cpu"), "--config: given twice, and only the last would be read; write --config seed=1 device=cpu"),
        (("-nC", "seed=1", "--config=device=cpu"), "--config: given twice"),
        (("--configfiles=config/demo.yaml", "--configfile", "config/config.yaml"), "--configfile: given twice"),
        (("--workflow-profile", "none", "-C", "seed=1", "-C", "seed=1"), "--config: given twice"),
        (("--config", "seed=2", "device=cpu", "seed=3"), "--config seed: given twice, and only the last would be read"),
        (("--config", "study=007"), "config/config.yaml: study: 7 must be a string (--config reads it as none: write it, in quotes, into a file"),
        (("--config", "study=true"), "config/config.yaml: study: True must be a string (--config reads it as none"),
        (("--config", "seed=null"), "config/config.yaml: seed: None must be an integer"),
        (("--config", "=1"), "--config: Invalid config definition"),
    ):  # fmt: skip
        run = snakemake("-n", *arguments, root=checkout, PYTHONPATH=str(checkout / "workflow"))
        assert run.returncode == 1 and "Traceback" not in run.stdout
        assert run.stdout.splitlines()[-1].startswith(message), run.stdout[-500:]


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "false"])
def test_words_of_a_command_line_are_what_yaml_reads_in_a_file(checkout, word):
    words = ("-np", "results/demo/evaluation/losses/base.json", "--configfile", "config/demo.yaml")
    run = snakemake(
        *(*words, "--config", f"trust_remote_code={word}", "corpora_dir=null"),
        root=checkout,
        PYTHONPATH=str(checkout / "workflow"),
    )
    assert f"--trust_remote_code {word.lower()}" in run.stdout, run.stdout[-500:]


def test_null_of_a_command_line_takes_a_key_of_the_file_back(checkout):
    words = ("-n", "--configfile", "config/demo.yaml", "--config", "world=null")
    run = snakemake(*words, root=checkout, PYTHONPATH=str(checkout / "workflow"))
    assert "labels.ai.judge: truth is known only in a synthetic world" in run.stdout or (
        "evaluation.judges: truth is known only in a synthetic world" in run.stdout
    ), run.stdout[-500:]
