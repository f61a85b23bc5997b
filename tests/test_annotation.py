"""The annotation page: every answer is kept once and blindly, and nobody gets in who should not."""

import json
import re
from html import unescape

import pytest
import yaml
from starlette.testclient import TestClient

from persuasion_rl.annotated_study import AnnotatedStudy
from persuasion_rl.annotation import LARGEST_REQUEST, make_app
from persuasion_rl.answers import AnswerStore, pair_id, read_answers, verdict_of
from persuasion_rl.battles import BattleStore, rank_arena, read_votes, votes_digest
from persuasion_rl.files import UserError, read_csv, write_jsonl
from persuasion_rl.prompts import render

HOSTILE = """</p></main><script>alert('x')</script><img src=x onerror=alert(1)>" onmouseover="alert(1) {{ 7 * 7 }} \u202e"""
SECRET = {
    "prompt_id": "cmv-secret1", "conversation_id": "secret2", "model_digest": "secret3", "engine": "secret4",
    "model": "secret5",
}  # fmt: skip


def write_study(folder, pairs=40, hostile=False, **human):
    """As much of a study as is there when people are to label it."""
    given = {"overlap": 0.2, "several": 2, "repeats": 0.0, "min_labels": 200} | human
    settings = {
        "study": "demo", "seed": 1, "device": "cpu", "trust_remote_code": False,
        "data": {"prompt_format": "plain", "max_context_tokens": 400},
        "labels": {"human": given}, "llm": {"rubric": "resources/rubrics/persuasiveness.md"},
        "models": {"base": {"source": "standin"}, "sft": {"parent": "base", "method": "sft"}},
    }  # fmt: skip
    folder.mkdir(parents=True)
    folder.joinpath("config.yaml").write_text(yaml.safe_dump(settings))
    rows = [
        {
            "prompt": render(f"Claim: CMV: claim {i}\nPoster: Because of {HOSTILE if hostile else i}.", "cmv", "plain"),
            "response_1": f"One {i}. {HOSTILE if hostile else ''}", "response_2": f"Two {i}.",
            "metadata": {**SECRET, "conversation_id": f"secret{i}", "source": "cmv"},
        }
        for i in range(pairs)
    ]  # fmt: skip
    write_jsonl(folder / "preferences/human_pool_responses.jsonl", rows)
    return AnnotatedStudy(folder)


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "results/demo")


def open_page(study, name="anna", token=None, practised=True):
    """A client as a browser would be, past the practice."""
    page = TestClient(make_app(study, token), base_url="http://127.0.0.1", follow_redirects=True)
    page.get("/", params={"token": token} if token else None)
    page.post("/name", data={"name": name})
    while practised and 'value="practice"' in page.get("/pair").text:
        answer(page, "tie")
    return page


def shown(page, path="/pair"):
    """The hidden fields and the texts of a page."""
    text = page.get(path).text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text))
    return fields, [unescape(t) for t in re.findall(r'<p class="text">(.*?)</p>', text, re.DOTALL)]


def answer(page, said, **further):
    fields, _ = shown(page)
    return page.post("/pair", data={**fields, "answer": said, **further})


def test_what_is_answered_is_kept_as_it_was_shown(study):
    page, given = open_page(study), {}
    for i in range(20):
        fields, (left, _) = shown(page)
        said = ("left", "right", "tie", "both_bad", "skip")[i % 5]
        row = study.pool[fields["pair"]]
        stood_left = 1 if left.startswith(row["response_1"]) else 2
        wanted = {"left": str(stood_left), "right": str(3 - stood_left), "tie": "tie"}
        given[fields["pair"]] = (said, wanted.get(said, "none"))
        assert answer(page, said, confidence=2, reason="as it is").status_code == 200
    kept = [a for a in read_answers(study.answers) if a.kind == "first"]
    assert {a.pair: (a.answer, verdict_of(a)) for a in kept} == given and len(kept) == 20
    assert {(a.annotator, a.confidence, a.reason) for a in kept} == {("anna", 2, "as it is")}
    assert all(0 <= a.seconds < 60 for a in kept)


def test_a_second_answer_from_another_tab_changes_nothing_and_is_told(study):
    page = open_page(study)
    fields, _ = shown(page)
    page.post("/pair", data={**fields, "answer": "left"})
    again = page.post("/pair", data={**fields, "answer": "right"})
    assert "the first one stands" in again.text
    assert [a.answer for a in read_answers(study.answers) if a.kind == "first"] == ["left"]


def test_undo_shows_the_pair_again(study):
    page = open_page(study)
    fields, _ = shown(page)
    answer(page, "left")
    assert shown(page)[0] != fields
    page.post("/undo")
    assert shown(page)[0] == fields
    answer(page, "right")
    assert [a.answer for a in read_answers(study.answers) if a.kind == "first"] == ["right"]


def test_practice_comes_first_with_what_we_would_have_said(study):
    page, told = open_page(study, practised=False), []
    while 'value="practice"' in page.get("/pair").text:
        fields, (left, _) = shown(page)
        row = study.practice[fields["pair"]]
        right = row["expected"]
        if right in ("1", "2"):
            right = "left" if left == row[f"response_{right}"] else "right"
        told.append(answer(page, right if told else "skip").text)
    assert len(told) == len(study.practice) >= 3
    assert "otherwise" in told[0] and all("what we would have said" in text for text in told[1:])
    for text, row in zip(told, study.practice.values(), strict=True):
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
        told = response.text + str(response.headers) + str(dict(page.cookies))
        assert not re.search(r"secret\d|sft|rlaif|rlhf|standin", told), path
        assert "http://" not in response.text and "https://" not in response.text


@pytest.mark.parametrize("name", ["", "   ", "a" * 61, "a\x07"])
def test_a_name_is_a_line(study, name):
    page = TestClient(make_app(study), base_url="http://127.0.0.1")
    response = page.post("/name", data={"name": name})
    assert response.status_code == 400 and "a name has 1 to 60" in response.text
    assert page.get("/pair", follow_redirects=False).headers["location"] == "/"


@pytest.mark.parametrize(
    "fields",
    [
        {"pair": "no such pair", "kind": "first", "answer": "left"},
        {"pair": None, "kind": "first", "answer": "sft"},
        {"pair": None, "kind": "third", "answer": "left"},
        {"pair": None, "kind": "first", "answer": "left", "reason": "x" * 2001},
        {},
    ],
)
def test_what_is_no_answer_is_refused_in_words(study, fields):
    page = open_page(study)
    before = read_answers(study.answers)
    data = fields | (
        {"pair": shown(page)[0]["pair"]} if "pair" in fields and not fields["pair"] else {}
    )
    response = page.post("/pair", data=data)
    assert response.status_code == 400 and "That was not taken" in response.text
    assert read_answers(study.answers) == before


def test_an_answer_to_responses_that_changed_is_not_attached_to_the_new_ones(tmp_path):
    study = write_study(tmp_path / "results/demo", pairs=3)
    page = open_page(study)
    fields, _ = shown(page)
    rows = [row | {"response_1": row["response_1"] + " Anew."} for row in study.pool.values()]
    write_jsonl(study.folder / "preferences/human_pool_responses.jsonl", rows)
    page.post(
        "/pair", data={**fields, "answer": "left"}
    )  # the page that is open showed the old one
    anew = AnnotatedStudy(study.folder)
    assert fields["pair"] not in anew.pool
    kept = [a.pair for a in read_answers(study.answers) if a.kind == "first"]
    assert kept == [fields["pair"]]
    after = open_page(anew)
    assert after.post("/pair", data={**fields, "answer": "right"}).status_code == 400
    assert shown(after)[0]["pair"] in {pair_id(row) for row in rows}


def test_other_sites_and_large_requests_are_refused(study):
    page = open_page(study)
    fields, _ = shown(page)
    said = {**fields, "answer": "left"}
    before = read_answers(study.answers)
    assert (
        page.post("/pair", data=said, headers={"Origin": "http://evil.example"}).status_code == 403
    )
    null = page.post("/pair", data=said, headers={"Origin": "null"})
    assert null.status_code == 403
    assert page.get("/pair", headers={"Host": "evil.example"}).status_code == 403
    large = {**said, "reason": "x" * LARGEST_REQUEST}
    assert page.post("/pair", data=large).status_code == 413
    chunks = (b"answer=left&reason=" + b"x" * 1024 for _ in range(LARGEST_REQUEST // 1024 + 1))
    assert page.post("/pair", content=chunks).status_code == 400
    assert page.post("/pair", content=b"answer=%ff").status_code == 400
    assert read_answers(study.answers) == before
    assert page.post("/pair", data=said, headers={"Origin": "http://127.0.0.1"}).status_code == 200


def test_beyond_loopback_a_token_is_asked_for(study):
    stranger = TestClient(make_app(study, "s3cret"), base_url="http://lab.example")
    for path in ("/", "/pair", "/results", "/page.js", "/?token=wrong"):
        assert stranger.get(path).status_code == 403
    assert stranger.post("/name", data={"name": "eve"}).status_code == 403
    friend = open_page(study, token="s3cret")
    assert friend.get("/pair").status_code == 200
    assert "s3cret" not in friend.get("/pair").text


def test_a_full_disk_is_said_and_nothing_that_was_answered_is_lost(study):
    store = AnswerStore(study.answers)
    page = open_page(study)
    answer(page, "left")
    app_store = page.app.routes[0].endpoint.__self__.store
    pages = app_store._file.execute("PRAGMA page_count").fetchone()[0]
    app_store._file.execute(f"PRAGMA max_page_count = {pages}")
    response = None
    for _ in range(40):
        response = answer(page, "left", reason="x" * 2000)
        if response.status_code != 200:
            break
    assert response.status_code == 507 and "was not kept" in response.text
    kept = read_answers(study.answers)
    app_store._file.execute("PRAGMA max_page_count = 10000")
    assert answer(page, "right").status_code == 200
    assert read_answers(study.answers)[:-1] == kept
    store.close()


def test_results_tell_how_far_people_agree(tmp_path):
    study = write_study(tmp_path / "results/demo", pairs=30, overlap=1.0)
    pages = [open_page(study, name) for name in ("anna", "ben")]
    for _ in range(30):
        for page in pages:
            _, (left, _) = shown(page)
            answer(page, "left" if left.startswith("One") else "right")
    text = pages[0].get("/results").text
    assert "30 of 30 pairs have a verdict" in text and "anna" in text and "ben" in text
    assert re.search(r"between people</th><td>1\.00 \[0\.\d\d, 1\.00\]", text)


def test_the_arena_is_blind_until_the_vote_and_a_vote_counts_once(study, tmp_path):
    page = open_page(study)
    assert "Fewer than two models" in page.get("/arena").text
    with BattleStore(study.answers) as battles:
        for number in range(6):
            models = ("sft", "base") if number % 2 else ("base", "sft")
            battles.add(
                "anna", f"Claim: CMV: {number}\nPoster: So it is.", models, (HOSTILE, "Fine.")
            )
            latest = battles.latest("anna")
            assert votes_digest(study.answers) == (
                "none" if number == 0 else votes_digest(study.answers)
            )
            side = "left" if models[0] == "sft" else "right"
            assert battles.vote("anna", latest.number, side)
            assert not battles.vote("anna", latest.number, "tie")
            assert not battles.vote("ben", latest.number, "tie")
        with pytest.raises(UserError, match="vote 'skip'"):
            battles.vote("anna", 1, "skip")
    assert [vote.answer for vote in read_votes(study.answers)] == ["right", "left"] * 3
    rank_arena(
        answers=study.answers,
        players=["base", "sft"],
        output=tmp_path / "arena.csv",
        draws=200,
        seed=1,
    )
    rows = read_csv(tmp_path / "arena.csv")
    assert [(row["judge"], row["player"], row["rank"]) for row in rows] == [
        ("people (arena)", "sft", "1"),
        ("people (arena)", "base", "2"),
    ]


def test_the_page_of_a_battle_tells_names_only_after_the_vote(study, monkeypatch):
    monkeypatch.setattr("persuasion_rl.arena.Speakers.names", ["base", "sft"])
    page = open_page(study)
    with BattleStore(study.answers) as battles:
        battles.add("anna", "Claim: CMV: x\nPoster: So it is.", ("sft", "base"), (HOSTILE, "Fine."))
    before = page.get("/arena").text
    assert "sft" not in before and "base" not in before and "&lt;script&gt;" in before
    fields, _ = shown(page, "/arena")
    after = page.post("/arena/vote", data={**fields, "answer": "left"}).text
    assert "Left: sft" in after and "Right: base" in after
    assert "Left: sft" not in page.get("/arena").text


def test_a_study_that_is_not_ready_is_said_in_one_line(tmp_path, command_line):
    run = command_line("cli", "annotate", "--study", tmp_path / "nothing")
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    assert "snakemake unattended" in run.stderr
    study = write_study(tmp_path / "results/demo")
    (study.folder / "preferences/human_pool_responses.jsonl").unlink()
    run = command_line("cli", "annotate", "--study", study.folder)
    assert run.returncode == 1 and "human_pool_responses.jsonl is not there" in run.stderr
    assert not study.answers.exists()


def test_the_practice_pairs_are_whole():
    study = AnnotatedStudy(None)
    for row in study.practice.values():
        assert row["expected"] in ("1", "2", "tie", "both_bad") and row["feedback"]
        assert row["prompt"].startswith("Claim: ") and json.dumps(row)
