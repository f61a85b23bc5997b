"""The results of a study as data frames, and the notebook run by hand."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from csv_files import read_csv
from persuasion_rl import load_study
from persuasion_rl.files import UserError, write_jsonl, write_text
from persuasion_rl.tables import write_table
from running import ROOT, WORKFLOW


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A small study under results/, in the current folder."""
    folder = tmp_path / "results/small"
    ranking = [
        {"judge": "length", "player": "nan", "against": "7", "strength": 0.5, "rank": 1},
        {"judge": "length", "player": "7", "against": "7", "strength": 0.0, "rank": 2},
    ]
    write_table(folder / "evaluation/ranking.csv", ranking, list(ranking[0]))
    write_table(folder / "unattended/ranking.csv", ranking[:1], list(ranking[0]))
    trust = {"judge": "length", "measure": "delta_pairs", "value": 0.6}
    write_table(folder / "judges/trust.csv", [trust], list(trust))
    for player in ("7", "nan"):
        rows = [{"prompt": "p", "response": player, "metadata": {"prompt_id": "1", "tokens": 3}}]
        write_jsonl(folder / f"evaluation/responses/{player}.jsonl", rows)
    label = {"verdict": "1", "labeler": "both", "metadata": {"prompt_id": "1", "labeler": "other"}}
    write_jsonl(folder / "preferences/ai_pool_labels.jsonl", [label])
    example = {
        "input_text": "in",
        "full_text": "in out",
        "response": "I think so",
        "metadata": {
            "source": "cmv", "conversation_id": "c", "utterance_id": "u", "response_tokens": 3,
            "context_tokens": 5, "context_cut": False,
        },
    }  # fmt: skip
    for side, count in (("train", 3), ("val", 2), ("test", 2)):
        write_jsonl(folder / f"splits/sft_{side}.jsonl", [example] * count)
    pair = {"prompt": "p", "winner": "a b c", "loser": "a b", "metadata": {"conversation_id": "c"}}
    write_jsonl(folder / "processed/delta_pairs.jsonl", [pair])
    monkeypatch.chdir(tmp_path)
    return folder


def test_tables_and_rows_are_frames_by_name_and_attributes(study):
    results = load_study("small")
    assert set(results.tables) == {"ranking", "trust", "unattended/ranking"}
    assert set(results.rows) == {"responses", "labels", "examples", "delta_pairs"}
    assert results.ranking is results.tables["ranking"]
    assert list(results.ranking["player"]) == ["nan", "7"] and results.ranking["rank"].sum() == 3
    assert len(results.tables["unattended/ranking"]) == 1
    assert {"ranking", "responses", "config"} <= set(dir(results))
    assert "ranking" in repr(results) and "delta_pairs" in repr(results)


def test_rows_have_the_name_of_their_file_and_their_metadata_as_columns(study):
    results = load_study(study)
    assert results.responses.to_dict("records") == [
        {"player": name, "prompt": "p", "response": name, "prompt_id": "1", "tokens": 3}
        for name in ("7", "nan")
    ]
    assert list(results.labels["pool"]) == ["ai"] and list(results.labels["labeler"]) == ["both"]
    short = results.read_rows("examples", without=("input_text", "full_text"))
    assert short["side"].value_counts().to_dict() == {"train": 3, "val": 2, "test": 2}
    assert "response" in short and not {"input_text", "full_text"} & {*short.columns}


def test_verdicts_of_what_needs_no_person_are_rows_too(study):
    verdict = {"prompt_id": "1", "player_1": "nan", "player_2": "7", "verdict": "1"}
    write_jsonl(study / "unattended/verdicts/length.jsonl", [verdict])
    rows = load_study("small").rows["unattended/verdicts"]
    assert rows.to_dict("records") == [{"judge": "length"} | verdict]


def test_what_is_missing_is_one_line_that_names_what_there_is(study):
    with pytest.raises(UserError, match=r"no study with results; under results/: small$"):
        load_study("smal")
    results = load_study("small")
    with pytest.raises(UserError, match=r"no table 'rankin'; there are: .*ranking, trust, unatt"):
        results.tables["rankin"]
    with pytest.raises(UserError, match="no rows 'verdicts'; there are: responses"):
        results.rows["verdicts"]
    with pytest.raises(UserError, match="no table 'rankin'"):
        _ = results.rankin
    assert not hasattr(results, "rankin")
    assert results.tables.get("rankin") is None and results.rows.get("verdicts", 3) == 3
    with pytest.raises(UserError, match="config.yaml is not there"):
        _ = results.config
    write_text(study / "config.yaml", "study: demo\nseed: 3\n")
    assert results.config == {"study": "demo", "seed": 3}


@pytest.mark.parametrize("name", ["x" * 300, "a\nb", "", "a\x00b", "no such"])
def test_any_text_that_names_no_study_is_one_line(study, name):
    with pytest.raises(UserError, match="no study with results; under results/: small") as raised:
        load_study(name)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_a_link_to_nowhere_among_rows_is_one_line(study):
    (study / "evaluation/verdicts").mkdir(parents=True, exist_ok=True)
    (study / "evaluation/verdicts/length.jsonl").symlink_to(study / "not there")
    with pytest.raises(UserError, match="verdicts/length.jsonl: cannot be read .No such file"):
        load_study(study).rows["verdicts"]


def test_importing_the_package_imports_nothing_heavy():
    script = "import sys, persuasion_rl; print({'pandas', 'numpy', 'yaml', 'orjson'} & {*sys.modules}, persuasion_rl.load_study)"
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout.startswith("set() <function load_study"), run.stdout + run.stderr


def test_the_example_of_the_guide_runs(study):
    comparison = {"judge": "length", "player": "nan", "against": "7", "p": 0.5}
    write_table(study / "unattended/comparisons.csv", [comparison], list(comparison))
    truths = [{"model": "7", "mean": 0.25}, {"model": "nan", "mean": 0.5}]
    write_table(study / "evaluation/truth.csv", truths, list(truths[0]))
    verdict = {"prompt_id": "1", "player_1": "nan", "player_2": "7", "verdict": "1"}
    write_jsonl(study / "evaluation/verdicts/length.jsonl", [verdict])
    write_text(study / "config.yaml", "study: demo\nseed: 3\n")
    study.rename(study.with_name("demo"))
    guide = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    example = re.search(r"^```python\n(.*?)^```$", guide, re.M | re.S).group(1)
    *lines, last = example.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    assert eval(last, names) == 3
    joined = eval(lines[-1], names)
    assert joined[["judge", "model", "mean"]].values.tolist() == [["length", "nan", 0.5]]


@pytest.mark.skipif(
    find_spec("nbconvert") is None, reason="envs/requirements-notebook.txt is not installed"
)
def test_the_notebook_runs_by_hand(study, tmp_path):
    study.rename(study.with_name("demo"))
    folder = tmp_path / "workflow/notebooks"
    shutil.copytree(WORKFLOW / "notebooks", folder)
    run = subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", tmp_path,
         folder / "explore_data.py.ipynb"],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    exploration = tmp_path / "results/demo/exploration"
    assert (exploration / "lengths.svg").is_file()
    table = read_csv(exploration / "sides.csv")
    assert {row["side"]: row["rows"] for row in table} == {"train": "3", "val": "2", "test": "2"}
