"""The store of answers: none is lost or doubled, the order is blind, and the next showing follows the plan."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from persuasion_rl.annotation.plan import REPEATED_AFTER, Answer, Plan
from persuasion_rl.annotation.store import (
    TAKEN_S,
    AnswerStore,
    answers_digest,
    labels_digest,
    read_answers,
)
from persuasion_rl.files import UserError
from running import ROOT


@pytest.fixture
def store(tmp_path):
    with AnswerStore(tmp_path / "state/answers.sqlite") as store:
        yield store


def pairs(number: int) -> list[str]:
    return [f"pair {i}" for i in range(number)]


def add_answer(store, name, showing, answer="left", **fields):
    return store.add(
        Answer(name, showing.pair, showing.kind, showing.left_response, answer, **fields)
    )


def answer_all(store, name, plan, answer="left", limit=10_000):
    """Answer the showings of an annotator, up to a limit, and return them."""
    showings = []
    while len(showings) < limit and (showing := store.next(name, plan)):
        assert add_answer(store, name, showing, answer)
        showings.append(showing)
    return showings


def test_the_first_answer_to_a_showing_stands(store):
    plan = Plan(pairs(3), 1)
    showing = store.next("anna", plan)
    assert add_answer(store, "anna", showing, "left", reason="because", confidence=2)
    assert not add_answer(store, "anna", showing, "right")
    (stored,) = store.answers()
    assert (stored.answer, stored.reason, stored.confidence) == ("left", "because", 2)


def test_a_page_that_is_loaded_again_shows_the_same_pair(store):
    plan = Plan(pairs(20), 1)
    assert len({store.next("anna", plan) for _ in range(5)}) == 1
    other = store.next("ben", plan)
    assert store.next("anna", plan) != other


def undo(store, name, plan):
    """Take back an annotator's latest answer to a pool; return False if there is none."""
    answers = store.own_answers(name, plan)
    return bool(answers) and store.undo(store.showing(answers[-1][0]))


def test_undo_takes_back_the_latest_answer_and_shows_that_pair_again(store):
    plan = Plan(pairs(5), 1, repeats=0)
    first, second = answer_all(store, "anna", plan, limit=2)
    answer_all(store, "ben", plan, limit=1)
    for undone in (second, first):
        assert undo(store, "anna", plan)
        again = store.next("anna", plan)
        assert (again.pair, again.left_response) == (undone.pair, undone.left_response)
        assert again.number > second.number, "a new showing has a number of its own"
        assert not store.undo(undone) and not store.undo(again)
    assert not undo(store, "anna", plan)
    assert [a.annotator for a in store.answers()] == ["ben"]
    answer_all(store, "anna", plan, limit=2)
    assert [a.pair for a in store.answers()][1:] == [first.pair, second.pair]


def test_a_skip_that_is_undone_shows_its_pair_again_though_somebody_else_answered_it(store):
    plan = Plan(pairs(2), 1, overlap=0, repeats=0)
    (skipped,) = answer_all(store, "anna", plan, "skip", limit=1)
    pending = store.next("anna", plan)
    (shown_to_ben,) = answer_all(store, "ben", plan, limit=1)
    assert shown_to_ben.pair == skipped.pair
    assert undo(store, "anna", plan)
    assert [s.pair for s in answer_all(store, "anna", plan)] == [skipped.pair, pending.pair]
    assert undo(store, "anna", plan)
    add_answer(store, "carl", pending, "flag")
    assert store.next("anna", plan) is None, "a flagged pair is shown to nobody"


def test_answers_to_an_earlier_pool_are_neither_counted_nor_undone(store):
    old, new = Plan(pairs(3), 1), Plan([f"new {i}" for i in range(3)], 1)
    answer_all(store, "anna", old)
    assert store.own_answers("anna", new) == [] and len(store.own_answers("anna", old)) == 3
    assert not undo(store, "anna", new)
    answer_all(store, "anna", new, limit=1)
    assert undo(store, "anna", new) and not undo(store, "anna", new)
    assert len(store.own_answers("anna", old)) == 3


def test_every_pair_is_answered_as_often_as_it_is_wanted(store):
    plan = Plan(pairs(60), 1, overlap=0.3, several=3, repeats=0)
    names = ("anna", "ben", "carl", "dora")
    while any([answer_all(store, name, plan, limit=1) for name in names]):
        pass
    answer_counts = Counter(answer.pair for answer in store.answers())
    assert answer_counts == dict(plan.in_order)
    assert sum(number == 3 for number in answer_counts.values()) == 18
    several = {pair for pair, number in answer_counts.items() if number == 3}
    for pair in several:
        assert len({a.annotator for a in store.answers() if a.pair == pair}) == 3


@given(pool=st.integers(1, 200), seed=st.integers(0, 99), percent=st.integers(20, 100))
def test_the_share_that_several_answer_is_never_smaller_than_asked_for(pool, seed, percent):
    plan = Plan(pairs(pool), seed, overlap=percent / 100)
    several = sum(number == 2 for _, number in plan.in_order)
    assert 100 * several >= percent * pool > 100 * (several - 1)


def test_what_is_shown_to_somebody_is_offered_to_others_after_a_while(store):
    plan = Plan(pairs(1), 1, overlap=0)
    showing = store.next("anna", plan, now=0.0)
    assert store.next("ben", plan, now=TAKEN_S - 1.0) is None
    assert store.next("ben", plan, now=TAKEN_S + 1.0).pair == showing.pair
    assert add_answer(store, "ben", showing) and add_answer(store, "anna", showing), (
        "a late answer is stored all the same"
    )


def test_a_skipped_pair_goes_to_somebody_else_and_a_flagged_one_to_nobody(store):
    plan = Plan(pairs(1), 1, overlap=0)
    answer_all(store, "anna", plan, "skip")
    assert store.next("anna", plan) is None
    assert store.next("ben", plan) is not None
    answer_all(store, "ben", plan, "flag")
    assert store.next("carl", plan) is None


def test_hidden_repeats_come_once_later_and_with_their_sides_changed(store):
    plan = Plan(pairs(200), 1, overlap=0, repeats=0.2)
    showings = answer_all(store, "anna", plan)
    first = {s.pair: (i, s.left_response) for i, s in enumerate(showings) if s.kind == "first"}
    repeats = [(i, s) for i, s in enumerate(showings) if s.kind == "repeat"]
    assert len(first) == 200 and 20 < len(repeats) < 60
    assert len({s.pair for _, s in repeats}) == len(repeats)
    for place, showing in repeats:
        first_place, left_response = first[showing.pair]
        assert place - first_place >= REPEATED_AFTER and showing.left_response == 3 - left_response


def test_what_was_skipped_does_not_come_back(store):
    plan = Plan(pairs(40), 1, overlap=0, repeats=1)
    assert {s.kind for s in answer_all(store, "anna", plan, "skip")} == {"first"}


def test_a_repeat_changes_the_sides_that_were_shown_whatever_the_seed_is_now(store):
    first = {
        s.pair: s.left_response for s in answer_all(store, "anna", Plan(pairs(30), 1, repeats=0))
    }
    repeats = answer_all(store, "anna", Plan(pairs(30), 2, repeats=1))
    assert len(repeats) == 20 and {s.kind for s in repeats} == {"repeat"}
    assert all(s.left_response == 3 - first[s.pair] for s in repeats)


def test_practice_comes_first_and_is_never_counted_or_undone(store):
    plan = Plan(pairs(3), 1, practice=("easy", "hard"))
    kinds = [s.kind for s in answer_all(store, "anna", plan, limit=3)]
    assert kinds == ["practice", "practice", "first"]
    practice = store.showing(1)
    assert practice.kind == "practice" and not store.undo(practice)
    assert undo(store, "anna", plan) and not undo(store, "anna", plan)


def test_other_responses_are_other_pairs(store):
    answer_all(store, "anna", Plan(pairs(4), 1))
    plan = Plan([f"new {i}" for i in range(4)], 1)
    assert {s.pair for s in answer_all(store, "anna", plan)} == set(plan.pairs)
    assert len(store.answers()) == 8


def test_the_order_is_blind_over_200_annotators(store):
    """In half of the showings response_1 is on the left, within a 99.9% binomial interval; the same holds for each pair."""
    plan = Plan(pairs(60), 7, overlap=1, several=200)
    for i in range(200):
        answer_all(store, f"annotator {i}", plan, limit=5)
    on_left = [answer.left_response == 1 for answer in store.answers()]
    assert len(on_left) == 1000
    low, high = binom.interval(0.999, len(on_left), 0.5)
    assert low <= sum(on_left) <= high
    low, high = binom.interval(1 - 0.001 / 60, 200, 0.5)
    for pair in plan.pairs:
        times_on_left = sum(plan.left(f"annotator {i}", pair) == 1 for i in range(200))
        assert low <= times_on_left <= high


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["say", "undo", "look"])), max_size=40),
    repeats=st.sampled_from([0.0, 0.5]),
)  # fmt: skip
def test_whatever_is_done_every_answer_is_there_once(tmp_path_factory, steps, repeats):
    path = tmp_path_factory.mktemp("store") / "answers.sqlite"
    plan, expected = Plan(pairs(6), 3, overlap=0.5, repeats=repeats), []
    for name, step in steps:
        with AnswerStore(path) as store:
            if step == "undo":
                last = [answer for answer in expected if answer[0] == name][-1:]
                assert undo(store, name, plan) == bool(last)
                expected = [answer for answer in expected if answer not in last]
            elif (showing := store.next(name, plan)) and step == "say":
                assert add_answer(store, name, showing)
                expected.append((name, showing.pair, showing.kind))
    assert [(a.annotator, a.pair, a.kind) for a in read_answers(path)] == expected
    for pair, number in plan.in_order:
        assert sum(p == pair and kind == "first" for _, p, kind in expected) <= number


def test_the_digest_is_of_the_answers_and_not_of_their_times(tmp_path):
    def digest(name, *answers):
        with AnswerStore(tmp_path / name) as store:
            for answer in answers:
                store.add(answer)
        return answers_digest(tmp_path / name)

    one, other = Answer("a", "p", "first", 1, "left"), Answer("b", "p", "first", 2, "tie")
    later = Answer("a", "p", "first", 1, "left", seconds=3.0, answered_at=9.0)
    practice = Answer("a", "easy", "practice", 1, "left")
    assert digest("1", one, other) == digest("2", other, practice, later)
    assert digest("3", one) != digest("4", Answer("a", "p", "first", 1, "right"))
    repeat, skip = Answer("a", "p", "repeat", 2, "tie"), Answer("c", "p", "first", 1, "skip")
    more = digest("6", one, other, repeat, skip)
    assert more != digest("7", one, other)
    assert labels_digest(tmp_path / "6") == labels_digest(tmp_path / "7"), "they make no label"
    assert labels_digest(tmp_path / "6") != labels_digest(tmp_path / "3")
    digest("8", repeat, skip)
    assert labels_digest(tmp_path / "8") == labels_digest(tmp_path / "nothing") == "none"
    assert answers_digest(tmp_path / "nothing") == digest("5") == "none"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": "first"},
        {"annotator": ""},
        {"annotator": " "},
        {"annotator": "a" * 61},
        {"annotator": "a\nb"},
        {"reason": "x" * 2001},
        {"confidence": 4},
        {"kind": "second"},
        {"left_response": 3},
    ],
)
def test_what_is_no_answer_is_refused_and_nothing_is_stored(store, changes):
    good = dict(annotator="anna", pair="p", kind="first", left_response=1, answer="left")
    with pytest.raises(UserError):
        store.add(Answer(**good | changes))
    assert store.answers() == []


def test_a_file_that_is_no_store_is_named(tmp_path):
    path = tmp_path / "answers.sqlite"
    path.write_text("no database at all, but text" * 100)
    with pytest.raises(UserError, match="answers.sqlite: not a store of answers"):
        AnswerStore(path)
    assert path.read_text().startswith("no database")


def test_a_store_that_is_locked_is_not_called_something_else(tmp_path, monkeypatch):
    path = tmp_path / "answers.sqlite"
    AnswerStore(path).close()
    monkeypatch.setattr("persuasion_rl.annotation.database.PATIENCE_S", 0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match="cannot be opened .*locked") as error:
        AnswerStore(path)
    assert "not a store" not in str(error.value)
    other.close()


def test_a_store_from_before_showings_were_recorded_still_works(tmp_path):
    path = tmp_path / "answers.sqlite"
    with AnswerStore(path) as store:
        answer_all(store, "anna", Plan(pairs(4), 1, overlap=0, repeats=0), limit=2)
    with sqlite3.connect(path) as old:
        old.execute("DROP TABLE shown")
        old.execute("CREATE TABLE showings (annotator TEXT PRIMARY KEY, pair TEXT NOT NULL, kind TEXT NOT NULL, shown_at REAL NOT NULL)")  # fmt: skip
        old.execute("INSERT INTO showings VALUES ('anna', 'pair 3', 'first', 1.0)")
    old.close()
    with AnswerStore(path) as store:
        plan = Plan(pairs(4), 1, overlap=0, repeats=0)
        assert store.own_answers("anna", plan) == [(None, None), (None, None)]
        assert len(answer_all(store, "anna", plan)) == 2 and len(store.answers()) == 4


WORKER = """
import sys
from pathlib import Path
from persuasion_rl.annotation.plan import Answer, Plan
from persuasion_rl.annotation.store import AnswerStore
path, name, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
plan = Plan([f"pair {i}" for i in range(number)], 1, overlap=1, several=2, repeats=0)
with AnswerStore(path) as store:
    while showing := store.next(name, plan):
        if store.add(Answer(name, showing.pair, showing.kind, showing.left_response, "left")):
            print(showing.pair, flush=True)
"""


def worker(path, name, number):
    args = [sys.executable, "-c", WORKER, str(path), name, str(number)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    return subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env=environment)


def test_acknowledged_answers_outlive_kill_9_and_two_processes_at_once(tmp_path):
    path, printed = tmp_path / "answers.sqlite", {"anna": [], "ben": []}
    for kill in count():
        running = {name: worker(path, name, 150) for name in printed}
        if kill < 3:
            for name, process in running.items():
                printed[name] += [process.stdout.readline().strip() for _ in range(15)]
            time.sleep(0.01 * kill)
            for process in running.values():
                process.send_signal(signal.SIGKILL)
        for name, process in running.items():
            printed[name] += process.stdout.read().split("\n")[:-1]
            process.wait()
        if kill == 3:
            break
    stored = Counter((a.annotator, a.pair) for a in read_answers(path))
    assert set(stored.values()) == {1} and len(stored) == 300
    for name, lines in printed.items():
        acknowledged = [line for line in lines if line]
        assert (
            len(acknowledged) == len(set(acknowledged))
            and {(name, pair) for pair in acknowledged} <= stored.keys()
        )


def test_a_full_disk_is_an_error_and_loses_no_answer(store, tmp_path):
    plan = Plan(pairs(5000), 1, overlap=0, repeats=0)
    answer_all(store, "anna", plan, limit=5)
    pages = store._file.execute("PRAGMA page_count").fetchone()[0]
    store._file.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        while showing := store.next("anna", plan):
            add_answer(store, "anna", showing, reason="x" * 2000)
    before = store.answers()
    store._file.execute("PRAGMA max_page_count = 100000")
    assert store.answers() == before and answer_all(store, "anna", plan, limit=1)


def test_many_processes_may_make_the_store_at_once(tmp_path):
    for number in range(3):
        path = tmp_path / f"{number}.sqlite"
        running = [worker(path, f"person {i}", 4) for i in range(6)]
        assert [process.wait() for process in running] == [0] * 6
        for process in running:
            process.stdout.close()
        assert len(read_answers(path)) == 8
