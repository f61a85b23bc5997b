"""Reading a corpus: both of ConvoKit's layouts, and one clear line for each kind of broken input."""

import json

import pytest

from persuasion_rl.corpus import Conversation, Utterance, is_cmv, post_of, read_corpus
from persuasion_rl.files import UserError


def comment(id_, reply_to, text="Some text.", speaker="anna", **meta):
    return {
        "id": id_, "conversation_id": "t3_a", "text": text, "speaker": speaker, "meta": meta,
        "reply-to": reply_to, "timestamp": 1, "vectors": [],
    }  # fmt: skip


THREAD = [
    comment("t3_a", None),
    comment("t1_b", "t3_a", speaker="ben"),
    comment("t1_c", "t1_b", "Ünï"),
]
META = {"op-userID": "anna", "op-title": "CMV: cats", "op-text-body": "", "pair_ids": []}


def test_it_reads_utterances_in_the_order_of_the_file(write_corpus):
    threads = read_corpus(write_corpus(THREAD, {"t3_a": META}))
    assert list(threads) == ["t3_a"]
    thread = threads["t3_a"]
    assert list(thread.utterances) == ["t3_a", "t1_b", "t1_c"]
    assert thread.meta == META and is_cmv(thread)
    assert thread.root.id == "t3_a"
    assert [u.id for u in thread.chain_to(thread.utterances["t1_c"])] == ["t3_a", "t1_b", "t1_c"]
    assert thread.utterances["t1_c"].text == "Ünï"


def test_an_empty_body_is_taken_from_the_root(write_corpus):
    thread = read_corpus(write_corpus(THREAD, {"t3_a": META}))["t3_a"]
    assert post_of(thread) == ("CMV: cats", "Some text.")


def test_the_servers_flat_layout_reads_the_same(write_corpus):
    folder = write_corpus(THREAD, {"t3_a": META})
    nested = read_corpus(folder)
    (folder / "conversations.json").write_text(json.dumps({"t3_a": META}))
    assert read_corpus(folder) == nested


def test_the_older_names_of_the_fields_read_the_same(write_corpus):
    nested = read_corpus(write_corpus(THREAD, {"t3_a": META}))
    older = [dict(row) for row in THREAD]
    for row in older:
        row["root"] = row.pop("conversation_id")
        row["reply_to"] = row.pop("reply-to")
    assert read_corpus(write_corpus(older, {"t3_a": META})) == nested


def test_a_missing_comment_may_have_no_text(write_corpus):
    rows = [*THREAD, comment("t1_m", "t1_b", text=None, speaker="[missing]")]
    thread = read_corpus(write_corpus(rows, {"t3_a": META}))["t3_a"]
    assert thread.utterances["t1_m"].text is None


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


def cut(name, share):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def cut_inside_a_letter(folder):
    content = (folder / "utterances.jsonl").read_bytes()
    (folder / "utterances.jsonl").write_bytes(content[: content.index("Ü".encode()) + 1])


def rewrite(rows):
    def damage(folder):
        (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return damage


def empty_folder(folder):
    for path in list(folder.iterdir()):
        path.unlink()


def no_folder(folder):
    empty_folder(folder)
    folder.rmdir()


BROKEN = {
    "no folder": (no_folder, "does not exist"),
    "empty folder": (empty_folder, "is missing or empty"),
    "no conversations": (
        lambda f: (f / "conversations.json").unlink(),
        "conversations.json is missing",
    ),
    "empty utterances": (cut("utterances.jsonl", 0), "utterances.jsonl is missing or empty"),
    "only blank lines": (
        lambda f: (f / "utterances.jsonl").write_text("\n"),
        "utterances.jsonl, line 1",
    ),
    "line cut off": (cut("utterances.jsonl", 0.5), "utterances.jsonl, line 2: not valid JSON"),
    "cut off inside a letter": (cut_inside_a_letter, "utterances.jsonl"),
    "conversations cut off": (
        cut("conversations.json", 0.5),
        "conversations.json, line 1: not valid JSON",
    ),
    "a line that is no object": (
        rewrite(["text"]),
        "utterances.jsonl, line 1: expected a JSON object",
    ),
    "no text": (
        rewrite([THREAD[0], without(THREAD[1], "text")]),
        "line 2: utterance without 'text'",
    ),
    "null text": (
        rewrite([THREAD[0], comment("t1_b", "t3_a", None)]),
        "line 2: utterance t1_b has no text",
    ),
    "no speaker": (rewrite([without(THREAD[0], "speaker")]), "line 1: utterance without 'speaker'"),
    "no id": (rewrite([without(THREAD[0], "id")]), "line 1: utterance without 'id'"),
    "no root": (rewrite(THREAD[1:]), "conversation t3_a has no root"),
    "two roots": (rewrite([*THREAD, comment("t3_b", None)]), "conversation t3_a has 2 root"),
}


@pytest.mark.parametrize("damage, says", BROKEN.values(), ids=BROKEN)
def test_broken_input_is_one_clear_line(write_corpus, damage, says):
    folder = write_corpus(THREAD, {"t3_a": META})
    damage(folder)
    with pytest.raises(UserError) as raised:
        read_corpus(folder)
    message = str(raised.value)
    assert says in message and str(folder) in message and "\n" not in message


@pytest.mark.parametrize(
    "name", ["no folder", "line cut off", "cut off inside a letter", "no text", "no root"]
)
def test_broken_input_ends_the_command_with_one_line(
    write_corpus, tokenizer, command_line, tmp_path, name
):
    folder = write_corpus(THREAD, {"t3_a": META})
    damage, says = BROKEN[name]
    damage(folder)
    outputs = [tmp_path / "out" / file for file in ("examples.jsonl", "pairs.jsonl", "counts.json")]
    run = command_line(
        "cmv", "--corpora", folder, "--tokenizer", tokenizer,
        "--examples", outputs[0], "--pairs", outputs[1], "--counts", outputs[2],
        "--min_tokens", 1, "--max_tokens", 50, "--max_context_tokens", 50, "--max_seq_length", 200,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    assert says in run.stderr
    assert not any(path.exists() for path in outputs)


def test_a_comment_whose_parent_is_not_in_the_corpus_is_named(write_corpus):
    thread = read_corpus(write_corpus([*THREAD, comment("t1_x", "t1_gone")], {"t3_a": META}))[
        "t3_a"
    ]
    with pytest.raises(UserError, match="t1_x answers t1_gone"):
        thread.chain_to(thread.utterances["t1_x"])


def test_replies_in_a_circle_are_refused():
    one, two = (
        Utterance(id_, "t3_a", "anna", "x", reply_to, None, {})
        for id_, reply_to in (("t1_b", "t1_c"), ("t1_c", "t1_b"))
    )
    thread = Conversation("t3_a", META, {"t1_b": one, "t1_c": two})
    with pytest.raises(UserError, match="circle"):
        thread.chain_to(one)


@pytest.mark.parametrize(
    "name, conversations, utterances, has_title",
    [("winning-args-corpus", 552, 4413, True), ("persuasionforgood-corpus", 1017, 20932, False)],
)
def test_the_real_corpora_are_read_whole(real_data, name, conversations, utterances, has_title):
    threads = read_corpus(real_data / name)
    assert len(threads) == conversations
    assert sum(len(thread.utterances) for thread in threads.values()) == utterances
    assert {is_cmv(thread) for thread in threads.values()} == {has_title}
