"""Noise that makes a sample a function of its prompt, not of its batch.

Each token of the vocabulary gets Gumbel noise that is a function of (study seed, model digest, prompt id, sample
number, attempt, step, token). The token with the largest sum of noise and log-probability is a sample of the
distribution (Maddison, Tarlow & Minka 2014). So batches, shards and order do not change the text, unless the last
bits of batched logits decide between two sums.
"""

import hashlib
from typing import ClassVar

import numpy as np
import torch
from transformers import LogitsProcessor
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)

from persuasion_rl.sampling.request import Limits

NUCLEUS = 64
"""Number of tokens that contains most nuclei: sorting a whole vocabulary takes long on a CPU."""


def step_seeds(steps: int, *key: object) -> np.ndarray:
    """`steps` int32 numbers that are a function of `key` (a counter-based generator, Philox)."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))
    return generator.integers(-(2**31), 2**31, steps, dtype=np.int32)


def uniforms(seeds: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """A float64 number in (0, 1) for each seed (rows, 1) and token (rows, n): the mixer of SplitMix64 (Steele, Lea &
    Flood 2014)."""
    mixed = (seeds.long() << 32) | tokens
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        mixed = (mixed ^ _shifted(mixed, shift)) * factor
    return (_shifted(mixed, 11).double() + 0.5) / 2**53


def _shifted(numbers: torch.Tensor, by: int) -> torch.Tensor:
    """Shift bits to the right, without the sign."""
    return (numbers >> by) & ((1 << (64 - by)) - 1)


def sample_tokens(
    logits: torch.Tensor, seeds: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """Sample a token for each row from the tempered nucleus (Holtzman et al. 2020) of its logits.

    Args:
        logits: (rows, vocabulary).
        seeds: (rows,), int32: a token is a function of its row's logits and seed.
    Returns:
        (rows, 1) token ids.
    """
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    ordered, tokens = _largest(probabilities, top_p)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    gumbel = -(-uniforms(seeds[:, None], tokens).log()).log()
    scores = (ordered.double().log() + gumbel).masked_fill(outside, -torch.inf)
    return tokens.gather(-1, scores.argmax(dim=-1, keepdim=True))


def _largest(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest probabilities of each row, at least those of its nucleus, and their tokens."""
    # Not on a GPU, which sorts fast: reading a sum would wait for it (and break a CUDA graph).
    size = NUCLEUS if probabilities.device.type == "cpu" else probabilities.shape[-1]
    while size < probabilities.shape[-1]:
        ordered, order = probabilities.topk(size, dim=-1)
        if ordered.sum(dim=-1).min() >= top_p:
            return ordered, order
        size *= 8
    return probabilities.sort(dim=-1, descending=True)


def _only(tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Logits that are minus infinity except for one token of each row; `tokens` is (rows, 1)."""
    return torch.full_like(logits, -torch.inf).scatter_(-1, tokens, 0.0)


class KeyedSampling(LogitsProcessor):
    """Logits processor for `generate`: leaves each row only the token that its seed samples.

    Args:
        seeds: (rows, max_new_tokens) int32, one a step.
        starts: (rows,), the column of each response's first token; the step is the number of columns from there on.
    """

    def __init__(self, seeds: torch.Tensor, starts: torch.Tensor, limits: Limits):
        self.seeds = seeds
        self.starts = starts
        self.limits = limits

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        steps = input_ids.shape[1] - self.starts
        seeds = self.seeds.gather(1, steps[:, None]).flatten()
        return _only(
            sample_tokens(scores, seeds, self.limits.temperature, self.limits.top_p), scores
        )


class KeyedContinuousSampling(ContinuousBatchingLogitsProcessor):
    """Logits processor for continuous batching: leaves each request only the token that its seed samples.

    Args:
        seeds: request id -> (number of tokens of its prompt, its (max_new_tokens,) int32 seeds).
    """

    supported_kwargs: ClassVar = {}
    ignored_kwargs: ClassVar = ()

    def __init__(self, seeds: dict[str, tuple[int, np.ndarray]], limits: Limits):
        self.seeds = seeds
        self.limits = limits

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list) -> torch.Tensor:
        """The seed of each request's next step."""
        seeds = [self._seed(request.state) for request in requests_with_new_token]
        return torch.tensor(seeds, dtype=torch.int32)

    def _seed(self, state) -> int:
        if state.request_id not in self.seeds:  # a request of the library, to warm up
            return 0
        prompt_tokens, seeds = self.seeds[state.request_id]
        return int(seeds[state.position_offset - prompt_tokens])

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        seeds = tensor_arg[: scores.shape[0]]
        return _only(
            sample_tokens(scores, seeds, self.limits.temperature, self.limits.top_p), scores
        )
