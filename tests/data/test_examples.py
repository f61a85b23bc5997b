"""From corpora to examples and delta pairs: whose replies count, what the model sees, what is left out."""

import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.data import cmv
from persuasion_rl.data.clean import clean, unusable
from persuasion_rl.data.cmv import process_cmv
from persuasion_rl.data.corpus import Conversation, read_threads
from persuasion_rl.data.deltas import awards
from persuasion_rl.data.examples import Budget, Draft, RowMaker
from persuasion_rl.data.p4g import process_p4g, selected
from persuasion_rl.data.prompts import TokenCounter, Turn, render
from persuasion_rl.data.synthetic.grammar import truth
from persuasion_rl.files import UserError, read_json, read_jsonl, write_json, write_jsonl

WIDE = dict(min_tokens=1, max_tokens=2000, max_context_tokens=2000, max_seq_length=5000)
MUST_NOT_BE_LEARNED = re.compile(
    r"\[deleted\]|\[removed\]|&gt;|&amp;|&#\d+;|∆|!delta|Hello, users of CMV|DeltaBot"
    r"|^\W*(?:EDIT|UPDATE)\b|/u/\w",
    re.M,
)
BODY = "Cats are better &amp; cleaner than dogs.\n\nEDIT: delta given!"
META = {
    "op-userID": "op",
    "op-title": "CMV: Cats  are better",
    "op-text-body": BODY,
    "pair_ids": [],
}


def comment(
    id_, reply_to, speaker, text, success=None, thread="t3_a", distinguished=None, timestamp=1
):
    return {
        "id": id_, "conversation_id": thread, "text": text, "speaker": speaker, "reply-to": reply_to,
        "timestamp": timestamp, "meta": {"success": success, "pair_ids": [], "distinguished": distinguished},
    }  # fmt: skip


POST = comment("t3_a", None, "op", BODY)


def read(folder: Path) -> dict[str, Conversation]:
    return {thread.id: thread for thread in read_threads(folder)}


class Made:
    """What a run of process_cmv or process_p4g wrote."""

    def __init__(self, folder: Path):
        self.rows = list(read_jsonl(folder / "examples.jsonl"))
        self.pairs = (
            list(read_jsonl(folder / "pairs.jsonl")) if (folder / "pairs.jsonl").exists() else []
        )
        counts = read_json(folder / "counts.json")
        self.counts = {group: Counter(numbers) for group, numbers in counts.items()}
        for group in self.counts.keys() & {"won", "lost", "persuader"}:
            told = self.counts[group]
            assert told["labelled"] == told.total() - told["labelled"], group
        self.by_id = {row["metadata"]["utterance_id"]: row for row in self.rows}


@pytest.fixture(scope="session")
def make_cmv(tmp_path_factory, tokenizer):
    def make(*corpora, tokenizer=tokenizer, **settings):
        folder = tmp_path_factory.mktemp("cmv")
        process_cmv(
            corpora=list(corpora), tokenizer=tokenizer, examples=folder / "examples.jsonl",
            pairs=folder / "pairs.jsonl", counts=folder / "counts.json", **(WIDE | settings),
        )  # fmt: skip
        return Made(folder)

    return make


@pytest.fixture
def thread(write_corpus, make_cmv):
    """A function that makes examples of one thread with the given comments."""

    def make(*comments, meta=META, **settings):
        return make_cmv(write_corpus([POST, *comments], {"t3_a": meta}), **settings)

    return make


@pytest.fixture(scope="module")
def of_synthetic(synthetic, make_cmv):
    return make_cmv(synthetic)


def test_a_row_has_the_contracts_fields(thread, tokenizer):
    made = thread(comment("t1_b", "t3_a", "ben", "Dogs &gt; cats.", 1))
    (row,) = made.rows
    prompt = render(
        "Claim: CMV: Cats are better\nPoster: Cats are better & cleaner than dogs.", "cmv", "plain"
    )
    response_tokens, context_tokens = TokenCounter(tokenizer).counts(
        ["Dogs > cats.", prompt.split("[CONTEXT]\n")[1].split("[TASK]")[0]]
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


def test_the_posters_own_replies_never_become_examples(thread):
    made = thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_c", "t1_b", "op", "That is true, you are right.", 1),
        comment("t1_d", "t3_a", "op", "I add this.", 0),
    )
    assert list(made.by_id) == ["b"]
    assert made.counts["won"] == {"labelled": 2, "posters_own": 1, "kept": 1}
    assert made.counts["lost"] == {"labelled": 1, "posters_own": 1}


@pytest.mark.parametrize(
    "left_out, why",
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
def test_what_is_left_out_is_counted(thread, left_out, why):
    made = thread(left_out, comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1))
    assert list(made.by_id) == ["b"]
    assert made.counts["won"] == {"labelled": 2, why: 1, "kept": 1}


def test_only_winning_replies_become_examples(thread):
    made = thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_c", "t3_a", "carl", "No.", 0),
        comment("t1_d", "t3_a", "dora", "Unmarked."),
        comment("t1_e", "t1_d", "eve", "No winner beside me.", 0),
    )
    assert list(made.by_id) == ["b"]
    assert made.counts["won"] == {"labelled": 1, "kept": 1}
    assert made.counts["lost"] == {"labelled": 2, "no_winner_beside": 1, "kept": 1}
    assert made.counts["read"] == {"conversations": 1, "utterances": 5}
    assert made.counts["made"] == {"examples": 1, "delta_pairs": 1}


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
def test_responses_are_cleaned(thread, raw, response):
    assert thread(comment("t1_b", "t3_a", "ben", raw, 1)).rows[0]["response"] == response


def test_the_context_is_the_claim_the_post_and_the_chain_of_comments(thread):
    made = thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal."),
        comment("t1_side", "t3_a", "eve", "A side remark."),
        comment("t1_gone", "t1_b", "carl", "[deleted]"),
        comment("t1_c", "t1_gone", "op", "I doubt it &amp; wonder."),
        comment("t1_d", "t1_c", "dora", "Me too."),
        comment("t1_e", "t1_d", "ben", "Ask any owner.", 1),
    )
    context = made.rows[0]["input_text"].split("[CONTEXT]\n")[1].split("\n[TASK]")[0]
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
def test_a_reply_to_a_comment_that_is_gone_is_left_out(thread, speaker, text):
    made = thread(
        comment("t1_gone", "t3_a", speaker, text),
        comment("t1_x", "t1_gone", "ben", "I answer that.", 1),
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
    )
    assert list(made.by_id) == ["b"]
    assert made.counts["won"]["answered_comment_missing"] == 1


@pytest.mark.parametrize("body", ["[deleted]", "[removed]"])
def test_a_deleted_post_is_in_no_prompt(write_corpus, make_cmv, body):
    rows = [
        comment("t3_a", None, "op", body),
        comment("t1_x", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t3_b", None, "op", BODY, thread="t3_b"),
        comment("t1_y", "t3_b", "ben", "Dogs are loyal.", 1, thread="t3_b"),
    ]
    metas = {"t3_a": META | {"op-text-body": body}, "t3_b": META}
    made = make_cmv(write_corpus(rows, metas))
    assert list(made.by_id) == ["y"]
    assert made.counts["won"] == {"labelled": 2, "post_deleted": 1, "kept": 1}


def test_a_reply_below_the_posters_delta_comes_too_late(thread):
    """The mind has changed already. Another reader's delta is not the poster's."""
    made = thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_award", "t1_b", "op", "∆ That is true."),
        comment("t1_late", "t1_award", "ben", "I am glad.", 1),
        comment("t1_later", "t1_late", "eve", "Me too.", 0),
        comment("t1_c", "t3_a", "carl", "Dogs are brave.", 1),
        comment("t1_reader", "t1_c", "fay", "∆ from me."),
        comment("t1_d", "t1_reader", "carl", "And brave dogs help.", 1),
    )
    assert list(made.by_id) == ["b", "c", "d"]
    assert made.counts["won"] == {"labelled": 4, "after_the_delta": 1, "kept": 3}
    assert made.counts["lost"] == {"labelled": 1, "after_the_delta": 1}
    assert "Other: from me." in made.by_id["d"]["input_text"]


def test_the_comments_of_deleted_accounts_are_nobodys(thread):
    """All deleted accounts have one name: the text of one may stand, but not as the persuader's."""
    made = thread(
        comment("t1_b", "t3_a", "[deleted]", "Dogs are loyal."),
        comment("t1_c", "t1_b", "[deleted]", "I agree.", 1),
    )
    assert "Other: Dogs are loyal." in made.by_id["c"]["input_text"]


def test_responses_outside_the_limits_are_counted_out(thread, tokenizer):
    texts = {
        "short": "No.",
        "fits": "Dogs are loyal and brave.",
        "long": "Dogs are loyal. " * 9,
    }
    sizes = TokenCounter(tokenizer).counts([text.strip() for text in texts.values()])
    comments = [comment(id_, "t3_a", "ben", text, 1) for id_, text in texts.items()]
    limits = dict(min_tokens=sizes[1] + 1, max_tokens=sizes[1] + 1)
    made = thread(*comments, **limits)
    assert list(made.by_id) == ["fits"]
    assert made.counts["won"] == {
        "labelled": 3, "response_too_short": 1, "response_too_long": 1, "kept": 1,
    }  # fmt: skip


def test_a_row_over_the_whole_budget_is_counted_out_and_not_cut(thread, tokenizer):
    wide = thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_l", "t3_a", "carl", "Loyal! " * 9, 1),
    )
    exact = TokenCounter(tokenizer).counts([wide.by_id["b"]["input_text"]])[0]
    exact += wide.by_id["b"]["metadata"]["response_tokens"]
    made = thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_l", "t3_a", "carl", "Loyal! " * 9, 1),
        max_seq_length=exact,
    )
    assert made.rows == [wide.by_id["b"]]
    assert made.counts["won"] == {"labelled": 2, "over_max_seq_length": 1, "kept": 1}


def test_the_context_does_not_depend_on_the_length_of_the_response(thread):
    """Else a cut context would tell how long the reply is that won."""
    long_post = META | {"op-text-body": "Cats are clean. " * 80}
    made = thread(
        comment("t1_b", "t3_a", "ben", "No.", 1),
        comment("t1_c", "t3_a", "carl", "Dogs are loyal. " * 20, 1),
        meta=long_post,
        max_context_tokens=60,
    )
    assert made.counts["made"]["contexts_cut"] == 2
    assert made.by_id["b"]["input_text"] == made.by_id["c"]["input_text"]
    for row in made.rows:
        assert row["metadata"]["context_tokens"] <= 60 and row["metadata"]["context_cut"]


def test_an_answered_comment_that_is_itself_too_long_is_counted_out(thread):
    """Of a long post the middle goes; a comment that is answered is never cut."""
    made = thread(
        comment("t1_x", "t3_a", "op", "Cats are clean. " * 30),
        comment("t1_b", "t1_x", "ben", "Dogs are loyal.", 1),
        comment("t1_y", "t3_a", "op", "I doubt it."),
        comment("t1_c", "t1_y", "ben", "Dogs are brave.", 1),
        meta=META | {"op-text-body": "Cats are clean. " * 80},
        max_context_tokens=60,
    )
    assert list(made.by_id) == ["c"]
    assert made.counts["won"] == {"labelled": 2, "answered_comment_too_long": 1, "kept": 1}
    assert made.by_id["c"]["input_text"].split("[TASK]")[0].endswith("\nPoster: I doubt it.\n")


TEXTS = st.lists(
    st.sampled_from(["cats", "are", "clean", "dogs.", "日本", "\n\n", "> so?"]),
    min_size=1,
    max_size=60,
).map(lambda words: " ".join(words).strip() or "x")
CHATS = st.builds(
    lambda claim, post, comments: [
        Turn("Claim", claim.replace("\n", " ")),
        Turn("Poster", post, is_post=True),
        *(Turn(role, text) for role, text in comments),
    ],
    TEXTS,
    TEXTS,
    st.lists(st.tuples(st.sampled_from(["Poster", "Persuader", "Other"]), TEXTS), max_size=3),
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def row_maker(tokenizer, tmp_path_factory):
    """A function that makes a row maker with a budget, of one of the two prompt formats."""
    base = tmp_path_factory.mktemp("base")
    (base / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (base / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return lambda *settings: RowMaker("cmv", base / "tokenizer.json", *settings)


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
@given(chats=st.lists(st.tuples(CHATS, TEXTS, TEXTS), min_size=1, max_size=3), data=st.data())
def test_prompt_and_response_fit_and_the_context_does_not_depend_on_the_response(
    row_maker, prompt_format, chats, data
):
    budget = Budget(
        min_tokens=data.draw(st.integers(1, 10)),
        max_tokens=data.draw(st.integers(20, 120)),
        max_context_tokens=data.draw(st.integers(10, 200)),
        max_seq_length=data.draw(st.integers(80, 300)),
    )
    maker = row_maker(budget, prompt_format)
    first = maker.rows([Draft(turns, response, {}) for turns, response, _ in chats])
    other = maker.rows([Draft(turns, response, {}) for turns, _, response in chats])
    for one, two, (_, response, _) in zip(first, other, chats, strict=True):
        if isinstance(one, dict) and isinstance(two, dict):
            assert one["input_text"] == two["input_text"]
        reasons = {"response_too_short", "response_too_long", "over_max_seq_length"}
        if "answered_comment_too_long" in (one, two):
            assert one == two
        elif isinstance(one, str):
            assert one in reasons
        else:
            prompt, said = maker.counter.counts([one["input_text"], one["response"]])
            assert one["response"] == response
            assert one["full_text"] == one["input_text"] + response
            assert budget.min_tokens <= said + 1 <= budget.max_tokens
            assert prompt + said + 1 <= budget.max_seq_length
            assert one["metadata"]["response_tokens"] == said + 1
            assert one["metadata"]["context_tokens"] <= budget.max_context_tokens


def test_a_pair_is_of_two_persuaders_who_answer_the_same_comment(thread):
    made = thread(
        comment("t1_w", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_same", "t3_a", "ben", "Dogs are brave.", 0),
        comment("t1_l", "t3_a", "carl", "No.", 0),
        comment("t1_w2", "t1_l", "dora", "It is so.", 1),
        comment("t1_w3", "t1_w", "eve", "Yes.", 1),
        comment("t1_op", "t1_w", "op", "Hm.", 0),
    )
    (pair,) = made.pairs
    assert pair == {
        "prompt": made.by_id["w"]["input_text"],
        "winner": "Dogs are loyal.",
        "loser": "No.",
        "metadata": {"conversation_id": "a", "winner_id": "w", "loser_id": "l"},
    }


def test_each_reply_is_in_one_pair_and_the_loser_is_the_one_nearest_in_length(thread):
    made = thread(
        comment("t1_w1", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_w2", "t3_a", "dora", "Dogs are loyal. " * 5, 1),
        comment("t1_l1", "t3_a", "carl", "Cats are better. " * 6, 0),
        comment("t1_l2", "t3_a", "eve", "Cats are clean.", 0),
    )
    found = {pair["metadata"]["winner_id"]: pair["metadata"]["loser_id"] for pair in made.pairs}
    assert found == {"w1": "l2", "w2": "l1"}
    few = thread(
        *(comment(f"t1_w{i}", "t3_a", f"ben{i}", "Dogs are loyal.", 1) for i in range(3)),
        comment("t1_l", "t3_a", "carl", "No.", 0),
    )
    assert len(few.pairs) == 1


def test_of_losers_of_one_length_the_one_nearest_in_time_is_paired(thread):
    day = 86_400
    made = thread(
        comment("t1_w", "t3_a", "ben", "Dogs are loyal.", 1, timestamp=10 * day),
        comment("t1_l1", "t3_a", "carl", "Cats are purer.", 0, timestamp=1 * day),
        comment("t1_l2", "t3_a", "eve", "Cats are finer.", 0, timestamp="950400"),  # 11 days
        comment("t1_l3", "t3_a", "fay", "Cats are nicer.", 0, timestamp=14 * day),
    )
    assert [pair["metadata"]["loser_id"] for pair in made.pairs] == ["l2"]


def test_a_loser_that_does_not_fit_is_in_no_pair(thread):
    made = thread(
        comment("t1_w", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_l", "t3_a", "carl", "No. " * 90, 0),
        max_tokens=50,
    )
    assert made.pairs == [] and list(made.by_id) == ["w"]
    assert made.counts["lost"] == {"labelled": 1, "response_too_long": 1}


def test_all_winning_replies_of_the_synthetic_corpus_and_only_they(of_synthetic, synthetic):
    expected = set()
    for conversation in read_threads(synthetic):
        for u in conversation.utterances.values():
            own = u.speaker == conversation.meta["op-userID"]
            if u.meta["success"] == 1 and not own and u.text != "[deleted]":
                expected.add(u.id)
    assert set(of_synthetic.by_id) == expected
    assert len(of_synthetic.rows) == len(expected) == of_synthetic.counts["made"]["examples"]
    assert len(of_synthetic.pairs) == of_synthetic.counts["made"]["delta_pairs"] >= 60


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_the_size_of_a_batch_changes_nothing(of_synthetic, synthetic, make_cmv, monkeypatch, batch):
    monkeypatch.setattr(cmv, "BATCH", batch)
    made = make_cmv(synthetic)
    assert (made.rows, made.pairs, made.counts) == (
        of_synthetic.rows, of_synthetic.pairs, of_synthetic.counts,
    )  # fmt: skip


def test_nothing_that_leaks_or_is_noise_is_left_in_the_synthetic_rows(of_synthetic):
    for row in of_synthetic.rows:
        assert not MUST_NOT_BE_LEARNED.search(row["full_text"]), row["full_text"]
    for pair in of_synthetic.pairs:
        assert not MUST_NOT_BE_LEARNED.search(
            "\n".join((pair["prompt"], pair["winner"], pair["loser"]))
        )


def test_the_pairs_of_the_synthetic_corpus_keep_their_rules(of_synthetic, synthetic):
    utterances = {u.id: u for t in read_threads(synthetic) for u in t.utterances.values()}
    used = Counter()
    for pair in of_synthetic.pairs:
        winner, loser = (utterances[pair["metadata"][key]] for key in ("winner_id", "loser_id"))
        assert (winner.meta["success"], loser.meta["success"]) == (1, 0)
        assert winner.reply_to == loser.reply_to and winner.speaker != loser.speaker
        assert pair["metadata"]["conversation_id"] == winner.conversation_id
        used.update([winner.id, loser.id])
    assert set(used.values()) == {1}


def test_the_prompt_holds_all_that_decides_about_the_delta(of_synthetic, synthetic):
    """The truth of a rendered prompt is that of the post, and winners are ahead by it."""
    threads = read(synthetic)
    for row in of_synthetic.rows:
        if row["metadata"]["reply_to"] == row["metadata"]["conversation_id"]:
            body = threads[row["metadata"]["conversation_id"]].body
            by_prompt = truth(row["input_text"], row["response"])
            assert by_prompt == pytest.approx(truth(clean(body), row["response"]))
    gap = [
        truth(pair["prompt"], pair["winner"]) - truth(pair["prompt"], pair["loser"])
        for pair in of_synthetic.pairs
    ]
    assert sum(gap) / len(gap) > 0.1


def test_a_thread_of_two_corpora_is_used_once(synthetic, of_synthetic, write_corpus, make_cmv):
    other = write_corpus(
        [
            comment("t3_z", None, "op", BODY, thread="t3_z"),
            comment("t1_z1", "t3_z", "ben", "Dogs.", 1, thread="t3_z"),
        ],
        {"t3_z": META},
    )
    made = make_cmv(synthetic, other, synthetic)
    assert set(made.by_id) == set(of_synthetic.by_id) | {"z1"}
    assert len(made.rows) == len(made.by_id)
    assert made.counts["won"]["in_another_corpus"] == of_synthetic.counts["won"]["labelled"]
    assert made.counts["lost"]["in_another_corpus"] == of_synthetic.counts["lost"]["labelled"]
    assert len(made.pairs) == len(of_synthetic.pairs)


def as_subreddit(rows: list[dict], titles: dict[str, str], folder: Path) -> Path:
    """The rows as `subreddit-changemyview` has them: older names, plain ids, no `success`, flat metas."""

    def plain(id_):
        return id_ and id_.removeprefix("t1_").removeprefix("t3_")

    write_jsonl(
        folder / "utterances.jsonl",
        [
            {
                "id": plain(row["id"]), "root": plain(row["conversation_id"]), "user": row["speaker"],
                "reply_to": plain(row["reply-to"]), "text": row["text"], "timestamp": row["timestamp"],
                "meta": {"score": 3, "distinguished": row["meta"]["distinguished"]},
            }
            for row in rows
        ],
    )  # fmt: skip
    flat = {
        plain(id_): {"title": title, "subreddit": "changemyview"} for id_, title in titles.items()
    }
    write_json(folder / "conversations.json", flat)
    return folder


THREAD = [
    POST,
    comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
    comment("t1_thanks", "t1_b", "op", "∆ That is true."),
    comment("t1_bot", "t1_thanks", "DeltaBot", "Confirmed: 1 delta awarded to /u/ben."),
    comment("t1_c", "t3_a", "carl", "Dogs are brave.", 0),
    comment("t1_d", "t3_a", "dora", "Dogs are dogs, and cats are not."),
]


def test_deltas_of_a_subreddit_corpus_are_found(tmp_path, make_cmv, thread):
    corpus = as_subreddit(THREAD, {"t3_a": META["op-title"]}, tmp_path / "subreddit")
    made = make_cmv(corpus)
    marked = thread(*THREAD[1:])
    assert made.rows == marked.rows and list(made.by_id) == ["b"]
    assert made.counts["won"] == {"labelled": 1, "kept": 1}
    assert made.counts["lost"] == {"labelled": 2, "kept": 2}, "all that stand beside the winner"
    assert made.pairs == marked.pairs


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
    whole = as_subreddit([*THREAD, *further], titles, tmp_path / "subreddit")
    made = make_cmv(marked, whole)
    assert list(made.by_id) == ["b", "f"]
    assert made.counts["read"] == {"conversations": 2, "utterances": 6 + 9}
    assert made.counts["won"] == {"labelled": 3, "in_another_corpus": 1, "kept": 2}
    # In the whole thread `d` led to a delta and is no loser.
    assert made.counts["lost"] == {"labelled": 2, "in_another_corpus": 1, "kept": 1}
    turned = make_cmv(whole, marked)
    assert {row["full_text"] for row in turned.rows} == {row["full_text"] for row in made.rows}


SPEAKERS = st.sampled_from(["op", "ben", "carl", "dora", "[deleted]", "DeltaBot"])
SAID = st.sampled_from(
    ["Dogs are loyal.", "I doubt it.", "∆ That is true.", "> ∆\n\nNo.", "[deleted]", "EDIT: thanks!",
     "Confirmed: 1 delta awarded to /u/ben.", "&gt; so?\n\nThat is so."]
)  # fmt: skip
COMMENTS = st.lists(
    # What it answers: the post (0), a comment by its number (itself and later ones too), or one that is gone.
    st.tuples(st.integers(0, 12), SPEAKERS, SAID, st.sampled_from([1, 0, None])),
    max_size=10,
)


def reaches_the_post(parents: dict[str, str | None], id_: str) -> bool:
    seen = set()
    while id_ in parents and id_ not in seen:
        if parents[id_] is None:
            return True
        seen.add(id_)
        id_ = parents[id_]
    return False


@given(comments=COMMENTS, layout=st.sampled_from(["winning-args", "subreddit", "both"]))
def test_whatever_the_threads_each_reply_is_kept_or_counted_out_by_name(
    tokenizer, comments, layout
):
    """Circles and missing comments among them; nothing hangs, crashes or is counted twice."""
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
        found = as_subreddit(rows + healthy, titles, folder / "found")
        corpora = {"winning-args": ["marked"], "subreddit": ["found"], "both": ["marked", "found"]}
        process_cmv(
            corpora=[folder / corpus for corpus in corpora[layout]], tokenizer=tokenizer,
            examples=folder / "examples.jsonl", pairs=folder / "pairs.jsonl",
            counts=folder / "counts.json", **WIDE,
        )  # fmt: skip
        made = Made(folder)
        in_found = read(found)["a"]
    assert set(made.counts["won"]) | set(made.counts.get("lost", ())) <= {
        "labelled", "kept", "posters_own", "deleted", "bot", "awards_a_delta_itself", "chain_broken",
        "answered_comment_missing", "after_the_delta", "empty_after_cleaning", "in_another_corpus",
        "no_winner_beside",
    }  # fmt: skip
    parents = {row["id"][3:]: row["reply-to"] and row["reply-to"][3:] for row in rows}
    by_id = {row["id"][3:]: row for row in rows}
    assert len(made.rows) == len(made.by_id) == made.counts["made"]["examples"]
    for id_ in made.by_id.keys() - {"h1"}:
        row = by_id[id_]
        assert reaches_the_post(parents, id_)
        assert row["speaker"] not in ("op", "DeltaBot") and not awards(row["text"])
    for pair in made.pairs:
        winner, loser = (by_id[pair["metadata"][key]] for key in ("winner_id", "loser_id"))
        assert winner["reply-to"] == loser["reply-to"] and winner["speaker"] != loser["speaker"]
    if layout == "winning-args":
        labels = {id_: row["meta"]["success"] for id_, row in by_id.items() if id_ != "a"}
    elif layout == "subreddit":
        labels = cmv.labels_of(in_found)
    else:
        return
    # The exclusions that come before: what is left of the replies whose chain is broken is counted as that.
    for group, success in (("won", 1), ("lost", 0)):
        broken = [
            id_
            for id_, label in labels.items()
            if label == success and not reaches_the_post(parents, id_)
            if by_id[id_]["speaker"] != "op" and not awards(by_id[id_]["text"])
            if not unusable(by_id[id_]["speaker"], by_id[id_]["text"])
        ]
        assert made.counts.get(group, Counter())["chain_broken"] == len(broken)


def test_a_corpus_without_a_usable_reply_is_refused(thread):
    with pytest.raises(UserError, match="no usable winning reply"):
        thread(comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 0))


def test_a_corpus_of_something_else_is_refused(thread):
    with pytest.raises(UserError, match="a has no op-title or title; is it a ChangeMyView corpus"):
        thread(comment("t1_b", "t3_a", "ben", "Dogs.", 1), meta={"donation_ee": 0.0})


def test_the_chat_format_needs_a_template(tokenizer):
    with pytest.raises(UserError, match="chat template"):
        RowMaker("cmv", tokenizer, Budget(**WIDE), "chat")


def turn(number, role, text, dialogue="d1", speaker=None):
    return {
        "id": f"{dialogue}-{number}", "conversation_id": dialogue, "text": text,
        "speaker": speaker or f"user_{role}", "meta": {"role": role}, "timestamp": None,
        "reply-to": f"{dialogue}-{number - 1}" if number else None,
    }  # fmt: skip


@pytest.fixture
def make_p4g(tmp_path, tokenizer):
    def make(corpus, tokenizer=tokenizer, **settings):
        process_p4g(
            corpus=corpus, tokenizer=tokenizer, examples=tmp_path / "p4g" / "examples.jsonl",
            counts=tmp_path / "p4g" / "counts.json", **(dict(seed=1) | WIDE | settings),
        )  # fmt: skip
        return Made(tmp_path / "p4g")

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
    made = make_p4g(write_corpus(dialogue, {"d1": {"donation_ee": 0.5}}))
    assert [row["response"] for row in made.rows] == [
        "Do you know Save the Children?",
        "They help.",
    ]
    prompt = made.by_id["d1-5"]["input_text"]
    assert prompt.split("[CONTEXT]\n")[1].split("\n[TASK]")[0].splitlines()[1:] == [
        "Persuader: Hello!",
        "Persuadee: Hi.",
        "Persuader: Do you know Save the Children?",
        "Persuadee: No & why?",
        "Persuadee: Tell me.",
    ]
    assert "persuader's next message" in prompt
    assert made.by_id["d1-5"]["metadata"]["source"] == "p4g"
    assert made.by_id["d1-5"]["metadata"]["donation"] == 0.5


def test_the_role_is_that_of_the_utterance_and_not_of_the_speaker(write_corpus, make_p4g):
    """One person may persuade in one dialogue and be persuaded in another."""
    rows = [
        turn(0, 0, "Hello!", "d1", "anna"), turn(1, 1, "Hi.", "d1", "ben"), turn(2, 0, "Give!", "d1", "anna"),
        turn(0, 0, "Hey!", "d2", "ben"), turn(1, 1, "Ho.", "d2", "anna"), turn(2, 0, "Donate!", "d2", "ben"),
    ]  # fmt: skip
    made = make_p4g(write_corpus(rows, {"d1": {}, "d2": {}}))
    assert [row["response"] for row in made.rows] == ["Give!", "Donate!"]


@pytest.mark.parametrize("role", [None, 2, "persuader"])
def test_an_unknown_role_is_named(write_corpus, make_p4g, role):
    with pytest.raises(UserError, match=r"d1: utterance d1-1 has meta\.role"):
        make_p4g(write_corpus([turn(0, 0, "Hello!"), turn(1, role, "Hi.")], {"d1": {}}))


def test_all_persuaders_turns_are_counted(write_corpus, make_p4g):
    dialogue = [turn(i, i % 2, "Yes. " * (1 + 20 * (i % 4 == 2))) for i in range(9)]
    made = make_p4g(write_corpus(dialogue, {"d1": {}}), min_tokens=20)
    assert made.counts["persuader"] == {
        "labelled": 5, "opens_the_dialogue": 1, "response_too_short": 2, "kept": 2,
    }  # fmt: skip
    assert made.counts["read"] == {"conversations": 1, "utterances": 9}
    assert made.counts["made"]["examples"] == 2


def test_of_too_many_dialogue_turns_a_seeded_part_is_taken(write_corpus, make_p4g):
    dialogue = [turn(i, i % 2, f"This is turn {i}.") for i in range(41)]
    corpus = write_corpus(dialogue, {"d1": {}})
    everything = set(make_p4g(corpus).by_id)
    made = [make_p4g(corpus, max_examples=5, seed=seed) for seed in (1, 1, 2)]
    taken = [set(some.by_id) for some in made]
    assert len(everything) == 20
    assert all(len(some) == 5 and some < everything for some in taken)
    assert taken[0] == taken[1] != taken[2]
    assert made[0].counts["persuader"]["not_selected"] == 15
    assert set(make_p4g(corpus, max_examples=20).by_id) == everything


def donating(*donations: float | None) -> list[dict]:
    return [
        {"metadata": {"utterance_id": f"{number}", "donation": donation}}
        for number, donation in enumerate(donations)
    ]


def picked(rows: list[dict], seed: int, by_donation: bool = True, size: int = 1) -> list[str]:
    return [row["metadata"]["utterance_id"] for row in selected(rows, size, seed, by_donation)]


def test_with_donations_as_weights_turns_are_picked_in_proportion_to_them():
    rows = donating(2.0, 1.0, 0.5, 0.5)
    first = Counter(picked(rows, seed)[0] for seed in range(4_000))
    for id_, share in (("0", 1 / 2), ("1", 1 / 4), ("2", 1 / 8), ("3", 1 / 8)):
        assert abs(first[id_] / 4_000 - share) < 0.03  # four standard errors
    even = Counter(picked(rows, seed, by_donation=False)[0] for seed in range(4_000))
    assert all(abs(count / 4_000 - 1 / 4) < 0.03 for count in even.values())


def test_a_dialogue_without_a_donation_is_never_picked_by_weight():
    rows = donating(0.0, None, float("nan"), 0.01, 5.0)
    for seed in range(200):
        assert sorted(picked(rows, seed, size=5)) == ["3", "4"]
    assert sorted(picked(rows, 1, by_donation=False, size=5)) == ["0", "1", "2", "3", "4"]


def test_more_than_the_payment_weighs_no_more_than_it():
    """Some wrote down a donation that they could not make."""
    rows = donating(1_000.0, 2.0)
    first = Counter(picked(rows, seed)[0] for seed in range(2_000))
    assert abs(first["0"] / 2_000 - 1 / 2) < 0.045


def test_donations_as_weights_are_a_setting(write_corpus, make_p4g):
    rows = [
        turn(i, i % 2, f"This is turn {i} of {d}.", d) for d in ("d1", "d2", "d3") for i in range(9)
    ]
    donations = {"d1": {"donation_ee": 0.0}, "d2": {"donation_ee": 1.0}, "d3": {}}
    corpus = write_corpus(rows, donations)
    made = make_p4g(corpus, donation_weighted=True)
    assert {row["metadata"]["conversation_id"] for row in made.rows} == {"d2"}
    assert made.counts["persuader"] == {
        "labelled": 15, "opens_the_dialogue": 3, "not_selected": 8, "kept": 4,
    }  # fmt: skip
    assert len(make_p4g(corpus, donation_weighted=True, max_examples=3).rows) == 3
    assert len(make_p4g(corpus).rows) == 12


@given(
    turns=st.lists(st.tuples(st.integers(0, 1), st.text(max_size=20)), max_size=15),
    answers=st.lists(st.integers(0, 16), min_size=15, max_size=15),
)
def test_whatever_the_dialogues_only_persuaders_turns_are_kept(tokenizer, turns, answers):
    """The order is that of the file: what `reply-to` says, circles too, does not matter."""
    rows = [turn(i, role, text) for i, (role, text) in enumerate(turns)]
    for row, answered in zip(rows[1:], answers, strict=False):
        row["reply-to"] = f"d1-{answered}"
    rows += [turn(0, 1, "Hi.", "d2"), turn(1, 0, "Please give.", "d2")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jsonl(folder / "corpus" / "utterances.jsonl", rows)
        metas = {"d2": {}} | ({"d1": {}} if turns else {})
        write_json(folder / "corpus" / "conversations.json", metas)
        process_p4g(
            corpus=folder / "corpus", tokenizer=tokenizer, examples=folder / "examples.jsonl",
            counts=folder / "counts.json", seed=1, **WIDE,
        )  # fmt: skip
        made = Made(folder)
    persuaders = [row for row in rows if row["meta"]["role"] == 0]
    assert made.counts["persuader"]["labelled"] == len(persuaders)
    assert made.by_id.keys() <= {row["id"] for row in persuaders}
    assert made.by_id["d2-1"]["input_text"].endswith(
        "\nPersuadee: Hi.\n[TASK]\nWrite the persuader's next message.\n[RESPONSE]\n"
    )
    for row in made.rows:
        if row["metadata"]["conversation_id"] == "d1":
            before = int(row["metadata"]["utterance_id"][3:])
            context = row["input_text"].split("[CONTEXT]\n")[1].split("\n[TASK]")[0]
            roles = [("Persuader", "Persuadee")[role] for role, _ in turns[:before]]
            told = [line.split(": ")[0] for line in context.split("\n") if re.match(r"\w+: ", line)]
            assert [role for role in told if role in ("Persuader", "Persuadee")] == roles
