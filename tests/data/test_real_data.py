"""The data stages on real corpora: the funnel's numbers, and what no example may hold.

`winning-args-corpus` is here the held-out part of Tan et al.'s threads and ten whole ones: 552 threads, 4,413
utterances. Lengths are in tokens of Qwen2.5, limits those of the published study.
"""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from persuasion_rl.data.clean import RULES, clean, clean_post
from persuasion_rl.data.cmv import process_cmv
from persuasion_rl.data.corpus import read_threads
from persuasion_rl.data.deltas import awards
from persuasion_rl.data.examples import Budget
from persuasion_rl.data.leakage import check_leakage
from persuasion_rl.data.p4g import process_p4g, selected
from persuasion_rl.data.sides import Shares, assign_sides
from persuasion_rl.data.split import Plan, split
from persuasion_rl.files import read_json, read_jsonl, write_json, write_jsonl
from small_corpora import token_counts

LIMITS = Budget(min_tokens=20, max_tokens=1024, max_context_tokens=700, max_seq_length=1024)
CMV, P4G = "winning-args-corpus", "persuasionforgood-corpus"
MAY_NOT_BE_LEFT = {
    "a delta mark": r"[∆Δ]|!\s?delta\b",
    "a sentence about a delta": r"deltabot|award\w* (?:\w+ ){0,3}deltas?\b|deltas? (?:\w+ )?award",
    "an unescaped entity": r"&(?:amp|lt|gt|quot|nbsp|#x?\w+);",
    "a footnote": r"users of CMV!|footnote from your moderators",
    "a user name": r"\bu/\w",
    "a deleted comment": r"\[(?:deleted|removed)\]",
    "an EDIT line": r"^\W*(?:\w+ )?(?:edit(?:ed)?|update)\W*\d*\W*[:!]|^\W*EDIT\b",
}


@pytest.fixture(scope="module")
def raw(real_data) -> dict[str, dict]:
    """The lines of the corpus by id, as they are on disk."""
    lines = (real_data / CMV / "utterances.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def posters(real_data) -> dict[str, str]:
    metas = json.loads((real_data / CMV / "conversations.json").read_bytes())
    return {id_: entry["meta"]["op-userID"] for id_, entry in metas.items()}


@pytest.fixture(scope="module")
def funnel(real_data, qwen_tokenizer, tmp_path_factory) -> Path:
    """A folder with what process_cmv made of the real corpus."""
    folder = tmp_path_factory.mktemp("real") / "processed"
    process_cmv(
        corpora=[real_data / CMV], tokenizer=qwen_tokenizer, examples=folder / "cmv_examples.jsonl",
        pairs=folder / "delta_pairs.jsonl", counts=folder / "cmv_counts.json", budget=LIMITS,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def dialogues(real_data, qwen_tokenizer, funnel) -> Path:
    """The same folder with what process_p4g made of PersuasionForGood."""
    process_p4g(
        corpus=real_data / P4G, tokenizer=qwen_tokenizer, examples=funnel / "p4g_examples.jsonl",
        counts=funnel / "p4g_counts.json", seed=1, budget=LIMITS,
    )  # fmt: skip
    return funnel


@pytest.fixture(scope="module")
def rows(funnel) -> list[dict]:
    return list(read_jsonl(funnel / "cmv_examples.jsonl"))


@pytest.fixture(scope="module")
def pairs(funnel) -> list[dict]:
    return list(read_jsonl(funnel / "delta_pairs.jsonl"))


def test_the_funnel_has_these_numbers(funnel):
    assert read_json(funnel / "cmv_counts.json") == {
        "read": {"conversations": 552, "utterances": 4413},
        "won": {
            # Comments with success 1; the post is none.
            "labelled": 1163,
            # What they answer is a [missing] placeholder: the poster's replies inside of most threads are
            # not in this part of the corpus.
            "answered_comment_missing": 319,
            # All comments of a winning thread have the mark, the poster's own too.
            "posters_own": 20,
            # Another reader whose mind was changed awards a delta.
            "awards_a_delta_itself": 2,
            # It says only that the poster does not give the deltas that people deserve.
            "empty_after_cleaning": 1,
            # More than 1,024 tokens.
            "response_too_long": 33,
            # Claim and answered comment alone have more than 700 tokens.
            "answered_comment_too_long": 3,
            # Prompt and response have more than 1,024 tokens together; the context is not cut for them.
            "over_max_seq_length": 100,
            "kept": 685,
        },
        "lost": {
            "labelled": 910,
            # No usable winning reply answers the same comment, so it makes no pair.
            "no_winner_beside": 3,
            "answered_comment_missing": 176,
            "posters_own": 5,
            "response_too_long": 8,
            "over_max_seq_length": 72,
            "kept": 646,
        },
        # Each reply is in one pair at most; a winner has none where its rivals have the same author or are used up.
        "made": {"contexts_cut": 35, "examples": 685, "delta_pairs": 580},
        # How many texts each rule changed; a post in many contexts counts once.
        "cleaned": {
            # Carriage returns.
            "odd_characters": 3,
            "html_entities": 644,
            "footnote": 258,
            "user_name": 21,
            "later_edit_of_post": 186,
            "edit_line": 86,
            "delta_announcement": 12,
            "delta_mark": 2,
        },
    }


@pytest.mark.parametrize("group, success", [("won", 1), ("lost", 0)])
def test_all_that_is_labelled_is_kept_or_counted_out(funnel, raw, posters, group, success):
    counts = Counter(read_json(funnel / "cmv_counts.json")[group])
    labelled = [
        row
        for row in raw.values()
        if row["meta"]["success"] == success and row["reply-to"] is not None
    ]
    assert counts["labelled"] == len(labelled) == counts.total() - counts["labelled"]
    own = [row for row in labelled if row["speaker"] == posters[row["conversation_id"]]]
    assert counts["posters_own"] == len(own)
    missing = [row for row in labelled if raw[row["reply-to"]]["speaker"] == "[missing]"]
    others = [row for row in missing if row not in own and not awards(row["text"])]
    assert counts["answered_comment_missing"] == len(others)


def test_no_example_is_by_the_poster_and_all_won(rows, raw, posters):
    by_id = {id_[3:]: row for id_, row in raw.items()}
    for row in rows:
        utterance = by_id[row["metadata"]["utterance_id"]]
        assert utterance["speaker"] != posters[utterance["conversation_id"]]
        assert utterance["meta"]["success"] == 1
        assert row["metadata"]["reply_to"] == utterance["reply-to"][3:]


def test_the_pairs_are_of_two_persuaders_and_each_reply_is_in_one(pairs, raw, posters):
    by_id = {id_[3:]: row for id_, row in raw.items()}
    used = Counter()
    for pair in pairs:
        winner, loser = (by_id[pair["metadata"][key]] for key in ("winner_id", "loser_id"))
        assert (winner["meta"]["success"], loser["meta"]["success"]) == (1, 0)
        assert winner["reply-to"] == loser["reply-to"]
        assert len({winner["speaker"], loser["speaker"], posters[winner["conversation_id"]]}) == 3
        used.update([pair["metadata"]["winner_id"], pair["metadata"]["loser_id"]])
    assert set(used.values()) == {1}


@pytest.mark.parametrize("what", MAY_NOT_BE_LEFT)
def test_nothing_is_left_of(what, rows, pairs):
    pattern = re.compile(MAY_NOT_BE_LEFT[what], re.IGNORECASE | re.MULTILINE)
    if what in ("an EDIT line", "a user name"):
        pattern = re.compile(pattern.pattern.replace("EDIT", "(?-i:EDIT)"), pattern.flags)
    texts = [row[key] for row in rows for key in ("input_text", "response")]
    texts += [pair[key] for pair in pairs for key in ("prompt", "winner", "loser")]
    assert len(texts) == 2 * 685 + 3 * 580
    matches = [
        text[match.start() - 40 : match.end() + 40]
        for text in texts
        for match in [pattern.search(text)]
        if match
    ]
    assert matches == []


def test_no_name_is_in_any_artifact_beside_the_texts(dialogues, real_data):
    """Below processed/ nothing but the texts themselves comes from a person."""
    speakers = {
        utterance.speaker
        for corpus in (CMV, P4G)
        for thread in read_threads(real_data / corpus)
        for utterance in thread.utterances.values()
        if not utterance.speaker.isdigit()  # two, and PersuasionForGood's ids are numbers
    }
    assert len(speakers) > 3_000
    texts = {"input_text", "full_text", "response", "prompt", "winner", "loser"}
    for name in ("cmv_examples.jsonl", "p4g_examples.jsonl", "delta_pairs.jsonl"):
        for row in read_jsonl(dialogues / name):
            assert row.keys() - texts == {"metadata"}
            assert not speakers & {v for v in row["metadata"].values() if isinstance(v, str)}
    for counts in dialogues.glob("*_counts.json"):
        assert not speakers & set(json.dumps(read_json(counts)).split('"'))


ON_REAL_ROWS = [
    # Rule, utterance, a part of its raw text, a part of its cleaned text.
    ("html_entities", "t1_culqtty", "&gt;If I", "\n\n>If I get drunk"),
    ("html_entities", "t1_culv71v", "&", "makes it more fun for some people."),
    ("footnote", "t3_3j7dlx", "Hello, users of CMV!", "all flowers and smiles like I think it is."),
    ("edit_line", "t1_cu0q2kb", "\n\nEdit: a word.", "what you think *would* change your view?"),
    ("edit_line", "t1_ctv9udo", "**Edit: ", "an extra warning never hurts."),
    ("edit_line", "t1_ctgafx8", "edited for phrasing", "restorative justice."),
    ("later_edit_of_post", "t3_3hpwdy", "EDIT: to clarify", "should not encourage them to do so."),
    ("later_edit_of_post", "t3_3ertta", "View Changed", ""),
    ("delta_announcement", "t1_cu7kgyp", "second highest delta", "has been reasonably effective."),
    ("delta_announcement", "t1_cuew3c0", "the deltas they deserve", ""),
    ("delta_mark", "t1_csrewms", "∆", "because I do agree"),
    ("delta_mark", "t1_cnhrvq7", "∆", "sorry for the delay haha. Cheers"),
    ("user_name", "t1_ct2dshn", "/u/ShortieMS1", "your views on this [user]."),
    ("user_name", "t1_cnhrd0d", "u/TehRedBaron", "As [user] points out"),
]


@pytest.mark.parametrize("rule, id_, raw_part, cleaned_part", ON_REAL_ROWS)
def test_each_rule_on_real_rows(raw, rule, id_, raw_part, cleaned_part):
    counts = Counter()
    text = raw[id_]["text"]
    cleaned = (clean_post if id_.startswith("t3_") else clean)(text, counts)
    assert counts[rule] == 1
    assert raw_part in text.replace("&#8710;", "∆") and cleaned_part in cleaned
    assert raw_part not in cleaned or rule == "html_entities"
    assert "&gt;" not in cleaned


def test_each_rule_is_tried_on_real_rows():
    assert {rule for rule, *_ in ON_REAL_ROWS} == {*RULES, "later_edit_of_post"}


def test_quoted_lines_stay_quotes(raw):
    quoting = [row["text"] for row in raw.values() if (row["text"] or "").startswith("&gt;")]
    # Three of them quote a sentence about deltas, which goes.
    texts = [text for text in quoting if "elta" not in text.split("\n")[0]]
    assert len(texts) == len(quoting) - 3 > 600
    assert sum(clean(text).startswith(">") for text in texts) == len(texts)


@pytest.mark.parametrize("name, every", [("cmv_examples.jsonl", 1), ("p4g_examples.jsonl", 8)])
def test_rows_fit_their_budget(dialogues, qwen_tokenizer, name, every):
    rows = list(read_jsonl(dialogues / name))[::every]
    prompts = token_counts(qwen_tokenizer, [row["input_text"] for row in rows])
    responses = token_counts(qwen_tokenizer, [row["response"] for row in rows])
    full_texts = token_counts(qwen_tokenizer, [row["full_text"] for row in rows])
    for row, prompt, response, both in zip(rows, prompts, responses, full_texts, strict=True):
        assert row["metadata"]["response_tokens"] == response + 1
        assert 20 <= response + 1 <= 1024
        assert row["metadata"]["context_tokens"] <= 700
        assert prompt + response + 1 <= 1024 and both + 1 <= 1024


@pytest.mark.slow
def test_rows_in_the_models_own_template_fit_too(real_data, qwen_tokenizer, tmp_path):
    (tmp_path / "base").mkdir()
    for file in (real_data / "qwen2.5-0.5b-instruct-tokenizer").glob("*.jinja"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    tokenizer = tmp_path / "base" / "tokenizer.json"
    tokenizer.write_bytes(qwen_tokenizer.read_bytes())
    counts = process_cmv(
        corpora=[real_data / CMV], tokenizer=tokenizer, examples=tmp_path / "examples.jsonl",
        pairs=tmp_path / "pairs.jsonl", counts=tmp_path / "counts.json", budget=replace(LIMITS, prompt_format="chat"),
    )  # fmt: skip
    rows = list(read_jsonl(tmp_path / "examples.jsonl"))
    # The template's tags are a few tokens less than the plain ones.
    assert 685 <= len(rows) == counts["won"]["kept"] < 700
    both = token_counts(tokenizer, [row["full_text"] for row in rows])
    assert max(both) + 1 <= 1024
    assert all(row["input_text"].endswith("<|im_start|>assistant\n") for row in rows)


def test_the_whole_of_an_answered_comment_and_the_claim_are_in_the_prompt(rows, real_data):
    threads = {thread.id: thread for thread in read_threads(real_data / CMV)}
    answering_comments = 0
    for row in rows:
        thread = threads[row["metadata"]["conversation_id"]]
        answered = thread.utterances[row["metadata"]["reply_to"]]
        context = row["input_text"].split("[CONTEXT]\n")[1].split("\n[TASK]\n")[0]
        claim = f"Claim: {' '.join(clean(thread.title).split())}"
        assert context.startswith(f"{claim}\nPoster: " if clean_post(thread.body) else claim)
        if answered.reply_to is not None:
            answering_comments += 1
            assert context.endswith(f": {clean(answered.text)}")
    assert answering_comments == 4, "nearly all whose parent is not missing answer the post"


def test_the_examples_of_persuasion_for_good_are_the_persuaders_turns(dialogues, real_data):
    assert read_json(dialogues / "p4g_counts.json") == {
        "read": {"conversations": 1017, "utterances": 20932},
        "persuader": {
            # Of 20,932 turns; the others are the persuadee's.
            "labelled": 10600,
            # One a dialogue: there is nothing yet that it answers.
            "opens_the_dialogue": 1017,
            # Fewer than 20 tokens: greetings, thanks, single sentences.
            "response_too_short": 4250,
            "kept": 5333,
        },
        "made": {"examples": 5333, "contexts_cut": 151},
        "cleaned": {},
    }
    lines = (real_data / P4G / "utterances.jsonl").read_text(encoding="utf-8").splitlines()
    role = {row["id"]: row["meta"]["role"] for row in map(json.loads, lines)}
    assert Counter(role.values())[0] == 10_600
    for row in read_jsonl(dialogues / "p4g_examples.jsonl"):
        assert role[row["metadata"]["utterance_id"]] == 0
        assert row["input_text"].split("[TASK]")[0].count("Claim: I do not plan to donate") == 1


def test_weighted_by_donation_no_turn_is_of_a_dialogue_without_one(dialogues):
    rows = list(read_jsonl(dialogues / "p4g_examples.jsonl"))
    giving = [row for row in rows if (row["metadata"]["donation"] or 0) > 0]
    assert 1000 < len(giving) < len(rows)
    picked = selected(rows, 1000, seed=1, by_donation=True)
    assert len(picked) == 1000 and all(row in giving for row in picked)
    # Those who give more are more often among them.
    assert mean_donation(picked) > mean_donation(giving) + 0.05


def mean_donation(rows: list[dict]) -> float:
    return sum(min(row["metadata"]["donation"], 2.0) for row in rows) / len(rows)


@pytest.fixture(scope="module")
def sides(real_data, tmp_path_factory) -> Path:
    """A folder with the sides of both real corpora."""
    folder = tmp_path_factory.mktemp("sides")
    assign_sides(
        corpora=[real_data / CMV, real_data / P4G], output=folder / "sides.csv",
        duplicates=folder / "duplicates.json", seed=1, shares=Shares(0.6, 0.15, 0.25),
    )  # fmt: skip
    return folder


def test_no_post_is_a_near_duplicate_and_the_hold_out_is_not_kept(sides):
    duplicates = read_json(sides / "duplicates.json")
    assert duplicates["near_duplicates"] == [] and duplicates["clusters"] == 552 + 1017
    # Only ten of the 552 threads here are not Tan et al.'s own hold-out.
    assert duplicates["official_split"] == {
        CMV: "not used: its shares do not allow data.split",
        P4G: "none in this corpus",
    }


def make_splits(
    real_data, sides: Path, processed: Path, folder: Path, examples: list[Path], **plan
) -> dict:
    """Split and check; the summary of the split."""
    sft = {side: folder / f"sft_{side}.jsonl" for side in ("train", "val", "test")}
    pools = {pool: folder / f"{pool}.jsonl" for pool in ("ai", "human", "final_eval")}
    summary = split(
        sides=sides / "sides.csv", **{f"sft_{side}": path for side, path in sft.items()},
        ai_pool=pools["ai"], human_pool=pools["human"], final_eval=pools["final_eval"],
        summary=folder / "summary.json", seed=1, examples=examples, plan=Plan(use_val_set=True, **plan),
    )  # fmt: skip
    compared = check_leakage(
        corpora=[real_data / CMV], sides=sides / "sides.csv", sft=sft, pools=pools,
        pairs=processed / "delta_pairs.jsonl", output=folder / "leakage.json",
    )  # fmt: skip
    assert compared["conversations"] == 552 + 1017
    return summary


def test_real_rows_are_split_exactly_and_without_a_leak(dialogues, sides, real_data, tmp_path):
    summary = make_splits(
        real_data, sides, dialogues, tmp_path,
        examples=[dialogues / "cmv_examples.jsonl", dialogues / "p4g_examples.jsonl"],
        train=1200, val=200, test=400, human_pool_size=10, final_eval_size=20,
    )  # fmt: skip
    assert summary["scale"] == 1
    used = {part: numbers["used"] for part, numbers in summary["parts"].items()}
    ai = used.pop("ai")
    assert used == {"train": 1200, "val": 200, "test": 400, "final_eval": 20, "human": 10}
    assert ai > 20


def test_the_published_plan_shrinks_to_what_the_real_rows_allow(funnel, sides, real_data, tmp_path):
    summary = make_splits(
        real_data, sides, funnel, tmp_path, examples=[funnel / "cmv_examples.jsonl"],
        train=40_000, val=5_000, test=5_000, human_pool_size=300, final_eval_size=1_700,
    )  # fmt: skip
    # All training rows that there are, and as much of the other parts.
    train = summary["parts"]["train"]
    assert train == {"asked": 40_000, "used": 423, "examples": 423, "available": 423}
    assert summary["scale"] == round(423 / 40_000, 4)
    used = {part: numbers["used"] for part, numbers in summary["parts"].items()}
    assert used == {"train": 423, "val": 52, "test": 52, "human": 3, "final_eval": 17, "ai": 84}


def test_a_thread_that_stands_in_both_corpora_counts_once(real_data, qwen_tokenizer, raw, tmp_path):
    """The ten complete threads once more, without marks, as `subreddit-changemyview` would have them."""
    conversations = json.loads((real_data / CMV / "conversations.json").read_bytes())
    metas = {
        id_: entry["meta"] for id_, entry in conversations.items() if entry["meta"]["train"] == 1
    }
    both = {}
    for name, rows in (
        ("marked", [row for row in raw.values() if row["conversation_id"] in metas]),
        ("found", [row for row in raw.values() if row["conversation_id"] in metas]),
    ):
        if name == "found":
            rows = [
                {"id": row["id"][3:], "root": row["conversation_id"][3:], "user": row["speaker"],
                 "reply_to": row["reply-to"] and row["reply-to"][3:], "text": row["text"]}
                for row in rows
            ]  # fmt: skip
        write_jsonl(tmp_path / name / "utterances.jsonl", rows)
    write_json(tmp_path / "marked" / "conversations.json", metas)
    titles = {id_[3:]: {"title": meta["op-title"]} for id_, meta in metas.items()}
    write_json(tmp_path / "found" / "conversations.json", titles)
    for name, corpora in (("one", ["marked"]), ("other", ["found"]), ("both", ["marked", "found"])):
        process_cmv(
            corpora=[tmp_path / corpus for corpus in corpora], tokenizer=qwen_tokenizer,
            examples=tmp_path / "examples.jsonl", pairs=tmp_path / "pairs.jsonl",
            counts=tmp_path / "counts.json", budget=LIMITS,
        )  # fmt: skip
        ids = [row["metadata"]["utterance_id"] for row in read_jsonl(tmp_path / "examples.jsonl")]
        assert len(ids) == len(set(ids))
        both[name] = set(ids)
    assert both["both"] == both["one"] | both["other"]
    assert both["other"] - both["one"], "winners that Tan et al. did not mark"
    # 12 of the 17 winners that are found are marked too.
    assert read_json(tmp_path / "counts.json")["won"]["in_another_corpus"] == 12
