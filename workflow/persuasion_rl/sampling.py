"""What a sample is, and the noise that makes it belong to its prompt, not to the batch that it is drawn in.

The token of step t is found by inverting the cumulative distribution at one uniform number, which is a
function of (study seed, model digest, prompt id, sample number, draw, step). Batches, shards and order then
leave the text as it is, except where batched logits differ in their last bits next to a boundary.
"""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from transformers import LogitsProcessor
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)

STOPPED, CUT = "stop", "length"
NUCLEUS = 4096
"""Tokens that nearly every nucleus lies within: a whole vocabulary takes long to sort on a CPU."""


@dataclass(frozen=True)
class Limits:
    """How every pool and every evaluation samples."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Request:
    """A sample that is wanted: draw number `draw` of sample number `sample` of a prompt."""

    prompt_id: str
    prompt: str
    sample: int
    draw: int = 0


@dataclass(frozen=True)
class Sample:
    text: str
    tokens: int
    """EOS among them."""
    finish_reason: str
    """"stop" where the model ended its response, "length" where the limit cut it."""

    @property
    def usable(self) -> bool:
        return bool(self.text) and self.finish_reason == STOPPED


def uniforms(steps: int, *key: object) -> np.ndarray:
    """`steps` float32 numbers in [0, 1) that are a function of `key` (a counter-based generator, Philox)."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))
    return generator.random(steps, dtype=np.float32)


def picked(
    logits: torch.Tensor, noise: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """The token that each row's number picks from the tempered nucleus (Holtzman et al. 2020) of its logits.

    Args:
        logits: (rows, vocabulary). noise: (rows,), in [0, 1).
    Returns:
        (rows, 1) token ids.
    """
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    ordered, order = _largest(probabilities, top_p)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    # Summed in the vocabulary's order, so that two nearly equal tokens cannot swap places.
    tokens, by_id = order.sort(dim=-1)
    kept = ordered.masked_fill(outside, 0.0).gather(-1, by_id)
    cumulative = kept.double().cumsum(dim=-1)
    threshold = noise.to(cumulative) * cumulative[:, -1]
    place = torch.searchsorted(cumulative, threshold[:, None], right=True)
    return tokens.gather(-1, place.clamp(max=tokens.shape[-1] - 1))


def _largest(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest probabilities of each row, at least those of its nucleus, and their tokens."""
    # Not on a GPU: it sorts fast, and looking at a sum would wait for it (and break a CUDA graph).
    if probabilities.device.type == "cpu" and probabilities.shape[-1] > 2 * NUCLEUS:
        ordered, order = probabilities.topk(NUCLEUS, dim=-1)
        if ordered.sum(dim=-1).min() >= top_p:
            return ordered, order
    return probabilities.sort(dim=-1, descending=True)


def _only(tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Logits that leave one token of each row."""
    return torch.full_like(logits, -torch.inf).scatter_(-1, tokens, 0.0)


class KeyedSampling(LogitsProcessor):
    """For `generate`: leaves only the token that each row's number picks.

    Args:
        noise: (rows, max_new_tokens) numbers in [0, 1).
        prompt_length: tokens of the left-padded prompts; the step is what lies beyond them.
    """

    def __init__(self, noise: torch.Tensor, prompt_length: int, limits: Limits):
        self.noise = noise
        self.prompt_length = prompt_length
        self.limits = limits

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = self.noise[:, input_ids.shape[1] - self.prompt_length]
        return _only(picked(scores, noise, self.limits.temperature, self.limits.top_p), scores)


class KeyedContinuousSampling(ContinuousBatchingLogitsProcessor):
    """The same for transformers' continuous batching, which knows a request by its id.

    Args:
        noise: request id -> (tokens of its prompt, its max_new_tokens numbers in [0, 1)).
    """

    supported_kwargs: ClassVar = {}
    ignored_kwargs: ClassVar = ()

    def __init__(self, noise: dict[str, tuple[int, np.ndarray]], limits: Limits):
        self.noise = noise
        self.limits = limits

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list) -> torch.Tensor:
        """The number of each request's next step, in the bits of an int32."""
        numbers = [self._number(request.state) for request in requests_with_new_token]
        return torch.tensor(numbers, dtype=torch.float32).view(dtype=torch.int32)

    def _number(self, state) -> float:
        if state.request_id not in self.noise:  # the library's own, to warm up
            return 0.0
        prompt_tokens, noise = self.noise[state.request_id]
        return noise[state.position_offset - prompt_tokens]

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        noise = tensor_arg[: scores.shape[0]].view(dtype=torch.float32)
        return _only(picked(scores, noise, self.limits.temperature, self.limits.top_p), scores)
