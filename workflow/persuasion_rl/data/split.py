"""Makes SFT rows and the prompts of the three pools from examples and sides.

The sizes are a plan. If the data allows, they are met exactly; if not, all parts shrink in proportion (or the
run stops, as the config says), and `summary.json` holds planned and actual sizes. The human pool and the
final evaluation come from the test side only; the AI pool is the rest of it and, with `use_val_set`, all of
validation. No conversation, no cluster of near-duplicates and no prompt is on two sides or in two pools.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from persuasion_rl.files import UserError, keyed_number, text_digest, write_json, write_jsonl
from persuasion_rl.records import SIDES, PoolRow, SftRow, example_id, read_rows
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.tables import read_table

HELD_OUT_POOLS = ("final_eval", "human")
POOLS = ("ai", *HELD_OUT_POOLS)


@dataclass(frozen=True)
class Plan:
    """The planned numbers of rows in the sides and of prompts in the pools; val and test have one row a prompt.

    Without `ai_pool_size` the AI pool is what the other pools leave. The pools hold prompts of `pool_source`
    ("cmv" or "p4g"). With `use_val_set` the AI pool has the prompts of validation too.
    """

    train: int
    val: int
    test: int
    use_val_set: bool
    human_pool_size: int
    final_eval_size: int
    ai_pool_size: int | None = None
    pool_source: str = "cmv"

    @property
    def sizes(self) -> dict[str, int]:
        """Side or pool -> its size; the AI pool only if its size is planned."""
        sizes = {"train": self.train, "val": self.val, "test": self.test}
        sizes |= {"human": self.human_pool_size, "final_eval": self.final_eval_size}
        return sizes if self.ai_pool_size is None else sizes | {"ai": self.ai_pool_size}


@dataclass(frozen=True, slots=True)
class Example:
    """What the split keeps of an SFT row; the row itself stays in `path`, as number `number` from 0.

    `prompt` is the digest of the prompt; `key`, in [0, 1), is the place in the order.
    """

    path: Path
    number: int
    source: str
    cluster: str
    prompt: str
    key: float


def read_examples(
    paths: list[Path], side_of: dict[str, str], cluster_of: dict[str, str], seed: int
) -> dict[str, list[Example]]:
    """The examples by side, each side in an order that is a function of (seed, utterance).

    Raises:
        UserError: a response is empty, or a conversation has no side.
    """
    by_side: dict[str, list[Example]] = {side: [] for side in SIDES}
    for path in paths:
        for number, row in enumerate(read_rows(path, SftRow)):
            metadata = row["metadata"]
            conversation = metadata["conversation_id"]
            if not row["response"].strip():
                raise UserError(f"{path}: {metadata['utterance_id']} has an empty response")
            if conversation not in side_of:
                raise UserError(f"{path}: conversation {conversation} has no side")
            by_side[side_of[conversation]].append(
                Example(
                    path,
                    number,
                    metadata["source"],
                    cluster_of[conversation],
                    text_digest(row["input_text"]),
                    keyed_number("split", seed, example_id(metadata)),
                )
            )
    return {
        side: sorted(examples, key=lambda example: example.key)
        for side, examples in by_side.items()
    }


def one_a_prompt(examples: list[Example], used_prompts: set[str]) -> list[Example]:
    """The first example of each prompt that is not in `used_prompts`."""
    first: dict[str, Example] = {}
    for example in examples:
        if example.prompt not in used_prompts:
            first.setdefault(example.prompt, example)
    return list(first.values())


def deal(examples: list[Example], rooms: dict[str, int], seed: int) -> dict[str, list[Example]]:
    """Deal examples to pools, no cluster to two of them, until each pool is full or no examples are left.

    Whole clusters go to the first pool that has room for them, in an order that is a function of the seed.
    A pool that is still short then gets a part of the smallest cluster; the rest of that cluster is not used.
    """
    members: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        members[example.cluster].append(example)
    waiting = [members[c] for c in sorted(members, key=lambda c: keyed_number("pool", seed, c))]
    pools: dict[str, list[Example]] = {}
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


def parts_of(
    by_side: dict[str, list[Example]], sizes: dict[str, int], plan: Plan, seed: int
) -> dict[str, list[Example]]:
    """The examples of each side and each pool; fewer than planned if the data has fewer."""
    parts = {side: by_side[side][: sizes[side]] for side in ("train", "val")}
    val = [e for e in parts["val"] if e.source == plan.pool_source] if plan.use_val_set else []
    val = val[: sizes.get("ai")]
    rooms = {pool: sizes[pool] for pool in HELD_OUT_POOLS}
    held_out = sum(rooms.values())
    if "ai" in sizes:
        rooms["ai"] = sizes["ai"] - len(val)
    else:
        prompts = sum(e.source == plan.pool_source for e in by_side["test"][: sizes["test"]])
        rooms["ai"] = min(sizes["test"] - held_out, max(prompts - held_out, 0 if val else 1))
    # The pools lose a part of each divided cluster: look at as many more examples as they are short of.
    looked_at = sizes["test"]
    while True:
        dealt = deal(
            [e for e in by_side["test"][:looked_at] if e.source == plan.pool_source], rooms, seed
        )
        short = sum(rooms.values()) - sum(map(len, dealt.values()))
        if short < 1 or looked_at >= len(by_side["test"]):
            break
        looked_at += short
    # The test side takes examples of the pools first: the evaluation needs their replies.
    by_need = dict.fromkeys([e for pool in dealt.values() for e in pool] + by_side["test"])
    parts["test"] = sorted(list(by_need)[: sizes["test"]], key=lambda example: example.key)
    return parts | dealt | {"ai": val + dealt["ai"]}


def shrunk(sizes: dict[str, int], factor: float) -> dict[str, int]:
    """Sizes shrunk in proportion: at least one row each, and a test side that fills the two held-out pools."""
    smaller = {part: max(1, int(size * factor)) for part, size in sizes.items()}
    return smaller | {"test": max(smaller["test"], sum(smaller[pool] for pool in HELD_OUT_POOLS))}


def largest_that_fits(
    by_side: dict[str, list[Example]], plan: Plan, seed: int
) -> dict[str, list[Example]]:
    """The parts of the plan, shrunk in proportion as far as the data makes it necessary.

    Raises:
        UserError: a part would be empty.
    """
    factor, sizes, largest = 1.0, plan.sizes, max(plan.sizes.values())
    while True:
        parts = parts_of(by_side, sizes, plan, seed)
        filled = {part: len(parts[part]) / size for part, size in sizes.items()}
        if min(filled.values()) == 1 and parts["ai"]:
            return parts
        if factor == 0:
            break
        if factor == 1:
            limit = min(filled, key=filled.get)
            note(f"there is least of the part {limit}: {len(parts[limit]):,} of {sizes[limit]:,}")
        # The largest part loses at least one row, so that the loop ends.
        one_less = (int(largest * factor) - 1) / largest
        factor = max(0.0, min(factor * max(0.5, min(filled.values())), one_less))
        sizes = shrunk(plan.sizes, factor)
    raise UserError(
        f"the data is too small for any split of this plan: {' and '.join(p for p in parts if not parts[p])}"
        f" would be empty; there are {', '.join(f'{len(by_side[side]):,} {side} rows' for side in SIDES)}"
        f" (data.split, data.min_tokens, data.max_tokens, data.pool_source {plan.pool_source!r})"
    )


def pool_row(row: SftRow) -> PoolRow:
    """The row of a pool for the prompt of an SFT row."""
    metadata = row["metadata"]
    return {
        "prompt": row["input_text"],
        "metadata": {
            "prompt_id": example_id(metadata),
            "conversation_id": metadata["conversation_id"],
            "source": metadata["source"],
        },
    }


def rows_of(examples: Iterable[Example]) -> list[SftRow]:
    """The SFT rows of examples, in their order, read from the files in one pass."""
    places = {(example.path, example.number): place for place, example in enumerate(examples)}
    rows: list[SftRow | None] = [None] * len(places)
    for path in dict.fromkeys(path for path, _ in places):
        for number, row in enumerate(read_rows(path, SftRow)):
            if (path, number) in places:
                rows[places[path, number]] = row
    return rows


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
    plan: Plan,
    on_shortage: str = "scale",
) -> dict:
    """Write the SFT rows of the three sides, the prompts of the three pools, and a summary.

    Args:
        examples: SftRows. sides: the table of `assign_sides`.
        on_shortage: if the data is too small, "scale" shrinks all parts in proportion and "error" stops.

    Returns:
        the summary: "scale" (used share of the planned training rows), "parts" (rows "asked" and "used"; for sides also
        "examples" read and those "available", one a prompt), and the two ratios of training rows to prompts.
    """
    conversations = read_table(sides).set_index("conversation_id")
    side_of, cluster_of = (conversations[name].to_dict() for name in ("side", "cluster"))
    by_side = read_examples(examples, side_of, cluster_of, seed)
    examples_read = Counter({side: len(by_side[side]) for side in SIDES})
    used_prompts = {example.prompt for example in by_side["train"]}
    for side in ("test", "val"):
        by_side[side] = one_a_prompt(by_side[side], used_prompts)
        used_prompts |= {example.prompt for example in by_side[side]}
    planned_sizes = plan.sizes
    parts = largest_that_fits(by_side, plan, seed)
    used = {part: len(parts[part]) for part in parts}
    outcome = {
        "on_shortage": on_shortage,
        "scale": round(used["train"] / plan.train, 4),
        "parts": {
            part: {"asked": planned_sizes.get(part, "the rest"), "used": used[part]}
            | (
                {"examples": examples_read[part], "available": len(by_side[part])}
                if part in SIDES
                else {}
            )
            for part in (*SIDES, *POOLS)
        },
        "sft_to_rlaif": round(used["train"] / used["ai"], 2),
        "sft_to_rlhf": round(used["train"] / used["human"], 2),
    }
    if any(used[part] < planned_sizes[part] for part in planned_sizes):
        short = ", ".join(
            f"{part} {used[part]:,} of {planned_sizes[part]:,}" for part in planned_sizes
        )
        if on_shortage == "error":
            raise UserError(
                f"the data is too small for the plan; there is enough for {short} (data.max_examples,"
                " data.split; data.on_shortage: scale takes what there is)"
            )
        note(f"the data is too small for the plan; all parts shrink in proportion: {short}")
    for path, side in ((sft_train, "train"), (sft_val, "val"), (sft_test, "test")):
        write_jsonl(path, rows_of(parts[side]))
    for path, pool in ((ai_pool, "ai"), (human_pool, "human"), (final_eval, "final_eval")):
        write_jsonl(path, map(pool_row, rows_of(parts[pool])))
    write_json(summary, outcome)
    note("\n".join(f"{part:>10}  {numbers}" for part, numbers in outcome["parts"].items()))
    return outcome


if __name__ == "__main__":
    stage(split)
