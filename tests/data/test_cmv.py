"""ChangeMyView's threads: whose replies count, what the model sees, what is left out."""

import pytest

from persuasion_rl.files import UserError
from persuasion_rl.prompts.wording import PLAIN
from small_corpora import BODY, META, comment, token_counts


def test_a_row_has_the_contracts_fields(process_thread, tokenizer):
    processed = process_thread(comment("t1_b", "t3_a", "ben", "Dogs &gt; cats.", 1))
    (row,) = processed.rows
    prompt = PLAIN.render(
        "Claim: CMV: Cats are better\nPoster: Cats are better & cleaner than dogs.", "cmv"
    )
    response_tokens, context_tokens = token_counts(
        tokenizer, ["Dogs > cats.", prompt.split("[CONTEXT]\n")[1].split("[TASK]")[0]]
    )
    assert row == {
        "input_text": prompt,
        "full_text": prompt + "Dogs > cats.",
        "response": "Dogs > cats.",
        "metadata": {
            "source": "cmv", "conversation_id": "a", "utterance_id": "b", "reply_to": "a",
            "response_tokens": response_tokens + 1, "context_tokens": context_tokens,
            "context_cut": False,
        },
    }  # fmt: skip


def test_the_posters_own_replies_never_become_examples(process_thread):
    processed = process_thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_c", "t1_b", "op", "That is true, you are right.", 1),
        comment("t1_d", "t3_a", "op", "I add this.", 0),
    )
    assert list(processed.by_id) == ["b"]
    assert processed.counts["won"] == {"labelled": 2, "posters_own": 1, "kept": 1}
    assert processed.counts["lost"] == {"labelled": 1, "posters_own": 1}


@pytest.mark.parametrize(
    "reply, reason",
    [
        (comment("t1_x", "t3_a", "[deleted]", "[deleted]", 1), "deleted"),
        (comment("t1_x", "t3_a", "ben", "[removed]", 1), "deleted"),
        (comment("t1_x", "t3_a", "DeltaBot", "Confirmed: 1 delta awarded to /u/x.", 1), "bot"),
        (comment("t1_x", "t3_a", "AutoModerator", "Read the rules.", 1), "bot"),
        (
            comment("t1_x", "t3_a", "mod", "Removed, rule 5.", 1, distinguished="moderator"),
            "moderator",
        ),
        (comment("t1_x", "t3_a", "[missing]", None, 1), "missing"),
        (comment("t1_x", "t3_a", "ben", "EDIT: delta, thanks!", 1), "empty_after_cleaning"),
        (comment("t1_x", "t3_a", "ben", "∆ You changed my view.", 1), "awards_a_delta_itself"),
        (comment("t1_x", "t1_gone", "ben", "Dogs are loyal.", 1), "chain_broken"),
        (comment("t1_x", "t1_x", "ben", "Dogs are loyal.", 1), "chain_broken"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_left_out_is_counted(process_thread, reply, reason):
    processed = process_thread(reply, comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1))
    assert list(processed.by_id) == ["b"]
    assert processed.counts["won"] == {"labelled": 2, reason: 1, "kept": 1}


def test_only_winning_replies_become_examples(process_thread):
    processed = process_thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_c", "t3_a", "carl", "No.", 0),
        comment("t1_d", "t3_a", "dora", "Unmarked."),
        comment("t1_e", "t1_d", "eve", "No winner beside me.", 0),
    )
    assert list(processed.by_id) == ["b"]
    assert processed.counts["won"] == {"labelled": 1, "kept": 1}
    assert processed.counts["lost"] == {"labelled": 2, "no_winner_beside": 1, "kept": 1}
    assert processed.counts["read"] == {"conversations": 1, "utterances": 5}
    assert processed.counts["made"] == {"examples": 1, "delta_pairs": 1}


@pytest.mark.parametrize(
    "raw, response",
    [
        ("&gt; Cats are clean\n\nDogs are, too.", "> Cats are clean\n\nDogs are, too."),
        ("Dogs are loyal.\n\nEDIT: Thanks for the delta!", "Dogs are loyal."),
        ("Dogs are loyal.\n\n**EDIT 2:** typo\n\nAnd brave.", "Dogs are loyal.\n\nAnd brave."),
        ("Dogs are loyal, as /u/some_one said.", "Dogs are loyal, as [user] said."),
        ("&gt; Have a delta /u/x!\n\nDogs are loyal.", "Dogs are loyal."),
        ("Dogs &amp; people &lt;3", "Dogs & people <3"),
    ],
)
def test_responses_are_cleaned(process_thread, raw, response):
    assert process_thread(comment("t1_b", "t3_a", "ben", raw, 1)).rows[0]["response"] == response


def test_the_context_is_the_claim_the_post_and_the_chain_of_comments(process_thread):
    processed = process_thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal."),
        comment("t1_side", "t3_a", "eve", "A side remark."),
        comment("t1_gone", "t1_b", "carl", "[deleted]"),
        comment("t1_c", "t1_gone", "op", "I doubt it &amp; wonder."),
        comment("t1_d", "t1_c", "dora", "Me too."),
        comment("t1_e", "t1_d", "ben", "Ask any owner.", 1),
    )
    context = processed.rows[0]["input_text"].split("[CONTEXT]\n")[1].split("\n[TASK]")[0]
    assert context.splitlines() == [
        "Claim: CMV: Cats are better",
        "Poster: Cats are better & cleaner than dogs.",
        "Persuader: Dogs are loyal.",
        "Poster: I doubt it & wonder.",
        "Other: Me too.",
    ]


@pytest.mark.parametrize(
    "speaker, text",
    [
        ("carl", "[deleted]"),
        ("[missing]", None),
        ("AutoModerator", "Read the rules."),
        ("DeltaBot", "∆"),
        ("carl", "EDIT: typo"),
    ],
)
def test_a_reply_to_a_comment_that_is_gone_is_left_out(process_thread, speaker, text):
    processed = process_thread(
        comment("t1_gone", "t3_a", speaker, text),
        comment("t1_x", "t1_gone", "ben", "I answer that.", 1),
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
    )
    assert list(processed.by_id) == ["b"]
    assert processed.counts["won"]["answered_comment_missing"] == 1


@pytest.mark.parametrize("body", ["[deleted]", "[removed]"])
def test_a_deleted_post_is_in_no_prompt(write_corpus, make_cmv, body):
    rows = [
        comment("t3_a", None, "op", body),
        comment("t1_x", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t3_b", None, "op", BODY, thread="t3_b"),
        comment("t1_y", "t3_b", "ben", "Dogs are loyal.", 1, thread="t3_b"),
    ]
    metas = {"t3_a": META | {"op-text-body": body}, "t3_b": META}
    processed = make_cmv(write_corpus(rows, metas))
    assert list(processed.by_id) == ["y"]
    assert processed.counts["won"] == {"labelled": 2, "post_deleted": 1, "kept": 1}


@pytest.mark.parametrize("body", ["", " \n", "EDIT: thanks for the answers!"])
def test_a_post_of_a_title_alone_is_a_prompt(write_corpus, make_cmv, body):
    """As 345 posts of Tan et al.'s training side are."""
    rows = [
        comment("t3_a", None, "op", body),
        comment("t1_x", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_y", "t3_a", "eve", "Why is that?", None),
        comment("t1_z", "t1_y", "ben", "Dogs are loyal and clean.", 1),
    ]
    processed = make_cmv(write_corpus(rows, {"t3_a": META | {"op-text-body": body}}))
    title = " ".join(META["op-title"].split())
    contexts = [f"Claim: {title}\n", f"Claim: {title}\nOther: Why is that?\n"]
    for id_, context in zip("xz", contexts, strict=True):
        prompt = processed.by_id[id_]["input_text"]
        assert context in prompt and "Poster:" not in prompt


def test_a_reply_below_the_posters_delta_comes_too_late(process_thread):
    """The poster has changed their mind already. Another reader's delta does not count."""
    processed = process_thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_award", "t1_b", "op", "∆ That is true."),
        comment("t1_late", "t1_award", "ben", "I am glad.", 1),
        comment("t1_later", "t1_late", "eve", "Me too.", 0),
        comment("t1_c", "t3_a", "carl", "Dogs are brave.", 1),
        comment("t1_reader", "t1_c", "fay", "∆ from me."),
        comment("t1_d", "t1_reader", "carl", "And brave dogs help.", 1),
    )
    assert list(processed.by_id) == ["b", "c", "d"]
    assert processed.counts["won"] == {"labelled": 4, "after_the_delta": 1, "kept": 3}
    assert processed.counts["lost"] == {"labelled": 1, "after_the_delta": 1}
    assert "Other: from me." in processed.by_id["d"]["input_text"]


def test_the_comments_of_deleted_accounts_are_nobodys(process_thread):
    """All deleted accounts share one name: their text stays, but not as the persuader's."""
    processed = process_thread(
        comment("t1_b", "t3_a", "[deleted]", "Dogs are loyal."),
        comment("t1_c", "t1_b", "[deleted]", "I agree.", 1),
    )
    assert "Other: Dogs are loyal." in processed.by_id["c"]["input_text"]


def test_responses_outside_the_limits_are_counted_out(process_thread, tokenizer):
    texts = {
        "short": "No.",
        "fits": "Dogs are loyal and brave.",
        "long": "Dogs are loyal. " * 9,
    }
    sizes = token_counts(tokenizer, [text.strip() for text in texts.values()])
    comments = [comment(id_, "t3_a", "ben", text, 1) for id_, text in texts.items()]
    limits = dict(min_tokens=sizes[1] + 1, max_tokens=sizes[1] + 1)
    processed = process_thread(*comments, **limits)
    assert list(processed.by_id) == ["fits"]
    assert processed.counts["won"] == {
        "labelled": 3, "response_too_short": 1, "response_too_long": 1, "kept": 1,
    }  # fmt: skip


def test_a_row_over_the_whole_budget_is_counted_out_and_not_cut(process_thread, tokenizer):
    wide = process_thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_l", "t3_a", "carl", "Loyal! " * 9, 1),
    )
    exact = token_counts(tokenizer, [wide.by_id["b"]["input_text"]])[0]
    exact += wide.by_id["b"]["metadata"]["response_tokens"]
    processed = process_thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_l", "t3_a", "carl", "Loyal! " * 9, 1),
        max_seq_length=exact,
    )
    assert processed.rows == [wide.by_id["b"]]
    assert processed.counts["won"] == {"labelled": 2, "over_max_seq_length": 1, "kept": 1}


def test_the_context_does_not_depend_on_the_length_of_the_response(process_thread):
    """Otherwise a cut context would tell the length of the winning reply."""
    long_post = META | {"op-text-body": "Cats are clean. " * 80}
    processed = process_thread(
        comment("t1_b", "t3_a", "ben", "No.", 1),
        comment("t1_c", "t3_a", "carl", "Dogs are loyal. " * 20, 1),
        meta=long_post,
        max_context_tokens=60,
    )
    assert processed.counts["made"]["contexts_cut"] == 2
    assert processed.by_id["b"]["input_text"] == processed.by_id["c"]["input_text"]
    for row in processed.rows:
        assert row["metadata"]["context_tokens"] <= 60 and row["metadata"]["context_cut"]


def test_an_answered_comment_that_is_itself_too_long_is_counted_out(process_thread):
    """A long post loses its middle; an answered comment is never cut."""
    processed = process_thread(
        comment("t1_x", "t3_a", "op", "Cats are clean. " * 30),
        comment("t1_b", "t1_x", "ben", "Dogs are loyal.", 1),
        comment("t1_y", "t3_a", "op", "I doubt it."),
        comment("t1_c", "t1_y", "ben", "Dogs are brave.", 1),
        meta=META | {"op-text-body": "Cats are clean. " * 80},
        max_context_tokens=60,
    )
    assert list(processed.by_id) == ["c"]
    assert processed.counts["won"] == {"labelled": 2, "answered_comment_too_long": 1, "kept": 1}
    assert processed.by_id["c"]["input_text"].split("[TASK]")[0].endswith("\nPoster: I doubt it.\n")


def test_a_corpus_without_a_usable_reply_is_refused(process_thread):
    with pytest.raises(UserError, match="no usable winning reply"):
        process_thread(comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 0))


def test_a_corpus_of_something_else_is_refused(process_thread):
    with pytest.raises(
        UserError, match="no conversation has an op-title or title; is it a ChangeMyView corpus"
    ):
        process_thread(comment("t1_b", "t3_a", "ben", "Dogs.", 1), meta={"donation_ee": 0.0})
