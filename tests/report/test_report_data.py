"""The page about the data: its numbers are those of the files, and its notices are at the top."""

import json
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from csv_files import read_csv
from pages import SUMMARY
from persuasion_rl.data.cmv import process_cmv
from persuasion_rl.data.examples import Budget
from persuasion_rl.files import read_json, write_json, write_jsonl
from persuasion_rl.report.report_data import (
    RANDOM_EXAMPLES,
    WHY,
    funnel,
    report_data,
    shortage,
)
from running import ROOT, succeed

DUPLICATES = {
    "shingle_words": 5,
    "near_duplicate": 0.8,
    "conversations": 60,
    "clusters": 60,
    "sides": {},
    "official_split": {"synthetic": "none in this corpus"},
    "near_duplicates": [],
}


@pytest.fixture
def data_folder(synthetic, tokenizer, tmp_path) -> Path:
    """The folder of what the data stages write for the synthetic corpus."""
    process_cmv(
        corpora=[synthetic], tokenizer=tokenizer, examples=tmp_path / "examples.jsonl",
        pairs=tmp_path / "pairs.jsonl", counts=tmp_path / "counts.json",
        budget=Budget(min_tokens=20, max_tokens=512, max_context_tokens=300, max_seq_length=900),
    )  # fmt: skip
    return tmp_path


def page(folder: Path, summary: dict = SUMMARY, duplicates: dict = DUPLICATES, **changed) -> str:
    write_json(folder / "summary.json", summary)
    write_json(folder / "duplicates.json", duplicates)
    report_data(
        counts={"cmv": folder / "counts.json"}, examples={"cmv": folder / "examples.jsonl"},
        summary=folder / "summary.json", duplicates=folder / "duplicates.json", seed=1,
        output=folder / "page.html", **({"study": "test", "synthetic": True} | changed),
    )  # fmt: skip
    return (folder / "page.html").read_text()


def notices(html: str) -> list[str]:
    return re.findall(r'<p class="notice">(.*?)</p>', html)


def test_every_step_of_the_funnel_stands_on_the_page_with_its_number(data_folder):
    html = page(data_folder)
    counts = read_json(data_folder / "counts.json")
    assert counts["won"]["posters_own"] > 0 and counts["lost"]["deleted"] > 0
    for name in counts["won"].keys() | counts["lost"].keys():
        won, lost = (f"{counts[group].get(name, 0):,}" for group in ("won", "lost"))
        row = f'<td>{name.replace("_", " ")}</td><td class="n">{won}</td><td class="n">{lost}</td>'
        assert row in html


def test_conversations_that_were_left_out_stand_on_the_page_with_their_comments(data_folder):
    counts = read_json(data_folder / "counts.json")
    assert "left out as a whole" not in page(data_folder)
    counts["left_out_conversations"] = {"no_utterances": 4, "several_roots": 1_234}
    counts["left_out_utterances"] = {"several_roots": 5_678}
    write_json(data_folder / "counts.json", counts)
    html = page(data_folder)
    for reason, numbers in (("several roots", ("1,234", "5,678")), ("no utterances", ("4", "0"))):
        cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
        assert f"<td>{reason}</td>{cells}" in html


def test_a_funnel_loses_at_each_step_what_the_step_left_out(data_folder):
    counts = read_json(data_folder / "counts.json")
    for group in ("won", "lost"):
        gone = sum(n for name, n in counts[group].items() if name not in ("labelled", "kept"))
        assert counts[group]["labelled"] - gone == counts[group]["kept"]
    assert f">{counts['won']['kept']:,}<" in funnel("cmv", counts)["figure"]


def test_every_reason_of_the_stages_is_explained(data_folder):
    counts = read_json(data_folder / "counts.json")
    assert (counts["won"].keys() | counts["lost"].keys()) <= WHY.keys()


def test_a_reason_without_an_explanation_is_shown_by_its_name(data_folder):
    counts = read_json(data_folder / "counts.json")
    counts["won"]["a_new_reason"] = 3
    write_json(data_folder / "counts.json", counts)
    assert "<td>a new reason</td>" in page(data_folder)


def test_ten_examples_are_drawn_that_do_not_depend_on_the_order_of_the_file(data_folder):
    examples = re.findall(r"<summary>(.*?)</summary>", page(data_folder))
    lines = (data_folder / "examples.jsonl").read_text().splitlines()
    write_jsonl(data_folder / "examples.jsonl", map(json.loads, reversed(lines)))
    assert len(lines) > 50 and len(examples) == RANDOM_EXAMPLES
    assert re.findall(r"<summary>(.*?)</summary>", page(data_folder)) == examples


def test_a_plan_that_shrank_is_said_on_top_with_its_numbers(data_folder):
    assert shortage(SUMMARY) == []
    parts = SUMMARY["parts"] | {"train": SUMMARY["parts"]["train"] | {"asked": 4_000}}
    small = SUMMARY | {"parts": parts, "scale": 0.01}
    (notice,) = [n for n in notices(page(data_folder, small)) if "too small" in n]
    assert "train 40 of 4,000" in notice and "scale 0.01" in notice and "5.0" in notice


def test_a_cluster_above_one_percent_is_named_on_top(data_folder):
    cluster = {"cluster": "c1", "conversations": 2, "share": 0.033333, "title": "Pets are <best>"}
    large = DUPLICATES | {"near_duplicates": [cluster]}
    assert any(
        "3.3%" in n and "Pets are &lt;best&gt;" in n
        for n in notices(page(data_folder, SUMMARY, large))
    )
    few = DUPLICATES | {"near_duplicates": [cluster | {"share": 0.009}]}
    assert not any("cluster" in n for n in notices(page(data_folder, SUMMARY, few)))


def test_the_page_says_that_data_is_synthetic(data_folder):
    assert any("Synthetic" in notice for notice in notices(page(data_folder)))
    assert notices(page(data_folder, synthetic=False)) == []


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("nbconvert") is None, reason="envs/requirements-notebook.txt is not installed"
)
def test_the_notebook_runs_as_a_rule(data_folder, tmp_path):
    rows = [json.loads(line) for line in (data_folder / "examples.jsonl").read_text().splitlines()]
    root = tmp_path / "project"
    shutil.copytree(
        ROOT, root, ignore=shutil.ignore_patterns(".*", "results", "aws-gpu"), symlinks=True
    )
    results = root / "results/demo"
    for side, part in (("train", rows[:40]), ("val", rows[40:60]), ("test", rows[60:])):
        write_jsonl(results / f"splits/sft_{side}.jsonl", part)
    (results / "processed").mkdir()
    shutil.copy(data_folder / "pairs.jsonl", results / "processed/delta_pairs.jsonl")
    succeed(
        "explore_data", "--cores", 1, "--configfile", "config/demo.yaml", "--rerun-triggers", "mtime",
        "--allowed-rules", "explore_data", root=root,
        PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin",
    )  # fmt: skip
    table = read_csv(results / "exploration/sides.csv")
    assert {row["side"]: int(row["rows"]) for row in table} == {
        "train": 40,
        "val": 20,
        "test": len(rows) - 60,
    }
    executed = read_json(results / "exploration/explore_data.ipynb")
    assert any(
        "the longer reply wins" in json.dumps(cell.get("outputs", "")) for cell in executed["cells"]
    )
