"""What an edit of the code would make again of a finished study: jobs, and trainings among them.

python benchmarks/staleness.py                                   # the edits that once made too much again
python benchmarks/staleness.py --modules training/sft.py files.py --config config/demo.yaml

Everything happens in a temporary copy of the project, and no job runs: all jobs of the study are marked as done there
(`snakemake --touch`), then each edit is planned by itself (`snakemake -n`).
"""

import argparse
import sys
import tempfile
from pathlib import Path

from machine import commit

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from running import finished_study, planned, succeed  # noqa: E402

PACKAGE = "workflow/persuasion_rl"
EDITS = {
    "a message in runtime/command.py": ["runtime/command.py"],
    "seconds between two messages about waiting, runtime/leases.py": ["runtime/leases.py"],
    "W&B's time-out, runtime/tracking.py": ["runtime/tracking.py"],
    "the wording of a mistake in the configuration, study/config.py": ["study/config.py"],
    "a constant of the LLM client, judges/llm/": ["judges/llm/*.py"],
    "the demo's grammar, data/synthetic/grammar.py": ["data/synthetic/grammar.py"],
    "how SFT trains, training/sft.py": ["training/sft.py"],
}
"""What is edited -> the modules (patterns below the package)."""


def edit(root: Path, patterns: list[str]) -> dict[Path, str]:
    """Change the code of some modules of a checkout; what they were."""
    modules = [path for pattern in patterns for path in (root / PACKAGE).glob(pattern)]
    if not modules:
        sys.exit(f"error: no module {', '.join(patterns)} in {PACKAGE}")
    before = {path: path.read_text(encoding="utf-8") for path in modules}
    for path, text in before.items():
        path.write_text(text + '\nEDITED = "another value"\n', encoding="utf-8")
    return before


def stale(root: Path, config: str, targets: list[str]) -> dict[str, int]:
    """The rules that would run again, with their numbers of jobs."""
    output = succeed(*targets, "-n", "--configfile", config, root=root)
    return planned(output) if "Job stats:" in output else {}


def is_training(rule: str) -> bool:
    return rule.startswith("train_") or rule == "pretrain_standin"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", default="config/config.yaml", help="the study")
    parser.add_argument("--targets", nargs="+", default=["all"])
    parser.add_argument("--modules", nargs="+", help="modules to edit instead, each by itself")
    words = parser.parse_args()
    edits = {name: [name] for name in words.modules} if words.modules else EDITS
    print(f"{words.config}; commit {commit()}\n")
    print("| edit | jobs planned | trainings among them | rules |\n|---|---:|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = finished_study(Path(folder) / "checkout", words.config, *words.targets)
        for name, patterns in {"nothing": [], **edits}.items():
            before = edit(root, patterns) if patterns else {}
            rules = stale(root, words.config, words.targets)
            trainings = sum(jobs for rule, jobs in rules.items() if is_training(rule))
            listed = ", ".join(f"{rule} {jobs}" for rule, jobs in rules.items())
            print(f"| {name} | {sum(rules.values())} | {trainings} | {listed} |", flush=True)
            for path, text in before.items():
                path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
