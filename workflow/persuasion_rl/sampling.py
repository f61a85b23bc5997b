"""Samples responses whose randomness belongs to the sample, not to the batch that it is drawn in.

The token of step t is found by inverting the cumulative distribution at one uniform number, which is a
function of (study seed, model digest, prompt id, sample number, step). Batches, shards and order then
leave the text as it is, except where batched logits differ in their last bits next to a boundary.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

STOPPED, CUT = "stop", "length"


@dataclass(frozen=True)
class Limits:
    """How every pool and every evaluation samples."""

    temperature: float
    top_p: float
    max_new_tokens: int
    batch_size: int
    redraws: int
    """How often an empty or cut response is drawn again before it is given up."""


@dataclass
class Request:
    """A sample that is wanted: sample number `sample` of a prompt."""

    prompt_id: str
    prompt: str
    sample: int


@dataclass
class Sample:
    text: str
    tokens: int
    finish_reason: str
    """"stop" where the model ended its response, "length" where the limit cut it."""
    draws: int
    """How many draws it took."""

    @property
    def usable(self) -> bool:
        return bool(self.text) and self.finish_reason == STOPPED


def uniforms(steps: int, *key: object) -> np.ndarray:
    """`steps` numbers in [0, 1) that are a function of `key` (a counter-based generator, Philox)."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))
    return generator.random(steps)


class KeyedSampling(LogitsProcessor):
    """Leaves only the token that each row's number picks from the tempered nucleus of its logits.

    Args:
        noise: (rows, max_new_tokens) numbers in [0, 1).
        prompt_length: tokens of the left-padded prompts; the step is what lies beyond them.
    """

    def __init__(self, noise: torch.Tensor, prompt_length: int, temperature: float, top_p: float):
        self.noise = noise
        self.prompt_length = prompt_length
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.prompt_length
        probabilities = torch.softmax(scores.float() / self.temperature, dim=-1)
        ordered, order = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(dim=-1) - ordered >= self.top_p
        probabilities.scatter_(-1, order, ordered.masked_fill(outside, 0.0))
        # Summed in the vocabulary's order, so that two nearly equal tokens cannot swap places.
        cumulative = probabilities.double().cumsum(dim=-1)
        threshold = self.noise[:, step].to(cumulative) * cumulative[:, -1]
        token = torch.searchsorted(cumulative, threshold[:, None], right=True)
        token = token.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(-1, token, 0.0)


def sample(
    model,
    tokenizer,
    requests: list[Request],
    limits: Limits,
    seed: int,
    model_digest: str,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[Request, Sample]]:
    """Draw every request, longest prompts first, and draw again what came out empty or cut.

    Yields (request, sample) as batches end. A sample that is still unusable after `limits.redraws`
    further draws is yielded as it is: it says so, and its reader counts it out. What ends a response is
    in `model.generation_config` (`models.load_for_inference` sets it).
    """
    waiting = sorted(
        ((request, 0) for request in requests), key=lambda r: len(r[0].prompt), reverse=True
    )
    while waiting:
        again = []
        for start in range(0, len(waiting), limits.batch_size):
            batch = waiting[start : start + limits.batch_size]
            drawn = _draw(model, tokenizer, batch, limits, seed, model_digest)
            for (request, draw), result in zip(batch, drawn, strict=True):
                if result.usable or draw == limits.redraws:
                    progress(1)
                    yield request, result
                else:
                    again.append((request, draw + 1))
        waiting = again


@torch.inference_mode()
def _draw(
    model,
    tokenizer,
    batch: list[tuple[Request, int]],
    limits: Limits,
    seed: int,
    model_digest: str,
) -> list[Sample]:
    prompts = [request.prompt for request, _ in batch]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    inputs = inputs.to(model.device)
    noise = np.stack(
        [
            uniforms(limits.max_new_tokens, seed, model_digest, r.prompt_id, r.sample, draw)
            for r, draw in batch
        ]
    )
    length = inputs["input_ids"].shape[1]
    processor = KeyedSampling(
        torch.from_numpy(noise).to(model.device), length, limits.temperature, limits.top_p
    )
    output = model.generate(
        **inputs,
        max_new_tokens=limits.max_new_tokens,
        logits_processor=LogitsProcessorList([processor]),
    )
    ends = model.generation_config.eos_token_id
    return [
        _read(tokenizer, ids, ends, draw)
        for ids, (_, draw) in zip(output[:, length:].tolist(), batch, strict=True)
    ]


def _read(tokenizer, ids: list[int], ends: list[int], draw: int) -> Sample:
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    tokens = len(ids) if end is None else end + 1
    text = tokenizer.decode(ids[:tokens], skip_special_tokens=True).strip()
    return Sample(text, tokens, CUT if end is None else STOPPED, draw + 1)
