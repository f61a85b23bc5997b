"""Deltas that are found in real threads, beside those that DeltaBot confirmed there."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from persuasion_rl.data.cmv import process_cmv
from persuasion_rl.data.corpus import read_threads
from persuasion_rl.data.deltas import award_ids
from persuasion_rl.data.examples import Budget
from persuasion_rl.files import read_json, read_jsonl
from running import ROOT

MARKED, FOUND = "winning-args-corpus", "subreddit-changemyview"


@pytest.fixture(scope="module")
def threads_in_two_forms(real_data) -> Path:
    """A folder with the marked corpus and ten of its threads in the subreddit's form."""
    for folder in (real_data, ROOT.parent / "shared/corpora"):
        if all((folder / name / "utterances.jsonl").is_file() for name in (MARKED, FOUND)):
            return folder
    pytest.skip(
        f"no real {FOUND} beside {real_data}; name a folder with both in PERSUASION_RL_CORPORA"
    )


def test_the_posters_awards_are_those_that_deltabot_confirmed_and_nobody_elses(
    threads_in_two_forms,
):
    """17 of the posters; 4 were given by others, and one was refused."""
    found, confirmed, others = set(), set(), set()
    for thread in read_threads(threads_in_two_forms / FOUND, defaultdict(Counter)):
        found |= award_ids(thread)
        for reply in thread.utterances.values():
            if reply.speaker == "DeltaBot" and "Confirmed" in reply.text:
                award = thread.utterances[reply.reply_to]
                (confirmed if award.speaker == thread.poster else others).add(award.id)
    assert found == confirmed and len(found) == 17
    assert len(others) == 4 and not found & others


def test_both_sources_in_one_study_have_no_comment_twice(
    threads_in_two_forms, qwen_tokenizer, tmp_path
):
    process_cmv(
        corpora=[threads_in_two_forms / name for name in (MARKED, FOUND)], tokenizer=qwen_tokenizer,
        examples=tmp_path / "examples.jsonl", pairs=tmp_path / "pairs.jsonl", counts=tmp_path / "counts.json",
        budget=Budget(20, 512, 400, 1024),
    )  # fmt: skip
    rows = [row["metadata"] for row in read_jsonl(tmp_path / "examples.jsonl")]
    ids = [(row["conversation_id"], row["utterance_id"]) for row in rows]
    assert len(ids) == len(set(ids)) > 1000
    won = read_json(tmp_path / "counts.json")["won"]
    assert won["in_another_corpus"] > 0
    assert won["labelled"] == sum(won.values()) - won["labelled"]
