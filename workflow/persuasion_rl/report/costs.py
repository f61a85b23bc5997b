"""What a study took: seconds and memory of its rules, from Snakemake's benchmark files, and what its API answers cost.

Neither is an input of any rule: both grow with every job, and a page that read them as inputs would never be up to date.
"""

import csv
import sqlite3
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """One run of a rule: wall time in seconds, peak memory in MB (0 where it ended too soon to be seen)."""

    rule: str
    seconds: float
    memory: float


def costs_of(benchmarks: Path) -> list[Cost]:
    """What each rule of a study took when it last ran, by name; with a rule's wildcards in the name.

    Args:
        benchmarks: the folder of Snakemake's benchmark files; empty or absent where nothing has run, or ran elsewhere.
    """
    return [_cost(path, benchmarks) for path in sorted(benchmarks.rglob("*.tsv"))]


def cost_of(path: Path) -> float:
    """Seconds of a benchmark file."""
    return float(_row(path)["s"])


def api_cost(answers: Path) -> tuple[int, int, float] | None:
    """What the language models' answers cost that a study keeps: their number, how many of them have no known price, and
    the sum of the others in USD. None where nothing was asked.

    Args:
        answers: the store of answers (state/llm.sqlite); it need not exist.
    """
    if not answers.is_file():
        return None
    file = sqlite3.connect(f"{answers.resolve().as_uri()}?mode=ro", uri=True)
    try:
        return file.execute(
            "SELECT count(*), count(*) - count(cost_usd), coalesce(sum(cost_usd), 0.0) FROM answers"
        ).fetchone()
    finally:
        file.close()


def _row(path: Path) -> dict[str, str]:
    with path.open(newline="") as lines:
        (row,) = csv.DictReader(lines, delimiter="\t")
    return row


def _cost(path: Path, folder: Path) -> Cost:
    row = _row(path)
    memory = row["max_rss"] if row["max_rss"] not in ("NA", "-") else "0"
    return Cost(str(path.relative_to(folder).with_suffix("")), float(row["s"]), float(memory))
