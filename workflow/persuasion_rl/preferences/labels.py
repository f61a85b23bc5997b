"""Shared by all labelling of response pairs: the comparison for judges, the key of a pair, and writing label rows.

A label row (`records.LabelRow`) is a response pair with "verdict" ("1", "2", "tie", "none"), "labeler" and "votes".
A pair that could not be labelled is {"excluded": reason, "metadata"}.
"""

from collections import Counter
from pathlib import Path

from persuasion_rl.files import write_jsonl
from persuasion_rl.judges.base import Comparison
from persuasion_rl.records import LabelRow, ResponsePair
from persuasion_rl.runtime.command import note


def as_comparison(pair: ResponsePair) -> Comparison:
    """A response pair as judges see it."""
    return Comparison(pair["prompt"], pair["response_1"], pair["response_2"])


def pair_key(pair: ResponsePair) -> tuple:
    """The key for random numbers of a pair: its prompt, and its samples if a prompt has more than two."""
    return pair["metadata"]["prompt_id"], *pair["metadata"].get("samples", (1, 2))


def write_labels(labels: Path, rows: list[LabelRow]) -> dict[str, int]:
    """Write label rows, and return how many there are of each verdict or exclusion."""
    write_jsonl(labels, rows)
    counts = Counter(row.get("excluded") or row["verdict"] for row in rows)
    note(f"{labels.name}: {dict(sorted(counts.items()))}")
    return dict(counts)
