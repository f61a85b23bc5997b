"""Tables and JSON of a study that somebody edited are one line that names the file, and are not taken for results."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from csv_files import read_csv
from persuasion_rl.evaluation.measures import NOT_MEASURED
from persuasion_rl.files import UserError, read_made, write_json
from persuasion_rl.judges.judge_trust import COLUMNS as TRUST
from persuasion_rl.report.compare_models import MODEL_COLUMNS, SEED_COLUMNS
from persuasion_rl.report.pool_labels import label_table
from persuasion_rl.report.study_tables import COLUMNS_OF, ReportFiles, Tables
from persuasion_rl.tables import write_table

TEXTS = {"judge": "delta", "player": "base", "against": "sft", "model": "sft", "parent": "base",
         "group": "sft", "method": "sft", "unit": "words", "measure": "words"}  # fmt: skip


def row(columns: list[str], **cells) -> dict:
    return {
        name: TEXTS.get(name, "" if name in ("fixed", "pool", "differs") else 0.5)
        for name in columns
    } | cells


@pytest.fixture
def files(tmp_path) -> ReportFiles:
    """A table of each kind, with a row or two."""
    tables = {}
    for name, (columns, _) in COLUMNS_OF.items():
        tables[name] = tmp_path / f"{name}.csv"
        rows = [row(columns)]
        if name in ("behaviour", "honesty"):
            measures = ["words"] if name == "behaviour" else ["manipulation", "disrespect"]
            rows = [row(columns, player=p, measure=m) for p in ("base", "sft") for m in measures]
            rows[-1]["value"] = NOT_MEASURED if name == "honesty" else 3.0
        write_table(tables[name], rows, columns)
    others = {"trust": TRUST, "models": MODEL_COLUMNS, "seeds": SEED_COLUMNS}
    for name, columns in others.items():
        write_table(tmp_path / f"{name}.csv", [row(columns)], columns)
    nothing = Path("nothing")
    return ReportFiles(
        tables=tables, trust=tmp_path / "trust.csv", models_table=tmp_path / "models.csv",
        seeds_table=tmp_path / "seeds.csv", verdicts={"delta": nothing},
        responses={"base": nothing, "sft": nothing}, delta_judge={}, prompts=nothing, splits=nothing,
        counts={}, histories={"sft": nothing},
    )  # fmt: skip


def edited(path: Path, change) -> None:
    rows = read_csv(path)
    rows = [new for one in rows if (new := change(dict(one))) is not None]
    write_table(path, rows, list(rows[0]) if rows else list(read_csv(path)[0]))


def test_tables_as_the_workflow_writes_them_are_read(files):
    tables = Tables.read(files)
    assert tables.win_rates[0]["win_rate"] == 0.5 and tables.models[0]["parent"] == "base"
    assert [measure["measure"] for measure in tables.honesty] == ["manipulation", "disrespect"]


@pytest.mark.parametrize("name", [*COLUMNS_OF, "trust", "models", "seeds"])
def test_a_column_that_is_missing_is_named(files, name, tmp_path):
    path = tmp_path / f"{name}.csv"
    for column in list(read_csv(path)[0]):
        whole = path.read_bytes()
        edited(path, lambda one, column=column: {k: v for k, v in one.items() if k != column})
        with pytest.raises(UserError, match=f"{name}.csv: no column '{column}': delete it and run"):
            Tables.read(files)
        path.write_bytes(whole)


@pytest.mark.parametrize("cell", ["n/a", "0,5", "50 %", ""])
def test_a_cell_that_is_no_number_is_named_with_its_row(files, cell, tmp_path):
    for name, (_, numbers) in COLUMNS_OF.items():
        for column in numbers:
            path = tmp_path / f"{name}.csv"
            whole = path.read_bytes()
            edited(path, lambda one, column=column: one | {column: cell})
            with pytest.raises(
                UserError, match=rf"{name}.csv, row 2: {column} '{cell}' is no number"
            ):
                Tables.read(files)
            path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("behaviour", lambda one: None if one["player"] == "sft" else one, "no row of 'words' of 'sft'"),
        ("honesty", lambda one: None if one["player"] == "sft" and one["measure"] == "disrespect" else one,
         "no row of 'disrespect' of 'sft'"),
        ("win_rates", lambda one: one | {"judge": "detla"}, "no judge of the study is 'detla'"),
        ("comparisons", lambda one: one | {"judge": "detla"}, "no judge of the study is 'detla'"),
        ("models", lambda one: one | {"model": "stf"}, "its models are not those of the study"),
        ("models", lambda one: one | {"parent": "bsae"}, "sft: no such parent, group or method"),
    ],
)  # fmt: skip
def test_a_row_that_is_missing_or_of_something_else_is_named(
    files, tmp_path, name, change, message
):
    edited(tmp_path / f"{name}.csv", change)
    with pytest.raises(UserError, match=f"{name}.csv: {message}.*: delete it and run the workflow"):
        Tables.read(files)


def test_a_model_that_is_missing_is_named(files):
    with pytest.raises(
        UserError, match=r"models.csv: its models are not those of the study \(rlhf\)"
    ):
        Tables.read(replace(files, histories={"sft": Path("x"), "rlhf": Path("x")}))


@pytest.mark.parametrize("text", ["[]", "{}", '{"made": 3}', '{"made": {}}', '"made"'])
def test_json_without_a_key_is_one_line(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(
        UserError, match="a.json: not as the workflow writes it .*: delete it and run the workflow"
    ):
        read_made(tmp_path / "a.json", "made.examples")


def test_statistics_of_labels_that_were_edited_are_one_line(tmp_path):
    write_json(tmp_path / "counts.json", {"made": 3})
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "rows": 8}
    labels = {"labels": 8, "verdicts": {"1": 4}, "excluded": {}, "flips": None, "duplicates": {}, "pairs": {"train": 7},
              "mean_tokens": None, "first_shown": share, "longer_chosen": None, "words_more": None}  # fmt: skip
    write_json(tmp_path / "pairs.json", labels)
    files = {"ai": tmp_path / "counts.json"}, {"ai": tmp_path / "pairs.json"}
    assert ("words that the chosen one is longer", ["none"]) in label_table(*files)
    for key in labels:
        (tmp_path / "pairs.json").write_text(
            json.dumps({k: v for k, v in labels.items() if k != key})
        )
        with pytest.raises(UserError, match="pairs.json: not as the workflow writes it"):
            label_table(*files)
    write_json(tmp_path / "counts.json", {"made": "3"})
    with pytest.raises(UserError, match="counts.json: not as the workflow writes it"):
        label_table(*files)
