"""The arena: it is blind until the vote, and a vote counts once, for the weights that wrote the replies."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from queue import SimpleQueue
from threading import Event, Thread

import pytest
from starlette.testclient import TestClient

from csv_files import read_csv
from labelled_study import HOSTILE, answer, form_of, open_page, write_study
from persuasion_rl.annotation.arena import LONGEST_CLAIM, LoadedModels
from persuasion_rl.annotation.battles import BattleStore, read_votes, votes_digest
from persuasion_rl.annotation.pages import MOST_WAITING
from persuasion_rl.annotation.plan import Answer
from persuasion_rl.annotation.store import AnswerStore, read_answers
from persuasion_rl.annotation.web import make_app
from persuasion_rl.evaluation.arena import present_models, rank_arena
from persuasion_rl.files import UserError, write_json


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "results/demo")


def test_the_arena_is_blind_until_the_vote_and_a_vote_counts_once(study, tmp_path):
    page = open_page(study)
    assert "Fewer than two models" in page.get("/arena").text
    recipe = tmp_path / "recipe.json"
    write_json(recipe, {"adapter_digest": "trained", "base_digest": "base"})
    present, digests = present_models({"sft": recipe}), []
    with BattleStore(study.answers) as battles:
        for number in range(6):
            models = ("sft", "base") if number % 2 else ("base", "sft")
            battles.add(
                "anna",
                f"Claim: CMV: {number}\nPoster: So it is.",
                models,
                (HOSTILE, "Fine."),
                [present[model] for model in models],
            )
            latest = battles.latest("anna")
            digests.append(votes_digest(study.answers))
            side = "left" if models[0] == "sft" else "right"
            assert battles.vote("anna", latest.number, side)
            assert not battles.vote("anna", latest.number, "tie")
            assert not battles.vote("ben", latest.number, "tie")
        with pytest.raises(UserError, match="vote 'skip'"):
            battles.vote("anna", 1, "skip")
    assert digests[0] == "none" and len(set(digests)) == 6, "each vote makes the ranking stale"
    assert [vote.answer for vote in read_votes(study.answers)] == ["right", "left"] * 3
    rows = ranking(study, tmp_path, recipe)
    assert [(row["judge"], row["player"], row["rank"]) for row in rows] == [
        ("people (arena)", "sft", "1"),
        ("people (arena)", "base", "2"),
    ]


def ranking(study, folder, recipe):
    rank_arena(
        answers=study.answers, players=["base", "sft"], recipes={"sft": recipe}, output=folder / "arena.csv", draws=200, seed=1
    )  # fmt: skip
    return read_csv(folder / "arena.csv")


def test_votes_count_for_the_weights_that_wrote_and_no_others(study, tmp_path, capsys):
    recipe = tmp_path / "recipe.json"
    write_json(recipe, {"adapter_digest": "first", "base_digest": "base"})
    before = present_models({"sft": recipe})
    with BattleStore(study.answers) as battles:
        for number in range(4):
            battles.add("anna", f"Claim: {number}", ("sft", "base"), "ab", (before["sft"], before["base"]))  # fmt: skip
            battles.vote("anna", battles.latest("anna").number, "left")
    assert [row["player"] for row in ranking(study, tmp_path, recipe)] == ["sft", "base"]
    assert "4 votes of 1 people; 0 more" in capsys.readouterr().err
    write_json(recipe, {"adapter_digest": "second", "base_digest": "base"})
    assert ranking(study, tmp_path, recipe) == []
    assert "0 votes of 0 people; 4 more" in capsys.readouterr().err
    assert len(read_votes(study.answers)) == 4


def test_votes_from_before_digests_were_stored_are_read_as_on_unknown_models(study, tmp_path, capsys):  # fmt: skip
    """Such a store is neither written to nor changed."""
    study.answers.parent.mkdir(parents=True)
    with closing(sqlite3.connect(study.answers)) as old:
        old.executescript(
            "CREATE TABLE battles (number INTEGER PRIMARY KEY, voter TEXT NOT NULL, context TEXT NOT NULL,"
            " left_model TEXT NOT NULL, right_model TEXT NOT NULL, left_reply TEXT NOT NULL,"
            " right_reply TEXT NOT NULL, answer TEXT, answered_at REAL);"
            "INSERT INTO battles VALUES (1, 'anna', 'Claim: x', 'sft', 'base', 'a', 'b', 'right', 1.0);"
        )
    before = study.answers.read_bytes()
    recipe = tmp_path / "recipe.json"
    write_json(recipe, {"adapter_digest": "first", "base_digest": "base"})
    assert ranking(study, tmp_path, recipe) == []
    assert "0 votes of 0 people; 1 more" in capsys.readouterr().err
    with pytest.raises(UserError, match="earlier version .* left_digest.* export-answers") as error:
        BattleStore(study.answers)
    assert "\n" not in str(error.value)
    assert study.answers.read_bytes() == before
    with AnswerStore(study.answers) as store:
        assert store.add(Answer("anna", "pair", "first", 1, "left")), (
            "answers are stored all the same"
        )
    assert len(read_votes(study.answers)) == len(read_answers(study.answers)) == 1


@pytest.mark.parametrize("choice", ["leave", "flag"])
def test_a_battle_can_be_left_or_flagged_without_a_vote(study, monkeypatch, choice):
    monkeypatch.setattr(LoadedModels, "names", ["base", "sft"])
    page = open_page(study)
    with BattleStore(study.answers) as battles:
        battles.add("anna", "Claim: x", ("sft", "base"), (HOSTILE, "Fine."), ("one", "two"))
    fields, _ = form_of(page, "/arena")
    after = page.post("/arena/vote", data={**fields, "answer": choice})
    assert after.status_code == 200 and "Your view" in after.text and "sft" not in after.text
    assert read_votes(study.answers) == [] and votes_digest(study.answers) == "none"
    for number in ("²", "9" * 30, ""):
        assert (
            page.post("/arena/vote", data={"battle": number, "answer": "left"}).status_code == 400
        )


def test_labelling_never_waits_for_the_models_of_the_arena(study, monkeypatch):
    """Slow models hold up at most `MOST_WAITING` people, and no page of labelling."""
    monkeypatch.setattr(LoadedModels, "names", ["base", "sft"])
    models_may_write = Event()

    def battle(self, turns):
        assert models_may_write.wait(30)
        return "Claim: x", ["sft", "base"], ["One.", "Two."], ["one", "two"]

    monkeypatch.setattr(LoadedModels, "battle", battle)
    with open_page(study) as page:
        responses = SimpleQueue()

        def post_claim():
            responses.put(page.post("/arena", data={"claim": "So."}))

        threads = [Thread(target=post_claim) for _ in range(MOST_WAITING + 1)]
        for thread in threads:
            thread.start()
        # The last request is refused at once.
        refused = responses.get(timeout=10)
        assert refused.status_code == 400 and "others wait for the models" in refused.text
        assert answer(page, "left").status_code == 200
        models_may_write.set()
        assert {responses.get(timeout=30).status_code for _ in range(MOST_WAITING)} == {200}
        for thread in threads:
            thread.join()
        assert page.post("/arena", data={"claim": "So."}).status_code == 200


def test_a_view_may_be_as_long_as_the_page_says_in_any_script(study, monkeypatch):
    monkeypatch.setattr(LoadedModels, "names", ["base", "sft"])
    claims = []
    monkeypatch.setattr(LoadedModels, "battle", lambda self, turns: claims.append(turns) or ("Claim: x", "ab", "ab", "ab"))  # fmt: skip
    page = open_page(study)
    for character in ("\u4e2d", "\U0001f984"):
        assert page.post("/arena", data={"claim": character * LONGEST_CLAIM}).status_code == 200
    assert len(claims) == 2
    long = page.post("/arena", data={"claim": "a" * (LONGEST_CLAIM + 1)})
    assert long.status_code == 400 and "4,000 characters" in long.text


def test_missing_files_of_models_are_named_on_a_page(study, monkeypatch):
    monkeypatch.setattr(LoadedModels, "names", ["base", "sft"])
    page = open_page(study)
    response = page.post("/arena", data={"claim": "So it is."})
    assert response.status_code == 400 and "tokenizer.json" in response.text
    (study.folder / "models/base/tokenizer.json").mkdir(parents=True)
    response = page.post("/arena", data={"claim": "So it is."})
    assert response.status_code == 400 and "models/base" in response.text
    monkeypatch.setattr(LoadedModels, "names", ["base"])
    assert page.post("/arena", data={"claim": "So it is."}).status_code == 400


def test_the_page_of_a_battle_tells_names_only_after_the_vote(study, monkeypatch):
    monkeypatch.setattr("persuasion_rl.annotation.arena.LoadedModels.names", ["base", "sft"])
    page = open_page(study)
    with BattleStore(study.answers) as battles:
        battles.add("anna", "Claim: CMV: x\nPoster: So it is.", ("sft", "base"), (HOSTILE, "Fine."), "ab")  # fmt: skip
    before = page.get("/arena").text
    assert "sft" not in before and "base" not in before and "&lt;script&gt;" in before
    fields, _ = form_of(page, "/arena")
    after = page.post("/arena/vote", data={**fields, "answer": "left"}).text
    assert "Left: sft" in after and "Right: base" in after
    assert "Left: sft" not in page.get("/arena").text


def test_the_arena_alone_asks_for_no_labels(tmp_path):
    study = write_study(tmp_path / "results/demo", source="simulated")
    page = TestClient(make_app(study, arena_only=True), base_url="http://127.0.0.1")
    page.get("/")
    arena = page.post("/name", data={"name": "anna"})
    assert arena.url.path == "/arena" and "Fewer than two models" in arena.text
    assert 'href="/pair"' not in arena.text and page.get("/pair").status_code == 404


CHAT = """
import sys
from persuasion_rl.annotation.arena import chat

class Echo:
    names = ["sft"]
    context = staticmethod(lambda turns: turns[-1].text)
    reply = staticmethod(lambda model, context: context.encode("utf-8").decode())

from persuasion_rl.files import UserError
try:
    chat(Echo(), "sft")
except UserError as error:
    sys.exit(f"error: {error}")
"""


@pytest.mark.parametrize(
    ("stdin", "status", "out", "err"),
    [
        (r"< <(printf 'hi \xff\n\n')", 0, "sft: hi \ufffd", ""),
        ("<&-", 1, "Say what you think", "error: chat needs a terminal, or text that is piped into it"),
    ],
)  # fmt: skip
def test_invalid_bytes_and_a_closed_input_end_no_chat_with_a_traceback(stdin, status, out, err):
    """The model here repeats its prompt; like a tokenizer, it needs valid text."""
    command = f"{sys.executable} -c '{CHAT.replace(chr(39), chr(34))}' {stdin}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.returncode == status and out in run.stdout
    assert run.stderr.startswith(err) and len(run.stderr.splitlines()) == bool(err)
