"""The pages of labelling: every answer is blind, and is stored once."""

import os
import re
import sqlite3
import subprocess
import sys
from html import unescape

import pytest
from starlette.testclient import TestClient

from labelled_study import (
    IN_PRACTICE,
    answer,
    first_answers,
    form_of,
    open_page,
    pair_of,
    write_study,
)
from persuasion_rl.annotation.plan import pair_id, verdict_of
from persuasion_rl.annotation.store import AnswerStore, read_answers
from persuasion_rl.annotation.study import AnnotatedStudy
from persuasion_rl.annotation.web import make_app
from persuasion_rl.files import UserError, write_jsonl
from running import ROOT


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "results/demo")


def test_answers_are_stored_as_they_were_shown(study):
    page, expected = open_page(study), {}
    for i in range(20):
        fields, (left_text, _) = form_of(page)
        choice = ("left", "right", "tie", "both_bad", "skip")[i % 5]
        pair = pair_of(study, fields)
        row = study.pool[pair]
        left_response = 1 if left_text.startswith(row["response_1"]) else 2
        verdicts = {"left": str(left_response), "right": str(3 - left_response), "tie": "tie"}
        expected[pair] = (choice, verdicts.get(choice, "none"))
        assert answer(page, choice, confidence=2, reason="as it is").status_code == 200
    stored = [a for a in read_answers(study.answers) if a.kind == "first"]
    assert {a.pair: (a.answer, verdict_of(a)) for a in stored} == expected and len(stored) == 20
    assert {(a.annotator, a.confidence, a.reason) for a in stored} == {("anna", 2, "as it is")}
    assert all(0 <= a.seconds < 60 for a in stored)


def test_a_second_answer_from_another_tab_changes_nothing_and_the_page_says_so(study):
    page = open_page(study)
    fields, _ = form_of(page)
    page.post("/pair", data={**fields, "answer": "left"})
    again = page.post("/pair", data={**fields, "answer": "right"})
    assert "the first one stands" in again.text
    assert [a.answer for a in read_answers(study.answers) if a.kind == "first"] == ["left"]


def test_undo_shows_the_pair_again(study):
    page = open_page(study)
    pair = pair_of(study, form_of(page)[0])
    answer(page, "left")
    assert pair_of(study, form_of(page)[0]) != pair
    undo(page)
    assert pair_of(study, form_of(page)[0]) == pair
    answer(page, "right")
    assert [a.answer for a in read_answers(study.answers) if a.kind == "first"] == ["right"]


def test_practice_comes_first_with_the_expected_answers(study):
    page, replies = open_page(study, practised=False), []
    while IN_PRACTICE in page.get("/pair").text:
        fields, (left_text, _) = form_of(page)
        row = study.practice[pair_of(study, fields)]
        choice = row["expected"]
        if choice in ("1", "2"):
            choice = "left" if left_text == row[f"response_{choice}"] else "right"
        replies.append(answer(page, choice if replies else "skip").text)
    assert len(replies) == len(study.practice) >= 3
    assert "otherwise" in replies[0] and all(
        "what we would have said" in text for text in replies[1:]
    )
    for text, row in zip(replies, study.practice.values(), strict=True):
        assert row["feedback"] in unescape(text)


def test_text_of_models_and_corpora_is_text(tmp_path):
    page = open_page(write_study(tmp_path / "results/demo", pairs=1, hostile=True))
    text = page.get("/pair").text
    assert "<script>alert" not in text and "<img" not in text and '" onmouseover' not in text
    assert text.count("&lt;script&gt;alert") == 2 and "{{ 7 * 7 }}" in text
    policy = page.get("/pair").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_nothing_in_the_traffic_tells_where_a_text_comes_from(study):
    page = open_page(study)
    for _ in range(10):
        answer(page, "left")
    for path in ("/pair", "/results", "/instructions", "/arena", "/page.js", "/page.css"):
        response = page.get(path)
        traffic = response.text + str(response.headers) + str(dict(page.cookies))
        assert not re.search(r"secret\d|sft|rlaif|rlhf|standin", traffic), path
        assert "http://" not in response.text and "https://" not in response.text


def test_after_a_clock_was_set_back_no_time_left_is_told(study, monkeypatch):
    page = open_page(study)
    answer(page, "left")
    assert "min left" in page.get("/pair").text
    with AnswerStore(study.answers) as store:  # as an earlier version kept it
        store._file.execute("UPDATE answers SET seconds = -3600")
        store._file.commit()
    text = page.get("/pair").text
    assert "answered" in text and "min left" not in text and "-" not in text.split("to go")[0][-40:]


@pytest.mark.parametrize("name", ["", "   ", "\x07", "a" * 61, "a\u200b"])
def test_a_name_is_a_line(study, name):
    page = TestClient(make_app(study), base_url="http://127.0.0.1")
    response = page.post("/name", data={"name": name})
    assert response.status_code == 400 and "a name has 1 to 60" in response.text
    assert page.get("/pair", follow_redirects=False).headers["location"] == "/"


@pytest.mark.parametrize(
    "fields",
    [
        {"showing": "999", "answer": "left"},
        {"showing": "²", "answer": "left"},
        {"showing": "9" * 5000, "answer": "left"},
        {"showing": None, "answer": "sft"},
        {"showing": None, "answer": "left", "reason": "x" * 2001},
        {},
    ],
)
def test_what_is_no_answer_is_refused_in_words(study, fields):
    page = open_page(study)
    before = read_answers(study.answers)
    own = form_of(page)[0]["showing"]
    data = {name: value or own for name, value in fields.items()}
    response = page.post("/pair", data=data)
    assert response.status_code == 400 and "That was not taken" in response.text
    assert read_answers(study.answers) == before


def test_a_page_of_another_name_in_the_same_browser_answers_nothing(study):
    """Two tabs share their cookies: the pair in the first tab was drawn for another annotator."""
    page = open_page(study, "anna")
    fields, _ = form_of(page)
    page.post("/name", data={"name": "ben"})
    form_of(page)
    before = read_answers(study.answers)
    refused = page.post("/pair", data={**fields, "answer": "left"})
    assert refused.status_code == 400 and "before ben signed in" in refused.text
    assert read_answers(study.answers) == before
    page.post("/name", data={"name": "anna"})
    page.post("/pair", data={**fields, "answer": "left"})
    assert [(a.annotator, a.answer) for a in first_answers(study)] == [("anna", "left")]


def test_an_answer_means_the_sides_that_were_shown_whatever_the_seed_is_now(tmp_path):
    """With another seed a study draws other sides, but an open page still shows the old ones."""
    changed = 0
    for number in range(6):
        study = write_study(tmp_path / f"results/{number}", pairs=1, overlap=1.0)
        page = open_page(study)
        fields, (left_text, _) = form_of(page)
        settings = study.folder / "config.yaml"
        settings.write_text(settings.read_text().replace("seed: 1", f"seed: {number + 2}"))
        anew = AnnotatedStudy(study.folder)
        again = open_page(anew)
        assert form_of(again) == (fields, [left_text, *form_of(again)[1][1:]])
        again.post("/pair", data={**fields, "answer": "left"})
        (stored,) = first_answers(study)
        (row,) = study.pool.values()
        assert row[f"response_{stored.left_response}"] == left_text
        changed += anew.plan.left("anna", stored.pair) != study.plan.left("anna", stored.pair)
    assert changed, "no seed of these draws another side"


def undo(page):
    """Undo as by the button of a page that was just loaded."""
    (number,) = re.findall(r'name="answered" value="(\d*)"', page.get("/pair").text)
    return page.post("/undo", data={"answered": number})


def test_the_undo_of_a_stale_page_takes_back_the_answer_of_that_page_once(study):
    page = open_page(study)
    answer(page, "left")
    (number,) = re.findall(r'name="answered" value="(\d+)"', page.get("/pair").text)
    answer(page, "right")
    for _ in range(2):
        page.post("/undo", data={"answered": number})
        assert [a.answer for a in first_answers(study)] == ["right"]
    answer(page, "tie")
    page.post("/undo", data={"answered": number})
    assert [a.answer for a in first_answers(study)] == ["right", "tie"]
    other = open_page(study, "ben")
    (number,) = re.findall(r'name="answered" value="(\d+)"', page.get("/pair").text)
    assert other.post("/undo", data={"answered": number}).status_code == 400
    assert len(first_answers(study)) == 2


def test_a_running_page_follows_a_pool_that_changes_and_its_answers_stay(tmp_path):
    study = write_study(tmp_path / "results/demo", pairs=3)
    page = open_page(study)
    answer(page, "left")
    fields, _ = form_of(page)
    (number,) = re.findall(r'name="answered" value="(\d+)"', page.get("/pair").text)
    rows = [row | {"response_1": row["response_1"] + " Anew."} for row in study.pool.values()]
    write_jsonl(study.folder / "preferences/human_pool_responses.jsonl", rows)
    late = page.post("/pair", data={**fields, "answer": "left"})
    assert late.status_code == 400 and "not in the pool any more" in late.text
    page.post("/undo", data={"answered": number})
    assert len(first_answers(study)) == 1, "an answer to the old pool is not taken back"
    anew, texts = form_of(page)
    assert (
        any(text.endswith("Anew.") for text in texts)
        and "0 answered, 3 to go" in page.get("/pair").text
    )
    assert pair_of(study, anew) in {pair_id(row) for row in rows}
    study._responses.unlink()
    gone = page.get("/pair")
    assert gone.status_code == 400 and "is not there" in gone.text


def test_a_pair_that_came_back_looks_like_any_other(tmp_path):
    """For one annotator the sum of answers done and to go never changes, and the form does not tell the kind."""
    study = write_study(tmp_path / "results/demo", pairs=40, repeats=0.4)
    page, kinds, sums, forms = open_page(study), [], set(), set()
    while "to go" in (text := page.get("/pair").text):
        done, to_go = map(int, re.search(r"(\d+) answered, (\d+) to go", text).groups())
        fields, _ = form_of(page)
        with AnswerStore(study.answers) as store:
            kinds.append(store.showing(int(fields["showing"])).kind)
        sums.add(done + to_go)
        forms.add(tuple(fields))
        answer(page, "left")
    assert kinds.count("repeat") > 3 and sums == {len(kinds)} and forms == {("showing", "answered")}
    assert to_go == 1 and "repeat" not in page.get("/pair").text


def test_line_ends_of_a_reason_are_counted_once(study):
    page = open_page(study)
    reason = "\n".join(["x"] * 1000) + "y"
    assert len(reason) == 2000
    assert answer(page, "left", reason=reason.replace("\n", "\r\n")).status_code == 200
    assert [a.reason for a in first_answers(study)] == [reason]


def test_results_say_when_nothing_is_left(tmp_path):
    page = open_page(write_study(tmp_path / "results/demo", pairs=3, overlap=0.2))
    for choice in ("flag", "left", "right"):
        answer(page, choice)
    text = page.get("/results").text
    assert "2 of 3 pairs have a verdict, 2 are needed; 1 flagged" in text
    assert "Nothing is left that needs a verdict" in text


def store_of(page):
    """The store that a page writes to."""
    return next(r for r in page.app.routes if r.path == "/pair").endpoint.__self__.store


def test_a_full_disk_is_reported_and_no_answer_is_lost(study):
    store = AnswerStore(study.answers)
    page = open_page(study)
    answer(page, "left")
    app_store = store_of(page)
    pages = app_store._file.execute("PRAGMA page_count").fetchone()[0]
    app_store._file.execute(f"PRAGMA max_page_count = {pages}")
    response = None
    for _ in range(40):
        response = answer(page, "left", reason="x" * 2000)
        if response.status_code != 200:
            break
    assert response.status_code == 507 and "was not kept" in response.text
    before = read_answers(study.answers)
    app_store._file.execute("PRAGMA max_page_count = 10000")
    assert answer(page, "right").status_code == 200
    assert read_answers(study.answers)[:-1] == before
    store.close()


def test_a_page_that_cannot_be_made_says_nothing_of_answers_that_were_lost(study):
    """The answer is stored, but the next page waits for a transaction that does not end."""
    page = open_page(study)
    fields, _ = form_of(page)
    store_of(page)._file.execute("PRAGMA busy_timeout = 50")
    response = page.post("/pair", data={**fields, "answer": "left"}, follow_redirects=False)
    assert response.status_code == 303
    other = sqlite3.connect(study.answers)
    other.execute("BEGIN IMMEDIATE")
    after = page.get("/pair")
    assert after.status_code == 507 and "The page could not be made" in after.text
    assert "not kept" not in after.text
    refused = page.post("/pair", data={**fields, "answer": "left"})
    assert refused.status_code == 507 and "was not kept" in refused.text
    other.rollback()
    assert len(first_answers(study)) == 1


def test_results_tell_how_far_people_agree(tmp_path):
    study = write_study(tmp_path / "results/demo", pairs=30, overlap=1.0)
    pages = [open_page(study, name) for name in ("anna", "ben")]
    for _ in range(30):
        for page in pages:
            _, (left_text, _) = form_of(page)
            answer(page, "left" if left_text.startswith("One") else "right")
    text = pages[0].get("/results").text
    assert "30 of 30 pairs have a verdict" in text and "anna" in text and "ben" in text
    assert re.search(r"between people</th><td>1\.00 \[0\.\d\d, 1\.00\]", text)


def test_a_study_that_is_not_ready_is_an_error_of_one_line(tmp_path, command_line):
    run = command_line("tools.cli", "annotate", "--study", tmp_path / "nothing")
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    assert "snakemake unattended" in run.stderr
    study = write_study(tmp_path / "results/demo")
    (study.folder / "preferences/human_pool_responses.jsonl").unlink()
    run = command_line("tools.cli", "annotate", "--study", study.folder)
    assert run.returncode == 1 and "human_pool_responses.jsonl is not there" in run.stderr
    assert not study.answers.exists()


def test_the_labels_of_simulated_annotators_are_not_asked_for(tmp_path, command_line):
    study = write_study(tmp_path / "results/demo", source="simulated")
    for args in (("annotate",), ("import-answers", tmp_path / "a.csv")):
        run = command_line("tools.cli", args[0], "--study", study.folder, *args[1:])
        assert run.returncode == 1 and run.stderr.count("\n") == 1
        assert "annotators are simulated" in run.stderr and "annotate --arena" in run.stderr
    assert not study.answers.exists()


def test_away_from_the_checkout_its_files_are_found_or_a_line_says_where_to_run_it(
    study, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert study.rubric and len(study.practice) == 3
    monkeypatch.setattr("persuasion_rl.study.names.CHECKOUT", tmp_path)  # installed without one
    elsewhere = AnnotatedStudy(study.folder)
    for name in ("plan", "rubric"):
        with pytest.raises(UserError, match="^resources/.* is not there: run this in the checkout"):
            getattr(elsewhere, name)


def test_the_practice_pairs_are_complete(study):
    texts = ("prompt", "response_1", "response_2", "feedback", "expected")
    assert len(study.practice) == 3, "no two of them are the same"
    for row in study.practice.values():
        assert row["expected"] in ("1", "2", "tie", "both_bad")
        assert row["prompt"].startswith("Claim: ") and all(row[name].strip() for name in texts)


def test_fifty_people_at_once_lose_and_double_no_answer():
    """The benchmark counts the answers of a page that is really served; its times are not tested."""
    args = [sys.executable, "benchmarks/annotation.py", "--people", "50", "--answers", "4"]
    run = subprocess.run(
        args, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")}, capture_output=True, text=True, timeout=240
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "50 people at once, 200 answers" in run.stdout
    assert "0 lost, 0 more than a pair was to get, 0 that nobody gave" in run.stdout


def test_one_person_has_one_name_on_the_page(tmp_path):
    study = write_study(tmp_path / "results/demo", pairs=4)
    page = open_page(study, "Anna")
    page.get("/pair")
    for name in ("anna", " ANNA", "An\x00na", "Ann\u0061"):
        other = open_page(study, name)
        answer(other, "left")
    assert {one.annotator for one in first_answers(study)} == {"Anna"}
    assert len(first_answers(study)) == 4


def test_what_is_typed_into_a_form_is_text_that_every_tool_can_hold(tmp_path):
    study = write_study(tmp_path / "results/demo", pairs=1)
    page = open_page(study)
    answer(page, "left", reason="So\r\nit\x00 is\u2028now\r")
    assert first_answers(study)[0].reason == "So\nit is\nnow\n"


def test_texts_have_the_direction_of_their_letters(tmp_path):
    page = open_page(write_study(tmp_path / "results/demo", pairs=1)).get("/pair").text
    for part in (
        '<p class="claim"',
        '<p class="turn answered"',
        '<p class="text"',
        '<textarea id="reason" name="reason"',
    ):
        assert f'{part} dir="auto"' in page
