"""Prints what each rule of a study took, from Snakemake's benchmark files, as a Markdown table.

python benchmarks/costs.py results/demo
"""

import sys
from pathlib import Path

from persuasion_rl.costs import costs_of


def main(study: Path) -> None:
    found = costs_of(study)
    print("| rule | seconds | peak memory (MB) |\n|---|---:|---:|")
    for cost in found:
        print(f"| {cost.rule} | {cost.seconds:.1f} | {cost.memory:.0f} |")
    print(f"| all, one after the other | {sum(cost.seconds for cost in found):.1f} | |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
