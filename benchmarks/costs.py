"""Prints what each rule of a study took, from Snakemake's benchmark files, as a Markdown table.

python benchmarks/costs.py --study results/demo
"""

from pathlib import Path

from persuasion_rl.files import UserError
from persuasion_rl.report.costs import costs_of
from persuasion_rl.runtime.command import note, stage


def print_costs(*, study: Path) -> None:
    """Print what each rule of a study took when it last ran: seconds and peak memory.

    Args:
        study: results/{study}.
    """
    costs, unread = costs_of(study / "benchmarks")
    for problem in unread:
        note(f"not counted: {problem}")
    if not costs:
        raise UserError(f"{study}: no benchmark file of Snakemake; run the study first")
    print("| rule | seconds | peak memory (MB) |\n|---|---:|---:|")
    for cost in costs:
        print(f"| {cost.rule} | {cost.seconds:.1f} | {cost.memory:.0f} |")
    print(f"| all, one after the other | {sum(cost.seconds for cost in costs):.1f} | |")


if __name__ == "__main__":
    stage(print_costs)
