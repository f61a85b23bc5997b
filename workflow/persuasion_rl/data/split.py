"""From examples and sides to SFT rows and to the prompts of the three pools.

The sizes are a plan. Where the data allows it they are met exactly; where it does not, all parts shrink in
proportion (or the run stops, as the config says), and `summary.json` holds both. The human pool and the
final evaluation come from the test side only; the AI pool is the rest of it and, with `use_val_set`, all of
validation. No conversation, no cluster of near-duplicates and no prompt is on two sides or in two pools.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from persuasion_rl.data.sides import SIDES
from persuasion_rl.files import (
    UserError,
    keyed_number,
    read_jsonl,
    text_digest,
    write_json,
    write_jsonl,
)
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.tables import read_table

HELD_OUT_POOLS = ("final_eval", "human")
POOLS = ("ai", *HELD_OUT_POOLS)


@dataclass(frozen=True, slots=True)
class Row:
    """What the split decides by; the row itself stays in its file, the `number`-th of `path`."""

    path: Path
    number: int
    source: str
    cluster: str
    prompt: str
    key: float


def read_rows(
    examples: list[Path], side_of: dict[str, str], cluster_of: dict[str, str], seed: int
) -> dict[str, list[Row]]:
    """The examples by side, each side in an order that is a function of (seed, utterance).

    Raises:
        UserError: a response is empty, or a conversation has no side.
    """
    rows: dict[str, list[Row]] = {side: [] for side in SIDES}
    for path in examples:
        for number, row in enumerate(read_jsonl(path)):
            metadata = row["metadata"]
            conversation = metadata["conversation_id"]
            if not row["response"].strip():
                raise UserError(f"{path}: {metadata['utterance_id']} has an empty response")
            if conversation not in side_of:
                raise UserError(f"{path}: conversation {conversation} has no side")
            rows[side_of[conversation]].append(
                Row(
                    path,
                    number,
                    metadata["source"],
                    cluster_of[conversation],
                    text_digest(row["input_text"]),
                    keyed_number("split", seed, metadata["source"], metadata["utterance_id"]),
                )
            )
    return {side: sorted(found, key=lambda row: row.key) for side, found in rows.items()}


def one_row_a_prompt(rows: list[Row], taken: set[str]) -> list[Row]:
    """The first row of each prompt that is not in `taken`."""
    first: dict[str, Row] = {}
    for row in rows:
        if row.prompt not in taken:
            first.setdefault(row.prompt, row)
    return list(first.values())


def deal(rows: list[Row], rooms: dict[str, int], seed: int) -> dict[str, list[Row]]:
    """Deal rows to pools, no cluster to two of them, until each has as many as its room or none are left.

    Clusters go whole, in an order that is a function of the seed, to the first pool that has room for them;
    where a pool is then still short, it gets a part of the smallest one, and nobody the other part.
    """
    members: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        members[row.cluster].append(row)
    waiting = [members[c] for c in sorted(members, key=lambda c: keyed_number("pool", seed, c))]
    pools: dict[str, list[Row]] = {}
    for pool, room in rooms.items():
        pools[pool], over = [], []
        for cluster in waiting:
            fits = len(pools[pool]) + len(cluster) <= room
            pools[pool] += cluster if fits else []
            over += [] if fits else [cluster]
        if len(pools[pool]) < room and over:
            smallest = min(over, key=len)
            over.remove(smallest)
            pools[pool] += smallest[: room - len(pools[pool])]
        waiting = over
    return pools


def parts(
    rows: dict[str, list[Row]], plan: dict[str, int], pool_source: str, use_val_set: bool, seed: int
) -> dict[str, list[Row]]:
    """The rows of each side and each pool for a plan; a part may be short where the data is.

    Without a size for it, the AI pool is what the other pools leave.
    """
    found = {side: rows[side][: plan[side]] for side in ("train", "val")}
    val = [row for row in found["val"] if row.source == pool_source] if use_val_set else []
    val = val[: plan.get("ai")]
    rooms = {pool: plan[pool] for pool in HELD_OUT_POOLS}
    held_out = sum(rooms.values())
    if "ai" in plan:
        rooms["ai"] = plan["ai"] - len(val)
    else:
        prompts = sum(row.source == pool_source for row in rows["test"][: plan["test"]])
        rooms["ai"] = min(plan["test"] - held_out, max(prompts - held_out, 0 if val else 1))
    # Of a cluster that is divided a part is lost to the pools: look at as many rows more as are short.
    looked_at = plan["test"]
    while True:
        dealt = deal(
            [row for row in rows["test"][:looked_at] if row.source == pool_source], rooms, seed
        )
        short = sum(rooms.values()) - sum(map(len, dealt.values()))
        if short < 1 or looked_at >= len(rows["test"]):
            break
        looked_at += short
    # The held-out pools' rows first, then the AI pool's, then others: the evaluation needs their replies.
    chosen = dict.fromkeys([row for pool in dealt.values() for row in pool] + rows["test"])
    found["test"] = sorted(list(chosen)[: plan["test"]], key=lambda row: row.key)
    return found | dealt | {"ai": val + dealt["ai"]}


def shrunk(plan: dict[str, int], factor: float) -> dict[str, int]:
    """A plan whose parts are smaller in proportion, none below one row and the test side's not below what
    the two held-out pools need."""
    smaller = {part: max(1, int(size * factor)) for part, size in plan.items()}
    return smaller | {"test": max(smaller["test"], sum(smaller[pool] for pool in HELD_OUT_POOLS))}


def largest_that_fits(
    rows: dict[str, list[Row]], plan: dict[str, int], pool_source: str, use_val_set: bool, seed: int
) -> dict[str, list[Row]]:
    """The parts of the plan where the data allows it, else of the plan shrunk to what the data allows."""
    factor, smaller, largest = 1.0, plan, max(plan.values())
    while True:
        found = parts(rows, smaller, pool_source, use_val_set, seed)
        there = {part: len(found[part]) / size for part, size in smaller.items()}
        if min(there.values()) == 1 and found["ai"]:
            return found
        if factor == 0:
            break
        # At least one row less of the largest part: so it ends.
        one_less = (int(largest * factor) - 1) / largest
        factor = max(0.0, min(factor * max(0.5, min(there.values())), one_less))
        smaller = shrunk(plan, factor)
    raise UserError(
        f"the data is too small for any split of this plan: {' and '.join(p for p in found if not found[p])}"
        f" would be empty; there are {', '.join(f'{len(rows[side]):,} {side} rows' for side in SIDES)}"
        f" (data.split, data.min_tokens, data.max_tokens, data.pool_source {pool_source!r})"
    )


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


def stored(rows: Iterable[Row]) -> Iterable[dict]:
    """The rows themselves, read back from their files in one pass, in the order given."""
    wanted = {(row.path, row.number): place for place, row in enumerate(rows)}
    found: list[dict | None] = [None] * len(wanted)
    for path in dict.fromkeys(path for path, _ in wanted):
        for number, row in enumerate(read_jsonl(path)):
            if (path, number) in wanted:
                found[wanted[path, number]] = row
    return found


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
    human_pool_size: int,
    final_eval_size: int,
    ai_pool_size: int | None = None,
    pool_source: str = "cmv",
    on_shortage: str = "scale",
) -> dict:
    """Write the SFT rows of the three sides, the prompts of the three pools, and a summary.

    Args:
        train, val, test: the plan's number of rows; val and test have one row a prompt.
        ai_pool_size: without it the AI pool is what the other pools leave.
        pool_source: the source ("cmv" or "p4g") whose prompts the pools hold.
        on_shortage: "scale" shrinks all parts in proportion where the data is too small, "error" stops.
    """
    conversations = read_table(sides).set_index("conversation_id")
    side_of, cluster_of = (conversations[name].to_dict() for name in ("side", "cluster"))
    rows = read_rows(examples, side_of, cluster_of, seed)
    read = Counter({side: len(rows[side]) for side in SIDES})
    taken = {row.prompt for row in rows["train"]}
    for side in ("test", "val"):
        rows[side] = one_row_a_prompt(rows[side], taken)
        taken |= {row.prompt for row in rows[side]}
    plan = {"train": train, "val": val, "test": test}
    plan |= {"human": human_pool_size, "final_eval": final_eval_size}
    plan |= {} if ai_pool_size is None else {"ai": ai_pool_size}
    found = largest_that_fits(rows, plan, pool_source, use_val_set, seed)
    used = {part: len(found[part]) for part in found}
    outcome = {
        "on_shortage": on_shortage,
        "scale": round(used["train"] / train, 4),
        "parts": {
            part: {"asked": plan.get(part, "the rest"), "used": used[part]}
            | ({"examples": read[part], "available": len(rows[part])} if part in SIDES else {})
            for part in (*SIDES, *POOLS)
        },
        "sft_to_rlaif": round(used["train"] / used["ai"], 2),
        "sft_to_rlhf": round(used["train"] / used["human"], 2),
    }
    if any(used[part] < plan[part] for part in plan):
        short = ", ".join(f"{part} {used[part]:,} of {plan[part]:,}" for part in plan)
        if on_shortage == "error":
            raise UserError(
                f"the data is too small for the plan; there is enough for {short} (data.max_examples,"
                " data.split; data.on_shortage: scale takes what there is)"
            )
        note(f"the data is too small for the plan; all parts shrink in proportion: {short}")
    for path, side in ((sft_train, "train"), (sft_val, "val"), (sft_test, "test")):
        write_jsonl(path, stored(found[side]))
    for path, pool in ((ai_pool, "ai"), (human_pool, "human"), (final_eval, "final_eval")):
        write_jsonl(path, map(pool_row, stored(found[pool])))
    write_json(summary, outcome)
    note("\n".join(f"{part:>10}  {numbers}" for part, numbers in outcome["parts"].items()))
    return outcome


if __name__ == "__main__":
    stage(split)
