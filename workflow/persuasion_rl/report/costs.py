"""What a study took: seconds and memory of its rules, from Snakemake's benchmark files, and what its API answers cost.

Neither is an input of any rule: both grow with every job, and a page that read them as inputs would never be up to date.
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
    """One run of a rule: wall time in seconds, peak memory in MB (0 where it ended too soon to be seen)."""

    rule: str
    seconds: float
    memory: float


def costs_of(benchmarks: Path) -> tuple[list[Cost], list[str]]:
    """What each rule of a study took when it last ran, by name; with a rule's wildcards in the name. Beside it a line for
    each file that is no measurement: none is worth a report.

    Args:
        benchmarks: the folder of Snakemake's benchmark files; empty or absent where nothing has run, or ran elsewhere.
    """
    costs, unread = [], []
    for path in sorted(benchmarks.rglob("*.tsv")):
        try:
            costs.append(cost_of(path, str(path.relative_to(benchmarks).with_suffix(""))))
        except UserError as error:
            unread.append(str(error))
    return costs, unread


def cost_of(path: Path, rule: str = "") -> Cost:
    """The run that a benchmark file is of.

    Raises:
        UserError: it is no such file, or a broken one; with its name.
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
    """What the language models' answers cost that a study keeps: their number, how many of them have no known price, and
    the sum of the others in USD. None where nothing was asked.

    Args:
        answers: the store of answers (state/llm.sqlite); it need not exist.

    Raises:
        UserError: the file is no such store.
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
    """Whether a cell is a number; Snakemake writes NA of what it did not see."""
    return isinstance(value, float | int) and math.isfinite(value)
