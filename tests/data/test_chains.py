"""The comments above a reply: the right ones, and in linear time however deep the thread."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.data.chains import Chains, whole_chains
from persuasion_rl.data.corpus import Conversation, Utterance, read_threads
from small_corpora import META, POST, comment


def thread_of(parents: list[int]) -> Conversation:
    """A thread in which comment i answers comment parents[i - 1]; 0 is the post."""
    thread = Conversation("0", META, {"0": Utterance("0", "0", "anna", "x", None, None, {})})
    for number, parent in enumerate(parents, 1):
        id_ = str(number)
        thread.utterances[id_] = Utterance(id_, "0", "anna", "x", str(parent), None, {})
    return thread


def test_only_chains_that_lead_to_the_root_are_whole(write_corpus):
    """The others answer a comment that is not there, or a circle; in whatever order the file has them."""
    rows = [
        comment("t1_d", "t1_c", "ben", "D."), comment("t1_c", "t3_a", "ben", "C."), POST,
        comment("t1_x", "t1_gone", "ben", "X."), comment("t1_y", "t1_x", "ben", "Y."),
        comment("t1_p", "t1_q", "ben", "P."), comment("t1_q", "t1_p", "ben", "Q."),
    ]  # fmt: skip
    (thread,) = read_threads(write_corpus(rows, {"t3_a": META}))
    assert list(thread.utterances) == ["a", "c", "d", "x", "y", "p", "q"]
    assert whole_chains(thread, {"c"}) == {"a": False, "c": True, "d": True}


@given(
    parents=st.lists(st.integers(0, 30), min_size=1, max_size=30),
    unusable=st.sets(st.integers(1, 30)),
    ends=st.integers(1, 4),
)
def test_the_usable_comments_above_a_reply_are_those_of_a_plain_walk(parents, unusable, ends):
    parents = [min(parent, number) for number, parent in enumerate(parents)]
    thread = thread_of(parents)
    chains = Chains(thread, lambda comment: int(comment.id) not in unusable, ends)
    for number in range(1, len(parents) + 1):
        walked, above = [], parents[number - 1]
        while above:
            walked += [above] if above not in unusable else []
            above = parents[above - 1]
        expected = walked[::-1]
        if len(expected) > 2 * ends:
            expected = expected[:ends] + expected[-ends:]
        found = chains.above(thread.utterances[str(number)])
        assert [int(comment.id) for comment in found] == expected


def work(depth: int) -> int:
    """Lines of code that are run for every comment of a chain to have its context."""
    thread = thread_of(list(range(depth)))
    lines = 0

    def count(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return count

    sys.settrace(count)
    try:
        chains = Chains(thread, lambda comment: True, ends=5)
        whole_chains(thread, set())
        for comment in list(thread.utterances.values())[1:]:
            assert len(chains.above(comment)) <= 10
    finally:
        sys.settrace(None)
    return lines


def test_twice_as_deep_a_chain_is_twice_the_work():
    assert work(2000) / work(1000) == pytest.approx(2, rel=0.1)


def test_replies_in_a_chain_of_ten_thousand_comments_are_kept_with_its_ends(write_corpus, make_cmv):
    rows = [POST] + [
        comment(
            f"t1_{n}",
            f"t1_{n - 1}" if n else "t3_a",
            f"user{n}",
            f"No. {n}.",
            n % 100 == 99 or None,
        )
        for n in range(10_000)
    ]
    processed = make_cmv(write_corpus(rows, {"t3_a": META}), max_context_tokens=150)
    assert processed.counts["won"] == {"labelled": 100, "kept": 100}
    prompt = processed.by_id["9999"]["input_text"]
    assert "\nPoster: Cats are better" in prompt and "\nOther: No. 9998.\n[TASK]" in prompt
    assert "[...]" in prompt and "No. 9900" not in prompt
