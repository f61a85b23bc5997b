"""From examples and sides to SFT rows and to the prompts of the three pools.

The sizes are a plan; where the data is smaller, a part has what there is, and `summary.json` holds both
numbers. The human pool and the final evaluation come from the test side
only; the AI pool is the rest of it and, with `use_val_set`, all of validation. No conversation and no
cluster of near-duplicates is in two pools.
"""

from collections import defaultdict
from pathlib import Path

from persuasion_rl.command import note, stage
from persuasion_rl.files import (
    UserError,
    keyed_number,
    read_csv,
    read_jsonl,
    write_json,
    write_jsonl,
)
from persuasion_rl.sides import SIDES

POOLS = ("ai", "human", "final_eval")


def one_row_a_prompt(rows: list[dict], seed: int) -> list[dict]:
    """Of rows with the same prompt, the one that a number keyed by (seed, its id) picks."""
    chosen: dict[str, dict] = {}
    for row in rows:
        other = chosen.get(row["input_text"])
        if other is None or _key(seed, row) < _key(seed, other):
            chosen[row["input_text"]] = row
    return list(chosen.values())


def _key(seed: int, row: dict) -> float:
    return keyed_number("split", seed, row["metadata"]["source"], row["metadata"]["utterance_id"])


def pools_of_test(
    prompts: list[dict], cluster_of: dict[str, str], human: int, final_eval: int, seed: int
) -> dict[str, list[dict]]:
    """Deal the test side's prompts, cluster by cluster: final evaluation, then humans, then AI.

    Where the test side is smaller than human + final_eval, both shrink in proportion.
    """
    factor = min(1.0, len(prompts) / max(1, human + final_eval))
    room = {"final_eval": int(final_eval * factor), "human": int(human * factor)}
    pools: dict[str, list[dict]] = {pool: [] for pool in POOLS}
    members: dict[str, list[dict]] = defaultdict(list)
    for row in prompts:
        members[cluster_of[row["metadata"]["conversation_id"]]].append(row)
    for cluster in sorted(members, key=lambda c: keyed_number("pool", seed, c)):
        rows = members[cluster]
        fitting = (p for p in ("final_eval", "human") if len(pools[p]) + len(rows) <= room[p])
        pools[next(fitting, "ai")] += rows
    return pools


def pool_row(row: dict) -> dict:
    """A pool's row: {"prompt", "metadata": {"prompt_id", "conversation_id", "source"}}."""
    metadata = row["metadata"]
    return {
        "prompt": row["input_text"],
        "metadata": {
            "prompt_id": f"{metadata['source']}-{metadata['utterance_id']}",
            "conversation_id": metadata["conversation_id"],
            "source": metadata["source"],
        },
    }


def split(
    *,
    examples: list[Path],
    sides: Path,
    sft_train: Path,
    sft_val: Path,
    sft_test: Path,
    ai_pool: Path,
    human_pool: Path,
    final_eval: Path,
    summary: Path,
    seed: int,
    train: int,
    val: int,
    test: int,
    use_val_set: bool,
    ai_pool_size: int,
    human_pool_size: int,
    final_eval_size: int,
    pool_source: str = "cmv",
) -> dict:
    """Write the SFT rows of the three sides, the prompts of the three pools, and a summary.

    Args:
        train, val, test: the plan's number of rows; val and test have one row a prompt.
        pool_source: the source ("cmv" or "p4g") whose prompts the pools hold.
    """
    side_of, cluster_of = {}, {}
    for line in read_csv(sides):
        side_of[line["conversation_id"]] = line["side"]
        cluster_of[line["conversation_id"]] = line["cluster"]
    rows: dict[str, list[dict]] = {side: [] for side in SIDES}
    for path in examples:
        for row in read_jsonl(path):
            if not row["response"].strip():
                raise UserError(f"{path}: {row['metadata']['utterance_id']} has an empty response")
            conversation = row["metadata"]["conversation_id"]
            if conversation not in side_of:
                raise UserError(f"{path}: conversation {conversation} is not in {sides}")
            rows[side_of[conversation]].append(row)
    for side in ("val", "test"):
        rows[side] = one_row_a_prompt(rows[side], seed)
    available = {side: len(rows[side]) for side in SIDES}
    plan = {"train": train, "val": val, "test": test}
    chosen = {
        side: sorted(rows[side], key=lambda row: _key(seed, row))[: plan[side]] for side in SIDES
    }
    pools = _pools(
        chosen, cluster_of, use_val_set, ai_pool_size, human_pool_size, final_eval_size, pool_source, seed
    )  # fmt: skip
    for path, side in ((sft_train, "train"), (sft_val, "val"), (sft_test, "test")):
        write_jsonl(path, chosen[side])
    for path, pool in ((ai_pool, "ai"), (human_pool, "human"), (final_eval, "final_eval")):
        write_jsonl(path, map(pool_row, pools[pool]))
    asked = {"ai": ai_pool_size, "human": human_pool_size, "final_eval": final_eval_size}
    outcome = {
        side: {"asked": plan[side], "available": available[side], "used": len(chosen[side])}
        for side in SIDES
    } | {pool: {"asked": asked[pool], "used": len(pools[pool])} for pool in POOLS}
    write_json(summary, outcome)
    note("\n".join(f"{part:>10}  {counts}" for part, counts in outcome.items()))
    return outcome


def _pools(
    chosen: dict[str, list[dict]],
    cluster_of: dict[str, str],
    use_val_set: bool,
    ai_size: int,
    human_size: int,
    final_eval_size: int,
    source: str,
    seed: int,
) -> dict[str, list[dict]]:
    prompts = {
        side: [row for row in chosen[side] if row["metadata"]["source"] == source]
        for side in ("val", "test")
    }
    pools = pools_of_test(prompts["test"], cluster_of, human_size, final_eval_size, seed)
    if use_val_set:
        pools["ai"] = prompts["val"] + pools["ai"]
    pools["ai"] = sorted(pools["ai"], key=lambda row: _key(seed, row))[:ai_size]
    for pool, rows in pools.items():
        if not rows:
            raise UserError(
                f"the {pool} pool is empty: {len(prompts['test'])} {source} prompts on the test side"
                f" and {len(prompts['val'])} on the validation side are too few for this plan"
                " (data.split, data.human_pool_size, data.final_eval_size)"
            )
    return pools


if __name__ == "__main__":
    stage(split)
