"""The output of `persuasion-rl compare` for two studies."""

import subprocess
import sys
from pathlib import Path

import pytest

from persuasion_rl.files import UserError, write_json, write_jsonl
from persuasion_rl.statistics.intervals import Interval, difference, wilson
from persuasion_rl.tables import write_table
from persuasion_rl.tools.compare import compare_studies

COMMAND = [sys.executable, "-m", "persuasion_rl.tools.cli"]


def study(folder: Path, seed: int, train: int, text: str, rlhf: float) -> None:
    """Write the files of a finished study that a comparison reads."""
    folder.mkdir(parents=True)
    folder.joinpath("config.yaml").write_text(
        f"study: s\nseed: {seed}\nsft: {{lora: {{r: 16}}}}\nevaluation:\n  judges: [delta, length]\n"
    )
    write_json(folder / "splits/summary.json", {"parts": {"sft_train": {"used": train}}})
    write_jsonl(folder / "splits/sft_train.jsonl", [{"id": "a", "response": text}])
    rows = [
        {"judge": "delta", "player": player, "against": "base", "win_rate": rate, "low": rate - 0.05, "high": rate + 0.05}
        for player, rate in (("sft", 0.6), ("rlhf", rlhf))
    ]  # fmt: skip
    write_table(folder / "evaluation/comparisons.csv", rows, list(rows[0]))
    equal = {
        "length_controlled": rlhf,
        "length_controlled_low": rlhf - 0.02,
        "length_controlled_high": rlhf + 0.02,
    }
    played = [row | equal | {"win_rate": 0.6, "low": 0.5, "high": 0.7} for row in rows[1:]]
    write_table(folder / "evaluation/win_rates.csv", played, list(played[0]))
    write_table(folder / "evaluation/equal_honesty.csv", rows, list(rows[0]))
    gap = {"model": "rlhf", "against": "sft", "difference": rlhf, "low": rlhf, "high": rlhf}
    write_table(folder / "evaluation/truth_differences.csv", [gap], list(gap))


def compare(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, "compare", *words], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def results(tmp_path):
    study(tmp_path / "results/one", 1, 100, "Because", 0.80)
    study(tmp_path / "results/two", 2, 120, "Since", 0.55)
    return tmp_path


def sections(text: str) -> dict[str, list[list[str]]]:
    """Title -> rows of its table, split into words."""
    tables = {}
    for part in text.strip().split("\n\n"):
        title, *lines = part.splitlines()
        tables[title] = [line.split() for line in lines]
    return tables


def test_settings_data_and_results_that_differ_are_shown_and_no_others(results):
    run = compare(results, "one", "two")
    assert run.returncode == 0, run.stderr
    tables = sections(run.stdout)
    assert tables["Settings"] == [["setting", "one", "two"], ["seed", "1", "2"]]
    counted, digest = tables["Data"][1:]
    assert counted == ["splits.sft_train", "100", "120"]
    assert digest[0] == "splits/sft_train.jsonl" and digest[2] != digest[4]
    header, row = tables["evaluation/comparisons.csv (1 more with zero in the interval)"]
    assert header[-3:] == ["one", "two", "difference"]
    assert row[:4] == ["delta", "rlhf", "base", "0.800"] and row[-3:] == [
        "+0.250",
        "[+0.179,",
        "+0.321]",
    ]
    assert "judges/trust.csv: not compared" in run.stdout
    # The win rates are equal, but not at equal length. Honesty and the truth have their own measures.
    assert "evaluation/win_rates.csv (1 more with zero in the interval): no" in run.stdout
    for title, interval in (
        ("evaluation/win_rates.csv, length_controlled (0 more", ["[+0.222,", "+0.278]"]),
        ("evaluation/equal_honesty.csv (1 more", ["[+0.179,", "+0.321]"]),
        ("evaluation/truth_differences.csv (0 more", ["[+0.250,", "+0.250]"]),
    ):
        (rows,) = (rows for name, rows in tables.items() if name.startswith(title))
        assert rows[1][-3:] == ["+0.250", *interval]


def test_a_study_does_not_differ_from_itself(results):
    output = compare(results, "one", "results/one").stdout
    assert "Settings: no difference" in output and "Data: no difference" in output
    assert "evaluation/comparisons.csv (2 more with zero in the interval): no difference" in output


def test_a_study_that_is_not_there_is_one_line_that_names_those_that_are(results):
    run = compare(results, "one", "three")
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.splitlines() == [
        "error: three: no study that was made (results/three/config.yaml is not there; `snakemake unattended --cores all`"
        " with the --configfile of study three makes it); there are one, two"
    ]


@pytest.mark.parametrize("name", ["", ".", "x" * 300, "a\nb", "..", "a\x00b"])
def test_any_text_that_names_no_study_is_one_line(results, name, monkeypatch):
    monkeypatch.chdir(results)
    with pytest.raises(
        UserError, match="no name or folder of a study that was made; there are "
    ) as raised:
        compare_studies("one", name)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_a_folder_in_place_of_a_record_is_told(results, monkeypatch):
    monkeypatch.chdir(results)
    Path("results/odd/config.yaml").mkdir(parents=True)
    with pytest.raises(
        UserError, match="results/odd/config.yaml: a folder, where .*: move it away"
    ):
        compare_studies("one", "odd")


def test_the_difference_of_two_shares_is_newcombes():
    """Newcombe (1998), table II, first example, method 10: 56 of 70 and 48 of 80."""
    interval = difference(wilson(56 / 70, 70), wilson(48 / 80, 80))
    assert [round(x, 4) for x in (interval.value, interval.low, interval.high)] == [
        0.2,
        0.0524,
        0.3339,
    ]


def test_the_difference_turned_round_is_its_negative():
    one, other = Interval(0.6, 0.5, 0.65), Interval(0.3, 0.1, 0.45)
    there, back = difference(one, other), difference(other, one)
    assert (there.value, there.low, there.high) == pytest.approx(
        (-back.value, -back.high, -back.low)
    )


def write_rows(results: Path, name: str, table: str, rows: list[dict]) -> None:
    write_table(results / "results" / name / table, rows, list(rows[0]))


def test_rows_of_one_model_and_of_several_seeds_are_kept_apart(results):
    row = {
        "judge": "delta",
        "player": "rlhf",
        "against": "sft",
        "win_rate": 0.8,
        "low": 0.75,
        "high": 0.85,
        "seeds": 1,
    }
    pooled = row | {"win_rate": 0.5, "low": 0.2, "high": 0.8, "seeds": 3}
    write_rows(results, "one", "evaluation/comparisons.csv", [row, pooled])
    lower = row | {"win_rate": 0.6, "low": 0.55, "high": 0.65}
    write_rows(results, "two", "evaluation/comparisons.csv", [lower, pooled])
    tables = sections(compare(results, "one", "two").stdout)
    ((_, cells),) = (
        v for k, v in tables.items() if k.startswith("evaluation/comparisons.csv (1 more")
    )
    assert cells[:5] == ["delta", "rlhf", "sft", "1", "0.800"]


def test_rows_of_one_study_alone_are_counted_and_players_may_stand_the_other_way_round(results):
    row = {
        "judge": "delta",
        "player": "a",
        "against": "b",
        "win_rate": 0.8,
        "low": 0.75,
        "high": 0.85,
    }
    back = row | {"player": "b", "against": "a", "win_rate": 0.3, "low": 0.25, "high": 0.35}
    write_rows(results, "one", "evaluation/win_rates.csv", [row, row | {"against": "c"}])
    write_rows(results, "two", "evaluation/win_rates.csv", [back])
    tables = sections(compare(results, "one", "two").stdout)
    title = "evaluation/win_rates.csv (0 more with zero in the interval, 1 in one only)"
    assert tables[title][1][:3] == ["delta", "a", "b"]
    assert tables[title][1][-3:] == ["+0.100", "[+0.029,", "+0.171]"]


def test_numbers_without_an_interval_are_compared_too(results):
    row = {"player": "sft", "measure": "perplexity", "value": 3.5, "low": "", "high": ""}
    unmeasured = row | {"measure": "manipulation", "value": "not measured"}
    write_rows(results, "one", "evaluation/behaviour.csv", [row, unmeasured])
    write_rows(results, "two", "evaluation/behaviour.csv", [row | {"value": 3.0}, unmeasured])
    text = compare(results, "one", "two").stdout
    assert "perplexity  3.5  3    +0.5 (no interval)" in text and "manipulation" not in text


def test_studies_that_wait_for_people_are_compared_by_what_they_have(results):
    row = {"judge": "delta", "measure": "delta_pairs", "value": 0.8, "low": 0.75, "high": 0.85}
    write_rows(results, "one", "unattended/trust.csv", [row])
    write_rows(
        results, "two", "unattended/trust.csv", [row | {"value": 0.6, "low": 0.55, "high": 0.65}]
    )
    tables = sections(compare(results, "one", "two").stdout)
    title = "judges/trust.csv (0 more with zero in the interval, of what needs no person)"
    assert tables[title][1][:3] == ["delta", "delta_pairs", "0.800"]


def test_long_settings_are_shown_where_they_differ(results):
    shared = "resources/corpora/a-folder-whose-name-is-as-long-as-a-line-of-a-table-may-be"
    for name, ending in (("one", "first"), ("two", "second")):
        (results / "results" / name / "config.yaml").write_text(
            f"study: s\ncorpora_dir: {shared}/{ending}\n"
        )
    (_, row) = sections(compare(results, "one", "two").stdout)["Settings"]
    assert row[1].endswith("/first") and row[2].endswith("/second") and row[1].startswith("…")


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("evaluation/win_rates.csv", b"", "empty"),
        ("evaluation/comparisons.csv", b"judge\n\xff\n", "not UTF-8"),
        ("judges/trust.csv", b"", "empty"),
        ("splits/summary.json", b"[]", "not as the workflow writes it"),
        ("splits/summary.json", b"{}", "not as the workflow writes it"),
        ("splits/summary.json", b'{"parts": {"sft_train": 3}}', "not as the workflow writes it"),
        ("splits/summary.json", b"", "not valid JSON"),
        ("preferences/ai_pairs.json", b"[]", "not as the workflow writes it"),
        ("processed/cmv_counts.json", b"[]", "not as the workflow writes it"),
        ("config.yaml", b"", "holds nothing"),
        ("config.yaml", b"a: [", "not valid YAML"),
        ("config.yaml", b"a: \xff", "not UTF-8"),
        ("config.yaml", b"- a", "holds a list"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(results, file, content, problem):
    for name in ("one", "two"):
        path = results / "results" / name / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    run = compare(results, "one", "one" if file == "config.yaml" else "two")
    (line,) = run.stderr.splitlines()
    assert run.returncode == 1 and run.stdout == ""
    assert (f"one/{file}" in line and problem in line and "again" in line) or "cut off" in line
    if file == "config.yaml":
        assert "make it again: `snakemake results/one/config.yaml --cores 1`" in line


def test_a_name_is_a_study_before_it_is_a_folder_and_no_other_folder_is_one(results):
    for folder in ("one", "config", "profiles/default"):
        (results / folder).mkdir(parents=True)
        (results / folder / "config.yaml").write_text("study: other\n")
    assert "Settings: no difference" in compare(results, "one", "results/one").stdout
    for folder in ("config", "profiles/default", "results/../config"):
        run = compare(results, folder, "one")
        assert run.returncode == 1
        assert run.stderr.startswith(f"error: {folder}: no study that was made"), run.stderr
