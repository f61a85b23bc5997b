"""Times ways to sample responses, in turns in one process: one prompt at a time, plain padded batches, ours, and llama.cpp.

python benchmarks/generation.py --study results/demo    # its model sft, on the prompts of its AI pool
python benchmarks/generation.py --study results/smollm2 --llama results/smollm2/exported/sft/sft.gguf
python benchmarks/generation.py --study results/demo --shape qwen2.5-0.5b --tokenizer FOLDER

With --shape the model has random weights and hardly ever ends a response by itself, so all are as long as the limit.
README.md beside this file tells what is measured, and has results.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from machine import commit, device_name
from training_material import MODELS

from persuasion_rl.files import UserError
from persuasion_rl.records import PoolRow, read_rows
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.study.names import BASE
from persuasion_rl.study.recorded import recorded_base, recorded_config

SEED = 1
AIMS = {"cpu": 5, "cuda": 20}
"""How many times as fast as one prompt at a time ours is meant to be, in responses a second."""


@dataclass
class Turn:
    """One way's turn: seconds, and the tokens of each response."""

    way: str
    seconds: float
    tokens: list[int]

    @property
    def responses_per_second(self) -> float:
        return len(self.tokens) / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return sum(self.tokens) / self.seconds


def compare(
    *,
    study: Path,
    model: str = "sft",
    shape: str = "",
    tokenizer: Path | None = None,
    prompts: int = 64,
    responses: int = 2,
    rounds: int = 3,
    temperature: float = 0.7,
    top_p: float = 0.9,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    threads: int = os.cpu_count() or 1,
    llama: list[Path] = [],
) -> None:
    """Time the ways on the same prompts, `responses` a prompt, and print a table.

    Args:
        study: a folder with config.yaml, the models and preferences/ai_pool_prompts.jsonl.
        model: a trained model of the study, or base.
        shape: a key of `training.MODELS`, for random weights of that shape and the tokenizer in the folder `tokenizer`.
        max_new_tokens: as the study has it, where none is given.
        batch_size: of the plain batches, of ours and of llama.cpp's.
        llama: GGUF files of that model, each a way of its own, in llama.cpp (llama-cpp-python).
    """
    from persuasion_rl.models.devices import peak_flops, pick_device, prepare_torch
    from persuasion_rl.sampling.engine import SamplingSettings
    from persuasion_rl.sampling.make import make_engine
    from persuasion_rl.sampling.request import Request

    config = recorded_config(study)
    max_new_tokens = max_new_tokens or config.sampling.max_new_tokens
    prepare_torch(threads, SEED, device)
    device = pick_device(device)
    pool = list(read_rows(study / "preferences/ai_pool_prompts.jsonl", PoolRow))[:prompts]
    requests = [
        Request(row["metadata"]["prompt_id"], row["prompt"], number)
        for row in pool
        for number in range(1, responses + 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        base = recorded_base(study, config)
        lineage = [study / f"models/{model}/adapter_model.safetensors"] if model != BASE else []
        if shape:
            base, lineage = random_model(Path(folder), shape, tokenizer), []
        engine = make_engine(
            SamplingSettings(
                model=model,
                temperature=temperature,
                top_p=top_p,
                max_new_tokens=max_new_tokens,
                seed=SEED,
                base=base,
                lineage=lineage,
                batch_size=batch_size,
                device=device,
            )
        )
        llm, texts = engine.load()
        sampling = dict(
            do_sample=True, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens
        )
        ways: dict[str, Callable[[list[Request]], list[int]]] = {
            "one at a time": lambda some: in_batches(llm, texts, some, 1, sampling),
            "plain batches": lambda some: in_batches(llm, texts, some, batch_size, sampling),
            "ours": lambda some: our_samples(engine, some),
        }
        for file in llama:
            from llama import Llama

            ids = engine.text_tokenizer.prompt_ids([row["prompt"] for row in pool])
            limits = dict(temperature=temperature, top_p=top_p)
            loaded = Llama(file, batch_size, max(map(len, ids)), max_new_tokens, limits, threads)
            ways[f"llama.cpp, {file.name}"] = lambda some, loaded=loaded: loaded.sample(
                engine.text_tokenizer.prompt_ids(list(dict.fromkeys(r.prompt for r in some))),
                responses,
            )
        for sample in ways.values():  # the first call of anything is slow
            sample(requests[:4])
        turns = [
            timed(way, sample, requests) for _ in range(rounds) for way, sample in ways.items()
        ]
        limit = Limit(llm, texts, requests, peak_flops(device), bandwidth(device))
    what = f"random weights of the shape {shape}" if shape else f"the model {model} of {study.name}"
    print(
        f"{device_name(device, threads)}; {date.today()}, commit {commit()}; torch {version('torch')},"
        f" transformers {version('transformers')}. {what}; {len(pool)} prompts x {responses}, at most"
        f" {max_new_tokens} tokens, {batch_size} at a time; {rounds} rounds\n"
    )
    print("\n".join(table(turns, limit, AIMS[device])))


def random_model(folder: Path, shape: str, tokenizer: Path | None) -> Path:
    """A base model with random weights."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    if tokenizer is None or shape not in MODELS:
        raise UserError(f"--shape: one of {', '.join(MODELS)}, with --tokenizer FOLDER")
    texts = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(SEED)
    config = Qwen2Config(**MODELS[shape], tie_word_embeddings=True, eos_token_id=texts.eos_token_id)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    texts.save_pretrained(folder)
    return folder


def in_batches(llm, texts, requests, size: int, sampling: dict) -> list[int]:
    """Tokens of each response, by `generate` with its own sampling, in the order of the requests."""
    tokens = []
    end_tokens = llm.generation_config.eos_token_id
    for start in range(0, len(requests), size):
        batch = [request.prompt for request in requests[start : start + size]]
        inputs = texts(batch, return_tensors="pt", padding=True, padding_side="left").to(llm.device)
        output = llm.generate(**inputs, **sampling)[:, inputs["input_ids"].shape[1] :]
        texts.batch_decode(output, skip_special_tokens=True)
        for ids in output.tolist():
            last = len(ids) - 1
            end = next((place for place, token in enumerate(ids) if token in end_tokens), last)
            tokens.append(end + 1)
    return tokens


def our_samples(engine, requests) -> list[int]:
    tokens = {request: sample.tokens for request, sample in engine.sample(requests)}
    return [tokens[request] for request in requests]


def timed(way: str, sample: Callable, requests: list) -> Turn:
    started = time.perf_counter()
    tokens = sample(requests)
    turn = Turn(way, time.perf_counter() - started, tokens)
    note(f"{way}: {turn.responses_per_second:.2f} responses/s")
    return turn


def bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes, measured here and now."""
    import torch

    source = torch.ones((2 if device == "cuda" else 1) * 2**28, device=device)
    target = torch.empty_like(source)
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    best = float("inf")
    for _ in range(5):
        finish()
        started = time.perf_counter()
        target.copy_(source)
        finish()
        best = min(best, time.perf_counter() - started)
    return 2 * source.nbytes / best


class Limit:
    """The shortest time that the device lets samples take: that of their floating-point operations or of the bytes
    that must be read, whichever is longer.

    Each distinct prompt is computed once; each step reads the weights once for all responses at once, and the keys and
    values of what each response attends to.
    """

    def __init__(self, llm, texts, requests, flops: float, bytes_per_second: float):
        config = llm.config
        self.flops, self.bytes_per_second = flops, bytes_per_second
        self.head = config.vocab_size * config.hidden_size
        self.body = sum(weight.numel() for weight in llm.model.layers.parameters())
        width = next(llm.parameters()).element_size()
        heads = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
        self.cache_per_token = 2 * config.num_hidden_layers * heads * width
        self.attention = 4 * config.num_hidden_layers * config.hidden_size
        self.weights = (self.body + self.head) * width
        self.prompts = [len(texts(text)["input_ids"]) for text in {r.prompt for r in requests}]
        self.prompt_of = [len(texts(request.prompt)["input_ids"]) for request in requests]

    def seconds(self, tokens: list[int]) -> float:
        attended = sum(n * n / 2 for n in self.prompts)
        read = 0.0
        for prompt, count in zip(self.prompt_of, tokens, strict=True):
            seen = count * prompt + count * count / 2
            attended += seen
            read += seen * self.cache_per_token
        body = 2 * self.body * (sum(self.prompts) + sum(tokens))
        work = body + 2 * self.head * sum(tokens) + self.attention * attended
        moved = read + self.weights * max(tokens)
        return max(work / self.flops, moved / self.bytes_per_second)


def table(turns: list[Turn], limit: Limit, aim: float):
    """Medians over the rounds, and how many times as fast as another way ours was in its round."""
    by_way: dict[str, list[Turn]] = {}
    for turn in turns:
        by_way.setdefault(turn.way, []).append(turn)
    yield "| way | responses/s | tokens/s | share of the limit | ours is faster by (range) | aim |"
    yield "|---|---:|---:|---:|---:|---:|"
    for way, own in by_way.items():
        ratios = [
            ours.responses_per_second / other.responses_per_second
            for ours, other in zip(by_way["ours"], own, strict=True)
        ]
        faster = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        cells = [
            way,
            f"{statistics.median(turn.responses_per_second for turn in own):.2f}",
            f"{statistics.median(turn.tokens_per_second for turn in own):,.0f}",
            f"{statistics.median(limit.seconds(t.tokens) / t.seconds for t in own):.1%}",
            "" if way == "ours" else faster,
            f"{aim}" if way == "one at a time" else "",
        ]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    stage(compare)
