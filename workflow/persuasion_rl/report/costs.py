"""Costs of a study: time and memory of its rules, from Snakemake's benchmark files, and the price of its API answers.

Neither is an input of any rule: both grow with every job, so a page with them as inputs would never be up to date.
"""

import math
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from persuasion_rl.files import UserError
from persuasion_rl.tables import read_table, rows_of


@dataclass(frozen=True)
class Cost:
    """One run of a rule: wall time in seconds, peak memory in MB (0 if it ended before the first measurement)."""

    rule: str
    seconds: float
    memory: float


def costs_of(benchmarks: Path) -> tuple[list[Cost], list[str]]:
    """The cost of the last run of each rule, sorted by name with wildcards, and one line for each file that could not be
    read.

    Args:
        benchmarks: the folder of Snakemake's benchmark files; empty or absent if nothing has run, or ran elsewhere.
    """
    costs, unread = [], []
    for path in sorted(benchmarks.rglob("*.tsv")):
        try:
            costs.append(cost_of(path, str(path.relative_to(benchmarks).with_suffix(""))))
        except UserError as error:
            unread.append(str(error))
    return costs, unread


def cost_of(path: Path, rule: str = "") -> Cost:
    """The run of a rule that a benchmark file records.

    Raises:
        UserError: the file is no benchmark file, or is broken; the message names it.
    """
    rows = rows_of(read_table(path, separator="\t"))
    row = rows[0] if len(rows) == 1 else {}
    seconds, memory = row.get("s"), row.get("max_rss")
    if not _is_measured(seconds) or memory is None:
        raise UserError(
            f"{path}: not a measurement of Snakemake (one row, with s and max_rss): move it away"
        )
    return Cost(rule, seconds, memory if _is_measured(memory) else 0)


def api_cost(answers: Path) -> tuple[int, int, float] | None:
    """The cost of a study's answers by language models: their number, how many of them have no known price, and the sum of
    the others in USD. None if nothing was asked.

    Args:
        answers: the store of answers (state/llm.sqlite); it need not exist.

    Raises:
        UserError: the file is no store of answers.
    """
    if not answers.is_file() or not answers.stat().st_size:
        return None
    address = f"{answers.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, timeout=60, uri=True)) as file:
            return file.execute(
                "SELECT count(*), count(*) - count(cost_usd), coalesce(sum(cost_usd), 0.0) FROM answers"
            ).fetchone()
    except sqlite3.Error as error:
        raise UserError(
            f"{answers}: {error}; move the file away (its answers are then asked again)"
        ) from None


def _is_measured(value: object) -> bool:
    """Whether a cell is a number; Snakemake writes NA for what it did not measure."""
    return isinstance(value, float | int) and math.isfinite(value)
