"""Token ids of training rows: prompt and responses are separate, each response ends with EOS, nothing is lost."""

import pytest

from persuasion_rl.files import UserError, file_digest, write_jsonl
from persuasion_rl.models.loading import load_tokenizer
from persuasion_rl.training.tokenize import Tokens, tokenize

pytestmark = pytest.mark.slow


def row(number: int, **texts: str) -> dict:
    return {**texts, "metadata": {"conversation_id": f"c{number}"}}


PAIRS = [
    row(1, prompt="Buses are slow.\n", chosen="\nThey are not, I think.", rejected="No!"),
    row(2, prompt="Cats are better than dogs.\n", chosen="Why? Ünïcode <|x|>", rejected="  Yes."),
]


def test_pairs_are_read_back_as_they_sample(tiny_rows, tmp_path):
    """The ids of the prompt are those of sampling; they never merge with the first token of a response."""
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    tokenize(rows=tmp_path / "pairs.jsonl", base=tiny_rows.base, output=tmp_path / "pairs.parquet")
    tokens = Tokens.read(tmp_path / "pairs.parquet")
    tokenizer = load_tokenizer(tiny_rows.base)
    assert len(tokens) == 2 and tokens.columns["conversation_id"] == ["c1", "c2"]
    assert tokens.rows["file"] == "pairs.jsonl"
    assert tokens.rows["digest"] == file_digest(tmp_path / "pairs.jsonl")
    for i, pair in enumerate(PAIRS):
        prompt = tokens.columns["prompt_ids"][i]
        assert prompt == tokenizer(pair["prompt"])["input_ids"]
        for key in ("chosen", "rejected"):
            *ids, last = tokens.columns[f"{key}_ids"][i]
            assert last == tokenizer.eos_token_id
            assert tokenizer.decode(ids) == pair[key]
            assert tokenizer.decode(prompt + ids) == pair["prompt"] + pair[key]


def test_the_longest_rows_make_the_batch_that_is_tried(tiny_rows, tmp_path):
    tokens = Tokens.read(tiny_rows.tokens(tiny_rows.sft_train))
    lengths = tokens.lengths()
    batch = tokens.longest(3)
    assert sorted(map(len, batch)) == sorted(lengths)[-3:]
    assert len(tokens.longest(100)) == 100  # a small data set is repeated
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    tokenize(rows=tmp_path / "pairs.jsonl", base=tiny_rows.base, output=tmp_path / "pairs.parquet")
    pairs = Tokens.read(tmp_path / "pairs.parquet")
    first, second, third, fourth = pairs.longest(2)  # all chosen, then all rejected
    for chosen, rejected in ((first, third), (second, fourth)):
        assert chosen[:5] == rejected[:5] and len(chosen) > len(rejected)


def test_rows_of_some_conversations(tiny_rows, tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    tokenize(rows=tmp_path / "pairs.jsonl", base=tiny_rows.base, output=tmp_path / "pairs.parquet")
    tokens = Tokens.read(tmp_path / "pairs.parquet")
    assert len(tokens.only({"c2", "other"})) == 1
    assert tokens.only({"c2"}).columns["prompt_ids"] == tokens.columns["prompt_ids"][1:]
    assert len(tokens) == 2


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "no rows"),
        ([{"prompt": "a", "metadata": {}}], "line 1: has none of the keys"),
        ([PAIRS[0], PAIRS[1] | {"rejected": " \n"}], "line 2: the rejected is empty"),
    ],
)
def test_rows_that_cannot_be_learned_from_are_named(rows, match, tiny_rows, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=rf"rows\.jsonl.*{match}"):
        tokenize(rows=tmp_path / "rows.jsonl", base=tiny_rows.base, output=tmp_path / "t.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_table_that_was_cut_off_is_named(tiny_rows, tmp_path):
    content = tiny_rows.tokens(tiny_rows.sft_train).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.parquet: not a table of tokens .*cut off"):
        Tokens.read(tmp_path / "cut.parquet")
