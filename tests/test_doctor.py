"""What the doctor says of this machine and a study: never a key, estimates that are called so, one thing to do next."""

import shutil
from pathlib import Path

import pytest
import yaml

from persuasion_rl.config import load_study
from persuasion_rl.doctor import QWEN, estimates, report, work
from running import ROOT

PUBLISHED = ROOT / "config/config.yaml"
KEYS = {name: f"planted-{name}" for name in ("WANDB_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")}


def study(**changes):
    return load_study(yaml.safe_load(PUBLISHED.read_text()) | changes, PUBLISHED)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with the configurations and no results."""
    for name in ("config", "resources/rubrics"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_published_studys_work_is_that_of_a_count_by_hand():
    """Qwen2.5-0.5B: 716 MFLOP a token in the layers, 272 in the head, 43 in attention at 1,000 tokens."""
    assert QWEN.forward(1, 1000) == pytest.approx((715.6 + 272.2 + 43.0) * 1e6, rel=1e-3)
    found = work(study())
    # 40,000 rows of 600 tokens, 3 epochs; forward and back, the head on half of them.
    assert found["train sft"] == pytest.approx(72e6 * 2 * (715.6 + 25.8 + 136.1) * 1e6, rel=1e-3)
    # 8,000 pairs of twice 736 tokens: forward, back, and the reference; the head on the responses.
    head = 272.2 * 256 / 736
    assert found["train rlaif"] == pytest.approx(
        8000 * 1472 * 3 * (715.6 + 31.7 + head) * 1e6, rel=1e-3
    )
    assert found.keys() == {
        "train sft", "train rlaif", "train rlhf", "train rlaif_rlhf",
        "sample the ai pool", "sample the human pool", "sample the evaluation",
    }  # fmt: skip


def test_one_model_more_is_that_much_more_work():
    models = yaml.safe_load(PUBLISHED.read_text())["models"]
    more = work(study(models=models | {"sft_s2": {"parent": "base", "method": "sft", "seed": 2}}))
    assert more.pop("train sft_s2") == more["train sft"] and more == work(study())


def test_times_are_called_estimates_and_fall_with_the_gpus_speed(elsewhere):
    told = report(Path("config/config.yaml"))
    assert "estimate of" in told and "Estimates, not measured" in told
    assert estimates(study())[-1][0] == "all" and "$" in estimates(study())[-1][2]
    assert "estimate" not in report(Path("config/demo.yaml")), "the stand-in is no Qwen2.5"


def test_a_key_is_set_or_not_and_never_shown(elsewhere, monkeypatch):
    assert "WANDB_API_KEY not set, so runs are kept offline" in report(Path("config/config.yaml"))
    file = elsewhere / "config/llm.yaml"
    settings = {"extends": "config.yaml", "study": "x", "labels": {"ai": {"judge": "llm"}}, "llm": {"model": "m"}}  # fmt: skip
    file.write_text(yaml.safe_dump(settings))
    assert report(file).splitlines()[-1] == "next: judge llm: set OPENAI_API_KEY"
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    told = report(file)
    assert "OPENAI_API_KEY set" in told and "WANDB_API_KEY set" in told and "planted" not in told


def test_there_is_one_thing_to_do_next(elsewhere):
    config, results = Path("config/config.yaml"), elsewhere / "results/cmv"

    def following(made=None):
        if made:
            (results / made).parent.mkdir(parents=True, exist_ok=True)
            (results / made).touch()
        return report(config).splitlines()[-1].removeprefix("next: ")

    assert "`snakemake data " in following()
    assert "`snakemake unattended --profile aws-gpu`" in following("splits/summary.json")
    assert "`persuasion-rl annotate --study cmv`" in following(
        "preferences/human_pool_responses.jsonl"
    )
    assert "the rest: `snakemake" in following("preferences/human_pool_labels.jsonl")
    assert "read results/cmv/report.html" in following("report.html")


def test_what_is_missing_comes_first(elsewhere, command_line):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    file = elsewhere / "config/cuda.yaml"
    file.write_text(yaml.safe_dump({"extends": "demo.yaml", "study": "x", "device": "cuda"}))
    assert report(file).splitlines()[-1].startswith("next: GPU: run on a machine with a GPU")
    run = command_line("cli", "doctor", "--configfile", elsewhere / "nothing.yaml")
    assert run.returncode == 1 and run.stderr.splitlines() == [
        f"error: {elsewhere / 'nothing.yaml'}: no such configuration"
    ]
