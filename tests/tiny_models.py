"""Tiny models that the tests sample from and train on, and rows to sample for.

The *scripted* model is a real Qwen2 whose weights spell out a table: which token follows which, and with
what probability. So the right distribution, empty responses and endless ones are known beforehand.
"""

import math
from pathlib import Path

import torch

from persuasion_rl.sampling.engine import Engine, SamplingSettings
from persuasion_rl.sampling.make import make_engine
from persuasion_rl.sampling.request import Limits, Request
from persuasion_rl.training.standin import END_OF_TEXT, pretrain_standin, train_tokenizer

SEED = 1
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


def write_scripted_base(
    folder: Path, table: dict[str, dict[str, float]], special: tuple[str, ...] = ()
) -> Path:
    """A Qwen2 model for which P(next token | last token) is `table`; "" stands for any other token.

    Attention and MLP add nothing; a token's embedding is the unit vector of its row in the table, and
    the head holds the logarithms.

    Args:
        special: more special tokens of its tokenizer.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = train_tokenizer(["Some text to learn from."], 300, folder)
    tokenizer.add_tokens([*special], special_tokens=True)
    tokenizer.save_pretrained(folder)
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


def pool_rows(prompts: list[str]) -> list[dict]:
    """PoolRows of prompts."""
    return [
        {
            "prompt": prompt,
            "metadata": {"prompt_id": f"cmv-{i}", "conversation_id": f"t3_{i}", "source": "cmv"},
        }
        for i, prompt in enumerate(prompts)
    ]


def sft_row(prompt: str, response: str, tokens: int = 3) -> dict:
    """An SftRow; only the number of tokens of its metadata matters."""
    return {
        "input_text": prompt,
        "full_text": prompt + response,
        "response": response,
        "metadata": {
            "source": "cmv",
            "conversation_id": "t3_a",
            "utterance_id": "t1_a",
            "reply_to": "t3_a",
            "response_tokens": tokens,
            "context_tokens": 3,
            "context_cut": False,
        },
    }


def sampling_settings(
    base: Path | None, limits: Limits = LIMITS, seed: int = SEED, **changed
) -> SamplingSettings:
    """Settings of a base model on the CPU."""
    return SamplingSettings(
        **{"model": "base", "base": base, "seed": seed, "device": "cpu"} | vars(limits) | changed
    )


def engine_of(base: Path | None, limits: Limits = LIMITS, seed: int = SEED, **changed) -> Engine:
    """The engine of a base model; the default engine of a CPU without `engine=`."""
    return make_engine(sampling_settings(base, limits, seed, **changed))


def sampled_texts(engine: Engine, requests: list[Request]) -> dict[tuple[str, int], str]:
    """(prompt id, sample number) -> text."""
    return {
        (request.prompt_id, request.sample_number): sample.text
        for request, sample in engine.sample(requests)
    }


def short_requests(count: int) -> list[Request]:
    return [Request(f"p{i}", "Hello" + "!" * (i % 7), 1) for i in range(count)]
