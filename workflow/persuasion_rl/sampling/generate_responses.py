"""Samples two responses or more to each prompt of a preference pool."""

from collections import Counter
from pathlib import Path

from persuasion_rl.files import write_jsonl
from persuasion_rl.records import PoolRow, SampledRow, read_rows
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.sampling.engine import SamplingSettings
from persuasion_rl.sampling.faults import outcome
from persuasion_rl.sampling.responses import sample_responses


def generate_responses(
    *,
    sampling: SamplingSettings,
    prompts: Path,
    output: Path,
    state: Path,
    start: int,
    rows: int,
    responses: int,
    redraws: int,
) -> dict[str, int]:
    """Sample `responses` responses to each of the prompts `start` to `start + rows` (a shard of a pool).

    Writes a SampledRow for each prompt: {"prompt", "responses": [{"text", "tokens", "finish_reason", "draws"}, ...],
    "metadata": {..., "model_digest", "engine", "reproducible"}}. A response that is empty, cut, withheld by a server, or
    equal to an earlier one of its prompt is sampled again up to `redraws` times, then left as it is;
    `gather_responses` drops it.

    Args:
        prompts: PoolRows of the whole pool.
        state: a folder where samples outlive a killed job.
    Returns:
        the numbers of prompts with a pair of usable responses ("made") and without one, by fault.
    """
    pool = list(read_rows(prompts, PoolRow))[start : start + rows]
    if not pool:  # the plan has more shards than the data filled
        write_jsonl(output, [])
        return {}
    texts = {row["metadata"]["prompt_id"]: row["prompt"] for row in pool}
    by_prompt, origin = sample_responses(sampling, state, texts, responses, redraws)
    shard: list[SampledRow] = [
        {
            "prompt": row["prompt"],
            "responses": by_prompt[row["metadata"]["prompt_id"]],
            "metadata": row["metadata"] | origin,
        }
        for row in pool
    ]
    write_jsonl(output, shard)
    counts = dict(Counter(outcome(row["responses"]) for row in shard))
    note(f"{output.name}: {counts}")
    return counts


if __name__ == "__main__":
    stage(generate_responses)
