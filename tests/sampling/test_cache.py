"""The cache with room computes what transformers' cache computes."""

import pytest
import torch
from transformers import DynamicCache

from persuasion_rl.sampling.cache import ROOM, RoomyLayer, roomy_cache
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
