"""Sampling, the responses made with it, and intervals, with real models: a stand-in and a scripted one.

The *scripted* model is a real Qwen2 whose weights spell out a table: which token follows which, and with
what probability. So the right distribution, empty responses and endless ones are known beforehand.
"""

import json
import math
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from persuasion_rl.files import UserError, read_json, read_jsonl, write_jsonl
from persuasion_rl.models import load_for_inference
from persuasion_rl.prompts import render
from persuasion_rl.responses import (
    gather_pool,
    quote_human,
    respond_to_evaluation,
    respond_to_pool,
)
from persuasion_rl.sampling import CUT, STOPPED, KeyedSampling, Limits, Request, sample, uniforms
from persuasion_rl.standin import END_OF_TEXT, pretrain_standin, train_tokenizer
from persuasion_rl.statistics import bootstrap_mean, wilson

SEED = 1
PROMPTS = 60
LIMITS = Limits(temperature=0.9, top_p=0.95, max_new_tokens=40, batch_size=16, redraws=0)


def make_tiny_base(folder: Path) -> Path:
    """A synthetic corpus, its sides, rows and pairs, and a stand-in base model, once for all tests."""
    from persuasion_rl.cmv import process_cmv
    from persuasion_rl.sides import assign_sides
    from persuasion_rl.synthesize import synthesize

    if (folder / "pairs.jsonl").is_file():
        return folder
    corpus, sides = folder / "corpus", folder / "sides.csv"
    synthesize(corpus=corpus, seed=3, threads=50, replies=4)
    assign_sides(
        corpora=[corpus], output=sides, duplicates=folder / "near_duplicates.json",
        seed=1, train=0.5, val=0.25, test=0.25,
    )  # fmt: skip
    pretrain_standin(
        corpora=[corpus],
        sides=sides,
        output=folder / "base",
        history=folder / "base" / "history.json",
        seed=SEED,
        threads=1,
        vocab_size=500,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_length=512,
        max_steps=40,
        per_device_train_batch_size=8,
        learning_rate=0.01,
    )
    process_cmv(
        corpora=[corpus],
        tokenizer=folder / "base" / "tokenizer.json",
        examples=folder / "examples.jsonl",
        pairs=folder / "pairs.jsonl",
        counts=folder / "counts.json",
        min_tokens=5,
        max_tokens=256,
        max_context_tokens=320,
        max_seq_length=512,
    )
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    return make_tiny_base(tmp_path_factory.getbasetemp() / "tiny_base")


@pytest.fixture(scope="module")
def tiny_model(tiny_base):
    return load_for_inference(tiny_base / "base", [], "cpu")


@pytest.fixture(scope="module")
def prompts(tiny_base) -> list[str]:
    """Prompts of very different lengths, so that batches need padding."""
    rows = [row["input_text"] for row in read_jsonl(tiny_base / "examples.jsonl")]
    whole = list(dict.fromkeys(rows))
    assert len(whole) >= PROMPTS - 20
    short = [render(f"Claim: CMV: {'no ' * i}cars", "cmv", "plain") for i in range(20)]
    return whole[: PROMPTS - 20] + short


def pool_rows(prompts: list[str]) -> list[dict]:
    return [
        {"prompt": prompt, "metadata": {"prompt_id": f"cmv-{i}", "conversation_id": f"t3_{i}"}}
        for i, prompt in enumerate(prompts)
    ]


def drawn(model, requests, limits=LIMITS, seed=SEED) -> dict[tuple[str, int], str]:
    llm, tokenizer, digest = model
    return {
        (request.prompt_id, request.sample): result.text
        for request, result in sample(llm, tokenizer, requests, limits, seed, digest)
    }


def with_batch_size(batch_size: int) -> Limits:
    return Limits(**{**vars(LIMITS), "batch_size": batch_size})


@pytest.fixture(scope="module")
def requests(prompts) -> list[Request]:
    return [Request(f"p{i}", prompt, n) for i, prompt in enumerate(prompts) for n in (1, 2)]


@pytest.fixture(scope="module")
def whole_draw(tiny_model, requests) -> dict[tuple[str, int], str]:
    return drawn(tiny_model, requests)


# The scripted model


def write_scripted_base(folder: Path, table: dict[str, dict[str, float]]) -> Path:
    """A Qwen2 model for which P(next token | last token) is `table`; "" stands for any other token.

    Attention and MLP add nothing; a token's embedding is the unit vector of its row in the table, and
    the head holds the logarithms.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = train_tokenizer(["Some text to learn from."], 300, folder)
    hidden = 8
    torch.manual_seed(0)  # the weights' digest is part of the noise's key
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=8,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    last_tokens = ["", *(token for token in table if token)]
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.zero_()
        embedding[:, 0] = 1.0
        head.fill_(-60.0 / math.sqrt(hidden))
        for row, last in enumerate(last_tokens):
            if last:
                embedding[tokenizer.convert_tokens_to_ids(last)] = torch.eye(hidden)[row]
            for token, probability in table[last].items():
                column = tokenizer.convert_tokens_to_ids(token)
                head[column, row] = math.log(probability) / math.sqrt(hidden)
    model.save_pretrained(folder)
    return folder


# Answers A and B end, C goes on for ever, and some responses end before they begin.
TROUBLE = {
    "": {"A": 0.35, "B": 0.25, "C": 0.2, END_OF_TEXT: 0.2},
    "A": {END_OF_TEXT: 1.0},
    "B": {END_OF_TEXT: 1.0},
    "C": {"C": 1.0},
}


@pytest.fixture(scope="module")
def troubled_base(tmp_path_factory) -> Path:
    return write_scripted_base(tmp_path_factory.mktemp("troubled"), TROUBLE)


@pytest.fixture(scope="module")
def troubled_model(troubled_base):
    return load_for_inference(troubled_base, [], "cpu")


def short_requests(count: int) -> list[Request]:
    return [Request(f"p{i}", "Hello" + "!" * (i % 7), 1) for i in range(count)]


# Noise


def test_noise_is_a_function_of_its_whole_key():
    key = (1, "digest", "cmv-t1_a", 1, 0)
    same = uniforms(50, *key)
    assert (uniforms(50, *key) == same).all()
    others = [
        (2, "digest", "cmv-t1_a", 1, 0),
        (1, "another", "cmv-t1_a", 1, 0),
        (1, "digest", "cmv-t1_b", 1, 0),
        (1, "digest", "cmv-t1_a", 2, 0),
        (1, "digest", "cmv-t1_a", 1, 1),
    ]
    for other in others:
        assert not (uniforms(50, *other) == same).any(), other


def test_noise_of_a_shorter_response_begins_like_that_of_a_longer_one():
    assert (uniforms(10, "key") == uniforms(100, "key")[:10]).all()


def test_noise_is_uniform_across_keys():
    first_numbers = np.array([uniforms(1, 1, "digest", f"p{i}", 1, 0)[0] for i in range(4000)])
    assert first_numbers.min() >= 0 and first_numbers.max() < 1
    counts = np.histogram(first_numbers, bins=20, range=(0, 1))[0]
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert chi_square < 50  # 19 degrees of freedom: P < .0002


# The processor

LOGITS = torch.tensor([0.3, 2.0, -1.0, 1.1, -4.0, 1.9, 0.0, -2.5])


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> np.ndarray:
    """The tempered nucleus, worked out one token at a time."""
    weights = [math.exp(logit / temperature) for logit in logits.tolist()]
    total, kept, mass = sum(weights), {}, 0.0
    for token in sorted(range(len(weights)), key=lambda t: -weights[t]):
        if mass >= top_p:
            break
        kept[token] = weights[token] / total
        mass += kept[token]
    return np.array([kept.get(token, 0.0) / mass for token in range(len(weights))])


def picks(logits: torch.Tensor, noise: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    processor = KeyedSampling(torch.from_numpy(noise)[:, None], 3, temperature, top_p)
    ids = torch.zeros((len(noise), 3), dtype=torch.long)
    scores = processor(ids, logits.expand(len(noise), -1).clone())
    assert ((scores == -torch.inf).sum(dim=1) == len(logits) - 1).all()
    return scores.argmax(dim=1).numpy()


@pytest.mark.parametrize(
    "temperature, top_p", [(0.7, 0.9), (1.0, 0.6), (1.5, 1.0), (0.7, 1.0), (0.3, 0.5)]
)
def test_tokens_follow_the_tempered_nucleus(temperature, top_p):
    expected = nucleus(LOGITS, temperature, top_p)
    count = 40_000
    found = picks(LOGITS, uniforms(count, "tokens", temperature, top_p), temperature, top_p)
    shares = np.bincount(found, minlength=len(LOGITS)) / count
    assert (shares[expected == 0] == 0).all()
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(shares - expected) <= 4.5 * deviation + 1e-9).all()


def test_extreme_noise_stays_inside_the_nucleus():
    inside = set(np.flatnonzero(nucleus(LOGITS, 0.7, 0.9)))
    assert len(LOGITS) - 1 not in inside and 0 not in inside
    largest = np.nextafter(1.0, 0.0)
    assert set(picks(LOGITS, np.array([0.0, largest]), 0.7, 0.9)) <= inside


def test_top_p_of_one_keeps_every_token():
    # Noise in the middle of each token's stretch of the distribution picks exactly that token.
    logits = 2.0 * torch.from_numpy(np.random.default_rng(0).standard_normal(500)).float()
    expected = nucleus(logits, 1.0, 2.0)
    middles = expected.cumsum() - expected / 2
    assert picks(logits, middles, 1.0, 1.0).tolist() == list(range(500))


def test_each_row_and_step_uses_its_own_noise():
    noise = torch.tensor([[0.01, 0.99], [0.99, 0.01]], dtype=torch.float64)
    uniform = torch.zeros((2, 10))
    processor = KeyedSampling(noise, 4, 1.0, 1.0)
    for step, expected in ((0, [0, 9]), (1, [9, 0])):
        ids = torch.zeros((2, 4 + step), dtype=torch.long)
        assert processor(ids, uniform.clone()).argmax(dim=1).tolist() == expected


# Samples of the scripted model


def test_responses_have_the_models_distribution(troubled_model):
    limits = Limits(1.0, 1.0, max_new_tokens=2, batch_size=500, redraws=0)
    count = 1500
    texts = Counter(drawn(troubled_model, short_requests(count), limits).values())
    for text, probability in {"A": 0.35, "B": 0.25, "CC": 0.2, "": 0.2}.items():
        deviation = math.sqrt(probability * (1 - probability) / count)
        assert abs(texts[text] / count - probability) < 4 * deviation, texts
    assert sum(texts.values()) == count


def test_a_cut_response_says_length_and_an_ended_one_stop(troubled_model):
    llm, tokenizer, digest = troubled_model
    limits = Limits(1.0, 1.0, max_new_tokens=5, batch_size=40, redraws=0)
    found = set()
    for _, result in sample(llm, tokenizer, short_requests(80), limits, SEED, digest):
        found.add((result.text, result.finish_reason, result.tokens, result.usable))
    assert found == {
        ("A", STOPPED, 2, True),
        ("B", STOPPED, 2, True),
        ("CCCCC", CUT, 5, False),
        ("", STOPPED, 1, False),
    }


def test_a_response_that_ends_at_the_limit_is_whole(troubled_model):
    llm, tokenizer, digest = troubled_model
    for limit, reasons in ((2, {STOPPED}), (1, {CUT})):
        limits = Limits(1.0, 1.0, max_new_tokens=limit, batch_size=40, redraws=0)
        results = [r for _, r in sample(llm, tokenizer, short_requests(60), limits, SEED, digest)]
        assert {r.finish_reason for r in results if r.text in ("A", "B")} == reasons


def test_unusable_responses_are_drawn_again_within_bounds(troubled_model):
    llm, tokenizer, digest = troubled_model
    done = []
    requests = short_requests(400)

    def run(redraws: int):
        limits = Limits(1.0, 1.0, max_new_tokens=3, batch_size=100, redraws=redraws)
        pairs = sample(llm, tokenizer, requests, limits, SEED, digest, done.append)
        return {request.prompt_id: result for request, result in pairs}

    once, thrice = run(0), run(2)
    assert sum(done) == 2 * len(requests)
    assert once.keys() == thrice.keys() == {request.prompt_id for request in requests}
    assert {result.draws for result in once.values()} == {1}
    assert {result.draws for result in thrice.values()} == {1, 2, 3}
    for prompt_id, result in thrice.items():
        assert (result.draws == 1) == once[prompt_id].usable
        if result.draws == 1:
            assert result == once[prompt_id]
        if not result.usable:
            assert result.draws == 3
    # Each draw fails with probability .4, and draws of one sample are independent of each other.
    for probability, share in (
        (0.4, np.mean([r.draws > 1 for r in thrice.values()])),
        (0.4**2, np.mean([r.draws > 2 for r in thrice.values()])),
        (0.4**3, np.mean([not r.usable for r in thrice.values()])),
    ):
        assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / 400)


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
    limits = Limits(1.0, 1.0, max_new_tokens=6, batch_size=50, redraws=0)
    texts = []
    for base in (plain, own):
        llm, tokenizer, _ = load_for_inference(base, [], "cpu")
        texts.append(drawn((llm, tokenizer, "digest"), short_requests(100), limits))
    assert texts[0] == texts[1]


# A sample is the same wherever it is drawn


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [7, 120])
def test_batch_size_leaves_the_text_as_it_is(batch_size, tiny_model, requests, whole_draw):
    again = drawn(tiny_model, requests, with_batch_size(batch_size))
    assert again.keys() == whole_draw.keys()
    differing = [key for key in again if again[key] != whole_draw[key]]
    assert len(differing) <= 1, differing
    assert len(set(whole_draw.values())) > 0.9 * len(requests)  # or there is nothing to tell apart


@pytest.mark.slow
def test_a_sample_drawn_alone_has_the_same_text(tiny_model, requests, whole_draw):
    some = requests[::10]
    alone = drawn(tiny_model, some, with_batch_size(1))
    assert sum(alone[key] != whole_draw[key] for key in alone) <= 1


@pytest.mark.slow
def test_order_of_requests_leaves_the_text_as_it_is(tiny_model, requests, whole_draw):
    backwards = drawn(tiny_model, requests[::-1])
    assert sum(backwards[key] != whole_draw[key] for key in whole_draw) <= 1


@pytest.mark.slow
def test_a_shard_draws_the_texts_that_the_whole_pool_does(tiny_model, requests, whole_draw):
    found = drawn(tiny_model, requests[:44]) | drawn(tiny_model, requests[44:])
    assert found.keys() == whole_draw.keys()
    assert sum(found[key] != whole_draw[key] for key in found) <= 1


@pytest.mark.slow
def test_another_seed_digest_or_sample_number_gives_another_text(tiny_model, requests, whole_draw):
    some = requests[:30]
    for other in (
        drawn(tiny_model, some, seed=SEED + 1),
        drawn((*tiny_model[:2], "another digest"), some),
    ):
        assert sum(other[key] == whole_draw[key] for key in other) <= 2
    twins = [whole_draw[r.prompt_id, 1] == whole_draw[r.prompt_id, 2] for r in requests[::2]]
    assert sum(twins) <= 2


# Pools


SAMPLING = dict(seed=SEED, threads=1, temperature=1.0, top_p=1.0, batch_size=16, device="cpu")


def respond(base: Path, folder: Path, pool: list[dict], **changed) -> list[dict]:
    write_jsonl(folder / "prompts.jsonl", pool)
    settings = SAMPLING | dict(start=0, rows=len(pool), max_new_tokens=4, redraws=0) | changed
    output = folder / f"shard_{settings['start']}_{settings['rows']}.jsonl"
    respond_to_pool(base=base, prompts=folder / "prompts.jsonl", output=output, **settings)
    return list(read_jsonl(output))


def short_pool(count: int) -> list[dict]:
    return pool_rows(["Hello" + "!" * (i % 7) for i in range(count)])


def test_unusable_pairs_are_excluded_with_the_reason(troubled_base, tmp_path):
    pool = short_pool(150)
    rows = respond(troubled_base, tmp_path, pool)
    assert [row["metadata"]["prompt_id"] for row in rows] == [f"cmv-{i}" for i in range(150)]
    by_reason = Counter()
    for row, asked in zip(rows, pool, strict=True):
        reason = row.get("excluded")
        by_reason[reason] += 1
        tokens = row["metadata"]["tokens"]
        if reason is None:
            assert row["prompt"] == asked["prompt"]
            assert {row["response_1"], row["response_2"]} == {"A", "B"}
        else:
            assert not row.keys() & {"prompt", "response_1", "response_2"}
        expected = {None: [2, 2], "identical": [2, 2]}
        if reason in expected:
            assert tokens == expected[reason]
        else:
            assert {"cut": 4, "empty": 1}[reason] in tokens
    assert by_reason.keys() == {None, "cut", "empty", "identical"}
    assert all(count >= 10 for count in by_reason.values())


def test_redraws_make_more_pairs_usable_and_are_counted(troubled_base, tmp_path):
    pool = short_pool(150)
    once = respond(troubled_base, tmp_path, pool)
    again = respond(troubled_base, tmp_path, pool, redraws=3)
    for before, after in zip(once, again, strict=True):
        if "excluded" not in before:
            assert after == before and after["metadata"]["draws"] == [1, 1]
        assert max(after["metadata"]["draws"]) <= (3 + 1) ** 2
    assert sum("excluded" in row for row in again) < sum("excluded" in row for row in once) / 3


def test_a_response_drawn_again_because_the_pair_was_identical_counts_its_draws(
    troubled_base, tmp_path
):
    pool = short_pool(150)
    once = respond(troubled_base, tmp_path, pool)
    again = respond(troubled_base, tmp_path, pool, redraws=3)
    identical = [
        after
        for before, after in zip(once, again, strict=True)
        if before.get("excluded") == "identical"
    ]
    assert len(identical) >= 10
    for row in identical:
        assert row["metadata"]["draws"][1] > 1, row


@pytest.mark.slow
def test_shards_of_another_size_make_the_same_pool(tiny_base, prompts, tmp_path):
    pool = pool_rows(prompts[:30])
    settings = dict(max_new_tokens=48, redraws=1, temperature=0.9, top_p=0.95)
    base = tiny_base / "base"
    whole = respond(base, tmp_path, pool, **settings)
    parts = [respond(base, tmp_path, pool, start=s, rows=13, **settings) for s in (0, 13, 26)]
    assert [len(part) for part in parts] == [13, 13, 4]
    joined = [row for part in parts for row in part]
    assert sum(one != other for one, other in zip(whole, joined, strict=True)) <= 1
    assert sum("excluded" not in row for row in whole) >= 3


def test_gathering_keeps_the_order_and_counts_what_was_excluded(tmp_path):
    rows = [
        {"prompt": "p", "response_1": "a", "response_2": "b", "metadata": {"prompt_id": i}}
        for i in range(6)
    ]
    rows[1] = {"excluded": "cut", "metadata": {"prompt_id": 1}}
    rows[4] = {"excluded": "identical", "metadata": {"prompt_id": 4}}
    rows[5] = {"excluded": "cut", "metadata": {"prompt_id": 5}}
    shards = [tmp_path / "b.jsonl", tmp_path / "a.jsonl"]
    write_jsonl(shards[0], rows[:4])
    write_jsonl(shards[1], rows[4:])
    output, counts = tmp_path / "pool.jsonl", tmp_path / "counts.json"
    returned = gather_pool(shards=shards, output=output, counts=counts)
    assert [row["metadata"]["prompt_id"] for row in read_jsonl(output)] == [0, 2, 3]
    assert returned == read_json(counts) == {"made": 3, "cut": 2, "identical": 1}


def test_a_pool_without_any_pair_is_refused_in_one_line(tmp_path):
    write_jsonl(tmp_path / "shard.jsonl", [{"excluded": "empty", "metadata": {}}])
    output = tmp_path / "pool.jsonl"
    with pytest.raises(UserError, match="no usable pair") as refusal:
        gather_pool(
            shards=[tmp_path / "shard.jsonl"], output=output, counts=tmp_path / "counts.json"
        )
    assert "\n" not in str(refusal.value)
    assert not output.exists()


# The evaluation


def loss_one_by_one(base: Path, rows: list[dict]) -> float:
    """Nats a token of the responses and their EOS, each row by itself, without padding."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    nats = tokens = 0
    for row in rows:
        prompt = tokenizer(row["input_text"])["input_ids"]
        response = [*tokenizer(row["response"])["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0]
        log_probabilities = logits.log_softmax(dim=-1)
        for position, token in enumerate(response, len(prompt)):
            nats -= log_probabilities[position - 1, token].item()
            tokens += 1
    return nats / tokens


@pytest.mark.slow
def test_the_evaluation_samples_once_and_measures_the_loss(tiny_base, prompts, tmp_path):
    held_out = list(islice(read_jsonl(tiny_base / "examples.jsonl"), 13))
    write_jsonl(tmp_path / "held_out.jsonl", held_out)
    pool = pool_rows(prompts[-12:] + prompts[:4])
    write_jsonl(tmp_path / "prompts.jsonl", pool)
    returned = respond_to_evaluation(
        base=tiny_base / "base",
        prompts=tmp_path / "prompts.jsonl",
        held_out=tmp_path / "held_out.jsonl",
        output=tmp_path / "responses.jsonl",
        loss=tmp_path / "loss.json",
        seed=SEED,
        threads=1,
        temperature=0.9,
        top_p=0.95,
        max_new_tokens=24,
        batch_size=5,
        device="cpu",
    )
    expected = loss_one_by_one(tiny_base / "base", held_out)
    loss = read_json(tmp_path / "loss.json")
    assert loss["rows"] == 13
    assert loss["validation_loss"] == returned["validation_loss"]
    assert abs(loss["validation_loss"] - expected) < 1e-4
    assert math.isclose(loss["perplexity"], math.exp(expected), rel_tol=1e-3)
    rows = list(read_jsonl(tmp_path / "responses.jsonl"))
    assert [row["metadata"]["prompt_id"] for row in rows] == [
        row["metadata"]["prompt_id"] for row in pool
    ]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in pool]
    cut = [row for row in rows if row["metadata"]["finish_reason"] == CUT]
    assert cut and all(row["metadata"]["tokens"] == 24 and row["response"] for row in cut)


def test_evaluation_and_pool_draw_first_samples_alike(troubled_base, tmp_path):
    pool = short_pool(120)
    rows = respond(troubled_base, tmp_path, pool, redraws=0)
    write_jsonl(tmp_path / "held_out.jsonl", [{"input_text": "Hello!", "response": "A"}])
    respond_to_evaluation(
        base=troubled_base,
        prompts=tmp_path / "prompts.jsonl",
        held_out=tmp_path / "held_out.jsonl",
        output=tmp_path / "responses.jsonl",
        loss=tmp_path / "loss.json",
        max_new_tokens=4,
        **SAMPLING,
    )
    evaluated = list(read_jsonl(tmp_path / "responses.jsonl"))
    made = [(one, other) for one, other in zip(rows, evaluated, strict=True) if "prompt" in one]
    assert len(made) > 5
    assert all(one["response_1"] == other["response"] for one, other in made)
    # P(A | prompt) is .35, and an A always ends.
    loss = read_json(tmp_path / "loss.json")["validation_loss"]
    assert abs(loss - -math.log(0.35) / 2) < 1e-3


def test_the_human_player_quotes_the_reply_to_each_prompt(tmp_path):
    held_out = [
        {"input_text": f"prompt {i}", "response": f"reply {i}", "metadata": {"response_tokens": i}}
        for i in range(5)
    ]
    write_jsonl(tmp_path / "held_out.jsonl", held_out)
    write_jsonl(tmp_path / "prompts.jsonl", pool_rows(["prompt 3", "prompt 1"]))
    output = tmp_path / "human.jsonl"
    count = quote_human(
        prompts=tmp_path / "prompts.jsonl", held_out=tmp_path / "held_out.jsonl", output=output
    )
    rows = list(read_jsonl(output))
    assert count == 2
    assert [(row["prompt"], row["response"]) for row in rows] == [
        ("prompt 3", "reply 3"),
        ("prompt 1", "reply 1"),
    ]
    assert rows[0]["metadata"] == {
        "prompt_id": "cmv-0",
        "conversation_id": "t3_0",
        "finish_reason": "stop",
        "tokens": 3,
    }


# Intervals


def clustered(rng, conversations: int, rows_each: int, within: float) -> tuple[list, list]:
    """Values around 0: conversations differ with variance 1, rows of one by `within` besides."""
    names = [f"c{i}" for i in range(conversations) for _ in range(rows_each)]
    shared = rng.standard_normal(conversations).repeat(rows_each)
    return (shared + within * rng.standard_normal(len(names))).tolist(), names


def test_the_estimate_is_the_plain_mean_inside_its_interval():
    values = [0.0, 1.0, 1.0, 0.5, 0.25, 1.0]
    found = bootstrap_mean(values, ["a", "a", "b", "c", "d", "d"], draws=500, seed=1)
    assert math.isclose(found.value, sum(values) / 6)
    assert 0 <= found.low < found.value < found.high <= 1
    assert found.columns("rate") == {"rate": found.value, "low": found.low, "high": found.high}


def test_equal_values_have_an_interval_of_no_width():
    found = bootstrap_mean([0.3] * 10, [f"c{i // 2}" for i in range(10)], draws=100, seed=1)
    assert all(math.isclose(number, 0.3) for number in (found.value, found.low, found.high))


def test_the_interval_is_a_function_of_the_seed():
    values, names = clustered(np.random.default_rng(0), 20, 3, 1.0)
    assert bootstrap_mean(values, names, 200, 1) == bootstrap_mean(values, names, 200, 1)
    one, other = (bootstrap_mean(values, names, 200, seed) for seed in (1, 2))
    assert one.value == other.value and one.low != other.low


def test_rows_of_one_conversation_widen_the_interval():
    values, names = clustered(np.random.default_rng(0), 40, 8, 0.1)
    together = bootstrap_mean(values, names, draws=1000, seed=1)
    apart = bootstrap_mean(values, [f"r{i}" for i in range(len(values))], draws=1000, seed=1)
    assert together.value == apart.value
    # Eight copies of nearly the same row tell as much as one: sqrt(8) = 2.8 times as wide.
    assert 2.2 < (together.high - together.low) / (apart.high - apart.low) < 3.4


def test_the_width_is_that_of_the_normal_interval():
    rng = np.random.default_rng(1)
    values = rng.standard_normal(400)
    found = bootstrap_mean(values.tolist(), [f"c{i}" for i in range(400)], draws=4000, seed=1)
    half = 1.96 * values.std() / math.sqrt(400)
    assert math.isclose(found.high - found.low, 2 * half, rel_tol=0.06)
    assert math.isclose(found.high + found.low, 2 * found.value, abs_tol=0.2 * half)


def test_95_percent_of_the_intervals_hold_the_truth():
    rng = np.random.default_rng(5)
    datasets = 400
    held = naive = 0
    for seed in range(datasets):
        values, names = clustered(rng, 40, 4, 0.5)
        found = bootstrap_mean(values, names, draws=400, seed=seed)
        held += found.low <= 0 <= found.high
        rows = bootstrap_mean(values, list(map(str, range(len(values)))), draws=200, seed=seed)
        naive += rows.low <= 0 <= rows.high
    # .95, less about .015 for 40 conversations, within four standard errors of a share of 400.
    assert 0.89 < held / datasets < 0.985
    assert naive / datasets < 0.8  # rows drawn one by one would claim too much


def test_a_share_of_few_trials_is_not_certain():
    """Wilson's interval, by its formula."""
    for right, trials in ((2, 2), (0, 3), (7, 10), (50, 100)):
        z, share = 1.959964, right / trials
        middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
        half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)  # fmt: skip
        found = wilson(share, trials)
        assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert wilson(1.0, 2).low < 0.35
