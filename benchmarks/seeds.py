"""Prints the truth of several studies (one a seed) as a Markdown table: means, then differences.

python benchmarks/seeds.py --studies results/demo results/demo-seed-2 results/demo-seed-3
"""

from pathlib import Path

from persuasion_rl.runtime.command import stage
from persuasion_rl.tables import read_table, rows_of


def cell(row: dict, value: str, sign: str) -> str:
    """An estimate, the column `value` of a row, with its interval."""
    return f"{row[value]:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"


def tabulate_truth(*, studies: list[Path]) -> None:
    """Print the truth of studies that differ in their seed side by side.

    Args:
        studies: their folders, results/{study}, after their runs.
    """
    print("| | " + " | ".join(folder.name for folder in studies) + " |")
    print("|---" * (len(studies) + 1) + "|")
    for name, value, sign in (("truth", "mean", ""), ("truth_differences", "difference", "+")):
        tables = [rows_of(read_table(folder / f"evaluation/{name}.csv")) for folder in studies]
        for rows in zip(*tables, strict=True):
            label = rows[0]["model"]
            if "against" in rows[0]:
                label += " − " + rows[0]["against"]
            print(f"| {label} | " + " | ".join(cell(row, value, sign) for row in rows) + " |")


if __name__ == "__main__":
    stage(tabulate_truth)
