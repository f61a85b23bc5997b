"""The cache with room computes what transformers' cache computes."""

import pytest
import torch
from transformers import DynamicCache

from persuasion_rl.sampling.cache import ROOM, RoomyLayer, can_join, joined, roomy_cache
from tiny_families import family_config, family_model


def states(tokens: int, seed: int, rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 2, tokens, 4, generator=torch.Generator().manual_seed(seed))


def test_keys_and_values_are_those_of_transformers_after_steps_selections_and_crops():
    config = family_config("llama")
    own, plain = roomy_cache(config), DynamicCache(config=config)
    rows = 3
    for step, tokens in enumerate([5, 1, 1, ROOM, 1, ROOM + 3, 1]):
        both = states(tokens, step, rows), states(tokens, 100 + step, rows)
        for layer in (0, 1):
            for mine, other in zip(
                own.update(*both, layer), plain.update(*both, layer), strict=True
            ):
                assert torch.equal(mine, other)
        if step == 2:
            rows = 2
            for cache in (own, plain):
                cache.batch_select_indices(torch.tensor([2, 0]))
        if step == 4:
            for cache in (own, plain):
                cache.crop(-2)
        assert own.get_seq_length() == plain.get_seq_length()


def test_a_step_writes_its_own_tokens_only():
    layer = RoomyLayer()
    keys, _ = layer.update(states(5, 1), states(5, 2))
    after, _ = layer.update(states(1, 3), states(1, 4))
    assert after.data_ptr() == keys.data_ptr()


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_a_model_generates_the_same_with_it(family):
    """Layers with a sliding window keep transformers' own."""
    model = family_model(family)
    ids = torch.randint(1, 60, (2, 12), generator=torch.Generator().manual_seed(1))
    outputs = [
        model.generate(ids, past_key_values=cache, max_new_tokens=20, do_sample=False, eos_token_id=None)
        for cache in (roomy_cache(model.config), DynamicCache(config=model.config))
    ]  # fmt: skip
    assert torch.equal(*outputs)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_rows_of_several_caches_end_in_one_column(family):
    """Before a shorter row are zeros, not what a column that is left out held: attention may read them."""
    config = family_config(family)
    window = getattr(config, "sliding_window", None) or 1000
    tokens_of = {0: window + 3, 1: 2, 2: 0}
    caches, all_states = [], {}
    for part, tokens in tokens_of.items():
        cache = roomy_cache(config)
        for layer in range(config.num_hidden_layers if tokens else 0):
            all_states[part, layer] = states(tokens, 10 * part + layer)
            cache.update(all_states[part, layer], -all_states[part, layer], layer)
        caches.append(cache)
    assert all(map(can_join, caches))
    columns = 4
    cache = joined(
        [(caches[0], torch.tensor([2])), (caches[1], torch.tensor([0, 2])), (caches[2], torch.tensor([0]))],
        columns,
    )  # fmt: skip
    assert cache.get_seq_length() == columns
    for number, layer in enumerate(cache.layers):
        width = min(columns, window - 1)
        expected = torch.zeros(4, 2, width, 4)
        expected[0] = all_states[0, number][2, :, -width:]
        expected[1:3, :, width - 2 :] = all_states[1, number][[0, 2]]
        assert torch.equal(layer.keys, expected) and torch.equal(layer.values, -expected)
        more = states(1, 7, rows=4)
        keys, _ = layer.update(more, more)
        assert torch.equal(keys, torch.cat([expected, more], dim=2))
