"""The synthetic ChangeMyView: reproducible, free of near-duplicates, with the real corpus's traps."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from persuasion_rl.data.clean import clean
from persuasion_rl.data.corpus import Conversation, read_threads
from persuasion_rl.data.deltas import won_and_lost
from persuasion_rl.data.near_duplicates import (
    DEFAULTS,
    clusters,
    compared_text,
    jaccard,
    shingles,
)
from persuasion_rl.data.synthetic import grammar
from persuasion_rl.data.synthetic.synthesize import synthesize_corpus

FILES = ("conversations.json", "corpus.json", "index.json", "speakers.json", "utterances.jsonl")


def read(folder: Path) -> dict[str, Conversation]:
    return {thread.id: thread for thread in read_threads(folder)}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    synthesize_corpus(corpus=folder, seed=2, threads=1200, replies=4)
    return read(folder)


@pytest.fixture(scope="module")
def utterances(synthetic):
    return [json.loads(line) for line in (synthetic / "utterances.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def conversations(synthetic):
    return json.loads((synthetic / "conversations.json").read_text())


def test_a_seed_gives_the_same_files_and_another_seed_others(synthetic, tmp_path):
    for folder, seed in (("again", 1), ("other", 2)):
        synthesize_corpus(corpus=tmp_path / folder, seed=seed, threads=60, replies=4)
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (synthetic / name).read_bytes()
    ours = read(synthetic)
    for id_, thread in read(tmp_path / "other").items():
        assert thread.root.text != ours[id_].root.text


def test_a_larger_corpus_begins_with_the_smaller_one(utterances, tmp_path):
    synthesize_corpus(corpus=tmp_path, seed=1, threads=20, replies=4)
    fewer = [json.loads(line) for line in (tmp_path / "utterances.jsonl").read_text().splitlines()]
    assert fewer == utterances[: len(fewer)]


def test_it_counts_what_it_wrote(tmp_path):
    counts = synthesize_corpus(corpus=tmp_path, seed=3, threads=25, replies=3)
    threads = read(tmp_path)
    assert counts["threads"] == len(threads) == 25
    assert counts["utterances"] == sum(len(thread.utterances) for thread in threads.values())
    bots = [u for t in threads.values() for u in t.utterances.values() if u.speaker == "DeltaBot"]
    assert counts["deltas"] == len(bots)


def test_the_fields_of_winning_args_corpus_are_there(utterances, conversations):
    for row in utterances:
        assert {
            "id", "conversation_id", "text", "speaker", "meta", "reply-to", "timestamp", "vectors",
        } == set(row)  # fmt: skip
        assert {"success", "pair_ids", "score"} <= set(row["meta"])
        assert row["meta"]["success"] in (0, 1, None)
    for entry in conversations.values():
        fields = {"op-userID", "op-title", "op-text-body", "pair_ids", "train"}
        assert set(entry["meta"]) == fields
        assert entry["meta"]["op-title"].startswith("CMV: ")
    assert {entry["meta"]["train"] for entry in conversations.values()} == {0, 1}


def test_the_conversations_have_the_fields_of_the_real_corpus(conversations, real_data):
    real = json.loads((real_data / "winning-args-corpus" / "conversations.json").read_text())
    fields = set().union(*(entry["meta"] for entry in real.values()))
    assert all(fields <= set(entry["meta"]) for entry in conversations.values())


def is_poster(row, conversations):
    return row["speaker"] == conversations[row["conversation_id"]]["meta"]["op-userID"]


@pytest.mark.parametrize(
    "trap",
    [
        lambda row, _: row["text"] == "[deleted]",
        lambda row, _: row["text"] == "[deleted]" and row["meta"]["success"] is not None,
        lambda row, _: row["speaker"] == "DeltaBot",
        lambda row, _: row["meta"]["distinguished"] == "moderator",
        lambda row, _: "&gt;" in row["text"] and row["reply-to"] is not None,
        lambda row, _: "&amp;" in row["text"],
        lambda row, _: "&#8710;" in row["text"],
        lambda row, _: "!delta" in row["text"],
        lambda row, _: re.search(r"^EDIT:.*delta", row["text"], re.M),
        lambda row, _: "Hello, users of CMV!" in row["text"],
        lambda row, conversations: is_poster(row, conversations) and row["meta"]["success"] == 1,
        lambda row, conversations: is_poster(row, conversations) and row["meta"]["success"] == 0,
    ],
)
def test_the_traps_of_the_real_corpus_are_there(utterances, conversations, trap):
    assert any(trap(row, conversations) for row in utterances)


def test_every_thread_has_a_winning_and_a_losing_reply_to_the_post(utterances, conversations):
    paired: dict[str, list[dict]] = {}
    for row in utterances:
        for pair in row["meta"]["pair_ids"]:
            paired.setdefault(pair, []).append(row)
    for id_, entry in conversations.items():
        assert entry["meta"]["pair_ids"]
        for pair in entry["meta"]["pair_ids"]:
            one, other = paired[pair]
            assert {one["meta"]["success"], other["meta"]["success"]} == {0, 1}
            assert one["speaker"] != other["speaker"]
            assert one["reply-to"] == other["reply-to"] == id_


def test_the_deltas_that_are_found_are_those_that_were_awarded(synthetic):
    """Each is the last comment of a marked thread of comments, and the poster thanks for it."""
    deltas = 0
    for thread in read(synthetic).values():
        winners = {id_ for id_, won in won_and_lost(thread).items() if won}
        utterances = thread.utterances
        bots = [u for u in utterances.values() if u.speaker == "DeltaBot"]
        assert winners == {utterances[bot.reply_to].reply_to for bot in bots}
        assert all(utterances[id_].meta["success"] == 1 for id_ in winners)
        deltas += len(winners)
    assert deltas >= 60


def test_no_two_posts_are_near_duplicates_by_brute_force(large):
    sets = [shingles(compared_text("x", thread)) for thread in list(large.values())[:300]]
    assert max(jaccard(a, b) for a, b in combinations(sets, 2)) < DEFAULTS.near_duplicate


def test_no_two_posts_of_a_full_size_corpus_are_near_duplicates(large):
    posts = {id_: compared_text("x", thread) for id_, thread in large.items()}
    assert len(posts) == 1200
    assert clusters(posts.items()) == {id_: id_ for id_ in posts}


def test_all_topics_and_claims_occur(large):
    titles = {thread.meta["op-title"].lower() for thread in large.values()}
    assert {topic for topic in grammar.TOPICS if any(topic in title for title in titles)} == set(
        grammar.TOPICS
    )
    assert titles == {
        "cmv: " + grammar.sentence(claim, topic=topic).lower()
        for claim in grammar.CLAIMS
        for topic in grammar.TOPICS
    }


def test_a_reply_that_quotes_the_post_wins_as_often_as_its_own_words_deserve(large):
    """Deltas awarded over deltas expected from the cleaned reply; about 1.15, as threads have a winner."""
    awarded = {True: 0, False: 0}
    expected = {True: 0.0, False: 0.0}
    for thread in large.values():
        utterances = list(thread.utterances.values())
        # The poster's thanks carry no `success`; an objection does.
        thanked = {u.reply_to for u in utterances if u.meta["success"] is None}
        for u in utterances:
            if u.reply_to == thread.id and u.meta["success"] is not None and u.text != "[deleted]":
                quotes = u.text.startswith("&gt;")
                awarded[quotes] += u.id in thanked
                expected[quotes] += grammar.truth(clean(thread.body), clean(u.text))
    assert 1.0 < awarded[False] / expected[False] < 1.3
    assert 0.9 < awarded[True] / expected[True] < 1.5
