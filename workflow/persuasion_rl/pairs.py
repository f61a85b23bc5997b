"""From labels to chosen / rejected pairs for DPO. Ties and "none" verdicts make no pair."""

from pathlib import Path

from persuasion_rl.command import note, stage
from persuasion_rl.files import UserError, keyed_number, read_jsonl, write_jsonl
from persuasion_rl.judges import FIRST, SECOND


def preference_pairs(
    *, labels: Path, train: Path, val: Path, val_fraction: float, seed: int
) -> tuple[int, int]:
    """Write the decided labels as pairs; a share `val_fraction` of the conversations goes to `val`.

    One row: {"prompt", "chosen", "rejected", "metadata": {..., "labeler"}}.
    """
    pairs: dict[Path, list[dict]] = {train: [], val: []}
    total = 0
    for row in read_jsonl(labels):
        total += 1
        if row["verdict"] not in (FIRST, SECOND):
            continue
        first, second = row["response_1"], row["response_2"]
        chosen, rejected = (first, second) if row["verdict"] == FIRST else (second, first)
        held_out = keyed_number("pairs", seed, row["metadata"]["conversation_id"]) < val_fraction
        pairs[val if held_out else train].append(
            {
                "prompt": row["prompt"],
                "chosen": chosen,
                "rejected": rejected,
                "metadata": row["metadata"] | {"labeler": row["labeler"]},
            }
        )
    for path, rows in pairs.items():
        if not rows:
            raise UserError(f"{path}: no pair; {total} labels in {labels} are too few or all ties")
    for path, rows in pairs.items():
        write_jsonl(path, rows)
    note(f"{total} labels: {len(pairs[train])} pairs to train on, {len(pairs[val])} to validate")
    return len(pairs[train]), len(pairs[val])


if __name__ == "__main__":
    stage(preference_pairs)
