"""Prints the truth of several studies (one a seed) as a Markdown table: means, then differences.

python benchmarks/seeds.py results/demo-seed-1 results/demo-seed-2 results/demo-seed-3
"""

import csv
import sys
from pathlib import Path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def cells(rows: list[dict[str, str]], value: str, sign: str) -> list[str]:
    return [
        "{:{s}.3f} [{:{s}.3f}, {:{s}.3f}]".format(
            *(float(row[key]) for key in (value, "low", "high")), s=sign
        )
        for row in rows
    ]


def main(folders: list[Path]) -> None:
    print("| | " + " | ".join(folder.name for folder in folders) + " |")
    print("|---" * (len(folders) + 1) + "|")
    for name, value, sign in (("truth", "mean", ""), ("truth_differences", "difference", "+")):
        tables = [read(folder / f"evaluation/{name}.csv") for folder in folders]
        for rows in zip(*tables, strict=True):
            label = rows[0]["model"]
            if "against" in rows[0]:
                label += " − " + rows[0]["against"]
            print(f"| {label} | " + " | ".join(cells(list(rows), value, sign)) + " |")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
