"""Reads delta pairs by side: two replies to the same comment, of which one won a delta and one did not."""

from pathlib import Path

from persuasion_rl.records import DeltaPair, read_rows
from persuasion_rl.tables import read_table


def conversations_on(side: str, sides: Path) -> set[str]:
    """The conversations of a side (`sides.csv`)."""
    table = read_table(sides)
    return set(table.loc[table["side"] == side, "conversation_id"])


def pairs_on(side: str, pairs: Path, sides: Path) -> list[DeltaPair]:
    """The delta pairs whose conversation is on one side."""
    on_side = conversations_on(side, sides)
    return [
        pair
        for pair in read_rows(pairs, DeltaPair)
        if pair["metadata"]["conversation_id"] in on_side
    ]
