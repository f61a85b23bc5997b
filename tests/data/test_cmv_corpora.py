"""Whole ChangeMyView corpora: the synthetic one, one without marks, several together, and arbitrary threads."""

import json
import random
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.data import cmv
from persuasion_rl.data.clean import clean, unusable
from persuasion_rl.data.cmv import process_cmv
from persuasion_rl.data.corpus import read_threads
from persuasion_rl.data.deltas import awards
from persuasion_rl.data.fields import TEXT_BYTES, is_too_large
from persuasion_rl.data.synthetic.grammar import truth
from persuasion_rl.files import write_json, write_jsonl
from persuasion_rl.records import example_id
from small_corpora import BODY, META, POST, WIDE, Processed, as_subreddit, comment, threads_of

MUST_NOT_BE_LEARNED = re.compile(
    r"\[deleted\]|\[removed\]|&gt;|&amp;|&#\d+;|∆|!delta|Hello, users of CMV|DeltaBot"
    r"|^\W*(?:EDIT|UPDATE)\b|/u/\w",
    re.M,
)


def test_all_winning_replies_of_the_synthetic_corpus_and_only_they(processed_synthetic, synthetic):
    expected = set()
    for conversation in read_threads(synthetic):
        for u in conversation.utterances.values():
            own = u.speaker == conversation.meta["op-userID"]
            if u.meta["success"] == 1 and not own and u.text != "[deleted]":
                expected.add(u.id)
    assert set(processed_synthetic.by_id) == expected
    assert (
        len(processed_synthetic.rows)
        == len(expected)
        == processed_synthetic.counts["made"]["examples"]
    )
    assert len(processed_synthetic.pairs) == processed_synthetic.counts["made"]["delta_pairs"] >= 60


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_the_size_of_a_batch_changes_nothing(
    processed_synthetic, synthetic, make_cmv, monkeypatch, batch
):
    monkeypatch.setattr(cmv, "BATCH", batch)
    processed = make_cmv(synthetic)
    assert (processed.rows, processed.pairs, processed.counts) == (
        processed_synthetic.rows, processed_synthetic.pairs, processed_synthetic.counts,
    )  # fmt: skip


def test_nothing_that_leaks_or_is_noise_is_left_in_the_synthetic_rows(processed_synthetic):
    for row in processed_synthetic.rows:
        assert not MUST_NOT_BE_LEARNED.search(row["full_text"]), row["full_text"]
    for pair in processed_synthetic.pairs:
        assert not MUST_NOT_BE_LEARNED.search(
            "\n".join((pair["prompt"], pair["winner"], pair["loser"]))
        )


def test_the_prompt_holds_all_that_decides_about_the_delta(processed_synthetic, synthetic):
    """A rendered prompt has the truth of its post, and by it winners are ahead of losers."""
    threads = threads_of(synthetic)
    for row in processed_synthetic.rows:
        if row["metadata"]["reply_to"] == row["metadata"]["conversation_id"]:
            body = threads[row["metadata"]["conversation_id"]].body
            by_prompt = truth(row["input_text"], row["response"])
            assert by_prompt == pytest.approx(truth(clean(body), row["response"]))
    gap = [
        truth(pair["prompt"], pair["winner"]) - truth(pair["prompt"], pair["loser"])
        for pair in processed_synthetic.pairs
    ]
    assert sum(gap) / len(gap) > 0.1


def test_a_thread_of_two_corpora_is_used_once(
    synthetic, processed_synthetic, write_corpus, make_cmv
):
    other = write_corpus(
        [
            comment("t3_z", None, "op", BODY, thread="t3_z"),
            comment("t1_z1", "t3_z", "ben", "Dogs.", 1, thread="t3_z"),
        ],
        {"t3_z": META},
    )
    processed = make_cmv(synthetic, other, synthetic)
    assert set(processed.by_id) == set(processed_synthetic.by_id) | {"z1"}
    assert len(processed.rows) == len(processed.by_id)
    assert (
        processed.counts["won"]["in_another_corpus"]
        == processed_synthetic.counts["won"]["labelled"]
    )
    assert (
        processed.counts["lost"]["in_another_corpus"]
        == processed_synthetic.counts["lost"]["labelled"]
    )
    assert len(processed.pairs) == len(processed_synthetic.pairs)


THREAD = [
    POST,
    comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
    comment("t1_thanks", "t1_b", "op", "∆ That is true."),
    comment("t1_bot", "t1_thanks", "DeltaBot", "Confirmed: 1 delta awarded to /u/ben."),
    comment("t1_c", "t3_a", "carl", "Dogs are brave.", 0),
    comment("t1_d", "t3_a", "dora", "Dogs are dogs, and cats are not."),
]


def test_deltas_of_a_subreddit_corpus_are_found(tmp_path, make_cmv, process_thread):
    corpus = as_subreddit(THREAD, {"t3_a": META["op-title"]}, tmp_path / "subreddit")
    processed = make_cmv(corpus)
    marked = process_thread(*THREAD[1:])
    assert processed.rows == marked.rows and list(processed.by_id) == ["b"]
    assert processed.counts["won"] == {"labelled": 1, "kept": 1}
    assert processed.counts["lost"] == {"labelled": 2, "kept": 2}, (
        "all that stand beside the winner"
    )
    assert processed.pairs == marked.pairs


def test_a_thread_of_both_corpora_counts_once_and_the_other_one_adds_what_it_has_more(
    write_corpus, tmp_path, make_cmv
):
    marked = write_corpus(THREAD, {"t3_a": META})
    further = [
        comment("t1_e", "t1_d", "op", "Which dogs?"),
        comment("t1_f", "t1_e", "dora", "Mine.", 1),
        comment("t1_yes", "t1_f", "op", "!delta for you"),
    ]
    titles = {"t3_a": META["op-title"]}
    subreddit = as_subreddit([*THREAD, *further], titles, tmp_path / "subreddit")
    processed = make_cmv(marked, subreddit)
    assert list(processed.by_id) == ["b", "f"]
    assert processed.counts["read"] == {"conversations": 2, "utterances": 6 + 9}
    assert processed.counts["won"] == {"labelled": 3, "in_another_corpus": 1, "kept": 2}
    # In the subreddit's thread `d` led to a delta, so it is no loser.
    assert processed.counts["lost"] == {"labelled": 2, "in_another_corpus": 1, "kept": 1}
    swapped = make_cmv(subreddit, marked)
    assert {row["full_text"] for row in swapped.rows} == {
        row["full_text"] for row in processed.rows
    }


SPEAKERS = st.sampled_from(["op", "ben", "carl", "dora", "[deleted]", "DeltaBot"])


TEXTS = st.sampled_from(
    ["Dogs are loyal.", "I doubt it.", "∆ That is true.", "> ∆\n\nNo.", "[deleted]", "EDIT: thanks!",
     "Confirmed: 1 delta awarded to /u/ben.", "&gt; so?\n\nThat is so."]
)  # fmt: skip


COMMENTS = st.lists(
    # What the comment answers: the post (0), a comment by its number (its own or a later one too), or a missing one.
    st.tuples(st.integers(0, 12), SPEAKERS, TEXTS, st.sampled_from([1, 0, None])),
    max_size=10,
)


def reaches_the_post(parents: dict[str, str | None], id_: str) -> bool:
    visited = set()
    while id_ in parents and id_ not in visited:
        if parents[id_] is None:
            return True
        visited.add(id_)
        id_ = parents[id_]
    return False


@given(comments=COMMENTS, layout=st.sampled_from(["winning-args", "subreddit", "both"]))
def test_whatever_the_threads_each_reply_is_kept_or_counted_out_by_name(
    tokenizer, comments, layout
):
    """Even with circles and missing comments, nothing hangs, crashes or is counted twice."""
    rows = [POST] + [
        comment(f"t1_{n}", "t3_a" if answers == 0 else f"t1_{answers}", speaker, text, success)
        for n, (answers, speaker, text, success) in enumerate(comments, 1)
    ]
    healthy = [
        comment("t3_h", None, "op", BODY, thread="t3_h"),
        comment("t1_h1", "t3_h", "ben", "Dogs are loyal.", 1, thread="t3_h"),
        comment("t1_h2", "t1_h1", "op", "∆ That is true.", thread="t3_h"),
    ]
    titles = {"t3_a": META["op-title"], "t3_h": META["op-title"]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jsonl(folder / "marked" / "utterances.jsonl", rows + healthy)
        write_json(folder / "marked" / "conversations.json", {"t3_a": META, "t3_h": META})
        subreddit = as_subreddit(rows + healthy, titles, folder / "found")
        corpora = {"winning-args": ["marked"], "subreddit": ["found"], "both": ["marked", "found"]}
        process_cmv(
            corpora=[folder / corpus for corpus in corpora[layout]], tokenizer=tokenizer,
            examples=folder / "examples.jsonl", pairs=folder / "pairs.jsonl",
            counts=folder / "counts.json", budget=WIDE,
        )  # fmt: skip
        processed = Processed(folder)
        subreddit_thread = threads_of(subreddit)["a"]
    assert set(processed.counts["won"]) | set(processed.counts.get("lost", ())) <= {
        "labelled", "kept", "posters_own", "deleted", "bot", "awards_a_delta_itself", "chain_broken",
        "answered_comment_missing", "after_the_delta", "empty_after_cleaning", "in_another_corpus",
        "no_winner_beside",
    }  # fmt: skip
    parents = {row["id"][3:]: row["reply-to"] and row["reply-to"][3:] for row in rows}
    by_id = {row["id"][3:]: row for row in rows}
    assert len(processed.rows) == len(processed.by_id) == processed.counts["made"]["examples"]
    for id_ in processed.by_id.keys() - {"h1"}:
        row = by_id[id_]
        assert reaches_the_post(parents, id_)
        assert row["speaker"] not in ("op", "DeltaBot") and not awards(row["text"])
    for pair in processed.pairs:
        winner, loser = (by_id[pair["metadata"][key]] for key in ("winner_id", "loser_id"))
        assert winner["reply-to"] == loser["reply-to"] and winner["speaker"] != loser["speaker"]
    if layout == "winning-args":
        labels = {id_: row["meta"]["success"] for id_, row in by_id.items() if id_ != "a"}
    elif layout == "subreddit":
        labels = cmv.labels_of(subreddit_thread)
    else:
        return
    # A reply with a broken chain counts as such only if no earlier exclusion applies to it.
    for group, success in (("won", 1), ("lost", 0)):
        broken = [
            id_
            for id_, label in labels.items()
            if label == success and not reaches_the_post(parents, id_)
            if by_id[id_]["speaker"] != "op" and not awards(by_id[id_]["text"])
            if not unusable(by_id[id_]["speaker"], by_id[id_]["text"])
        ]
        assert processed.counts.get(group, Counter())["chain_broken"] == len(broken)


def numbered_alike(thread: str, topic: str) -> list[dict]:
    """A thread whose replies have the ids "w" and "l", as those of every other thread."""
    return [
        comment(
            thread, None, "op", f"{topic} are better, as I say here with many words.", thread=thread
        ),
        comment("w", thread, "ben", f"No {topic} are loyal.", 1, thread),
        comment("l", thread, "carl", f"No {topic} are brave.", 0, thread),
    ]


def test_threads_whose_replies_have_the_same_ids_are_all_kept(write_corpus, make_cmv, tmp_path):
    names = ["one", "two", "three", "four", "five", "six"]
    rows = [row for name in names for row in numbered_alike(name, name.upper())]
    corpus = write_corpus(rows, {name: META for name in names})
    processed = make_cmv(corpus)
    assert [row["response"] for row in processed.rows] == [
        f"No {n.upper()} are loyal." for n in names
    ]
    assert processed.counts["won"] == {"labelled": 6, "kept": 6}
    assert processed.counts["lost"] == {"labelled": 6, "kept": 6}
    assert len(processed.pairs) == 6
    assert len({example_id(row["metadata"]) for row in processed.rows}) == 6
    # The same thread in another corpus is the same one.
    other = write_corpus(numbered_alike("one", "ONE"), {"one": META}, "other")
    again = make_cmv(corpus, other)
    assert again.rows == processed.rows and again.counts["won"]["in_another_corpus"] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a/b", "c"), ("a", "b/c")), (("a~1b", "c"), ("a/b", "c")), (("a-b", "c"), ("a", "b-c"))],
)
def test_no_two_examples_have_one_id(one, other):
    ids = {
        example_id({"source": "cmv", "conversation_id": conversation, "utterance_id": utterance})
        for conversation, utterance in (one, other)
    }
    assert len(ids) == 2


LARGE = "Dogs are loyal. " * 62_501


@pytest.mark.parametrize(
    ("place", "counts"),
    [
        (1, {"won": {"labelled": 1, "too_large": 1}, "lost": {"labelled": 1, "answered_comment_too_large": 1}}),
        (2, {"won": {"labelled": 1, "kept": 1}, "lost": {"labelled": 1, "answered_comment_too_large": 1}}),
        (3, {"won": {"labelled": 1, "kept": 1}, "lost": {"labelled": 1, "too_large": 1}}),
        (0, {"left_out_conversations": {"post_too_large": 1}, "left_out_utterances": {"post_too_large": 4}}),
    ],
)  # fmt: skip
def test_texts_over_the_limit_are_left_out_and_counted(write_corpus, make_cmv, place, counts):
    rows = [
        POST,
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_c", "t3_a", "carl", "Dogs are brave."),
        comment("t1_d", "t1_b" if place == 1 else "t1_c", "dora", "So they are.", 0),
    ]
    rows[place] = rows[place] | {"text": LARGE}
    healthy = numbered_alike("t3_h", "Cats")
    meta = META | {"op-text-body": ""}
    processed = make_cmv(write_corpus([*rows, *healthy], {"t3_a": meta, "t3_h": META}))
    assert processed.counts["read"] == {"conversations": 2, "utterances": 7}
    for group, numbers in counts.items():
        of_healthy = {"labelled": 1, "kept": 1} if group in ("won", "lost") else {}
        assert processed.counts[group] == Counter(numbers) + Counter(of_healthy)
    assert processed.counts["cleaned"]["text_too_large"] == 1
    assert not any("loyal. Dogs are loyal." in row["full_text"] for row in processed.rows)


def test_a_comment_over_the_limit_above_others_is_counted_though_no_reply_is_lost(
    write_corpus, make_cmv
):
    rows = [
        POST,
        comment("t1_b", "t3_a", "ben", LARGE),
        comment("t1_c", "t1_b", "op", "Are they?"),
        comment("t1_d", "t1_c", "ben", "So they are.", 1),
    ]
    processed = make_cmv(write_corpus(rows, {"t3_a": META}))
    assert processed.counts["won"] == {"labelled": 1, "kept": 1}
    assert processed.counts["cleaned"]["text_too_large"] == 1
    assert "Dogs" not in processed.rows[0]["input_text"]


def test_a_text_at_the_limit_is_read_and_one_above_it_is_not():
    assert not is_too_large("x" * TEXT_BYTES) and is_too_large("x" * (TEXT_BYTES + 1))
    assert not is_too_large("日" * (TEXT_BYTES // 3)) and is_too_large("日" * (TEXT_BYTES // 3 + 1))


def test_odd_characters_are_mended_and_counted(write_corpus, make_cmv):
    reply = "Dogs \ud83d are\r\nloyal\x00.\u2028Really."
    rows = [POST, comment("t1_b", "t3_a", "b\ud83d", reply, 1)]
    folder = write_corpus([POST], {"t3_a": META | {"op-title": "CMV: Cats\x07 are better"}})
    # An encoder that escapes can write half of a pair, which UTF-8 cannot.
    (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    processed = make_cmv(folder)
    assert processed.rows[0]["response"] == "Dogs \ufffd are\nloyal.\nReally."
    assert "Claim: CMV: Cats are better\n" in processed.rows[0]["input_text"]
    assert processed.counts["cleaned"]["odd_characters"] == 2


def test_a_shuffled_corpus_gives_the_same_examples(
    synthetic, processed_synthetic, make_cmv, tmp_path
):
    folder = tmp_path / "shuffled"
    shutil.copytree(synthetic, folder)
    lines = (synthetic / "utterances.jsonl").read_text().splitlines(keepends=True)
    random.Random(5).shuffle(lines)
    (folder / "utterances.jsonl").write_text("".join(lines))
    processed = make_cmv(folder)
    assert processed.by_id == processed_synthetic.by_id
    assert {str(pair) for pair in processed.pairs} == {
        str(pair) for pair in processed_synthetic.pairs
    }


def test_the_log_says_where_the_first_that_is_left_out_stands(write_corpus, make_cmv, capsys):
    """Also for a conversation that conversations.json lacks."""
    rows = [row for name in "abcd" for row in numbered_alike(f"t3_{name}", name.upper())]
    rows[1]["text"] = rows[4]["text"] = "[deleted]"
    folder = write_corpus(rows, {f"t3_{name}": META for name in "abd"})
    counts = make_cmv(folder).counts
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out, ")]
    file = folder / "utterances.jsonl"
    assert lines == [
        f"left out, deleted: {file}, line 2 (the first of them)",
        f"left out, no_title: {file}, line 7, conversation c (the first of them)",
    ]
    assert counts["won"]["deleted"] == 2


def test_threads_without_a_title_are_left_out_and_counted(write_corpus, make_cmv):
    rows = [
        *numbered_alike("t3_a", "Cats"),
        *numbered_alike("t3_b", "Dogs"),
        *numbered_alike("t3_c", "Cows"),
    ]
    processed = make_cmv(write_corpus(rows, {"t3_a": META, "t3_b": META | {"op-title": " "}}))
    assert len(processed.rows) == 1
    assert processed.counts["left_out_conversations"] == {"no_title": 2}
    assert processed.counts["left_out_utterances"] == {"no_title": 6}
