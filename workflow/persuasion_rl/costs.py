"""What the rules of a study took: seconds and memory, from Snakemake's benchmark files."""

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """One run of a rule: wall time in seconds, peak memory in MB (0 where it ended too soon to be seen)."""

    rule: str
    seconds: float
    memory: float


def costs_of(study: Path) -> list[Cost]:
    """What each rule of results/{study} took when it last ran, by name; with a rule's wildcards in the name."""
    folder = study / "benchmarks"
    return [_cost(path, folder) for path in sorted(folder.rglob("*.tsv"))]


def cost_of(path: Path) -> float:
    """Seconds of a benchmark file."""
    return float(_row(path)["s"])


def _row(path: Path) -> dict[str, str]:
    with path.open(newline="") as lines:
        (row,) = csv.DictReader(lines, delimiter="\t")
    return row


def _cost(path: Path, folder: Path) -> Cost:
    row = _row(path)
    memory = row["max_rss"] if row["max_rss"] not in ("NA", "-") else "0"
    return Cost(str(path.relative_to(folder).with_suffix("")), float(row["s"]), float(memory))
