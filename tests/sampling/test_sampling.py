"""The noise of a sample and the token that it picks. Also the models that other tests sample from.

The *scripted* model is a real Qwen2 whose weights spell out a table: which token follows which, and with
what probability. So the right distribution, empty responses and endless ones are known beforehand.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from persuasion_rl.data.prompts import render
from persuasion_rl.files import read_jsonl
from persuasion_rl.sampling.engine import Engine, Settings, make_engine
from persuasion_rl.sampling.noise import (
    NUCLEUS,
    KeyedSampling,
    Limits,
    Request,
    picked,
    step_seeds,
    uniforms,
)
from persuasion_rl.training.standin import END_OF_TEXT, pretrain_standin, train_tokenizer

SEED = 1
PROMPTS = 60
LIMITS = Limits(temperature=0.9, top_p=0.95, max_new_tokens=40)


def make_tiny_base(folder: Path) -> Path:
    """A synthetic corpus, its sides, rows and pairs, and a stand-in base model, once for all tests."""
    from persuasion_rl.data.cmv import process_cmv
    from persuasion_rl.data.examples import Budget
    from persuasion_rl.data.sides import Shares, assign_sides
    from persuasion_rl.data.synthetic.synthesize import synthesize_corpus

    if (folder / "pairs.jsonl").is_file():
        return folder
    corpus, sides = folder / "corpus", folder / "sides.csv"
    synthesize_corpus(corpus=corpus, seed=3, threads=50, replies=4)
    assign_sides(
        corpora=[corpus], output=sides, duplicates=folder / "near_duplicates.json",
        seed=1, shares=Shares(0.5, 0.25, 0.25),
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
        budget=Budget(min_tokens=5, max_tokens=256, max_context_tokens=320, max_seq_length=512),
    )
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    return make_tiny_base(tmp_path_factory.getbasetemp() / "tiny_base")


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


def engine_of(base: Path, limits: Limits = LIMITS, seed: int = SEED, **more) -> Engine:
    """The engine that a CPU gets, of a base model."""
    more = {"lineage": [], "model": "base", "device": "cpu"} | more
    return make_engine("transformers", Settings(base, limits=limits, seed=seed, **more))


def texts(engine: Engine, requests: list[Request]) -> dict[tuple[str, int], str]:
    return {(r.prompt_id, r.sample): result.text for r, result in engine.draw(requests)}


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


def short_requests(count: int) -> list[Request]:
    return [Request(f"p{i}", "Hello" + "!" * (i % 7), 1) for i in range(count)]


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
    found = uniforms(seeds, torch.arange(400).expand(400, -1)).numpy()
    assert found.min() > 0 and found.max() < 1
    assert len(np.unique(found)) == found.size
    counts = np.histogram(found, bins=20, range=(0, 1))[0]
    chi_square = ((counts - 8000) ** 2 / 8000).sum()
    assert chi_square < 50  # 19 degrees of freedom: P < .0002
    centred = found - 0.5
    for neighbours in (centred[:-1] * centred[1:], centred[:, :-1] * centred[:, 1:]):
        # Products of independent numbers: mean 0, variance 1/144.
        assert abs(neighbours.mean()) < 4.5 / 12 / math.sqrt(neighbours.size)


def test_consecutive_seeds_and_tokens_share_nothing():
    seeds = torch.arange(-200, 200, dtype=torch.int32)[:, None]
    found = uniforms(seeds, torch.arange(400).expand(400, -1)).numpy() - 0.5
    correlations = np.corrcoef(found) - np.eye(400)
    assert abs(correlations).max() < 6 / math.sqrt(400)


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


def picks(logits: torch.Tensor, seeds: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    processor = KeyedSampling(torch.from_numpy(seeds)[:, None], 3, Limits(temperature, top_p, 1))
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
    found = picks(LOGITS, step_seeds(count, "tokens", temperature, top_p), temperature, top_p)
    shares = np.bincount(found, minlength=len(LOGITS)) / count
    assert (shares[expected == 0] == 0).all()
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(shares - expected) <= 4.5 * deviation + 1e-9).all()


def test_each_row_and_step_uses_its_own_seed():
    seeds = torch.from_numpy(step_seeds(12, "rows and steps")).reshape(3, 4)
    flat = torch.zeros((3, 1000))
    processor = KeyedSampling(seeds, 4, Limits(1.0, 1.0, 4))
    for step in range(4):
        ids = torch.zeros((3, 4 + step), dtype=torch.long)
        alone = [
            picks(flat[0], seeds[row, step : step + 1].numpy(), 1.0, 1.0)[0] for row in range(3)
        ]
        assert processor(ids, flat.clone()).argmax(dim=1).tolist() == alone


def test_a_small_change_of_the_logits_changes_hardly_any_pick():
    """Which is what a batch does to them."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn((20_000, 300), generator=generator)
    seeds = torch.from_numpy(step_seeds(20_000, "near-ties"))
    before = picked(logits, seeds, 1.0, 0.95)
    after = picked(logits + 1e-5 * torch.randn(logits.shape, generator=generator), seeds, 1.0, 0.95)
    assert (before != after).float().mean() < 2e-4


@pytest.mark.parametrize("spread, top_p", [(4.0, 0.9), (0.01, 0.9), (4.0, 1.0)])
def test_the_largest_tokens_of_a_large_vocabulary_are_enough_or_all_are_taken(
    spread, top_p, monkeypatch
):
    """With a flat distribution (the second) the nucleus is larger than what is looked at first."""
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn((40, 100 * NUCLEUS), generator=generator)
    seeds = torch.from_numpy(step_seeds(40, "large vocabulary"))
    found = picked(logits, seeds, 1.0, top_p)
    monkeypatch.setattr("persuasion_rl.sampling.noise.NUCLEUS", logits.shape[-1])
    assert torch.equal(found, picked(logits, seeds, 1.0, top_p))
