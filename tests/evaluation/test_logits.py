"""Logits of replies in batches are those of transformers for each row alone."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from persuasion_rl.evaluation.logits import as_transformers, in_batches, prepare, reply_logits
from persuasion_rl.models.plain import plain_log_probs, token_log_probs
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


@pytest.mark.parametrize("family", ["mistral", "stablelm"])
def test_an_adapter_that_is_not_merged_gives_the_merged_models_probabilities(family):
    """As on a GPU, where merging would round it; with batches without padding and with padded ones."""
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(family_model(family), lora).eval()
    merged = copy.deepcopy(model).merge_and_unload()
    prepare(model)
    with torch.no_grad(), as_transformers(model):
        plain = model(input_ids=torch.tensor([ROWS[0][0] + ROWS[0][1]])).logits
    logits = reply_logits(model, ROWS)
    torch.testing.assert_close(logits[0], plain[0, 2:-1], rtol=1e-3, atol=1e-3)
    base = family_model(family)
    for own, (prompt, reply) in zip(logits, ROWS, strict=True):
        ids = torch.tensor(reply)
        nats = token_log_probs(own, ids).sum().item()
        expected, before = (
            plain_log_probs(m, prompt + reply, len(reply)).sum().item() for m in (merged, base)
        )
        assert nats == pytest.approx(expected, abs=1e-3)
        assert abs(nats - before) > 0.05  # the adapter counts
