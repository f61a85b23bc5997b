"""Makes the pairs of a pool from its sampled responses."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from persuasion_rl.files import UserError, write_json, write_jsonl
from persuasion_rl.records import ResponsePair, SampledRow, read_rows
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.sampling.faults import MADE, faults_of, outcome


def gather_responses(*, shards: list[Path], output: Path, counts: Path) -> dict[str, int]:
    """Write every pair of usable responses to a prompt (as Ouyang et al. 2022), in the order of the shards.

    A row is a ResponsePair: {"prompt", "response_1", "response_2", "metadata": {..., "samples": their numbers, "tokens",
    "draws", "finish_reasons"}}.

    Args:
        shards: SampledRows.
        counts: the file for the numbers of prompts with a pair ("made") and without one, by fault.
    Returns:
        the content of `counts`.
    Raises:
        UserError: no prompt has a pair.
    """
    prompts = [row for shard in shards for row in read_rows(shard, SampledRow)]
    outcomes = dict(Counter(outcome(row["responses"]) for row in prompts))
    if MADE not in outcomes:
        raise UserError(
            f"{output}: no usable pair of responses among {len(prompts)} prompts: {outcomes}"
        )
    pairs = write_jsonl(output, (pair for row in prompts for pair in _pairs_of(row)))
    write_json(counts, outcomes)
    note(f"{output.name}: {pairs:,} pairs; prompts: {outcomes}")
    return outcomes


def _pairs_of(row: SampledRow) -> Iterator[ResponsePair]:
    """Every two usable responses of one prompt."""
    faults = faults_of(row["responses"])
    usable = [
        (number, response)
        for number, (response, fault) in enumerate(zip(row["responses"], faults, strict=True), 1)
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


if __name__ == "__main__":
    stage(gather_responses)
