"""What a study took: seconds and memory of its rules, from Snakemake's benchmark files, and what its API answers cost.

Neither is an input of any rule: both grow with every job, and a page that read them as inputs would never be up to date.
"""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persuasion_rl.tables import read_table, rows_of


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
    return _row(path)["s"]


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


def _row(path: Path) -> dict[str, Any]:
    """The one row of a benchmark file, "" where nothing was measured."""
    (row,) = rows_of(read_table(path, separator="\t"))
    return row


def _cost(path: Path, folder: Path) -> Cost:
    row = _row(path)
    memory = row["max_rss"]
    measured = isinstance(memory, float | int)
    return Cost(str(path.relative_to(folder).with_suffix("")), row["s"], memory if measured else 0)
