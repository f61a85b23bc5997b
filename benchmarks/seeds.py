"""Prints the truth of several studies (one a seed) as a Markdown table: means, then differences.

python benchmarks/seeds.py --studies results/demo results/demo-seed-2 results/demo-seed-3
"""

from pathlib import Path

from persuasion_rl.files import read_csv
from persuasion_rl.runtime.command import stage


def cells(rows: list[dict[str, str]], value: str, sign: str) -> list[str]:
    return [
        "{:{s}.3f} [{:{s}.3f}, {:{s}.3f}]".format(
            *(float(row[key]) for key in (value, "low", "high")), s=sign
        )
        for row in rows
    ]


def tabulate_truth(*, studies: list[Path]) -> None:
    """Print the truth of studies that differ in their seed side by side.

    Args:
        studies: their folders, results/{study}, after their runs.
    """
    print("| | " + " | ".join(folder.name for folder in studies) + " |")
    print("|---" * (len(studies) + 1) + "|")
    for name, value, sign in (("truth", "mean", ""), ("truth_differences", "difference", "+")):
        tables = [read_csv(folder / f"evaluation/{name}.csv") for folder in studies]
        for rows in zip(*tables, strict=True):
            label = rows[0]["model"]
            if "against" in rows[0]:
                label += " − " + rows[0]["against"]
            print(f"| {label} | " + " | ".join(cells(list(rows), value, sign)) + " |")


if __name__ == "__main__":
    stage(tabulate_truth)
