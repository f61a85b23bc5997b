"""Why a file would be made again: what differs, told in words. What a whole study says of itself is in test_study.py."""

import base64
import os
import subprocess
import sys

import yaml

from persuasion_rl.why import LARGEST_CHECKED, differences
from running import ROOT, copy_project, succeed

CODE = "['command:1d66', 'sft:29c8', 'training:948a']"
FLAGS = "'--learning_rate 0.001 --lora_target_modules q_proj k_proj --bf16'"


def test_the_module_whose_code_changed_is_named():
    now = "['command:1d66', 'leases:77aa', 'sft:ffff']"
    assert differences({CODE}, {now}) == [
        "code of leases is new in it",
        "code of sft changed",
        "code of training is used no more",
    ]


def test_the_setting_that_changed_is_told_with_both_values():
    now = "'--learning_rate 0.002 --lora_target_modules q_proj --seed 2'"
    assert differences({FLAGS}, {now}) == [
        "bf16: (empty) -> (none)",
        "learning_rate: 0.001 -> 0.002",
        "lora_target_modules: q_proj k_proj -> q_proj",
        "seed: (none) -> 2",
    ]


def test_code_and_settings_are_told_apart():
    assert differences({CODE, FLAGS}, {CODE.replace("29c8", "0"), FLAGS.replace("0.001", "1")}) == [
        "code of sft changed",
        "learning_rate: 0.001 -> 1",
    ]


def test_params_that_are_no_flags_are_told_too():
    assert differences({"'abc'"}, {"'def'"}) == ["setting: abc -> def"]
    assert differences({"None"}, {"'12ab'"}) == ["setting: None -> 12ab"]
    assert differences(set(), {"3"}) == ["setting: (none) -> 3"]


def test_a_file_that_nothing_makes_is_one_line(command_line):
    run = command_line("cli", "why", "results/cmv/nothing.csv")
    assert run.returncode == 1 and run.stderr.count("\n") == 1 and run.stdout == ""
    assert run.stderr.startswith("error: results/cmv/nothing.csv: Snakemake cannot plan it: ")


def test_what_was_never_made_is_said_to_be_missing(command_line):
    run = command_line("cli", "why", "results/cmv/splits/sides.csv")
    assert run.returncode == 0, run.stderr
    assert "not there: " in run.stdout and "results/cmv/splits/sides.csv" in run.stdout
    assert "none of them has run yet" in run.stdout


def test_a_file_whose_run_was_cut_off_is_said_to_be(tmp_path):
    checkout = copy_project(tmp_path / "checkout")
    corpus = "results/tiny/corpora/synthetic-changemyview/utterances.jsonl"
    succeed(corpus, "--cores", 1, "--configfile", "tests/tiny.yaml", root=checkout)
    # As Snakemake marks a file while its job runs.
    mark = base64.b64encode(corpus.encode()).decode()
    marks = checkout / ".snakemake/incomplete"
    marks.mkdir(exist_ok=True)
    (marks / mark).touch()

    run = subprocess.run(
        [sys.executable, "-m", "persuasion_rl.cli", "why", corpus]
        + ["--configfile", "tests/tiny.yaml"],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout / "workflow")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "synthesize_corpus (synthetic-changemyview) would run:" in run.stdout
    told = next(line for line in run.stdout.splitlines() if "was cut off before it ended" in line)
    assert corpus in told


def test_it_compares_the_content_of_the_files_whose_content_snakemake_compares():
    profile = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    assert profile["max-checksum-file-size"] == LARGEST_CHECKED
