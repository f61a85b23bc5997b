"""Fixtures of the data tests: stages that run on small corpora."""

from dataclasses import replace

import pytest

from persuasion_rl.data.cmv import process_cmv
from small_corpora import META, POST, WIDE, Processed
from small_splits import run, write_data


@pytest.fixture(scope="session")
def make_cmv(tmp_path_factory, tokenizer):
    """A function that runs process_cmv on some corpora, with a budget that differs from WIDE in some limits."""

    def make(*corpora, tokenizer=tokenizer, **limits):
        folder = tmp_path_factory.mktemp("cmv")
        process_cmv(
            corpora=list(corpora), tokenizer=tokenizer, examples=folder / "examples.jsonl",
            pairs=folder / "pairs.jsonl", counts=folder / "counts.json", budget=replace(WIDE, **limits),
        )  # fmt: skip
        return Processed(folder)

    return make


@pytest.fixture
def process_thread(write_corpus, make_cmv):
    """A function that runs process_cmv on one thread with these comments."""

    def make(*comments, meta=META, **settings):
        return make_cmv(write_corpus([POST, *comments], {"t3_a": meta}), **settings)

    return make


@pytest.fixture(scope="session")
def processed_synthetic(synthetic, make_cmv):
    """What process_cmv makes of the synthetic corpus. Read only."""
    return make_cmv(synthetic)


@pytest.fixture
def folder(tmp_path):
    """A folder with examples, their sides, and their split in `out`."""
    write_data(tmp_path, seed=5)
    run(tmp_path)
    return tmp_path
