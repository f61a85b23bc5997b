"""The settings of the judge llm, in the configuration and as flags; a mistake is an error of one line."""

import shlex
import sys
from pathlib import Path

import pytest
import yaml

from llm_jobs import KEY, PRICES, RUBRIC, as_flags
from persuasion_rl.files import UserError, write_jsonl
from persuasion_rl.judges.llm.settings import LlmSettings
from persuasion_rl.judges.make import JudgeSettings, make_judge
from persuasion_rl.preferences.label_ai import label_ai
from persuasion_rl.runtime.command import stage
from persuasion_rl.study.flags import flags
from persuasion_rl.study.loading import load_config
from running import ROOT


def study_of(**changes) -> dict:
    study = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    study["labels"]["ai"] = {"judge": "llm"}
    return study | {"llm": {"model": "tiny", "rubric": str(RUBRIC)} | changes}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"api_key": KEY}, "llm.api_key: looks like a key; keys come from the environment only"),
        ({"OPENAI_API_KEY": KEY}, "llm.OPENAI_API_KEY: looks like a key"),
        ({"model": KEY}, "llm.model: looks like a key"),
        ({"base_url": f"https://me:{KEY}@example.org/v1"}, "llm.base_url: looks like a key"),
        ({"base_url": "https://example.org/v1?api_key=abc"}, "llm.base_url: looks like a key"),
        ({"model": None}, "llm.model: the judge llm needs a model"),
        ({"rubric": "nowhere.md"}, "llm.rubric: there is no file 'nowhere.md'"),
        ({"max_cost_usd": 5}, "llm.prices: max_cost_usd needs what tiny costs"),
        ({"prices": {"input": 1}}, "llm.prices: the key 'output' is missing"),
        ({"provider": "google"}, "llm.provider: 'google' must be one of openai, anthropic"),
        ({"base_url": "localhost:8000"}, "llm.base_url: 'localhost:8000' is no address"),
        ({"batch": True, "requests_per_minute": 5}, "llm.requests_per_minute: a batch is one"),
        ({"top_p": 1}, "llm.top_p: unknown key"),
    ],
)
def test_a_mistake_in_the_section_is_one_line_without_a_key(changes, line):
    assert load_config(study_of()).resolved()["llm"]["retries"] == 5
    with pytest.raises(UserError) as error:
        load_config(study_of(**changes)).resolved()
    assert line in str(error.value) and "\n" not in str(error.value)
    assert KEY not in str(error.value)


def test_it_cannot_simulate_people(tmp_path):
    study = study_of()
    study["labels"]["human"]["judge"] = "llm"
    with pytest.raises(UserError, match="labels.human.judge: 'llm' must be one of"):
        load_config(study).resolved()


def test_other_judges_need_none_of_its_settings():
    study = study_of(model=None)
    study["labels"]["ai"]["judge"] = "truth"
    assert load_config(study).resolved()["llm"]["model"] is None
    with pytest.raises(UserError, match="judge llm needs --llm_model"):
        make_judge("llm", JudgeSettings(seed=1, threads=1))


def test_by_hand_a_model_is_enough_and_the_rest_is_as_in_the_configuration():
    section = load_config(study_of(rubric="resources/rubrics/persuasiveness.md")).resolved()["llm"]
    del section["honesty_rubric"]
    paths = {"rubric": Path(section["rubric"]), "cache": Path("llm.sqlite")}
    assert vars(LlmSettings(model="tiny")) == section | paths


def test_flags_give_back_the_settings_of_which_they_are_made(monkeypatch):
    parsed = []

    def record(*, settings: JudgeSettings) -> None:
        parsed.append(settings.llm)

    for llm in (
        LlmSettings(model="tiny"),
        LlmSettings(model="a b", temperature=None, base_url="http://localhost/v1", batch=True),
        LlmSettings(model="m", temperature=0.7, prices=PRICES, max_cost_usd=2.5, cache=Path("x y")),
    ):
        args = ["stage", "--seed", "1", "--threads", "1", *shlex.split(flags(as_flags(llm)))]
        monkeypatch.setattr(sys, "argv", args)
        stage(record)
        assert parsed.pop() == llm


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("", "judge llm needs --llm_model"),
        ("--llm_model ''", "--llm_model: '' must not be empty"),
        ("--llm_provider google", "--llm_provider: 'google' must be one of openai, anthropic"),
        ("--llm_temperature 3", "--llm_temperature: 3 must be at most 2"),
        ("--llm_base_url localhost:8000", "--llm_base_url: 'localhost:8000' is no address"),
        ("--llm_max_cost_usd 5", "--llm_max_cost_usd needs --llm_prices"),
        ("--llm_prices input=1", "--llm_prices: the key 'output' is missing"),
        ("--llm_prices input=1 output=-1", "--llm_prices.output: -1.0 must be at least 0"),
        ("--llm_prices input=1 output=1 x=1", "--llm_prices.x: unknown key; allowed here: input"),
        ("--llm_model m --llm_rubric nowhere.md", "--llm_rubric: there is no file 'nowhere.md'"),
        ("--llm_model m --llm_rubric {}/latin.md", "latin.md, line 2: not UTF-8: save it as UTF-8"),
        ("--llm_model m --llm_rubric {}", "--llm_rubric: there is no file"),
    ],
)
def test_a_mistake_by_hand_is_one_line(args, line, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "responses.jsonl", [])
    (tmp_path / "latin.md").write_bytes("a\né".encode("latin-1"))
    args = [
        "label_ai",
        "--responses",
        tmp_path / "responses.jsonl",
        *shlex.split(args.format(tmp_path)),
    ]
    args += ["--labels", tmp_path / "labels.jsonl", "--judge", "llm", "--noise", 0, "--seed", 1]
    monkeypatch.setattr(sys, "argv", [*map(str, args), "--threads", "1"])
    with pytest.raises(SystemExit) as error:
        stage(label_ai)
    assert error.value.code.startswith("error: ") and line in error.value.code
    assert "\n" not in error.value.code and "null" not in error.value.code
