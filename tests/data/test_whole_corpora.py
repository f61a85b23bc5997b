"""Whole corpora as people bring them: each is read, with everything kept or counted out, or refused in one line."""

import copy
import json
import re
import tempfile
from collections import Counter
from itertools import chain
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from persuasion_rl.data.cmv import process_cmv
from persuasion_rl.data.corpus import read_threads
from persuasion_rl.data.fields import TEXT_BYTES, identifier, is_too_large
from persuasion_rl.data.leakage import check_leakage
from persuasion_rl.data.p4g import process_p4g
from persuasion_rl.data.sides import Shares, assign_sides
from persuasion_rl.data.split import Plan, split
from persuasion_rl.files import UserError
from small_corpora import WIDE, Processed, comment, turn

BODY = "Cats are better than dogs, since they are clean, and I will not change my mind."


def threads() -> tuple[list[dict], dict]:
    """Three small threads of ChangeMyView in which replies won and lost."""
    rows, metas = [], {}
    for name in ("t3_a", "t3_b", "t3_c"):
        rows += [
            comment(name, None, "op", f"{BODY} This is {name}.", thread=name),
            comment(
                f"t1_{name[3]}1", name, "ben", "Dogs are loyal, says Ben.", 1, name, timestamp=2
            ),
            comment(
                f"t1_{name[3]}2", name, "carl", "Dogs are brave, says Carl.", 0, name, timestamp=3
            ),
            comment(
                f"t1_{name[3]}3", f"t1_{name[3]}1", "op", "∆ That is true.", None, name, timestamp=4
            ),
            comment(
                f"t1_{name[3]}4", f"t1_{name[3]}2", "dora", "I doubt it.", None, name, timestamp=5
            ),
            comment(f"t1_{name[3]}5", f"t1_{name[3]}4", "carl", "Why?", 1, name, timestamp=6),
        ]
        metas[name] = {
            "op-title": f"CMV: {name} cats",
            "op-text-body": "",
            "op-userID": "op",
            "train": 1,
        }
    return rows, metas


def dialogues() -> tuple[list[dict], dict]:
    rows = [turn(i, i % 2, f"Turn {i} of {d}.", d) for d in ("d1", "d2", "d3") for i in range(5)]
    return rows, {d: {"donation_ee": 0.5} for d in ("d1", "d2", "d3")}


ODD_TEXTS = st.sampled_from(
    ["", " ", "\n", "a\ud83d", "\x00", "\u2028", "a\r\nb", "🐱🐱", "[deleted]", "∆", "NaN", "null", "EDIT: x", "&#" + "9" * 5000,
     "<|im_end|>", "a, \"b\"", "t3_a", "t1_a1", "a1", "d1-1", "d1", "True", "2013-05-02T10:00:00Z", "1e999", "{}", '{"success": 1}',
     "x" * 300, "x" * (TEXT_BYTES + 1), "Other: x\nPoster: y", "'", "=1+1", "../..", "\u202e", "e\u0301"]
)  # fmt: skip
VALUES = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 2, -1, 0.0, 1.0, 0.5, 1e300, 2**53, 2**64, 10**400])
    | st.sampled_from([float("nan"), float("inf"), -float("inf")])
    | ODD_TEXTS
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(
        [[], {}, [1], ["a"], {"id": "ben"}, {"success": 1}, {"id": None}, {"a": {"b": [None]}}]
    )
)
KEYS = ["id", "conversation_id", "text", "speaker", "reply-to", "timestamp", "meta"]
META_KEYS = ["success", "distinguished", "role"]
CONVERSATION_KEYS = ["op-title", "op-text-body", "op-userID", "train", "title", "donation_ee"]


@st.composite
def mutated(draw, rows: list[dict], metas: dict) -> tuple[list[dict], dict]:
    """A corpus with some changes: values, keys, ids, order, lines that are twice there or not at all."""
    rows, metas = copy.deepcopy(rows), copy.deepcopy(metas)
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.sampled_from(rows)) if rows else {}
        other = draw(st.sampled_from(rows)) if rows else {}
        conversation = draw(st.sampled_from(sorted(metas) or ["t3_a"]))
        match draw(st.integers(0, 12)):
            case 0 | 1 | 2:
                row[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(VALUES))
            case 3 if isinstance(row.get("meta"), dict):
                row["meta"][draw(st.sampled_from(META_KEYS))] = copy.deepcopy(draw(VALUES))
            case 4:
                key = draw(st.sampled_from(["id", "conversation_id", "reply-to", "speaker"]))
                row[key] = other.get(draw(st.sampled_from(["id", "conversation_id", key])))
            case 5:
                row.pop(draw(st.sampled_from(KEYS)), None)
            case 6:
                rows = draw(st.permutations(rows))
            case 7:
                rows = [r for r in rows if r is not row]
            case 8:
                rows = [*rows, copy.deepcopy(row)]
            case 9 if conversation in metas and isinstance(metas[conversation], dict):
                metas[conversation][draw(st.sampled_from(CONVERSATION_KEYS))] = copy.deepcopy(
                    draw(VALUES)
                )
            case 10:
                metas[conversation] = copy.deepcopy(draw(VALUES))
            case 11:
                metas.pop(conversation, None)
            case 12:
                metas[draw(st.sampled_from(["t3_z", "a", "", " ", "t1_a", "\ud83d", "d9"]))] = {}
    return rows, metas


ENCODINGS = st.sampled_from(["plain", "ascii", "older", "flat", "windows", "mark"])


def write(folder: Path, rows: list[dict], metas: dict, encoding: str) -> None:
    """Write a corpus, in one of the ways in which such files come."""
    if encoding == "older":
        names = {"conversation_id": "root", "speaker": "user", "reply-to": "reply_to"}
        rows = [{names.get(key, key): value for key, value in row.items()} for row in rows]
    lines = [json.dumps(row, ensure_ascii=encoding == "ascii") for row in rows]
    end = "\r\n\r\n" if encoding == "windows" else "\n"
    content = "".join(line + end for line in lines).encode("utf-8", "surrogatepass")
    if encoding != "flat":
        metas = {id_: {"meta": meta, "vectors": []} for id_, meta in metas.items()}
    folder.mkdir()
    (folder / "utterances.jsonl").write_bytes(b"\xef\xbb\xbf" * (encoding == "mark") + content)
    (folder / "conversations.json").write_text(json.dumps(metas))


PLACE = re.compile(
    r"utterances\.jsonl, lines? \d+( and \d+)?: |conversations\.json, lines? \d+( and \d+)?[:,] "
)


def check_error(error: UserError, corpus: Path, whole: str) -> None:
    """One line, which names file and line or conversation, or says of the whole corpus why nothing can be used."""
    message = str(error)
    assert "\n" not in message and str(corpus) in message and len(message) < 600
    message.encode()
    assert PLACE.search(message) or re.search(
        f"no conversation|is missing or empty|{whole}", message
    )


def check_counts(
    processed: Processed, corpora: list[Path], rows: list[list[dict]], metas: list[dict]
) -> None:
    """What was read is kept or counted out: conversations, utterances, candidates (`Processed` checks these)."""
    read = processed.counts["read"]
    ids = [
        {identifier("", row["conversation_id"]) for row in of_corpus}
        | {identifier("", id_) for id_ in entries}
        for of_corpus, entries in zip(rows, metas, strict=True)
    ]
    rows = list(chain.from_iterable(rows))
    assert read["conversations"] == sum(map(len, ids))
    assert read["utterances"] == len(rows)
    utterances = processed.counts.get("left_out_utterances", Counter())
    conversations = processed.counts.get("left_out_conversations", Counter())
    assert conversations.keys() - {"no_utterances"} == utterances.keys()
    of_later_stages = {
        "no_title",
        "no_role",
        "turn_missing",
        "turn_too_large",
        "answered_turn_missing",
    }
    kept = list(chain.from_iterable(map(read_threads, corpora)))
    for left_out, all_read, rest in (
        (conversations, read["conversations"], len(kept)),
        (utterances, read["utterances"], sum(len(thread.utterances) for thread in kept)),
    ):
        assert (
            sum(n for reason, n in left_out.items() if reason not in of_later_stages) + rest
            == all_read
        )
    texts = [row["text"] for row in rows if isinstance(row["text"], str)]
    assert processed.counts["cleaned"]["text_too_large"] == sum(map(is_too_large, texts))
    check_processed(processed)


def check_processed(processed: Processed) -> None:
    """No example is twice there or cannot be written."""
    examples = {
        (row["metadata"]["conversation_id"], row["metadata"]["utterance_id"])
        for row in processed.rows
    }
    assert len(examples) == len(processed.rows) == processed.counts["made"]["examples"]
    assert len(processed.rows) == sum(
        processed.counts.get(group, Counter())["kept"] for group in ("won", "persuader")
    )
    for row in processed.rows:
        assert row["response"].strip()
        row["full_text"].encode()


def go_on(corpus: Path, folder: Path, source: str) -> None:
    """The stages behind: sides, rows and pools, and the check of leaks find all conversations of the examples."""
    assign_sides(
        corpora=[corpus], output=folder / "sides.csv", duplicates=folder / "duplicates.json",
        seed=1, shares=Shares(0.4, 0.3, 0.3), official_split="auto",
    )  # fmt: skip
    parts = {side: folder / f"{side}.jsonl" for side in ("train", "val", "test")}
    pools = {pool: folder / f"{pool}.jsonl" for pool in ("ai", "human", "final_eval")}
    try:
        split(
            examples=[folder / "examples.jsonl"], sides=folder / "sides.csv", seed=1,
            sft_train=parts["train"], sft_val=parts["val"], sft_test=parts["test"],
            ai_pool=pools["ai"], human_pool=pools["human"], final_eval=pools["final_eval"],
            summary=folder / "summary.json",
            plan=Plan(2, 1, 2, True, 1, 1, pool_source=source),
        )  # fmt: skip
    except UserError as error:
        assert "the data is too small" in str(error)
        return
    (folder / "pairs.jsonl").touch()
    check_leakage(
        corpora=[corpus], sides=folder / "sides.csv", sft=parts, pools=pools,
        pairs=folder / "pairs.jsonl", output=folder / "leakage.json",
    )  # fmt: skip


@settings(max_examples=150)
@given(corpus=mutated(*threads()), encoding=ENCODINGS)
def test_every_changemyview_is_used_and_counted_or_refused_in_one_line(tokenizer, corpus, encoding):
    rows, metas = corpus
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "corpus", rows, metas, encoding)
        try:
            process_cmv(
                corpora=[folder / "corpus"], tokenizer=tokenizer, examples=folder / "examples.jsonl",
                pairs=folder / "pairs.jsonl", counts=folder / "counts.json", budget=WIDE,
            )  # fmt: skip
        except UserError as error:
            check_error(error, folder / "corpus", "no usable winning reply")
            assert not (folder / "examples.jsonl").exists()
            return
        processed = Processed(folder)
        check_counts(processed, [folder / "corpus"], [rows], [metas])
        try:
            go_on(folder / "corpus", folder, "cmv")
        except UserError as error:
            assert re.search(
                r"conversations\.json, line \d+, conversation \S+: train is ", str(error)
            ), error


def unmarked(rows: list[dict], metas: dict) -> tuple[list[dict], dict]:
    """The corpus without `success`: where deltas are found by what is written."""
    for row in rows:
        del row["meta"]["success"]
    return rows, metas


@settings(max_examples=60)
@given(
    corpora=st.tuples(mutated(*threads()), mutated(*unmarked(*threads()))).flatmap(st.permutations)
)
def test_of_two_corpora_all_is_used_and_counted_or_refused_in_one_line(tokenizer, corpora):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / "one", folder / "other"]
        for path, (rows, metas) in zip(paths, corpora, strict=True):
            write(path, rows, metas, "plain")
        try:
            process_cmv(
                corpora=paths, tokenizer=tokenizer, examples=folder / "examples.jsonl",
                pairs=folder / "pairs.jsonl", counts=folder / "counts.json", budget=WIDE,
            )  # fmt: skip
        except UserError as error:
            check_error(error, folder, "no usable winning reply")
            return
        check_counts(Processed(folder), paths, *zip(*corpora, strict=True))


@settings(max_examples=150)
@given(corpus=mutated(*dialogues()), encoding=ENCODINGS)
def test_every_persuasionforgood_is_used_and_counted_or_refused_in_one_line(
    tokenizer, corpus, encoding
):
    rows, metas = corpus
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "corpus", rows, metas, encoding)
        try:
            process_p4g(
                corpus=folder / "corpus", tokenizer=tokenizer, examples=folder / "examples.jsonl",
                counts=folder / "counts.json", budget=WIDE, seed=1,
            )  # fmt: skip
        except UserError as error:
            check_error(error, folder / "corpus", "no usable turn")
            assert not (folder / "examples.jsonl").exists()
            return
        processed = Processed(folder)
        check_counts(processed, [folder / "corpus"], [rows], [metas])
        try:
            go_on(folder / "corpus", folder, "p4g")
        except UserError as error:
            assert re.search(
                r"conversations\.json, line \d+, conversation \S+: train is ", str(error)
            ), error


@st.composite
def damage(draw) -> tuple[str, float, int, bytes]:
    """A file, a place in it as a share, how many bytes are cut there, and what is put there."""
    odd = [
        b"",
        b"\n",
        b"\r",
        b'"',
        b"{",
        b"}",
        b",",
        b"\\",
        b"\\ud83d",
        b"\x00",
        b"\xff",
        b"\xed\xa0\xbd",
        b"NaN",
        b"1e999",
        b"[" * 2000,
    ]
    return (
        draw(st.sampled_from(["utterances.jsonl", "conversations.json"])),
        draw(st.floats(0, 1)),
        draw(st.integers(0, 3) | st.integers(0, 3000)),
        draw(st.sampled_from(odd) | st.binary(max_size=3)),
    )


@settings(max_examples=120)
@given(damages=st.lists(damage(), min_size=1, max_size=3), encoding=ENCODINGS)
def test_damaged_files_are_read_or_refused_in_one_line(tokenizer, damages, encoding):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "corpus", *dialogues(), encoding)
        for file, share, cut, put in damages:
            path = folder / "corpus" / file
            content = path.read_bytes()
            place = int(share * len(content))
            path.write_bytes(content[:place] + put + content[place + cut :])
        try:
            process_p4g(
                corpus=folder / "corpus", tokenizer=tokenizer, examples=folder / "examples.jsonl",
                counts=folder / "counts.json", budget=WIDE, seed=1,
            )  # fmt: skip
        except UserError as error:
            check_error(
                error,
                folder / "corpus",
                r"no usable turn|conversations\.json: not |expected a JSON object",
            )
            return
        check_processed(Processed(folder))
