"""From corpora to examples and delta pairs: whose replies count, what the model sees, what is left out."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from persuasion_rl.clean import clean
from persuasion_rl.cmv import process_cmv
from persuasion_rl.corpus import post_of, read_corpus
from persuasion_rl.examples import Budget, RowMaker
from persuasion_rl.files import UserError, read_json, read_jsonl
from persuasion_rl.p4g import process_p4g
from persuasion_rl.prompts import TokenCounter, render
from persuasion_rl.world import truth

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


def comment(id_, reply_to, speaker, text, success=None, thread="t3_a", distinguished=None):
    return {
        "id": id_, "conversation_id": thread, "text": text, "speaker": speaker, "reply-to": reply_to,
        "timestamp": 1, "meta": {"success": success, "pair_ids": [], "distinguished": distinguished},
    }  # fmt: skip


POST = comment("t3_a", None, "op", BODY)


class Made:
    """What a run of process_cmv or process_p4g wrote."""

    def __init__(self, folder: Path):
        self.rows = list(read_jsonl(folder / "examples.jsonl"))
        self.pairs = (
            list(read_jsonl(folder / "pairs.jsonl")) if (folder / "pairs.jsonl").exists() else []
        )
        self.counts = Counter(read_json(folder / "counts.json"))
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
        ["Dogs > cats.", prompt.split("[CONTEXT]\n")[1].split("\n[TASK]")[0]]
    )
    assert row == {
        "input_text": prompt,
        "full_text": prompt + "Dogs > cats.",
        "response": "Dogs > cats.",
        "metadata": {
            "source": "cmv", "conversation_id": "t3_a", "utterance_id": "t1_b", "reply_to": "t3_a",
            "response_tokens": response_tokens + 1, "context_tokens": context_tokens,
        },
    }  # fmt: skip


def test_the_posters_own_replies_never_become_examples(thread):
    made = thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_c", "t1_b", "op", "That is true, you are right.", 1),
        comment("t1_d", "t3_a", "op", "I add this.", 0),
    )
    assert list(made.by_id) == ["t1_b"]
    assert made.counts["posters_own"] == 2


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
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_left_out_is_counted(thread, left_out, why):
    made = thread(left_out, comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1))
    assert list(made.by_id) == ["t1_b"]
    assert made.counts[why] == 1


def test_only_winning_replies_become_examples(thread):
    made = thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_c", "t3_a", "carl", "No.", 0),
        comment("t1_d", "t3_a", "dora", "Unmarked."),
    )
    assert list(made.by_id) == ["t1_b"]
    assert made.counts["losing_replies"] == 1


@pytest.mark.parametrize(
    "raw, response",
    [
        ("&gt; Cats are clean\n\nDogs are, too.", "> Cats are clean\n\nDogs are, too."),
        ("Dogs are loyal.\n\nEDIT: Thanks for the delta!", "Dogs are loyal."),
        ("Dogs are loyal.\n\n**EDIT 2:** typo\n\nAnd brave.", "Dogs are loyal.\n\nAnd brave."),
        ("&#8710; Dogs are loyal, as /u/some_one said.", "Dogs are loyal, as [user] said."),
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


@pytest.mark.parametrize("parent", ["[deleted]", None])
def test_a_reply_to_a_comment_that_is_gone_is_left_out(thread, parent):
    made = thread(
        comment("t1_gone", "t3_a", "[missing]" if parent is None else "carl", parent),
        comment("t1_x", "t1_gone", "ben", "I answer that.", 1),
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
    )
    assert list(made.by_id) == ["t1_b"]
    assert made.counts["parent_missing"] == 1


@pytest.mark.parametrize("body", ["[deleted]", "[removed]"])
def test_a_deleted_post_is_in_no_prompt(write_corpus, make_cmv, body):
    rows = [
        comment("t3_a", None, "op", body),
        comment("t1_x", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t3_b", None, "op", BODY, thread="t3_b"),
        comment("t1_b", "t3_b", "ben", "Dogs are loyal.", 1, thread="t3_b"),
    ]
    metas = {"t3_a": META | {"op-text-body": body}, "t3_b": META}
    made = make_cmv(write_corpus(rows, metas))
    assert "t1_b" in made.by_id
    assert not any(body in row["input_text"] for row in made.rows)


def test_responses_outside_the_limits_are_counted_out(thread, tokenizer):
    texts = {
        "t1_short": "No.",
        "t1_fits": "Dogs are loyal and brave.",
        "t1_long": "Dogs are loyal. " * 9,
    }
    sizes = TokenCounter(tokenizer).counts([text.strip() for text in texts.values()])
    comments = [comment(id_, "t3_a", "ben", text, 1) for id_, text in texts.items()]
    limits = dict(min_tokens=sizes[1] + 1, max_tokens=sizes[1] + 1)
    made = thread(*comments, **limits)
    assert list(made.by_id) == ["t1_fits"]
    assert made.counts["response_too_short"] == made.counts["response_too_long"] == 1


def test_a_row_over_the_whole_budget_is_counted_out_and_not_cut(thread, tokenizer):
    wide = thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_l", "t3_a", "carl", "Loyal! " * 9, 1),
    )
    exact = TokenCounter(tokenizer).counts([wide.by_id["t1_b"]["input_text"]])[0]
    exact += wide.by_id["t1_b"]["metadata"]["response_tokens"]
    made = thread(
        comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_l", "t3_a", "carl", "Loyal! " * 9, 1),
        max_seq_length=exact,
    )
    assert made.rows == [wide.by_id["t1_b"]]
    assert made.counts["over_max_seq_length"] == 1


def test_the_context_does_not_depend_on_the_length_of_the_response(thread):
    """Else a cut context would tell how long the reply is that won."""
    long_post = META | {"op-text-body": "Cats are clean. " * 80}
    made = thread(
        comment("t1_b", "t3_a", "ben", "No.", 1),
        comment("t1_c", "t3_a", "carl", "Dogs are loyal. " * 20, 1),
        meta=long_post,
        max_context_tokens=60,
    )
    assert made.counts["context_cut"] == 2
    assert made.by_id["t1_b"]["input_text"] == made.by_id["t1_c"]["input_text"]
    assert all(row["metadata"]["context_tokens"] <= 60 for row in made.rows)


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
        "prompt": made.by_id["t1_w"]["input_text"],
        "winner": "Dogs are loyal.",
        "loser": "No.",
        "metadata": {"conversation_id": "t3_a", "winner_id": "t1_w", "loser_id": "t1_l"},
    }


def test_each_reply_is_in_one_pair_and_the_loser_is_the_one_nearest_in_length(thread):
    made = thread(
        comment("t1_w1", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_w2", "t3_a", "dora", "Dogs are loyal. " * 5, 1),
        comment("t1_l1", "t3_a", "carl", "Cats are better. " * 6, 0),
        comment("t1_l2", "t3_a", "eve", "Cats are clean.", 0),
    )
    found = {pair["metadata"]["winner_id"]: pair["metadata"]["loser_id"] for pair in made.pairs}
    assert found == {"t1_w1": "t1_l2", "t1_w2": "t1_l1"}
    few = thread(
        *(comment(f"t1_w{i}", "t3_a", f"ben{i}", "Dogs are loyal.", 1) for i in range(3)),
        comment("t1_l", "t3_a", "carl", "No.", 0),
    )
    assert len(few.pairs) == 1


def test_all_winning_replies_of_the_synthetic_corpus_and_only_they(of_synthetic, synthetic):
    expected = set()
    for conversation in read_corpus(synthetic).values():
        for u in conversation.utterances.values():
            own = u.speaker == conversation.meta["op-userID"]
            if u.meta["success"] == 1 and not own and u.text != "[deleted]":
                expected.add(u.id)
    assert set(of_synthetic.by_id) == expected
    assert len(of_synthetic.rows) == len(expected) == of_synthetic.counts["examples"]
    assert len(of_synthetic.pairs) >= 60


def test_nothing_that_leaks_or_is_noise_is_left_in_the_synthetic_rows(of_synthetic):
    for row in of_synthetic.rows:
        assert not MUST_NOT_BE_LEARNED.search(row["full_text"]), row["full_text"]
    for pair in of_synthetic.pairs:
        assert not MUST_NOT_BE_LEARNED.search(
            "\n".join((pair["prompt"], pair["winner"], pair["loser"]))
        )


def test_the_pairs_of_the_synthetic_corpus_keep_their_rules(of_synthetic, synthetic):
    utterances = {u.id: u for t in read_corpus(synthetic).values() for u in t.utterances.values()}
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
    threads = read_corpus(synthetic)
    for row in of_synthetic.rows:
        if row["metadata"]["reply_to"] == row["metadata"]["conversation_id"]:
            _, body = post_of(threads[row["metadata"]["conversation_id"]])
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
            comment("t1_z", "t3_z", "ben", "Dogs.", 1, thread="t3_z"),
        ],
        {"t3_z": META},
    )
    made = make_cmv(synthetic, other, synthetic)
    assert set(made.by_id) == set(of_synthetic.by_id) | {"t1_z"}
    assert len(made.rows) == len(made.by_id)


def test_a_corpus_without_a_usable_reply_is_refused(thread):
    with pytest.raises(UserError, match="no usable winning reply"):
        thread(comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 0))


def test_a_corpus_of_something_else_is_refused(thread):
    with pytest.raises(UserError, match="t3_a has no op-title; is it a ChangeMyView corpus"):
        thread(comment("t1_b", "t3_a", "ben", "Dogs.", 1), meta={"donation_ee": 0.0})


def test_the_chat_format_needs_a_template(tokenizer):
    with pytest.raises(UserError, match="chat template"):
        RowMaker("cmv", tokenizer, Budget(**WIDE), "chat")


@pytest.fixture(scope="module")
def of_real_cmv(real_data, make_cmv, qwen_tokenizer):
    return make_cmv(
        real_data / "winning-args-corpus",
        tokenizer=qwen_tokenizer, min_tokens=20, max_tokens=400, max_context_tokens=500, max_seq_length=800,
    )  # fmt: skip


def test_the_real_corpus_gives_clean_responses(of_real_cmv):
    assert len(of_real_cmv.rows) > 300 and len(of_real_cmv.pairs) > 200
    texts = [row["response"] for row in of_real_cmv.rows]
    texts += [pair[which] for pair in of_real_cmv.pairs for which in ("winner", "loser")]
    found = [match.group() for text in texts if (match := MUST_NOT_BE_LEARNED.search(text))]
    assert found == []
    assert not any(re.search(r"^\W*edit\W?\d*\W", text, re.I | re.M) for text in texts)


def test_the_real_corpus_gives_clean_prompts(of_real_cmv):
    found = [
        match.group()
        for row in of_real_cmv.rows
        if (match := MUST_NOT_BE_LEARNED.search(row["input_text"]))
    ]
    assert found == []


def test_the_real_rows_fit_their_budget(of_real_cmv, qwen_tokenizer):
    counter = TokenCounter(qwen_tokenizer)
    prompts = counter.counts([row["input_text"] for row in of_real_cmv.rows])
    responses = counter.counts([row["response"] for row in of_real_cmv.rows])
    for row, prompt, response in zip(of_real_cmv.rows, prompts, responses, strict=True):
        assert prompt + response + 1 <= 800
        assert 20 <= response + 1 <= 400
        assert row["metadata"]["response_tokens"] == response + 1
        assert row["metadata"]["context_tokens"] <= 500
        assert row["input_text"].count("Claim: ") >= 1


def test_the_real_examples_are_by_challengers_who_won(of_real_cmv, real_data):
    threads = read_corpus(real_data / "winning-args-corpus")
    for row in of_real_cmv.rows:
        thread = threads[row["metadata"]["conversation_id"]]
        utterance = thread.utterances[row["metadata"]["utterance_id"]]
        assert utterance.meta["success"] == 1
        assert utterance.speaker != thread.meta["op-userID"]


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


def test_of_too_many_dialogue_turns_a_seeded_part_is_taken(write_corpus, make_p4g):
    dialogue = [turn(i, i % 2, f"This is turn {i}.") for i in range(41)]
    corpus = write_corpus(dialogue, {"d1": {}})
    everything = set(make_p4g(corpus).by_id)
    taken = [set(make_p4g(corpus, max_examples=5, seed=seed).by_id) for seed in (1, 1, 2)]
    assert len(everything) == 20
    assert all(len(some) == 5 and some < everything for some in taken)
    assert taken[0] == taken[1] != taken[2]
    assert set(make_p4g(corpus, max_examples=20).by_id) == everything


def test_real_dialogues(real_data, write_corpus, make_p4g, qwen_tokenizer):
    folder = real_data / "persuasionforgood-corpus"
    metas = {
        i: e["meta"] for i, e in json.loads((folder / "conversations.json").read_text()).items()
    }
    first = dict(list(metas.items())[:60])
    with (folder / "utterances.jsonl").open() as lines:
        rows = [row for row in map(json.loads, lines) if row["conversation_id"] in first]
    made = make_p4g(
        write_corpus(rows, first), tokenizer=qwen_tokenizer,
        min_tokens=5, max_tokens=200, max_context_tokens=150, max_seq_length=300,
    )  # fmt: skip
    role = {row["id"]: row["meta"]["role"] for row in rows}
    assert len(made.rows) > 200 and made.counts["context_cut"] > 0
    counter = TokenCounter(qwen_tokenizer)
    for row, size in zip(
        made.rows, counter.counts([r["full_text"] for r in made.rows]), strict=True
    ):
        assert role[row["metadata"]["utterance_id"]] == 0
        assert size + 1 <= 300 and row["metadata"]["context_tokens"] <= 150
        assert row["input_text"].split("[TASK]")[0].count("Claim: I do not plan to donate") == 1
