"""Lets a model answer prompts: two responses a prompt for a preference pool, one for the evaluation."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

from persuasion_rl.command import note, stage
from persuasion_rl.devices import pick_device, prepare_torch
from persuasion_rl.files import UserError, read_jsonl, write_json, write_jsonl
from persuasion_rl.models import load_for_inference
from persuasion_rl.sampling import Limits, Request, Sample, sample


def _sampled(
    model, tokenizer, digest, requests: list[Request], limits: Limits, seed: int, what: str
):
    """All samples, keyed by (prompt id, sample number), with a progress bar."""
    from tqdm import tqdm

    with tqdm(total=len(requests), desc=what, unit="sample") as bar:
        drawn = sample(model, tokenizer, requests, limits, seed, digest, bar.update)
        return {(request.prompt_id, request.sample): result for request, result in drawn}


def respond_to_pool(
    *,
    base: Path,
    prompts: Path,
    output: Path,
    start: int,
    rows: int,
    seed: int,
    threads: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    batch_size: int,
    redraws: int,
    device: str = "auto",
    trust_remote_code: bool = False,
    lineage: list[Path] = [],
) -> dict[str, int]:
    """Sample two responses to each of the prompts `start` to `start + rows` (a shard of a pool).

    One row: {"prompt", "response_1", "response_2", "metadata": {..., "model_digest", "tokens",
    "draws"}}. Empty and cut responses are drawn again up to `redraws` times, and so is a second response
    that equals the first; what is still unusable is written as {"excluded": reason, "metadata"}.
    """
    prepare_torch(threads, seed)
    pool = list(read_jsonl(prompts))[start : start + rows]
    if not pool:  # the plan was larger than the data
        write_jsonl(output, [])
        return {}
    limits = Limits(temperature, top_p, max_new_tokens, batch_size, redraws)
    model, tokenizer, digest = load_for_inference(
        base, lineage, pick_device(device), trust_remote_code
    )
    ids = [row["metadata"]["prompt_id"] for row in pool]
    requests = [
        Request(id_, row["prompt"], number)
        for id_, row in zip(ids, pool, strict=True)
        for number in (1, 2)
    ]
    drawn = _sampled(model, tokenizer, digest, requests, limits, seed, "responses")
    for attempt in range(redraws):
        same = [
            Request(id_, row["prompt"], 3 + attempt)
            for id_, row in zip(ids, pool, strict=True)
            if drawn[id_, 1].usable and drawn[id_, 1].text == drawn[id_, 2].text
        ]
        if not same:
            break
        again = _sampled(model, tokenizer, digest, same, limits, seed, "identical pairs")
        for (id_, _), result in again.items():
            drawn[id_, 2] = replace(result, draws=drawn[id_, 2].draws + result.draws)
    made = [
        _pool_row(row, drawn[id_, 1], drawn[id_, 2], digest)
        for id_, row in zip(ids, pool, strict=True)
    ]
    write_jsonl(output, made)
    counts = Counter(row.get("excluded", "made") for row in made)
    note(f"{output.name}: {dict(counts)}")
    return dict(counts)


def _pool_row(row: dict, first: Sample, second: Sample, digest: str) -> dict:
    metadata = row["metadata"] | {
        "model_digest": digest,
        "tokens": [first.tokens, second.tokens],
        "draws": [first.draws, second.draws],
    }
    for response in (first, second):
        if not response.usable:
            return {"excluded": "cut" if response.text else "empty", "metadata": metadata}
    if first.text == second.text:
        return {"excluded": "identical", "metadata": metadata}
    return {
        "prompt": row["prompt"],
        "response_1": first.text,
        "response_2": second.text,
        "metadata": metadata,
    }


def gather_pool(*, shards: list[Path], output: Path, counts: Path) -> dict[str, int]:
    """Join the shards of a pool in order, without the rows that were excluded; count those by reason."""
    rows = [row for shard in shards for row in read_jsonl(shard)]
    found = Counter(row.get("excluded", "made") for row in rows)
    if not found["made"]:
        raise UserError(f"{output}: no usable pair of responses among {len(rows)} prompts: {found}")
    write_jsonl(output, (row for row in rows if "excluded" not in row))
    write_json(counts, dict(found))
    note(f"{output.name}: {dict(found)}")
    return dict(found)


def respond_to_evaluation(
    *,
    base: Path,
    prompts: Path,
    held_out: Path,
    output: Path,
    loss: Path,
    seed: int,
    threads: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    batch_size: int,
    device: str = "auto",
    trust_remote_code: bool = False,
    lineage: list[Path] = [],
) -> dict[str, float]:
    """Sample one response a prompt, nothing drawn again, and measure the loss on human replies.

    One row: {"prompt", "response", "metadata": {..., "finish_reason", "tokens", "model_digest"}}. `loss`
    gets {"validation_loss": nats a token of the replies in `held_out` (SFT rows), "rows"}.
    """
    prepare_torch(threads, seed)
    pool = list(read_jsonl(prompts))
    model, tokenizer, digest = load_for_inference(
        base, lineage, pick_device(device), trust_remote_code
    )
    limits = Limits(temperature, top_p, max_new_tokens, batch_size, redraws=0)
    requests = [Request(row["metadata"]["prompt_id"], row["prompt"], 1) for row in pool]
    drawn = _sampled(model, tokenizer, digest, requests, limits, seed, "evaluation")
    rows = []
    for row in pool:
        result = drawn[row["metadata"]["prompt_id"], 1]
        metadata = row["metadata"] | {
            "finish_reason": result.finish_reason,
            "tokens": result.tokens,
            "model_digest": digest,
        }
        rows.append({"prompt": row["prompt"], "response": result.text, "metadata": metadata})
    write_jsonl(output, rows)
    human = [(row["input_text"], row["response"]) for row in read_jsonl(held_out)]
    nats = response_loss(model, tokenizer, human)
    write_json(loss, {"validation_loss": nats, "perplexity": math.exp(nats), "rows": len(human)})
    return {"validation_loss": nats}


LOSS_TOKENS = 4096
"""Tokens of a batch when the loss is measured: the logits of a large vocabulary fill a GPU."""


def response_loss(model, tokenizer, rows: list[tuple[str, str]]) -> float:
    """Mean negative log-likelihood, in nats a token, of the responses (EOS included) given their prompts."""
    import torch
    from tqdm import tqdm

    prompts = tokenizer([prompt for prompt, _ in rows])["input_ids"]
    responses = tokenizer([response + tokenizer.eos_token for _, response in rows])["input_ids"]
    pairs = sorted(zip(prompts, responses, strict=True), key=lambda pair: -len(pair[0] + pair[1]))
    total = tokens = 0.0
    with tqdm(total=len(pairs), desc="loss", unit="row") as bar:
        while pairs:
            width = len(pairs[0][0] + pairs[0][1])
            size = max(1, LOSS_TOKENS // width)
            batch, pairs = pairs[:size], pairs[size:]
            ids = torch.full((len(batch), width), tokenizer.pad_token_id)
            supervised = torch.zeros((len(batch), width), dtype=torch.bool)
            for i, (prompt, response) in enumerate(batch):
                ids[i, : len(prompt) + len(response)] = torch.tensor(prompt + response)
                supervised[i, len(prompt) : len(prompt) + len(response)] = True
            ids, supervised = ids.to(model.device), supervised.to(model.device)[:, 1:]
            with torch.inference_mode():
                # Padding follows the responses, so causal attention never sees it.
                logits = model(input_ids=ids).logits[:, :-1][supervised].float()
            total += torch.nn.functional.cross_entropy(
                logits, ids[:, 1:][supervised], reduction="sum"
            ).item()
            tokens += supervised.sum().item()
            bar.update(len(batch))
    return total / tokens


def quote_human(*, prompts: Path, held_out: Path, output: Path) -> int:
    """The human winning reply to each prompt of the evaluation, as a player's responses."""
    replies = {row["input_text"]: row for row in read_jsonl(held_out)}
    rows = []
    for row in read_jsonl(prompts):
        reply = replies[row["prompt"]]
        metadata = row["metadata"] | {
            "finish_reason": "stop",
            "tokens": reply["metadata"]["response_tokens"],
        }
        rows.append({"prompt": row["prompt"], "response": reply["response"], "metadata": metadata})
    return write_jsonl(output, rows)


if __name__ == "__main__":
    stage(respond_to_pool, gather_pool, respond_to_evaluation, quote_human)
