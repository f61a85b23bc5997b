"""Prints what each rule of a study took, from Snakemake's benchmark files, as a Markdown table.

python benchmarks/costs.py results/demo
"""

import csv
import sys
from pathlib import Path


def main(study: Path) -> None:
    folder = study / "benchmarks"
    print("| rule | seconds | peak memory (MB) |\n|---|---:|---:|")
    total = 0.0
    for path in sorted(folder.rglob("*.tsv")):
        with path.open(newline="") as lines:
            (row,) = csv.DictReader(lines, delimiter="\t")
        total += float(row["s"])
        memory = row["max_rss"] if row["max_rss"] not in ("NA", "-") else "0"
        name = path.relative_to(folder).with_suffix("")
        print(f"| {name} | {float(row['s']):.1f} | {float(memory):.0f} |")
    print(f"| all, one after the other | {total:.1f} | |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
