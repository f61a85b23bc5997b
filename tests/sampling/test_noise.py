"""The noise of a sample and the tokens that are sampled with it."""

import math

import numpy as np
import pytest
import torch

from persuasion_rl.sampling.noise import (
    NUCLEUS,
    KeyedSampling,
    sample_tokens,
    step_seeds,
    uniforms,
)
from persuasion_rl.sampling.request import Limits

# Noise


def test_seeds_are_a_function_of_their_whole_key():
    key = (1, "digest", "cmv-t1_a", 1, 0)
    same = step_seeds(50, *key)
    assert (step_seeds(50, *key) == same).all()
    others = [
        (2, "digest", "cmv-t1_a", 1, 0),
        (1, "another", "cmv-t1_a", 1, 0),
        (1, "digest", "cmv-t1_b", 1, 0),
        (1, "digest", "cmv-t1_a", 2, 0),
        (1, "digest", "cmv-t1_a", 1, 1),
    ]
    for other in others:
        assert not (step_seeds(50, *other) == same).any(), other


def test_seeds_of_a_shorter_response_begin_like_those_of_a_longer_one():
    assert (step_seeds(10, "key") == step_seeds(100, "key")[:10]).all()


def test_noise_is_uniform_and_independent_over_seeds_and_tokens():
    seeds = torch.from_numpy(step_seeds(400, "noise"))[:, None]
    noise = uniforms(seeds, torch.arange(400).expand(400, -1)).numpy()
    assert noise.min() > 0 and noise.max() < 1
    assert len(np.unique(noise)) == noise.size
    counts = np.histogram(noise, bins=20, range=(0, 1))[0]
    chi_square = ((counts - 8000) ** 2 / 8000).sum()
    assert chi_square < 50  # 19 degrees of freedom: P < .0002
    centred = noise - 0.5
    for neighbours in (centred[:-1] * centred[1:], centred[:, :-1] * centred[:, 1:]):
        # Products of independent numbers: mean 0, variance 1/144.
        assert abs(neighbours.mean()) < 4.5 / 12 / math.sqrt(neighbours.size)


def test_consecutive_seeds_and_tokens_share_nothing():
    seeds = torch.arange(-200, 200, dtype=torch.int32)[:, None]
    centred = uniforms(seeds, torch.arange(400).expand(400, -1)).numpy() - 0.5
    correlations = np.corrcoef(centred) - np.eye(400)
    assert abs(correlations).max() < 6 / math.sqrt(400)


# The processor

LOGITS = torch.tensor([0.3, 2.0, -1.0, 1.1, -4.0, 1.9, 0.0, -2.5])


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> np.ndarray:
    """The tempered nucleus, worked out one token at a time."""
    weights = [math.exp(logit / temperature) for logit in logits.tolist()]
    total, probabilities, mass = sum(weights), {}, 0.0
    for token in sorted(range(len(weights)), key=lambda t: -weights[t]):
        if mass >= top_p:
            break
        probabilities[token] = weights[token] / total
        mass += probabilities[token]
    return np.array([probabilities.get(token, 0.0) / mass for token in range(len(weights))])


def keyed_tokens(
    logits: torch.Tensor, seeds: np.ndarray, temperature: float, top_p: float
) -> np.ndarray:
    """The token that KeyedSampling leaves of the same logits with each of the seeds."""
    processor = KeyedSampling(
        torch.from_numpy(seeds)[:, None],
        torch.full((len(seeds),), 3),
        Limits(temperature, top_p, 1),
    )
    ids = torch.zeros((len(seeds), 3), dtype=torch.long)
    scores = processor(ids, logits.expand(len(seeds), -1).clone())
    assert ((scores == -torch.inf).sum(dim=1) == len(logits) - 1).all()
    return scores.argmax(dim=1).numpy()


@pytest.mark.parametrize(
    "temperature, top_p", [(0.7, 0.9), (1.0, 0.6), (1.5, 1.0), (0.7, 1.0), (0.3, 0.5)]
)
def test_tokens_follow_the_tempered_nucleus(temperature, top_p):
    expected = nucleus(LOGITS, temperature, top_p)
    count = 40_000
    seeds = step_seeds(count, "tokens", temperature, top_p)
    tokens = keyed_tokens(LOGITS, seeds, temperature, top_p)
    shares = np.bincount(tokens, minlength=len(LOGITS)) / count
    assert (shares[expected == 0] == 0).all()
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(shares - expected) <= 4.5 * deviation + 1e-9).all()


def test_each_row_and_step_uses_its_own_seed():
    seeds = torch.from_numpy(step_seeds(12, "rows and steps")).reshape(3, 4)
    flat = torch.zeros((3, 1000))
    starts = torch.tensor([4, 3, 2])  # the second and third row came earlier
    processor = KeyedSampling(seeds, starts, Limits(1.0, 1.0, 4))
    for columns in (4, 5):
        ids = torch.zeros((3, columns), dtype=torch.long)
        steps = (columns - starts).tolist()
        alone = [
            keyed_tokens(flat[0], seeds[row, step : step + 1].numpy(), 1.0, 1.0)[0]
            for row, step in enumerate(steps)
        ]
        assert processor(ids, flat.clone()).argmax(dim=1).tolist() == alone


def test_a_small_change_of_the_logits_changes_hardly_any_token():
    """A batch changes logits by so little."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn((20_000, 300), generator=generator)
    seeds = torch.from_numpy(step_seeds(20_000, "near-ties"))
    before = sample_tokens(logits, seeds, 1.0, 0.95)
    after = sample_tokens(
        logits + 1e-5 * torch.randn(logits.shape, generator=generator), seeds, 1.0, 0.95
    )
    assert (before != after).float().mean() < 2e-4


@pytest.mark.parametrize("spread, top_p", [(4.0, 0.9), (0.01, 0.9), (4.0, 1.0)])
def test_the_largest_tokens_of_a_large_vocabulary_are_enough_or_all_are_taken(
    spread, top_p, monkeypatch
):
    """With a flat distribution (the second) the nucleus has more tokens than are tried first."""
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn((40, 100 * NUCLEUS), generator=generator)
    seeds = torch.from_numpy(step_seeds(40, "large vocabulary"))
    tokens = sample_tokens(logits, seeds, 1.0, top_p)
    monkeypatch.setattr("persuasion_rl.sampling.noise.NUCLEUS", logits.shape[-1])
    assert torch.equal(tokens, sample_tokens(logits, seeds, 1.0, top_p))
