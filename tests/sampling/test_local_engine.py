"""The engine transformers: the model's distribution, and the same text in every batch, shard and order."""

import json
import math
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from persuasion_rl.sampling.local import ContinuousBatches
from persuasion_rl.sampling.request import CUT, STOPPED, Limits, Request, Sample
from persuasion_rl.training.standin import END_OF_TEXT
from tiny_models import (
    SEED,
    engine_of,
    sampled_texts,
    sampling_settings,
    short_requests,
    write_scripted_base,
)

# What a sample is like


def samples(base: Path, limits: Limits, count: int) -> list[Sample]:
    return [sample for _, sample in engine_of(base, limits).sample(short_requests(count))]


def test_responses_have_the_models_distribution(troubled_base):
    count = 1500
    counts = Counter(sample.text for sample in samples(troubled_base, Limits(1.0, 1.0, 2), count))
    for text, probability in {"A": 0.35, "B": 0.25, "CC": 0.2, "": 0.2}.items():
        deviation = math.sqrt(probability * (1 - probability) / count)
        assert abs(counts[text] / count - probability) < 4 * deviation, counts
    assert sum(counts.values()) == count


def test_a_cut_response_says_length_and_an_ended_one_stop(troubled_base):
    endings = {
        (sample.text, sample.finish_reason, sample.tokens)
        for sample in samples(troubled_base, Limits(1.0, 1.0, 5), 80)
    }
    assert endings == {("A", STOPPED, 2), ("B", STOPPED, 2), ("CCCCC", CUT, 5), ("", STOPPED, 1)}


def test_a_response_that_ends_at_the_limit_is_whole(troubled_base):
    for limit, reasons in ((2, {STOPPED}), (1, {CUT})):
        sampled = samples(troubled_base, Limits(1.0, 1.0, limit), 60)
        assert {one.finish_reason for one in sampled if one.text in ("A", "B")} == reasons


def test_special_tokens_that_mark_reasoning_are_read_and_others_are_not(tmp_path):
    """Magistral's [THINK]. The marks, spelled, are more tokens than the limit, and no part of what is trained on."""
    reply = ["", "[THINK]", "C", "[/THINK]", "<|im_start|>", "A", END_OF_TEXT]
    table = {token: {following: 1.0} for token, following in pairwise(reply)}
    base = write_scripted_base(tmp_path, table, special=("[THINK]", "[/THINK]"))
    (sample,) = samples(base, Limits(1.0, 1.0, 8), 1)
    assert sample == Sample("[THINK]C[/THINK]A", 6, STOPPED)
    assert (sample.reply, sample.reasoning) == ("A", 16)


def test_a_base_models_own_generation_settings_do_not_change_the_samples(tmp_path):
    """Qwen2.5's generation_config.json asks for a repetition penalty, top_k and another temperature.

    The study's limits alone shape its samples; a penalty would also see the padding of a batch.
    """
    go_on = {token: {token: 0.7, END_OF_TEXT: 0.3} for token in "AB"}
    steady = {"": {"A": 0.5, "B": 0.5}} | go_on
    plain = write_scripted_base(tmp_path / "plain", steady)
    own = write_scripted_base(tmp_path / "own", steady)
    (own / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "repetition_penalty": 1.5, "top_k": 1, "temperature": 0.1})
    )
    one, other = (samples(base, Limits(1.0, 1.0, 6), 100) for base in (plain, own))
    assert one == other


# A sample is the same wherever it is sampled


def count_differing(texts: dict, expected: dict) -> int:
    """How many texts differ: near-ties that the last bits of batched logits decided."""
    differing = [key for key in texts if texts[key] != expected[key]]
    print(f"{len(differing)} of {len(texts)} samples differ: {differing[:3]}")
    return len(differing)


def near_ties(samples: int) -> int:
    """How many may differ: 1 in 1,000, rounded up."""
    return -(-samples // 1000)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "every"), [(7, 3), (256, 1)])
def test_batch_size_leaves_the_text_as_it_is(
    batch_size, every, tiny_base, requests, texts_of_one_batch
):
    expected = texts_of_one_batch
    assert len(set(expected.values())) > 0.5 * len(expected)  # or there is nothing to tell apart
    some = requests[::every]
    texts = sampled_texts(engine_of(tiny_base, batch_size=batch_size), some)
    assert texts.keys() == {(request.prompt_id, request.sample_number) for request in some}
    assert count_differing(texts, expected) <= near_ties(len(texts))


@pytest.mark.slow
def test_order_and_shards_leave_the_text_as_it_is(tiny_base, requests, texts_of_one_batch):
    shuffled = random.Random(SEED).sample(requests, len(requests))
    texts = {}
    for start in range(0, len(shuffled), 401):  # engines of their own, as jobs have
        texts |= sampled_texts(engine_of(tiny_base), shuffled[start : start + 401])
    assert texts.keys() == texts_of_one_batch.keys()
    assert count_differing(texts, texts_of_one_batch) <= near_ties(len(texts))


@pytest.mark.slow
def test_a_prompt_alone_has_the_same_text(tiny_base, requests, texts_of_one_batch):
    some = random.Random(SEED).sample(requests, 60)
    texts = sampled_texts(engine_of(tiny_base, batch_size=1), some)
    assert count_differing(texts, texts_of_one_batch) <= near_ties(len(texts))


@pytest.mark.slow
def test_continuous_batching_samples_the_same_texts(tiny_base, requests, texts_of_one_batch):
    """A GPU samples so; here the CPU does. When a response ends, another request takes its place."""
    some = random.Random(SEED).sample(requests, 400)
    texts = sampled_texts(ContinuousBatches(sampling_settings(tiny_base, batch_size=16)), some)
    assert texts.keys() == {(request.prompt_id, request.sample_number) for request in some}
    assert count_differing(texts, texts_of_one_batch) <= near_ties(len(texts))


@pytest.mark.slow
def test_another_seed_number_or_attempt_gives_another_text(tiny_base, requests, texts_of_one_batch):
    expected = texts_of_one_batch
    some = [request for request in requests if request.sample_number == 1][:40]
    second_attempts = [Request(r.prompt_id, r.prompt, 1, attempt=1) for r in some]
    for texts in (
        sampled_texts(engine_of(tiny_base, seed=SEED + 1), some),
        sampled_texts(engine_of(tiny_base), second_attempts),
        {(request.prompt_id, 1): expected[request.prompt_id, 2] for request in some},
    ):
        assert sum(texts[key] == expected[key] for key in texts) <= 8


@pytest.mark.slow
def test_half_precision_is_what_makes_batches_matter(tiny_base, requests):
    """Why a GPU's rows say that they are not reproducible: in bfloat16, other batches give other texts."""
    counts = {}
    for dtype in (torch.float32, torch.bfloat16):
        texts = []
        for size in (10, 200):
            engine = engine_of(tiny_base, batch_size=size)
            engine.load()[0].to(dtype)
            texts.append(sampled_texts(engine, requests[:200]))
        counts[dtype] = count_differing(*texts)
    assert counts[torch.float32] == 0 < counts[torch.bfloat16]
