"""What becomes of sampled responses: the pairs of a pool; and people's replies as a player of the evaluation."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from persuasion_rl.files import UserError, read_jsonl, write_json, write_jsonl
from persuasion_rl.runtime.command import note, stage

STOPPED, CUT = "stop", "length"
"""Finish reasons: the model ended its response, or the limit cut it."""
FILTERED, REFUSED, REJECTED = "content_filter", "refusal", "rejected"
"""Of servers: a filter or the model kept the response back, or the request was not taken. There is no text then."""
UNTOLD = "untold"
"""Of a server that gives no finish reason."""


def faults(responses: list[dict]) -> list[str | None]:
    """What keeps each response of a prompt from being used: "cut", "empty", "identical" to one before, the finish
    reason where it is another one, or None."""
    found, seen = [], set()
    for response in responses:
        reason = response["finish_reason"]
        if reason != STOPPED:
            found.append("cut" if reason == CUT else reason)
        elif not response["text"]:
            found.append("empty")
        else:
            found.append("identical" if response["text"] in seen else None)
            seen.add(response["text"])
    return found


def outcome(responses: list[dict]) -> str:
    """ "made" where a prompt has a pair of usable responses, else the first fault among them."""
    found = faults(responses)
    return "made" if found.count(None) > 1 else next(fault for fault in found if fault)


def gather_pool(*, shards: list[Path], output: Path, counts: Path) -> dict[str, int]:
    """Write every pair of a prompt's usable responses (as Ouyang et al. 2022), in the shards' order.

    One row: {"prompt", "response_1", "response_2", "metadata": {..., "samples": their numbers, "tokens", "draws",
    "finish_reasons"}}. `counts` gets how many prompts have a pair, and of the others how many for each fault.
    """
    prompts = [row for shard in shards for row in read_jsonl(shard)]
    found = Counter(outcome(row["responses"]) for row in prompts)
    if not found["made"]:
        raise UserError(
            f"{output}: no usable pair of responses among {len(prompts)} prompts: {dict(found)}"
        )
    pairs = write_jsonl(output, (pair for row in prompts for pair in _pairs(row)))
    write_json(counts, dict(found))
    note(f"{output.name}: {pairs:,} pairs; prompts: {dict(found)}")
    return dict(found)


def _pairs(row: dict) -> Iterator[dict]:
    """The pool's rows of one prompt."""
    found = faults(row["responses"])
    usable = [
        (number, response)
        for number, (response, fault) in enumerate(zip(row["responses"], found, strict=True), 1)
        if fault is None
    ]
    for (one, first), (other, second) in combinations(usable, 2):
        yield {
            "prompt": row["prompt"],
            "response_1": first["text"],
            "response_2": second["text"],
            "metadata": row["metadata"]
            | {
                "samples": [one, other],
                "tokens": [first["tokens"], second["tokens"]],
                "draws": [first["draws"], second["draws"]],
                "finish_reasons": [first["finish_reason"], second["finish_reason"]],
            },
        }


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
    stage(gather_pool, quote_human)
