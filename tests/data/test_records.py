"""Rows have their types: what the stages write, and what readers refuse with file and line."""

import types
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl import records
from persuasion_rl.data.delta_pairs import pairs_on
from persuasion_rl.data.sides import Shares, assign_sides
from persuasion_rl.data.split import Plan, split
from persuasion_rl.files import UserError, read_jsonl, write_jsonl
from persuasion_rl.records import (
    DeltaPair,
    LabelRow,
    PoolRow,
    ReadingRow,
    SftRow,
    VerdictRow,
    read_rows,
)
from small_corpora import WIDE, turn

KINDS = [kind for kind in vars(records).values() if typing.is_typeddict(kind)]


def is_a(value, hint) -> bool:
    """Whether a value from JSON is of a type, with all keys that it must have and no others."""
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint)
        return (
            isinstance(value, dict)
            and hint.__required_keys__ <= value.keys() <= hints.keys()
            and all(is_a(part, hints[key]) for key, part in value.items())
        )
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(is_a(part, arguments[0]) for part in value)
    if origin is types.UnionType:
        return any(is_a(value, argument) for argument in arguments)
    return type(value) is hint


@pytest.fixture(scope="module")
def study(synthetic, tokenizer, tmp_path_factory):
    """A folder with what the data stages make of the synthetic corpus."""
    from persuasion_rl.data.cmv import process_cmv

    folder = tmp_path_factory.mktemp("study")
    process_cmv(
        corpora=[synthetic], tokenizer=tokenizer, examples=folder / "examples.jsonl",
        pairs=folder / "pairs.jsonl", counts=folder / "counts.json", budget=WIDE,
    )  # fmt: skip
    assign_sides(
        corpora=[synthetic], output=folder / "sides.csv", duplicates=folder / "duplicates.json",
        seed=1, shares=Shares(0.5, 0.2, 0.3),
    )  # fmt: skip
    split(
        examples=[folder / "examples.jsonl"], sides=folder / "sides.csv", seed=1,
        sft_train=folder / "sft_train.jsonl", sft_val=folder / "sft_val.jsonl", sft_test=folder / "sft_test.jsonl",
        ai_pool=folder / "ai.jsonl", human_pool=folder / "human.jsonl", final_eval=folder / "final_eval.jsonl",
        summary=folder / "summary.json",
        plan=Plan(train=40, val=8, test=16, use_val_set=True, human_pool_size=3, final_eval_size=5),
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (SftRow, ["examples", "sft_train", "sft_val", "sft_test"]),
        (DeltaPair, ["pairs"]),
        (PoolRow, ["ai", "human", "final_eval"]),
    ],
)
def test_what_the_data_stages_write_is_of_its_type(study, kind, names):
    for name in names:
        rows = list(read_rows(study / f"{name}.jsonl", kind))
        assert rows and all(is_a(row, kind) for row in rows)
        assert rows == list(read_jsonl(study / f"{name}.jsonl"))


def test_a_persuaders_turn_is_of_the_same_type(make_p4g_rows):
    assert len(make_p4g_rows) == 2
    assert all(is_a(row, SftRow) for row in make_p4g_rows)


@pytest.fixture
def make_p4g_rows(write_corpus, tokenizer, tmp_path):
    from persuasion_rl.data.p4g import process_p4g

    dialogues = [turn(i, i % 2, "Please give.", d) for d in ("d1", "d2") for i in range(3)]
    process_p4g(
        corpus=write_corpus(dialogues, {"d1": {"donation_ee": 0.5}, "d2": {}}), tokenizer=tokenizer,
        examples=tmp_path / "p4g.jsonl", counts=tmp_path / "counts.json", budget=WIDE, seed=1,
    )  # fmt: skip
    return list(read_rows(tmp_path / "p4g.jsonl", SftRow))


@pytest.mark.parametrize(
    ("kind", "name", "key"),
    [
        (SftRow, "examples", "response"),
        (SftRow, "sft_train", "metadata"),
        (DeltaPair, "pairs", "loser"),
        (PoolRow, "ai", "prompt"),
    ],
)
def test_a_missing_key_is_one_line_with_the_file_and_the_line(study, tmp_path, kind, name, key):
    rows = list(read_jsonl(study / f"{name}.jsonl"))
    del rows[1][key]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError) as raised:
        list(read_rows(tmp_path / "rows.jsonl", kind))
    assert str(raised.value) == (
        f"{tmp_path / 'rows.jsonl'}, line 2: the key {key!r} is missing from a {kind.__name__}"
    )


@pytest.mark.parametrize("key", ["response", "metadata.utterance_id"])
@pytest.mark.parametrize("value", [None, 5, ["text"]])
def test_another_type_than_text_is_one_line_too(study, tmp_path, key, value):
    rows = list(read_jsonl(study / "sft_train.jsonl"))
    *inner, last = key.split(".")
    (rows[2]["metadata"] if inner else rows[2])[last] = value
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=f"rows.jsonl, line 3: '{key}' of a SftRow is no text"):
        list(read_rows(tmp_path / "rows.jsonl", SftRow))


@pytest.mark.parametrize("metadata", [{"conversation_id": "c"}, None, "conversation_id"])
def test_a_key_missing_from_the_metadata_is_one_line_too(tmp_path, metadata):
    row = {"prompt": "p", "winner": "w", "loser": "l", "metadata": metadata}
    write_jsonl(tmp_path / "pairs.jsonl", [row])
    (tmp_path / "sides.csv").write_text("conversation_id,side\nc,train\n")
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 1: the key 'metadata\.\w+_id' is"):
        pairs_on("train", tmp_path / "pairs.jsonl", tmp_path / "sides.csv")


def test_a_pair_that_could_not_be_labelled_needs_no_label(tmp_path):
    rows = [{"excluded": "timeout", "metadata": {"conversation_id": "c"}}]
    write_jsonl(tmp_path / "labels.jsonl", rows)
    assert list(read_rows(tmp_path / "labels.jsonl", LabelRow)) == rows
    with pytest.raises(UserError, match="line 1: the key 'conversation_id' is missing"):
        list(read_rows(tmp_path / "labels.jsonl", VerdictRow))


def test_a_reading_that_failed_needs_no_answers_and_another_one_needs_them_all(tmp_path):
    ids = {"prompt_id": "p", "conversation_id": "c"}
    write_jsonl(tmp_path / "read.jsonl", [ids | {"excluded": "refused"}])
    assert len(list(read_rows(tmp_path / "read.jsonl", ReadingRow))) == 1
    for lacking in (ids, {"prompt_id": "p", "excluded": "refused"}):
        write_jsonl(tmp_path / "read.jsonl", [lacking])
        with pytest.raises(UserError, match="line 1: the key .* is missing from a ReadingRow"):
            list(read_rows(tmp_path / "read.jsonl", ReadingRow))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["prompt_id", "source", "x"]), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(data=st.data(), kind=st.sampled_from([k for k in KINDS if "Metadata" not in k.__name__]))
def test_whatever_the_rows_they_are_read_as_they_are_or_refused_in_one_line(
    tmp_path_factory, data, kind
):
    keys = st.sampled_from([*typing.get_type_hints(kind), "excluded", "x"])
    rows = data.draw(st.lists(st.dictionaries(keys, VALUES, max_size=8), max_size=3))
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl(path, rows)
    try:
        actual = list(read_rows(path, kind))
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        assert f" a {kind.__name__}" in str(error)
    else:
        assert actual == rows
        full = [row for row in rows if "excluded" not in row]
        assert all(kind.__required_keys__ <= row.keys() for row in full)
