"""Logits of replies in batches are those of transformers for each row alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.evaluation.logits import as_transformers, in_batches, prepare, reply_logits
from tiny_families import FAMILIES, family_model

ROWS = [([3, 4, 5], [6, 7]), ([9], [8, 7, 6, 5, 4, 3, 2, 1, 9, 11, 12, 13]), ([5, 6], [7])]


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_each_row_alone(family, prepared):
    model = family_model(family)
    if prepared:
        prepare(model)
    with torch.no_grad(), as_transformers(model):
        expected = [
            model(input_ids=torch.tensor([p + r])).logits[0, len(p) - 1 : -1] for p, r in ROWS
        ]
    torch.testing.assert_close(reply_logits(model, ROWS), expected, rtol=1e-3, atol=1e-3)


@given(st.lists(st.integers(1, 50)), st.integers(1, 100))
def test_batches_hold_every_row_once_and_no_more_tokens_than_they_may(lengths, tokens):
    batches = list(in_batches(lengths, tokens))
    places = [place for batch in batches for place in batch]
    assert sorted(places) == list(range(len(lengths)))
    assert [lengths[place] for place in places] == sorted(lengths, reverse=True)
    assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= tokens for batch in batches)
