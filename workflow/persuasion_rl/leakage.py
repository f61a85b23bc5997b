"""Checks that nothing leaks between sides and pools, from the files that training and evaluation read.

No conversation and no cluster of near-duplicate posts may stand on two sides or in two pools, no delta
pair may lack a side, and a prompt of a pool may not stand in the training rows.
"""

from collections import defaultdict
from pathlib import Path

from persuasion_rl.command import note, stage
from persuasion_rl.files import UserError, read_csv, read_jsonl, write_json


def check_leakage(
    *, sides: Path, sft: dict[str, Path], pools: dict[str, Path], pairs: Path | None, output: Path
) -> dict[str, int]:
    """Raise UserError at the first leak; else write what was compared to `output`.

    Args:
        sft: side -> SFT rows. pools: pool -> prompts. pairs: delta pairs, if there are any.
    """
    table = read_csv(sides)
    side_of = {line["conversation_id"]: line["side"] for line in table}
    cluster_of = {line["conversation_id"]: line["cluster"] for line in table}
    _no_two("side", [(line["cluster"], line["side"]) for line in table])
    rows = 0
    for side, path in sft.items():
        for row in read_jsonl(path):
            rows += 1
            conversation = row["metadata"]["conversation_id"]
            if side_of.get(conversation) != side:
                raise UserError(
                    f"{path}: conversation {conversation} is on the side {side_of.get(conversation)}"
                )
    train_prompts = {row["input_text"] for row in read_jsonl(sft["train"])}
    in_pool = []
    for pool, path in pools.items():
        for row in read_jsonl(path):
            conversation = row["metadata"]["conversation_id"]
            if conversation not in side_of:
                raise UserError(f"{path}: conversation {conversation} has no side")
            in_pool.append((cluster_of[conversation], pool))
            if side_of[conversation] == "train" or row["prompt"] in train_prompts:
                raise UserError(f"{path}: conversation {conversation} is in the training data")
            if pool != "ai" and side_of[conversation] != "test":
                raise UserError(f"{path}: conversation {conversation} is not on the test side")
    _no_two("pool", in_pool)
    for pair in read_jsonl(pairs) if pairs else ():
        if pair["metadata"]["conversation_id"] not in side_of:
            raise UserError(f"{pairs}: {pair['metadata']['conversation_id']} has no side")
    counts = {"conversations": len(table), "sft_rows": rows, "prompts": len(in_pool)}
    write_json(output, {"leaks": 0, "compared": counts})
    note(f"no leak among {counts}")
    return counts


def _no_two(what: str, placed: list[tuple[str, str]]) -> None:
    places = defaultdict(set)
    for cluster, place in placed:
        places[cluster].add(place)
    for cluster, found in places.items():
        if len(found) > 1:
            raise UserError(
                f"leak: the cluster of near-duplicates of conversation {cluster} stands in more than"
                f" one {what}: {', '.join(sorted(found))}"
            )


if __name__ == "__main__":
    stage(check_leakage)
