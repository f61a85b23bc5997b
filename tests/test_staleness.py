"""What a change would make again, and what not, to the rule and the number of its jobs.

Snakemake compares what it recorded of each file with what is so now, whatever is in the file: the study here has its
files, and Snakemake's record of them, without a training (`--touch`). That a study that ran is whole is in test_study.py.
"""

import os
import re
import subprocess
from pathlib import Path
from random import Random

import pytest
import yaml

from running import copy_project, planned, succeed

CONFIG = "tests/small.yaml"
STUDY = "results/small"
LARGE = ("utterances.jsonl", "model.safetensors")
"""Files that are larger than those whose content Snakemake compares when nothing is set."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkout with a study of which nothing is to be done."""
    root = copy_project(tmp_path_factory.mktemp("made") / "checkout")
    summary = succeed("all", "--summary", "--configfile", CONFIG, root=root)
    for file in re.findall(rf"^{STUDY}/\S+", summary, flags=re.M):
        path = root / file
        if file.endswith("figures"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{file}\n")
            if path.name in LARGE:
                os.truncate(path, 2_000_000)
    succeed("all", "--touch", "--forceall", "--cores", 1, "--configfile", CONFIG, root=root)
    # Gathered, and gone: that a setting of theirs is seen all the same is in the table, "setting of sampling".
    assert not (root / STUDY / "preferences/shards").exists()
    return root


@pytest.fixture
def checkout(made, tmp_path):
    """A copy, to change things in."""
    subprocess.run(["cp", "-a", made, tmp_path / "checkout"], check=True)
    return tmp_path / "checkout"


def stale(root, *words, config=CONFIG):
    output = succeed("all", "-n", "--configfile", config, *words, root=root)
    return planned(output) if "Job stats:" in output else {}


def replaced(name: str, old: str, new: str):
    """A change of a file of the package, or of a page."""

    def change(root: Path) -> None:
        path = root / "workflow/persuasion_rl" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def added(name: str):
    """A change of the content of a file of the study."""

    def change(root: Path) -> None:
        with (root / STUDY / name).open("a") as file:
            file.write("{}\n")

    return change


def settings(**changed):
    """A change of the study's settings."""

    def change(root: Path) -> None:
        (root / CONFIG).with_name("former.yaml").write_text((root / CONFIG).read_text())
        (root / CONFIG).write_text(yaml.safe_dump({"extends": "former.yaml"} | changed))

    return change


def touched(name: str):
    return lambda root: (root / STUDY / name).touch()


def checked_out_anew(root: Path) -> None:
    """Every file, sources too, gets a time of its own, in no order."""
    random = Random(1)
    for path in sorted(root.rglob("*")):
        if ".snakemake" not in path.parts and not path.is_symlink():
            when = 1_700_000_000 + random.randrange(10_000_000)
            os.utime(path, (when, when))


def unchanged(root: Path) -> None:
    pass


MODEL = {"parent": "sft", "method": "dpo", "pool": "human", "recipe": {"beta": 0.3}}
PLAYERS = ["base", "base_length", "sft", "rlaif", "rlhf", "rlaif_rlhf", "human"]

# What reads replies, all of them; the numbers are of jobs.
COMPARED = {
    "evaluate_verdicts": 3, "evaluate_win_rates": 1, "evaluate_ranking": 1, "evaluate_truth": 1, "evaluate_behaviour": 1,
    "evaluate_honesty": 1, "keep_equally_honest": 3, "evaluate_equal_honesty": 1, "report_study": 1,
}  # fmt: skip
TRAINED_BY_DPO = COMPARED | {
    "train_dpo": 5, "compare_models": 1, "evaluate_model": 3, "evaluate_kl": 3, "evaluate_loss": 3, "write_model_card": 6,
}  # fmt: skip
OTHER_SAMPLES = TRAINED_BY_DPO | {
    "generate_responses": 2, "gather_responses": 2, "label_ai": 1, "simulate_annotators": 1, "export_human_labels": 1,
    "report_agreement": 1, "preference_pairs": 2, "tokenize": 4, "judge_trust": 1,
}  # fmt: skip
OTHER_SFT = OTHER_SAMPLES | {"train_sft": 1, "evaluate_model": 4, "evaluate_loss": 4}
OTHER_DATA = OTHER_SFT | {
    "assign_sides": 1, "process_cmv": 1, "split": 1, "check_leakage": 1, "report_data": 1, "pretrain_standin": 1,
    "train_delta_judge": 1, "evaluate_human": 1, "evaluate_prompts": 1, "tokenize": 7, "evaluate_model": 6, "evaluate_loss": 5,
}  # fmt: skip
RECORD = {"record_config": 1}
ONE_MODEL = {"train_dpo": 1, "compare_models": 1, "write_model_card": 1, "report_study": 1}
HUMAN_BRANCH = {"train_dpo": 4, "evaluate_model": 2, "evaluate_kl": 2, "evaluate_loss": 2}
ONE_PLAYER = {"train_dpo": 1, "evaluate_model": 1, "evaluate_kl": 1, "evaluate_loss": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(change, expected, id=name)
        for name, change, expected in [
            ("nothing", unchanged, {}),
            ("touched file", touched("splits/sides.csv"), {}),
            ("fresh checkout", checked_out_anew, {}),
            (
                "reworded docstring",
                replaced("dpo.py", "Preference pairs as trl's collator takes them", "Pairs, in the form of trl's collator"),
                {},
            ),
            ("reworded comment", replaced("dpo.py", "# bf16 and fp16", "# 16 bits"), {}),
            ("W&B mode", settings(wandb={"mode": "offline"}), RECORD),
            ("batch size of sampling", settings(sampling={"batch_size": 16}), RECORD),
            ("retries of downloads", settings(downloads={"retries": 9}), RECORD),
            ("world", settings(world={"threads": 1600}), OTHER_DATA | RECORD | {"synthesize_corpus": 1}),
            ("setting of SFT", settings(recipes={"sft": {"learning_rate": 0.002}}), OTHER_SFT | RECORD),
            ("setting of sampling", settings(sampling={"temperature": 0.5}),
             OTHER_SAMPLES | RECORD | {"evaluate_model": 6}),
            ("setting of DPO", settings(recipes={"dpo": {"beta": 0.2}}), TRAINED_BY_DPO | RECORD | {"train_dpo": 4}),  # one has its own
            ("code of DPO", replaced("dpo.py", "else 0.5 * beta", "else 0.4 * beta"), TRAINED_BY_DPO),
            ("page of the report", replaced("report.html.j2", "<body>", "<body >"), {"report_study": 1}),
            ("corpus", added("corpora/synthetic-changemyview/utterances.jsonl"), OTHER_DATA),
            ("pairs of people", added("preferences/human_train.jsonl"),
             TRAINED_BY_DPO | HUMAN_BRANCH | {"tokenize": 1}),
            ("added model", settings(models={"rlhf_b3": MODEL}), ONE_MODEL | RECORD),
            ("added player",
             settings(models={"rlhf_b3": MODEL}, evaluation={"players": [*PLAYERS, "rlhf_b3"]}),
             COMPARED | ONE_MODEL | ONE_PLAYER | {"write_model_card": 7, "judge_trust": 1} | RECORD),
        ]
    ],
)  # fmt: skip
def test_a_change_makes_again_what_depends_on_it(checkout, change, expected):
    change(checkout)
    assert stale(checkout) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["--set-threads", "train_sft=4", "--cores", "4"],
        ["--set-resources", "train_sft:gpu=4", "train_dpo:mem_mb=9000", "--resources", "gpu=4"],
        ["--profile", "profiles/aws-gpu"],
    ],
    ids=["threads", "GPUs", "profile"],
)
def test_where_and_how_fast_a_study_runs_makes_nothing_again(made, words):
    assert stale(made, *words) == {}
