"""Why a file would be made again, in words. The same for a full study is in test_study_changes.py."""

import base64
import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from persuasion_rl.files import UserError
from persuasion_rl.tools.why import LARGEST_CHECKED, differences, explain
from running import ROOT, copy_project, succeed

CODE = "['command:1d66', 'sft:29c8', 'training:948a']"
CORPUS = "results/tiny/corpora/synthetic-changemyview/utterances.jsonl"
CONFIG = "tests/tiny.yaml"
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


def test_of_settings_in_pairs_those_that_changed_are_told():
    before, now = (f"'--settings data.max_tokens={n} seed=1 --output a'" for n in (256, 512))
    assert differences({before}, {now}) == ["settings data.max_tokens: 256 -> 512"]


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
    run = command_line("tools.cli", "why", "results/cmv/nothing.csv")
    assert run.returncode == 1 and run.stderr.count("\n") == 1 and run.stdout == ""
    assert run.stderr.startswith("error: results/cmv/nothing.csv: Snakemake cannot plan it: ")


def test_away_from_the_checkout_a_line_says_where_to_run_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="results/x: run this in the checkout"):
        explain("results/x", None)


def test_what_was_never_made_is_said_to_be_missing(command_line):
    run = command_line("tools.cli", "why", "results/cmv/splits/sides.csv")
    assert run.returncode == 0, run.stderr
    assert "not there: " in run.stdout and "results/cmv/splits/sides.csv" in run.stdout
    assert "none of them has run yet" in run.stdout


@pytest.fixture(scope="module")
def shared_checkout(tmp_path_factory):
    """A checkout with a finished corpus. Read only."""
    root = copy_project(tmp_path_factory.mktemp("made") / "checkout")
    succeed(CORPUS, "--cores", 1, "--configfile", CONFIG, root=root)
    return root


@pytest.fixture
def checkout(shared_checkout, tmp_path):
    """A copy of the checkout, which a test may change."""
    subprocess.run(["cp", "-a", shared_checkout, tmp_path / "checkout"], check=True)
    return tmp_path / "checkout"


def why(root):
    """The lines of `persuasion-rl why` for the corpus."""
    run = subprocess.run(
        [sys.executable, "-m", "persuasion_rl.tools.cli", "why", CORPUS, "--configfile", CONFIG],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "workflow")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_an_up_to_date_file_needs_nothing(shared_checkout):
    assert why(shared_checkout) == [
        f"{CORPUS}: nothing to do, it is what its settings, code and inputs make"
    ]


def test_a_file_whose_run_was_cut_off_is_said_to_be(checkout):
    # As Snakemake marks a file while its job runs.
    mark = base64.b64encode(CORPUS.encode()).decode()
    marks = checkout / ".snakemake/incomplete"
    marks.mkdir(exist_ok=True)
    (marks / mark).touch()
    job, reason, _ = why(checkout)
    assert job == "synthesize_corpus (synthetic-changemyview) would run:"
    assert reason.startswith("  a run was cut off before it ended: ") and CORPUS in reason


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        (
            "python -m persuasion_rl.data.synthetic.synthesize",
            "python -X utf8 -m persuasion_rl.data.synthetic.synthesize",
            "the command of the rule synthesize_corpus changed",
        ),
        (
            "rule synthesize_corpus:",
            'rule synthesize_corpus:\n    input:\n        "Snakefile",',
            "it reads other files than the last time",
        ),
    ],
    ids=["command", "inputs"],
)
def test_what_changed_in_a_rule_is_told(checkout, old, new, cause):
    rules = checkout / "workflow/rules/data.smk"
    assert old in rules.read_text()
    rules.write_text(rules.read_text().replace(old, new))
    lines = why(checkout)
    assert lines[:-1] == ["synthesize_corpus (synthetic-changemyview) would run:", f"  {cause}"]


def test_what_was_made_in_an_environment_of_conda_is_said_to_be(checkout):
    """conda is not needed: the record is changed to that of a run with it."""
    for record in (checkout / ".snakemake/metadata").iterdir():
        metadata = json.loads(record.read_text())
        record.write_text(json.dumps(metadata | {"software_stack_hash": "that of an environment"}))
    job, reason, _ = why(checkout)
    assert job == "synthesize_corpus (synthetic-changemyview) would run:"
    assert reason.startswith("  it was made with --sdm conda; ")


def test_what_snakemake_knows_nothing_of_is_not_called_up_to_date(checkout):
    """If files were copied without .snakemake/, nothing would run, whatever changed."""
    shutil.rmtree(checkout / ".snakemake")
    reason, last = why(checkout)
    assert (
        reason.startswith("Snakemake has no record of how these were made, ") and CORPUS in reason
    )
    assert last == "nothing would run"


def test_it_compares_the_content_of_the_files_whose_content_snakemake_compares():
    profile = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    assert profile["max-checksum-file-size"] == LARGEST_CHECKED
