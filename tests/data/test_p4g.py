"""PersuasionForGood's dialogues: whose turns count, and which are selected where there are too many."""

import random
import re
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.data.examples import RowMaker
from persuasion_rl.data.p4g import drafts, process_p4g, selected
from persuasion_rl.files import UserError, write_json, write_jsonl
from small_corpora import WIDE, Processed, turn


@pytest.fixture
def make_p4g(tmp_path, tokenizer):
    """A function that runs process_p4g on a corpus."""

    def make(corpus, seed=1, budget=WIDE, **settings):
        process_p4g(
            corpus=corpus, tokenizer=tokenizer, examples=tmp_path / "p4g" / "examples.jsonl",
            counts=tmp_path / "p4g" / "counts.json", budget=budget, seed=seed, **settings,
        )  # fmt: skip
        return Processed(tmp_path / "p4g")

    return make


def test_only_the_persuaders_turns_become_responses(write_corpus, make_p4g):
    dialogue = [
        turn(0, 0, "Hello!"),
        turn(1, 1, "Hi."),
        turn(2, 0, "Do you know Save the Children?"),
        turn(3, 1, "No &amp; why?"),
        turn(4, 1, "Tell me."),
        turn(5, 0, "They help."),
    ]
    processed = make_p4g(write_corpus(dialogue, {"d1": {"donation_ee": 0.5}}))
    assert [row["response"] for row in processed.rows] == [
        "Do you know Save the Children?",
        "They help.",
    ]
    prompt = processed.by_id["d1-5"]["input_text"]
    assert prompt.split("[CONTEXT]\n")[1].split("\n[TASK]")[0].splitlines()[1:] == [
        "Persuader: Hello!",
        "Persuadee: Hi.",
        "Persuader: Do you know Save the Children?",
        "Persuadee: No & why?",
        "Persuadee: Tell me.",
    ]
    assert "persuader's next message" in prompt
    assert processed.by_id["d1-5"]["metadata"]["source"] == "p4g"
    assert processed.by_id["d1-5"]["metadata"]["donation"] == 0.5


def test_the_role_is_that_of_the_utterance_and_not_of_the_speaker(write_corpus, make_p4g):
    """One person may persuade in one dialogue and be persuaded in another."""
    rows = [
        turn(0, 0, "Hello!", "d1", "anna"), turn(1, 1, "Hi.", "d1", "ben"), turn(2, 0, "Give!", "d1", "anna"),
        turn(0, 0, "Hey!", "d2", "ben"), turn(1, 1, "Ho.", "d2", "anna"), turn(2, 0, "Donate!", "d2", "ben"),
    ]  # fmt: skip
    processed = make_p4g(write_corpus(rows, {"d1": {}, "d2": {}}))
    assert [row["response"] for row in processed.rows] == ["Give!", "Donate!"]


@pytest.mark.parametrize("role", [2, -1, 0.5, True, "judge", [0]])
def test_an_unknown_role_is_named_with_its_line(write_corpus, make_p4g, role):
    corpus = write_corpus([turn(0, 0, "Hello!"), turn(1, role, "Hi.")], {"d1": {}})
    with pytest.raises(
        UserError, match=r"utterances\.jsonl, line 2: meta\.role is .*0 \(persuader\)"
    ):
        make_p4g(corpus)


@pytest.mark.parametrize(("persuader", "persuadee"), [(0.0, 1.0), ("0", "1"), ("Persuader", "persuadee "), ("0.0", 1)])  # fmt: skip
def test_roles_may_be_text_or_decimal(write_corpus, make_p4g, persuader, persuadee):
    rows = [turn(i, (persuader, persuadee)[i % 2], f"Turn {i}.") for i in range(4)]
    assert set(make_p4g(write_corpus(rows, {"d1": {}})).by_id) == {"d1-2"}


def whole(dialogue):
    return [turn(i, i % 2, f"Turn {i} of {dialogue}.", dialogue) for i in range(4)]


def test_what_is_wrong_with_a_dialogue_leaves_it_out_and_counts_it(write_corpus, make_p4g):
    faulty = {
        name: whole(name)
        for name in ("null", "nan", "lacking", "silent", "large", "gap", "circle", "roots")
    }
    faulty["null"][1]["meta"] = {"role": None}
    faulty["nan"][2]["meta"] = {"role": float("nan")}
    faulty["lacking"][3]["meta"] = {}
    faulty["silent"][2]["text"] = None
    faulty["large"][2]["text"] = "x" * 1_000_001
    faulty["gap"][2]["reply-to"] = "elsewhere"
    faulty["circle"][2]["reply-to"] = "circle-3"
    faulty["roots"][2]["reply-to"] = None
    dialogues = {"d1": whole("d1")} | faulty
    # Stands in one of the two files only.
    dialogues["without_meta"] = whole("without_meta")
    metas = {name: {"donation_ee": "0.5"} for name in dialogues if name != "without_meta"}
    rows = [row for dialogue in dialogues.values() for row in dialogue]
    processed = make_p4g(write_corpus(rows, metas | {"without_turns": {}}))
    assert {row["metadata"]["conversation_id"] for row in processed.rows} == {"d1", "without_meta"}
    assert [row["metadata"]["donation"] for row in processed.rows] == [0.5, None]
    assert processed.counts["read"] == {"conversations": 11, "utterances": 40}
    left_out = {
        "no_role": 3, "turn_missing": 1, "turn_too_large": 1, "answered_turn_missing": 2, "several_roots": 1,
    }  # fmt: skip
    assert processed.counts["left_out_conversations"] == left_out | {"no_utterances": 1}
    assert processed.counts["left_out_utterances"] == {k: 4 * v for k, v in left_out.items()}


def test_the_order_is_that_of_the_answers_whatever_that_of_the_file(write_corpus, make_p4g):
    dialogues = ("d1", "d2", "d3")
    rows = [turn(i, i % 2, f"Turn {i} of {d}.", d) for d in dialogues for i in range(12)]
    in_order = make_p4g(write_corpus(rows, {d: {} for d in dialogues})).by_id
    random.Random(3).shuffle(rows)
    shuffled = make_p4g(write_corpus(rows, {d: {} for d in dialogues}, "shuffled")).by_id
    assert len(in_order) == 15 and shuffled == in_order


def test_without_answers_the_order_is_that_of_the_times_or_of_the_file(write_corpus, make_p4g):
    rows = [turn(i, i % 2, f"Turn {i}.") | {"reply-to": None} for i in range(6)]
    of_file = make_p4g(write_corpus(rows, {"d1": {}})).by_id
    for row, time in zip(rows, (0, 60, "120", "1970-01-01T00:03:00Z", 240.0, 3e2), strict=True):
        row["timestamp"] = time
    of_times = make_p4g(write_corpus(rows[::-1], {"d1": {}}, "times")).by_id
    assert len(of_file) == 2 and of_times == of_file


def test_dialogues_that_number_their_turns_alike_are_told_apart(write_corpus, make_p4g):
    rows = [
        turn(i, i % 2, f"Turn {i} of {d}.", d) | {"id": i, "reply-to": i - 1 if i else None}
        for d in range(30) for i in range(4)
    ]  # fmt: skip
    for row in rows:
        row["conversation_id"] = int(row["conversation_id"])
    corpus = write_corpus(rows, {str(d): {} for d in range(30)})
    assert len(make_p4g(corpus).rows) == 30
    some = make_p4g(corpus, max_examples=10).rows
    assert len({row["metadata"]["conversation_id"] for row in some}) == 10


@pytest.mark.parametrize("donation", [True, "a dollar", [1], float("inf")])
def test_a_donation_that_is_no_number_is_named(write_corpus, make_p4g, donation):
    corpus = write_corpus(whole("d1"), {"d1": {"donation_ee": donation}})
    with pytest.raises(
        UserError, match=r"conversations\.json, line 1, conversation d1: donation_ee is"
    ):
        make_p4g(corpus)


def test_all_persuaders_turns_are_counted(write_corpus, make_p4g):
    dialogue = [turn(i, i % 2, "Yes. " * (1 + 20 * (i % 4 == 2))) for i in range(9)]
    processed = make_p4g(write_corpus(dialogue, {"d1": {}}), budget=replace(WIDE, min_tokens=20))
    assert processed.counts["persuader"] == {
        "labelled": 5, "opens_the_dialogue": 1, "response_too_short": 2, "kept": 2,
    }  # fmt: skip
    assert processed.counts["read"] == {"conversations": 1, "utterances": 9}
    assert processed.counts["made"]["examples"] == 2


def test_too_many_dialogue_turns_are_sampled_with_the_seed(write_corpus, make_p4g):
    dialogue = [turn(i, i % 2, f"This is turn {i}.") for i in range(41)]
    corpus = write_corpus(dialogue, {"d1": {}})
    everything = set(make_p4g(corpus).by_id)
    runs = [make_p4g(corpus, max_examples=5, seed=seed) for seed in (1, 1, 2)]
    selections = [set(run.by_id) for run in runs]
    assert len(everything) == 20
    assert all(len(ids) == 5 and ids < everything for ids in selections)
    assert selections[0] == selections[1] != selections[2]
    assert runs[0].counts["persuader"]["not_selected"] == 15
    assert set(make_p4g(corpus, max_examples=20).by_id) == everything


def rows_with_donations(*donations: float | None) -> list[dict]:
    of_all = {"source": "p4g", "conversation_id": "d"}
    return [
        {"metadata": of_all | {"utterance_id": f"{number}", "donation": donation}}
        for number, donation in enumerate(donations)
    ]


def select_ids(rows: list[dict], seed: int, by_donation: bool = True, size: int = 1) -> list[str]:
    return [row["metadata"]["utterance_id"] for row in selected(rows, size, seed, by_donation)]


def test_with_donations_as_weights_turns_are_picked_in_proportion_to_them():
    rows = rows_with_donations(2.0, 1.0, 0.5, 0.5)
    first = Counter(select_ids(rows, seed)[0] for seed in range(4_000))
    for id_, share in (("0", 1 / 2), ("1", 1 / 4), ("2", 1 / 8), ("3", 1 / 8)):
        assert abs(first[id_] / 4_000 - share) < 0.03  # four standard errors
    even = Counter(select_ids(rows, seed, by_donation=False)[0] for seed in range(4_000))
    assert all(abs(count / 4_000 - 1 / 4) < 0.03 for count in even.values())


def test_a_dialogue_without_a_donation_is_never_picked_by_weight():
    rows = rows_with_donations(0.0, None, float("nan"), 0.01, 5.0)
    for seed in range(200):
        assert sorted(select_ids(rows, seed, size=5)) == ["3", "4"]
    assert sorted(select_ids(rows, 1, by_donation=False, size=5)) == ["0", "1", "2", "3", "4"]


def test_more_than_the_payment_weighs_no_more_than_it():
    """Some stated a donation that they could not make."""
    rows = rows_with_donations(1_000.0, 2.0)
    first = Counter(select_ids(rows, seed)[0] for seed in range(2_000))
    assert abs(first["0"] / 2_000 - 1 / 2) < 0.045


def test_donations_as_weights_are_a_setting(write_corpus, make_p4g):
    rows = [
        turn(i, i % 2, f"This is turn {i} of {d}.", d) for d in ("d1", "d2", "d3") for i in range(9)
    ]
    donations = {"d1": {"donation_ee": 0.0}, "d2": {"donation_ee": 1.0}, "d3": {}}
    corpus = write_corpus(rows, donations)
    processed = make_p4g(corpus, donation_weighted=True)
    assert {row["metadata"]["conversation_id"] for row in processed.rows} == {"d2"}
    assert processed.counts["persuader"] == {
        "labelled": 15, "opens_the_dialogue": 3, "not_selected": 8, "kept": 4,
    }  # fmt: skip
    assert len(make_p4g(corpus, donation_weighted=True, max_examples=3).rows) == 3
    assert len(make_p4g(corpus).rows) == 12


@given(
    turns=st.lists(st.tuples(st.integers(0, 1), st.text(max_size=20)), max_size=15),
    answers=st.lists(st.integers(0, 16), min_size=15, max_size=15),
)
def test_whatever_the_dialogues_only_persuaders_turns_are_kept(tokenizer, turns, answers):
    """Dialogues whose answers make no order are left out as a whole."""
    rows = [turn(i, role, text) for i, (role, text) in enumerate(turns)]
    for row, number in zip(rows[1:], answers, strict=False):
        row["reply-to"] = f"d1-{number}"
    rows += [turn(0, 1, "Hi.", "d2"), turn(1, 0, "Please give.", "d2")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jsonl(folder / "corpus" / "utterances.jsonl", rows)
        metas = {"d2": {}} | ({"d1": {}} if turns else {})
        write_json(folder / "corpus" / "conversations.json", metas)
        process_p4g(
            corpus=folder / "corpus", tokenizer=tokenizer, examples=folder / "examples.jsonl",
            counts=folder / "counts.json", seed=1, budget=WIDE,
        )  # fmt: skip
        processed = Processed(folder)
    persuaders = [row for row in rows if row["meta"]["role"] == 0]
    left_out = processed.counts.get("left_out_conversations", Counter()).total()
    if all(number < i for i, number in enumerate(answers[: len(turns) - 1], 1)):
        assert not left_out
    assert left_out in (0, 1) and (not left_out or set(processed.by_id) == {"d2-1"})
    if not left_out:
        assert processed.counts["persuader"]["labelled"] == len(persuaders)
    assert processed.by_id.keys() <= {row["id"] for row in persuaders}
    assert processed.by_id["d2-1"]["input_text"].endswith(
        "\nPersuadee: Hi.\n[TASK]\nWrite the persuader's next message.\n[RESPONSE]\n"
    )
    for row in processed.rows:
        if row["metadata"]["conversation_id"] == "d1":
            number = int(row["metadata"]["utterance_id"][3:])
            context = row["input_text"].split("[CONTEXT]\n")[1].split("\n[TASK]")[0]
            expected = [("Persuader", "Persuadee")[role] for role, _ in turns[:number]]
            roles = [
                line.split(": ")[0] for line in context.split("\n") if re.match(r"\w+: ", line)
            ]
            assert [role for role in roles if role in ("Persuader", "Persuadee")] == expected


def test_of_a_long_dialogue_only_its_ends_are_held(tokenizer, write_corpus):
    """And with all turns the contexts are the same."""
    corpus = write_corpus([turn(i, i % 2, f"Turn {i}.") for i in range(400)], {"d1": {}})
    budget = replace(WIDE, max_context_tokens=60)
    of_ends, of_all = (list(drafts(corpus, defaultdict(Counter), ends)) for ends in (31, 10**6))
    assert [len(draft.turns) for draft in of_ends] == [min(2 * n, 62) + 1 for n in range(1, 200)]
    rows = [RowMaker("p4g", tokenizer, budget).rows(each) for each in (of_ends, of_all)]
    assert rows[0] == rows[1] and any(row["metadata"]["context_cut"] for row in rows[0])


def test_twice_as_long_a_dialogue_is_twice_the_work(tokenizer, write_corpus):
    read = []
    for length in (1000, 2000):
        corpus = write_corpus(
            [turn(i, i % 2, f"Turn {i}.") for i in range(length)], {"d1": {}}, f"of {length}"
        )
        read.append(sum(len(each.turns) for each in drafts(corpus, defaultdict(Counter), 31)))
    assert read[1] / read[0] == pytest.approx(2, rel=0.1)
