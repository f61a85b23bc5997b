"""Answers are exported to files and imported from them: JSON lines, CSV, tasks of Label Studio."""

import csv
import json
import re
import unicodedata
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csv_files import read_csv
from labelled_study import HOSTILE, write_study
from persuasion_rl.annotation.exchange import LABEL_STUDIO, export_answers, import_answers
from persuasion_rl.annotation.plan import ANSWERS, Answer, Plan, clean_name, judgment_of, verdict_of
from persuasion_rl.annotation.store import AnswerStore, read_answers
from persuasion_rl.files import UserError, read_json, read_jsonl, write_json, write_jsonl

POOL = {
    f"pair{i}": {"prompt": f"Claim {i}", "response_1": f"One, \n{HOSTILE}", "response_2": "Two"}
    for i in range(6)
}
PLAN = Plan(list(POOL), 1)
NAMES = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20).map(clean_name)
TEXTS = [
    "=1+1",
    "'=1+1",
    "-1",
    "+a",
    "@a",
    "00123",
    "1-2",
    "TRUE",
    "1e5",
    "3/4",
    "Mar 1",
    "1. May",
    "'",
    "Mary",
    "12 %",
    "(1)",
    "$5",
    "＝1+1",
    "3 pm",
    "−5",
]
REASONS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), min_size=1).map(str.strip)  # fmt: skip


def folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


@st.composite
def answer_lists(draw):
    people = draw(
        st.lists(NAMES | st.sampled_from(TEXTS), min_size=1, max_size=4, unique_by=folded)
    )
    keys = draw(st.lists(st.tuples(st.sampled_from(people), st.sampled_from(sorted(POOL)), st.sampled_from(["first", "repeat"])), unique=True, max_size=8))  # fmt: skip
    return [
        Answer(
            annotator=name, pair=pair, kind=kind,
            left_response=draw(st.sampled_from([1, 2])), answer=draw(st.sampled_from(ANSWERS)),
            confidence=draw(st.sampled_from([None, 1, 2, 3])), reason=draw(REASONS | st.sampled_from(TEXTS)) or None,
            seconds=draw(st.sampled_from([None, 0.5])), answered_at=draw(st.sampled_from([None, 9.0])),
        )
        for name, pair, kind in keys
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(answers=answer_lists())
def test_what_is_exported_and_imported_is_the_same(tmp_path_factory, suffix, answers):
    folder = tmp_path_factory.mktemp("answers")
    file = folder / f"pairs.{suffix}"
    rows = export_answers(POOL, answers, PLAN, file)
    assert rows == len(answers) + len(POOL.keys() - {a.pair for a in answers})
    with AnswerStore(folder / "new.sqlite") as store:
        assert import_answers(POOL, store, file) == (len(answers), len(answers))
        assert import_answers(POOL, store, file) == (0, len(answers))
    expected = sorted(answers, key=lambda a: list(POOL).index(a.pair))
    assert read_answers(folder / "new.sqlite") == expected


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(answers=answer_lists())
def test_label_studio_gets_and_gives_the_same_verdicts(tmp_path_factory, answers):
    folder = tmp_path_factory.mktemp("answers")
    export_answers(POOL, answers, PLAN, folder / "tasks.json")
    with AnswerStore(folder / "new.sqlite") as store:
        import_answers(POOL, store, folder / "tasks.json")
    imported = read_answers(folder / "new.sqlite")
    before, after = (
        {(a.annotator, a.pair): (judgment_of(a) or a.answer, a.confidence, a.reason) for a in rows if a.kind == "first"}
        for rows in (answers, imported)
    )  # fmt: skip
    assert before == after and len(imported) == len(before)


def test_the_tasks_fit_their_interface(tmp_path):
    answers = [Answer("anna", "pair0", "first", 1, "left", 2, reason="Why."), Answer("ben", "pair0", "first", 2, "tie")]  # fmt: skip
    export_answers(POOL, answers, PLAN, tmp_path / "tasks.json")
    interface = ElementTree.fromstring((tmp_path / "tasks.xml").read_text())
    assert (tmp_path / "tasks.xml").read_text() == LABEL_STUDIO
    variables = {node.get("value")[1:] for node in interface.iter("Text")}
    controls = {node.get("name"): node for node in interface.iter() if node.get("toName")}
    for task in read_json(tmp_path / "tasks.json"):
        assert variables <= task["data"].keys()
        left_response = task["data"]["left_response"]
        assert (
            task["data"]["left"]
            == POOL[task["data"]["pair_id"].removeprefix("pair-")][f"response_{left_response}"]
        )
        for annotation in task["annotations"]:
            for part in annotation["result"]:
                control = controls[part["from_name"]]
                assert control.tag.lower() == part["type"]
                targets = (
                    [part["from_name"]]
                    if control.tag == "Pairwise"
                    else control.get("toName").split(",")
                )
                assert part["to_name"] in targets


def test_what_label_studio_adds_is_understood(tmp_path):
    """Its export has ids, a number for the annotator, a cancelled task, and a task without an answer."""
    export_answers(POOL, [], PLAN, tmp_path / "tasks.json")
    tasks = read_json(tmp_path / "tasks.json")[:4]
    choice = {"id": "x", "from_name": "better", "to_name": "better", "type": "pairwise", "value": {"selected": "right"}}  # fmt: skip
    tasks[0] |= {"id": 1, "annotations": [{"id": 3, "completed_by": 7, "was_cancelled": False, "result": [choice], "lead_time": 4.2}]}  # fmt: skip
    tasks[1]["annotations"] = [{"completed_by": {"id": 7, "email": "a@b.c"}, "was_cancelled": True, "result": []}]  # fmt: skip
    tasks[2]["annotations"] = [{"completed_by": 7, "was_cancelled": False, "result": []}]
    write_json(tmp_path / "export.json", tasks)
    with AnswerStore(tmp_path / "new.sqlite") as store:
        assert import_answers(POOL, store, tmp_path / "export.json") == (2, 2)
    one, other = read_answers(tmp_path / "new.sqlite")
    right = str(3 - tasks[0]["data"]["left_response"])
    assert (one.annotator, one.pair, verdict_of(one)) == ("label studio 7", "pair0", right)
    assert (other.annotator, other.answer) == ("a@b.c", "skip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "left"}, "line 2: answer 'left'; allowed: 1, 2, tie, both_bad, skip, flag"),
        ({"answer": None}, "line 2: answer 'none'"),
        ({"pair_id": "gone"}, "line 2: pair 'gone' is not in this study's pool"),
        ({"pair_id": ["pair1"]}, "line 2: pair .* is not in this study's pool"),
        ({"annotator": "a" * 99}, "line 2: a name has 1 to 60"),
        ({"reason": "a" * 2001}, "line 2: a reason has 2,000"),
        ({"confidence": "very"}, "line 2: confidence 'very' is not a whole number"),
        ({"confidence": 1.5}, "line 2: confidence 1.5 is not a whole number"),
        ({"confidence": 7}, "line 2: confidence 7; allowed: 1, 2, 3"),
        ({"left_response": 3}, "line 2: a showing of kind 'first' with response 3 left"),
        ({"left_response": 10**400}, "line 2: left_response 10.* is not a whole number"),
        ({"left_response": 0}, "line 2: a showing of kind 'first' with response 0 left"),
        ({"annotator": None}, "line 2: an answer without an annotator"),
        ({"annotator": ""}, "line 2: an answer without an annotator"),
        ({"annotator": False}, "line 2: annotator False is not a text"),
        ({"annotator": ["ben"]}, "line 2: annotator .* is not a text"),
        ({"reason": {"a": 1}}, "line 2: reason .* is not a text"),
        ({"seconds": "nan"}, "line 2: seconds 'nan' is not a number"),
        ({"kind": "practice"}, "line 2: kind 'practice'; allowed: first, repeat"),
    ],
)
def test_one_wrong_row_is_named_and_nothing_is_imported(tmp_path, changes, message):
    good = {"pair_id": "pair1", "annotator": "anna", "answer": "1"}
    write_jsonl(tmp_path / "a.jsonl", [good, good | {"annotator": "ben"} | changes])
    with AnswerStore(tmp_path / "new.sqlite") as store:
        with pytest.raises(UserError, match=message):
            import_answers(POOL, store, tmp_path / "a.jsonl")
        assert store.answers() == []


HEADER = "pair_id,annotator,answer,reason\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ((HEADER + "pair1,Jos\u00e9,1,\n").encode("latin-1"), "a.csv: not UTF-8 text"),
        ((HEADER + "pair1,anna,1,\n").replace(",", "|").encode(), "row 1: no column 'pair_id'; .* commas"),
        ((HEADER + "pair1,anna,1,\npair2,anna,1,\npair1,Anna,2,\n").encode(), "row 4: anna answered this pair otherwise in row 2"),
        (b"annotator,answer\nanna,1\n", "row 1: no column 'pair_id'"),
        (b"", "a.csv: empty, where a table is expected: save it as CSV"),
        ((HEADER + "pair1,anna,1,\npair1,ben,3,\n").encode(), "row 3: answer '3'"),
        ((HEADER + "\npair1,anna,1,\n\npair1,ben,3,\n").encode(), "row 5: answer '3'"),
        ((HEADER + "pair1,anna,1,well, no\n").encode(), "a.csv: line 2 has 5 cells, and the table has 4 columns"),
        (b"pair_id,annotator,answer,answer\npair1,anna,1,2\n", "a.csv: line 1: two columns are named 'answer'"),
        ((HEADER + "pair1,anna,1,\npair2,,2,\n").encode(), "row 3: an answer without an annotator"),
        ((HEADER + "pair1,anna,1,\npair1,ben\n").encode(), "row 3: answer 'none'"),
    ],
)  # fmt: skip
def test_a_table_that_another_program_wrote_otherwise_is_refused_with_a_reason(
    tmp_path, text, message
):
    (tmp_path / "a.csv").write_bytes(text)
    with AnswerStore(tmp_path / "new.sqlite") as store:
        with pytest.raises(UserError, match=message):
            import_answers(POOL, store, tmp_path / "a.csv")
        assert store.answers() == []


def test_a_table_may_begin_with_a_mark_end_its_lines_otherwise_and_have_empty_columns(tmp_path):
    text = HEADER.replace("\n", ",,\n") + 'pair1,Jos\u00e9,1,"one\ntwo",,\n'
    (tmp_path / "a.csv").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    with AnswerStore(tmp_path / "new.sqlite") as store:
        assert import_answers(POOL, store, tmp_path / "a.csv") == (1, 1)
        (answer,) = store.answers()
    assert (answer.annotator, answer.reason) == ("Jos\u00e9", "one\ntwo")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_another_countrys_spreadsheet_is_read(tmp_path, separator):
    rows = [
        ("pair_id", "annotator", "answer", "reason"),
        ("pair1", "Jos\u00e9", " Tie ", "one, two; three"),
    ]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    with AnswerStore(tmp_path / "new.sqlite") as store:
        assert import_answers(POOL, store, tmp_path / "a.csv") == (1, 1)
        (answer,) = store.answers()
    assert (answer.answer, answer.reason) == ("tie", "one, two; three")


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"data": {"pair_id": "pair1", "left_response": "1"}, "annotations": []}], "task 1: .* left_response is '1'"),
        ({"data": {}}, "not a list of tasks"),
        (["task"], "task 1: not as Label Studio exports"),
        ([{"annotations": []}], "task 1: .*KeyError: 'data'"),
        ([{"data": {"pair_id": "pair1", "left_response": 1}, "annotations": [{"completed_by": 1}]}], "task 1: .*'result'"),
        ([{"data": {"pair_id": "pair1", "left_response": 1}, "annotations": [{"was_cancelled": True, "result": []}]}], "task 1: an answer without"),
        ([{"data": {"pair_id": "pair1", "left_response": 1}, "annotations": [{"completed_by": 1, "result": ["x"]}]}], "task 1"),
    ],
)  # fmt: skip
def test_what_is_no_export_of_label_studio_is_refused_with_a_reason(tmp_path, tasks, message):
    write_json(tmp_path / "export.json", tasks)
    with AnswerStore(tmp_path / "new.sqlite") as store, pytest.raises(UserError, match=message):
        import_answers(POOL, store, tmp_path / "export.json")


def test_people_fill_in_a_table_and_bring_it_back(tmp_path, command_line):
    study = write_study(tmp_path / "results/demo", pairs=4)
    run = command_line(
        "tools.cli", "export-answers", "--study", study.folder, tmp_path / "pairs.csv"
    )
    assert run.returncode == 0 and "4 rows" in run.stdout, run.stderr
    rows = read_csv(tmp_path / "pairs.csv")
    assert rows[0]["prompt"].startswith("Claim: CMV") and "[SYSTEM]" not in rows[0]["prompt"]
    for row, answer in zip(rows[:3], ("1", "2", "tie"), strict=True):
        row |= {"annotator": "Anna", "answer": answer}
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    run = command_line(
        "tools.cli", "import-answers", "--study", study.folder, tmp_path / "pairs.csv"
    )
    assert run.returncode == 0 and "3 answers, 3 of them new" in run.stdout, run.stderr
    assert [verdict_of(a) for a in read_answers(study.answers)] == ["1", "2", "tie"]
    command_line("tools.cli", "export-answers", "--study", study.folder, tmp_path / "all.jsonl")
    assert [row["answer"] for row in read_jsonl(tmp_path / "all.jsonl")] == ["1", "2", "tie", None]
    run = command_line("tools.cli", "export-answers", "--study", study.folder, tmp_path / "all.txt")
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    assert "write .jsonl, .csv, or .json for Label Studio" in run.stderr


@pytest.mark.parametrize(
    ("command", "file", "message"),
    [
        ("export-answers", "folder.csv", "folder.csv: a folder, where a file is to be written"),
        ("export-answers", "folder.json", "folder.json: a folder, where a file is to be written"),
        ("export-answers", "file/a.csv", "file/a.csv: cannot be written there (/"),
        ("export-answers", "file/b/a.jsonl", "/file is a file)"),
        ("export-answers", "/proc/1/a.csv", "/proc/1/a.csv: cannot be written there ("),
        ("export-answers", "/proc/a.jsonl", "/proc/a.jsonl: cannot be written there ("),
        ("export-answers", "taken.json", "taken.xml: is there, and is not the labelling interface"),
        ("import-answers", "folder.csv", "folder.csv: cannot be read (Is a directory)"),
        ("import-answers", "folder.json", "folder.json: a folder, where a file is to be read"),
        ("import-answers", "folder.jsonl", "folder.jsonl: a folder, where a file is to be read"),
        ("import-answers", "file/a.csv", "file/a.csv: cannot be read (Not a directory)"),
        ("import-answers", "file/a.jsonl", "file/a.jsonl"),
        ("import-answers", "none.csv", "none.csv: cannot be read (No such file"),
    ],
)  # fmt: skip
def test_a_path_of_the_wrong_kind_is_an_error_of_one_line(
    tmp_path, command_line, command, file, message
):
    study = write_study(tmp_path / "results/demo", pairs=4)
    for name in ("folder.csv", "folder.json", "folder.jsonl"):
        (tmp_path / name).mkdir()
    for name in ("file", "taken.xml"):
        (tmp_path / name).write_text("mine")
    run = command_line("tools.cli", command, "--study", study.folder, tmp_path / file)
    (line,) = run.stderr.splitlines()
    assert run.returncode == 1 and line.startswith("error: ") and message in line
    assert ".part" not in line and (tmp_path / "taken.xml").read_text() == "mine"
    assert not (tmp_path / "taken.json").exists()


def test_an_interface_that_was_exported_before_is_written_again(tmp_path):
    for _ in range(2):
        assert export_answers(POOL, [], PLAN, tmp_path / "tasks.json") == len(POOL)
    assert (tmp_path / "tasks.xml").read_text() == LABEL_STUDIO


RECORD = "study: demo\nmodels:\n  base: {source: standin}\n"


@pytest.mark.parametrize("command", [["annotate"], ["export-answers", "a.csv"], ["chat", "--model", "sft"]])  # fmt: skip
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", "holds nothing where keys are expected"),
        ("study: demo\n", "the configuration: the key 'models' is missing"),
        ("study: demo\nseed: 1\nlabels: 3\n", "labels: 3 must be an object"),
        ("study: demo\nmodels: {base: standin}\n", "models.base: 'standin' must be an object"),
        (f"{RECORD}seed: one\n", "seed: 'one' must be an integer"),
        (
            f"{RECORD}  sft: {{parent: gone, method: sft}}\n",
            "models.sft.parent: unknown model 'gone'",
        ),
    ],
)
def test_a_broken_recorded_configuration_is_one_line(
    tmp_path, command_line, command, config, message
):
    study = write_study(tmp_path / "results/demo", pairs=4)
    (study.folder / "config.yaml").write_text(config)
    run = command_line("tools.cli", *command, "--study", study.folder)
    (line,) = run.stderr.splitlines()
    assert run.returncode == 1 and line.startswith(f"error: {study.folder}/config.yaml: {message}")
    assert "make it again: `snakemake results/demo/config.yaml --cores 1" in line


NUMBERLIKE = "885394e1000000000"


def in_a_spreadsheet(cell: str) -> str:
    """What a spreadsheet saves of a cell that it has read: numbers, dates and truth values as it writes them."""
    if cell.lower() in ("true", "false"):
        return cell.upper()
    try:
        return f"{float(cell):.2E}" if len(cell) > 9 else f"{float(cell):g}"
    except ValueError:
        return "2026-01-02" if re.fullmatch(r"\d+[-/]\d+", cell) else cell


def test_a_table_that_a_spreadsheet_read_and_saved_is_imported_whole(tmp_path):
    pool = {NUMBERLIKE: POOL["pair0"], "0012345678901234": POOL["pair1"], "12e3": POOL["pair2"]}
    people, plan = ["00123", "1-2", "true", "1e5", "Mary"], Plan(list(pool), 1)
    answers = [
        Answer(name, pair, "first", 1, "left", reason="=1+1") for pair in pool for name in people
    ]
    export_answers(pool, answers, plan, tmp_path / "pairs.csv")
    with (tmp_path / "pairs.csv").open(newline="") as file:
        rows = [[in_a_spreadsheet(cell) for cell in row] for row in csv.reader(file)]
    with (tmp_path / "saved.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with AnswerStore(tmp_path / "new.sqlite") as store:
        assert import_answers(pool, store, tmp_path / "saved.csv") == (15, 15)
    assert read_answers(tmp_path / "new.sqlite") == answers


def test_no_text_in_a_table_is_a_formula_and_answers_stay_as_they_are(tmp_path):
    row = {"prompt": "=HYPERLINK(1)", "response_1": "@SUM(1)", "response_2": "\t=1"}
    answers = [
        Answer("+anna", "p", "first", 1, "left", 1, "-1+1"),
        Answer("ben", "p", "first", 1, "left"),
    ]
    export_answers({"p": row}, answers, Plan(["p"], 1), tmp_path / "pairs.csv")
    cells = [cell for row in read_csv(tmp_path / "pairs.csv") for cell in row.values()]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert [row["answer"] for row in read_csv(tmp_path / "pairs.csv")] == ["1", "1"]
    assert [row["annotator"] for row in read_csv(tmp_path / "pairs.csv")] == ["'+anna", "ben"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_an_export_with_ids_as_they_were_is_imported_and_a_spoiled_id_is_one_line(tmp_path, suffix):
    pool, file = {NUMBERLIKE: POOL["pair0"]}, tmp_path / f"old.{suffix}"

    def write(pair: str) -> None:
        row = {"pair_id": pair, "annotator": "anna", "answer": "2"}
        table = ",".join(row) + "\n" + ",".join(row.values()) + "\n"
        write_jsonl(file, [row]) if suffix == "jsonl" else file.write_text(table)

    with AnswerStore(tmp_path / "new.sqlite") as store:
        write(NUMBERLIKE)
        assert import_answers(pool, store, file) == (1, 1)
        write("8.85E+15")
        with pytest.raises(
            UserError, match=r"pair '8.85E\+15' .*a spreadsheet made a number of it: export anew"
        ):
            import_answers(pool, store, file)


def test_one_person_is_one_annotator_however_the_name_is_written(tmp_path):
    names = ["Zoë", "zoë", "Zoe\u0308", " ZOË ", "Zoë\u00a0", "\uff3aoë", "Ben", "Ben  B", "ben b"]
    rows = [
        {"pair_id": f"pair{i}", "annotator": name, "answer": "1"}
        for i, name in enumerate(names[:6])
    ]
    rows += [
        {"pair_id": f"pair{i}", "annotator": name, "answer": "1"}
        for i, name in enumerate(names[6:])
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with AnswerStore(tmp_path / "new.sqlite") as store:
        assert import_answers(POOL, store, tmp_path / "rows.jsonl") == (9, 9)
        assert store.names() == ["Zoë", "Ben", "Ben B"]


def test_texts_of_label_studio_may_be_lists_or_texts(tmp_path):
    export_answers(POOL, [], PLAN, tmp_path / "tasks.json")
    (task, *_) = read_json(tmp_path / "tasks.json")
    parts = [
        ("otherwise", "choices", "tie"),
        ("confidence", "choices", "2"),
        ("reason", "text", "So\r\nit is\x00.\ud83d"),
    ]
    result = [{"from_name": name, "value": {key: value}} for name, key, value in parts]
    task["annotations"] = [{"completed_by": 1, "result": result}]
    (tmp_path / "export.json").write_text(json.dumps([task]))
    with AnswerStore(tmp_path / "new.sqlite") as store:
        import_answers(POOL, store, tmp_path / "export.json")
    (answer,) = read_answers(tmp_path / "new.sqlite")
    assert (answer.answer, answer.confidence, answer.reason) == ("tie", 2, "So\nit is.\ufffd")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_clock_that_was_set_back_leaves_durations_unknown(tmp_path, suffix):
    """Also in a store of an earlier version, whose own export could not be imported."""
    plan = Plan(["pair0", "pair1"], 1)
    with AnswerStore(tmp_path / "answers.sqlite") as store:
        for number, seconds in enumerate((None, -3600.0)):
            showing = store.next("anna", plan, now=10_000.0)
            given_ = Answer("anna", showing.pair, showing.kind, showing.left_response, "left")
            assert store.add(replace(given_, seconds=seconds, answered_at=6_400.0))
            assert store.answers()[number].seconds is None
        showing = store.next("ben", Plan(["pair2"], 1), now=10_000.0)
        # What was shown in what is now the future is offered to others.
        assert store.next("eve", Plan(["pair2"], 1), now=6_400.0).pair == showing.pair
        store._file.execute("UPDATE answers SET seconds = -3600")
        store._file.commit()
        assert [answer.seconds for answer in store.answers()] == [None, None]
    file = tmp_path / f"answers.{suffix}"
    exported = read_answers(tmp_path / "answers.sqlite")
    export_answers(POOL, exported, PLAN, file)
    text = file.read_text()
    assert "-3600" not in text
    # As an earlier version exported them.
    file.write_text(
        text.replace(",,6400", ",-3600.0,6400")
        if suffix == "csv"
        else text.replace('"seconds": null', '"seconds": -3600.0')
    )
    with AnswerStore(tmp_path / "other.sqlite") as other:
        import_answers(POOL, other, file)
        assert [answer.seconds for answer in other.answers()] == [None, None]
