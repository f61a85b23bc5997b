"""Reading a corpus: ConvoKit's layouts, files in parts, and one clear line for each kind of broken input."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from persuasion_rl.data import corpus
from persuasion_rl.data.corpus import (
    Conversation,
    check_digests,
    difference,
    digests_record,
    read_threads,
)
from persuasion_rl.files import UserError, file_digest, write_json
from persuasion_rl.text import readable


def read(folder: Path) -> dict[str, Conversation]:
    return {thread.id: thread for thread in read_threads(folder)}


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
    threads = read(write_corpus(THREAD, {"t3_a": META}))
    assert list(threads) == ["a"]
    thread = threads["a"]
    assert list(thread.utterances) == ["a", "b", "c"]
    assert thread.meta == META and thread.root.id == "a"
    assert thread.utterances["c"].text == "Ünï"


def test_of_the_meta_only_what_the_stages_read_is_kept(write_corpus):
    row = comment("t1_b", "t3_a", success=1, distinguished=None, score=7, author_flair_text="3∆")
    thread = read(write_corpus([THREAD[0], row], {"t3_a": META}))["a"]
    assert thread.utterances["b"].meta == {"success": 1, "distinguished": None}


def test_an_empty_body_is_taken_from_the_root(write_corpus):
    thread = read(write_corpus(THREAD, {"t3_a": META}))["a"]
    assert (thread.title, thread.body, thread.poster) == ("CMV: cats", "Some text.", "anna")
    full = read(write_corpus(THREAD, {"t3_a": META | {"op-text-body": "More."}}))["a"]
    assert full.body == "More."


def test_the_servers_flat_layout_reads_the_same(write_corpus):
    folder = write_corpus(THREAD, {"t3_a": META})
    nested = read(folder)
    (folder / "conversations.json").write_text(json.dumps({"t3_a": META}))
    assert read(folder) == nested


def older_names(rows: list[dict]) -> list[dict]:
    """The rows with the names that subreddit corpora have."""
    names = {"conversation_id": "root", "speaker": "user", "reply-to": "reply_to"}
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


def test_the_older_names_of_the_fields_read_the_same(write_corpus):
    nested = read(write_corpus(THREAD, {"t3_a": META}))
    assert read(write_corpus(older_names(THREAD), {"t3_a": META}, "older")) == nested


@pytest.mark.parametrize("prefixed", ["ids", "references", "conversations"])
def test_ids_with_and_without_reddits_prefixes_are_the_same(write_corpus, prefixed):
    """Corpora mix both: `t1_b` answers `a`, and `a` is named `t3_a` in conversations.json."""

    def plain(id_):
        return id_ and id_[3:]

    rows = [dict(row) for row in THREAD]
    for row in rows:
        if prefixed != "ids":
            row["id"] = plain(row["id"])
        if prefixed != "references":
            row["reply-to"] = plain(row["reply-to"])
            row["conversation_id"] = plain(row["conversation_id"])
    metas = {"t3_a" if prefixed == "conversations" else "a": META}
    assert read(write_corpus(rows, metas)) == read(write_corpus(THREAD, {"t3_a": META}, "all"))


def test_the_layout_of_a_subreddit_corpus(write_corpus):
    """Flat metas with `title`; the post's text and its poster are the root utterance's."""
    folder = write_corpus(older_names(THREAD), {})
    meta = {"title": "CMV: cats", "num_comments": 2, "subreddit": "changemyview"}
    (folder / "conversations.json").write_text(json.dumps({"a": meta}))
    thread = read(folder)["a"]
    assert (thread.title, thread.body, thread.poster) == ("CMV: cats", "Some text.", "anna")
    assert [u.speaker for u in thread.utterances.values()] == ["anna", "ben", "anna"]


def test_a_comment_may_have_no_text(write_corpus):
    rows = [*THREAD, comment("t1_m", "t1_b", text=None, speaker="[missing]")]
    thread = read(write_corpus(rows, {"t3_a": META}))["a"]
    assert thread.utterances["m"].text is None
    rows[0] = comment("t3_a", None, text=None)
    assert read(write_corpus(rows, {"t3_a": META}))["a"].body == ""


def interleave(synthetic: Path, folder: Path) -> Path:
    """Copy the corpus, with the utterances of all threads interleaved."""
    lines = (synthetic / "utterances.jsonl").read_bytes().splitlines(keepends=True)
    folder.mkdir()
    (folder / "utterances.jsonl").write_bytes(b"".join(lines[::3] + lines[1::3] + lines[2::3]))
    (folder / "conversations.json").write_bytes((synthetic / "conversations.json").read_bytes())
    return folder


@pytest.mark.parametrize("part_bytes", [3_000, 50_000])
def test_a_large_file_dealt_into_parts_gives_the_same_threads(
    synthetic, tmp_path, monkeypatch, part_bytes
):
    folder = interleave(synthetic, tmp_path / "mixed")
    expected = read(folder)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(corpus, "PART_BYTES", part_bytes)
    threads = list(read_threads(folder))
    assert len(threads) == len(expected) == 60
    assert [t.id for t in threads] != list(expected), "the file was not dealt"
    assert {thread.id: thread for thread in threads} == expected
    for thread in threads:
        assert list(thread.utterances) == list(expected[thread.id].utterances)
    assert not list((tmp_path / "temporary").iterdir())


def test_an_error_in_a_part_is_named_and_leaves_nothing_behind(write_corpus, tmp_path, monkeypatch):
    folder = write_corpus([*THREAD, comment("t3_z", None)], {"t3_a": META})
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(corpus, "PART_BYTES", 200)
    with pytest.raises(
        UserError, match="no conversation can be used .several utterances answer nothing"
    ):
        read(folder)
    assert not list((tmp_path / "temporary").iterdir())


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
        lambda f: (f / "utterances.jsonl").write_text("\n\r\n  \n"),
        "no conversation can be used (no utterance, as in a)",
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
    "no speaker": (rewrite([without(THREAD[0], "speaker")]), "line 1: utterance without 'speaker'"),
    "no conversation": (
        rewrite([without(THREAD[0], "conversation_id")]),
        "line 1: utterance without 'conversation_id'",
    ),
    "no id": (rewrite([without(THREAD[0], "id")]), "line 1: utterance without 'id'"),
    "no root": (
        rewrite(THREAD[1:]),
        "can be used (no utterance answers nothing ('reply-to': null), as in a)",
    ),
    "two roots": (
        rewrite([*THREAD, comment("t3_z", None)]),
        "can be used (several utterances answer nothing ('reply-to': null), as in a)",
    ),
    "an id twice": (
        rewrite([*THREAD, comment("b", "t1_c", "Another text.")]),
        "utterances.jsonl, lines 2 and 4: two utterances of conversation a have the id b",
    ),
    "a conversation twice": (
        lambda f: (f / "conversations.json").write_text(
            '{"t3_a": {"a": 1,\n"b": [{}]},\n"b": {"a" : 2},\n "a" : {}}'
        ),
        "conversations.json, lines 1 and 4: two conversations have the id a",
    ),
    "a conversation twice under the same name": (
        lambda f: (f / "conversations.json").write_text('\ufeff{"b": {},\n"a": {},\n\n"a": {}}'),
        "conversations.json, lines 2 and 4: two conversations have the id a",
    ),
    "a conversation without an id": (
        lambda f: (f / "conversations.json").write_text('{"t3_a": {"": 1},\n"t1_": {}}'),
        "conversations.json, line 2: a conversation without an id",
    ),
    "a mark of a moderator that is no text": (
        rewrite([THREAD[0] | {"meta": {"distinguished": ["moderator"]}}]),
        "line 1: meta.distinguished is a list; expected text",
    ),
    "a key twice": (
        lambda f: (f / "conversations.json").write_text('{"t3_a": {"title": "x", "title": "y"}}'),
        "conversations.json: not valid JSON (the key 'title' stands there twice)",
    ),
    "a key of an utterance twice": (
        lambda f: (f / "utterances.jsonl").write_text('{"text": "x", "id": "text", "text": "y"}'),
        "utterances.jsonl, line 1: not valid JSON (the key 'text' stands there twice)",
    ),
    "old line ends": (
        lambda f: (f / "utterances.jsonl").write_text('{"id": 1}\r{"id": 2}\r', newline=""),
        "utterances.jsonl, line 1: not valid JSON (Extra data: line 1 column 11 (char 10)): one value is expected here",
    ),
    "a list of conversations": (
        lambda f: (f / "conversations.json").write_text("[]"),
        "conversations.json: expected a JSON object, conversation id",
    ),
    "compressed": (
        lambda f: (f / "utterances.jsonl").write_bytes(gzip.compress(b"{}\n" * 99)),
        "utterances.jsonl, line 1: not JSON but compressed (gzip): unpack it",
    ),
    "only the compressed file": (
        lambda f: (f / "utterances.jsonl").rename(f / "utterances.jsonl.gz"),
        "utterances.jsonl is missing or empty; unpack utterances.jsonl.gz",
    ),
    "UTF-16": (
        lambda f: (f / "utterances.jsonl").write_text(json.dumps(THREAD[0]), encoding="utf-16"),
        "utterances.jsonl, line 1: not in UTF-8 but in UTF-16",
    ),
    "Latin-1": (
        lambda f: (f / "utterances.jsonl").write_bytes('{"text": "Ünï"}'.encode("latin-1")),
        "utterances.jsonl, line 1: not in UTF-8 (byte 0xdc): save it as UTF-8",
    ),
    "nested too deep": (
        lambda f: (f / "utterances.jsonl").write_text("[" * 10_000 + "]" * 10_000),
        "utterances.jsonl, line 1: not valid JSON: nested too deep",
    ),
    "conversations nested too deep": (
        lambda f: (f / "conversations.json").write_text('{"a": ' * 10_000 + "1" + "}" * 10_000),
        "conversations.json: not valid JSON: nested too deep",
    ),
    "a number of 5,000 digits": (
        lambda f: (f / "utterances.jsonl").write_text('{"id": ' + "9" * 5000 + "}"),
        "utterances.jsonl, line 1: not valid JSON (Exceeds the limit",
    ),
}


@pytest.mark.parametrize("damage, expected", BROKEN.values(), ids=BROKEN)
def test_broken_input_is_one_clear_line(write_corpus, damage, expected):
    folder = write_corpus(THREAD, {"t3_a": META})
    damage(folder)
    with pytest.raises(UserError) as raised:
        read(folder)
    message = str(raised.value)
    assert expected in message and str(folder) in message and "\n" not in message


@pytest.mark.parametrize(
    "name", ["no folder", "line cut off", "cut off inside a letter", "no text", "no root"]
)
def test_broken_input_ends_the_command_with_one_line(
    write_corpus, tokenizer, command_line, tmp_path, name
):
    folder = write_corpus(THREAD, {"t3_a": META})
    damage, expected = BROKEN[name]
    damage(folder)
    outputs = [tmp_path / "out" / file for file in ("examples.jsonl", "pairs.jsonl", "counts.json")]
    run = command_line(
        "data.cmv", "--corpora", folder, "--tokenizer", tokenizer,
        "--examples", outputs[0], "--pairs", outputs[1], "--counts", outputs[2],
        "--min_tokens", 1, "--max_tokens", 50, "--max_context_tokens", 50, "--max_seq_length", 200,
    )  # fmt: skip
    assert run.returncode == 1
    *before, error = run.stderr.splitlines()
    assert error.startswith("error: ") and expected in error
    assert all(line.startswith("left out, no_root: ") for line in before)
    assert not any(path.exists() for path in outputs)


def record(folder: Path) -> Path:
    """Write the record that a download leaves beside its folder."""
    path = digests_record(folder)
    write_json(
        path,
        {
            file.name: {"bytes": file.stat().st_size, "sha256": file_digest(file)}
            for file in folder.iterdir()
        },
    )
    return path


def test_a_corpus_that_is_not_as_it_was_downloaded_is_refused(write_corpus):
    folder = write_corpus(THREAD, {"t3_a": META})
    check_digests(folder)  # one that was not downloaded has no record
    path = record(folder)
    assert path.parent == folder.parent and path.name == "corpus.digests.json"
    check_digests(folder)
    utterances = folder / "utterances.jsonl"
    content = utterances.read_bytes()
    for damaged, expected in (
        (content[:-1], "utterances.jsonl has .* bytes, not"),
        (content.replace(b"cat", b"dog").replace(b"Some", b"Same"), "has SHA-256 .*, not"),
    ):
        utterances.write_bytes(damaged)
        with pytest.raises(
            UserError, match=f"{folder.name}: .*{expected}.*fetch it again"
        ) as raised:
            check_digests(folder)
        assert "\n" not in str(raised.value)
    utterances.unlink()
    assert difference(folder, json.loads(path.read_text())) == "utterances.jsonl is missing"


@pytest.mark.parametrize(
    "name, conversations, utterances, has_title",
    [("winning-args-corpus", 552, 4413, True), ("persuasionforgood-corpus", 1017, 20932, False)],
)
def test_the_real_corpora_are_read_whole(real_data, name, conversations, utterances, has_title):
    threads = read(real_data / name)
    assert len(threads) == conversations
    assert sum(len(thread.utterances) for thread in threads.values()) == utterances
    assert {thread.title is not None for thread in threads.values()} == {has_title}


READ_WITH_CONVOKIT = """
import json, sys
from convokit import Corpus
corpus = Corpus(filename=sys.argv[1])
def plain(id_):
    return id_[3:] if id_ and id_[:3] in ("t1_", "t3_") else id_
def meta(utterance):
    return {key: utterance.meta[key] for key in ("success", "role") if key in utterance.meta}
utterances = {
    plain(u.id): [u.text, u.speaker.id, plain(u.reply_to), plain(u.conversation_id), u.timestamp, meta(u)]
    for u in corpus.iter_utterances()
}
titles = {plain(c.id): c.meta.get("op-title") for c in corpus.iter_conversations()}
intact = all(c.check_integrity(verbose=False) for c in corpus.iter_conversations())
json.dump([utterances, titles, intact], open(sys.argv[2], "w"))
"""


@pytest.fixture
def read_with_convokit(tmp_path):
    """A function that reads a corpus with convokit.Corpus, in a process of its own."""
    if find_spec("convokit") is None:
        pytest.skip("convokit is not installed")

    def read_corpus(folder: Path) -> tuple[dict, dict, bool]:
        run = subprocess.run(
            [sys.executable, "-c", READ_WITH_CONVOKIT, str(folder), str(tmp_path / "corpus.json")],
            env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        return json.loads((tmp_path / "corpus.json").read_text())

    return read_corpus


def compare_with_convokit(folder: Path, read_with_convokit) -> None:
    utterances, titles, intact = read_with_convokit(folder)
    ours = read(folder)
    assert intact
    assert titles == {id_: thread.title for id_, thread in ours.items()}
    for thread in ours.values():
        for u in thread.utterances.values():
            meta = {key: u.meta[key] for key in ("success", "role") if key in u.meta}
            # ConvoKit reads the null of a placeholder as an empty text, and leaves carriage returns.
            utterances[u.id][0] = readable(utterances[u.id][0])
            fields = [u.text or "", u.speaker, u.reply_to, u.conversation_id, u.timestamp, meta]
            assert utterances.pop(u.id) == fields
    assert not utterances


@pytest.mark.slow
def test_convokit_itself_sees_the_same_synthetic_utterances(synthetic, read_with_convokit):
    compare_with_convokit(synthetic, read_with_convokit)


@pytest.mark.slow
def test_convokit_itself_sees_the_same_in_the_servers_layout(
    synthetic, tmp_path, read_with_convokit
):
    """Flat conversations and the older names, as subreddit corpora have them."""
    folder = tmp_path / "server"
    shutil.copytree(synthetic, folder)
    lines = (synthetic / "utterances.jsonl").read_text().splitlines()
    rows = older_names([json.loads(line) for line in lines])
    (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metas = json.loads((synthetic / "conversations.json").read_text())
    flat = {id_: entry["meta"] for id_, entry in metas.items()}
    (folder / "conversations.json").write_text(json.dumps(flat))
    compare_with_convokit(folder, read_with_convokit)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["winning-args-corpus", "persuasionforgood-corpus"])
def test_convokit_itself_sees_the_same_real_utterances(real_data, read_with_convokit, name):
    compare_with_convokit(real_data / name, read_with_convokit)
