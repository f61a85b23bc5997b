"""Delta pairs, a reply that won a delta and one that did not to the same comment, by the side they are on."""

from pathlib import Path

from persuasion_rl.files import read_jsonl
from persuasion_rl.tables import read_table


def conversations_on(side: str, sides: Path) -> set[str]:
    """The conversations of a side (`sides.csv`)."""
    table = read_table(sides)
    return set(table.loc[table["side"] == side, "conversation_id"])


def pairs_on(side: str, pairs: Path, sides: Path) -> list[dict]:
    """The delta pairs whose conversation is on one side."""
    picked = conversations_on(side, sides)
    return [row for row in read_jsonl(pairs) if row["metadata"]["conversation_id"] in picked]
