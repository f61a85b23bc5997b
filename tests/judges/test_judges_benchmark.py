"""The benchmark of the judges on pairs that people labelled: its table, checked by hand, and its command."""

import os
import re
import subprocess
import sys

import pytest

from persuasion_rl.files import write_jsonl
from persuasion_rl.tables import write_table
from running import ROOT


def pair(label, a1, a2, topic="ban-cars"):
    return {"label": label, "topic": topic, "stance": "yes-soon", "a1": a1, "a2": a2}


PAIRS = [
    pair("a1", "one two three four", "one"),  # the longer one
    pair("a2", "one two three four", "one"),
    pair("a1", "one two <br/> three", "one"),
    pair("a2", "one two", "three four"),  # as long: a tie, of like length
    pair("a2", "a b c d", "a b c d e", topic="tv-or-books"),  # the longer one, of like length
]


@pytest.fixture
def benchmark(tmp_path):
    """A function that runs the command on pairs and returns its output, or with `fails` its error."""

    def run(rows, *args, fails=False):
        write_jsonl(tmp_path / "pairs.jsonl", rows)
        process = subprocess.run(
            [sys.executable, ROOT / "benchmarks/judges.py", "--pairs", tmp_path / "pairs.jsonl"]
            + [str(arg) for arg in args],
            env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (process.returncode != 0) == fails, process.stderr
        return process.stderr if fails else process.stdout

    return run


def rows_of(output: str) -> dict[str, list[str]]:
    """The first cell of a row of the table -> the others."""
    cells = [line.strip("| ").split(" | ") for line in output.splitlines() if line[:2] == "| "]
    return {row[0]: row[1:] for row in cells}


def test_the_length_baseline_is_right_as_often_as_counted_by_hand(benchmark):
    output = benchmark(PAIRS)
    assert re.match(r"\d{4}-\d\d-\d\d, commit \w+", output)
    assert "may measure nothing but length" in " ".join(output.split())
    table = rows_of(output)
    assert table["pairs"] == ["number", "length"]
    actual = {
        name: (count, cell.split()[0]) for name, (count, cell) in table.items() if name != "pairs"
    }
    assert actual == {
        "all pairs": ("5", "0.700"),
        "of these, within 20% in words": ("2", "0.750"),
        "ban cars": ("4", "0.625"),
        "tv or books": ("1", "1.000"),
    }


UTTERANCES = {"winner_id": "w", "loser_id": "l"}


def test_held_out_pairs_of_a_study_stand_beside_them(benchmark, tmp_path):
    row = {"judge": "length", "measure": "delta_pairs", "value": 0.63, "low": 0.6, "high": 0.66}
    study = tmp_path / "study"
    write_table(study / "judges/trust.csv", [row | {"rows": 1368}], [*row, "rows"])
    metadata = {"conversation_id": "c"}
    pairs = [{"prompt": "a b", "winner": "a", "loser": "c d e", "metadata": metadata | UTTERANCES}]
    write_jsonl(study / "processed/delta_pairs.jsonl", pairs)
    write_table(study / "splits/sides.csv", [metadata | {"side": "train"}], [*metadata, "side"])
    table = rows_of(benchmark(PAIRS, "--study", study))
    assert table["pairs"] == ["number", "length", "interplay"]
    assert table["study: held-out delta pairs"] == ["1,368", "0.630 [0.600, 0.660]", "–"]
    assert float(table["all pairs"][2].split()[0]) == 0.3  # it learned that the shorter one wins


@pytest.mark.parametrize(
    ("rows", "args", "line"),
    [
        ([pair("a3", "a", "b")], [], "line 1: label 'a3'; allowed: a1, a2"),
        ([{"label": "a1"}], [], "line 1: no a1, a2, stance, topic"),
        ([], [], "pairs.jsonl: no pair"),
        (PAIRS, ["--base", "nowhere"], "the delta judge needs --base and --delta"),
        (PAIRS, ["--study", "nowhere"], "nowhere/splits/sides.csv: cannot be read (No such file"),
    ],
)
def test_a_mistake_is_one_line(benchmark, rows, args, line):
    error = benchmark(rows, *args, fails=True)
    assert error.startswith("error: ") and error.count("\n") == 1
    assert line in error


@pytest.mark.slow
def test_a_trained_delta_judge_stands_beside_the_baseline(benchmark, tiny_rows, tiny_delta):
    args = ("--base", tiny_rows.base, "--delta", tiny_delta, "--device", "cpu", "--threads", 1)
    table = rows_of(benchmark(PAIRS * 4, *args))
    assert table["pairs"] == ["number", "length", "delta"]
    for count, length, of_delta in (table["all pairs"], table["ban cars"]):
        assert count in ("20", "16") and length.split()[0] in ("0.700", "0.625")
        value, low, high = (float(n) for n in re.findall(r"\d\.\d+", of_delta))
        assert 0 <= low <= value <= high <= 1
    same = rows_of(benchmark(PAIRS * 4, *args))
    assert same == table
