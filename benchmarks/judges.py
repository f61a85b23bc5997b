"""Prints how often judges pick the argument that people found more convincing, as a Markdown table.

python benchmarks/judges.py                                          # the length baseline alone
python benchmarks/judges.py --base resources/models/NAME \\
    --delta results/STUDY/judges/delta/adapter_model.safetensors --study results/STUDY

The pairs are UKPConvArg1-Strict's (Habernal and Gurevych 2016, CC-BY 4.0): two arguments for the same stance
in a debate, and which one annotators found more convincing. No judge has learned from them.
"""

import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from machine import commit

from persuasion_rl.data.clean import clean
from persuasion_rl.data.contexts import Turn
from persuasion_rl.files import UserError, read_numbered
from persuasion_rl.judges import judge_trust
from persuasion_rl.judges.base import (
    FIRST,
    SECOND,
    TIE,
    Comparison,
    Judge,
    judge_both_orders,
)
from persuasion_rl.judges.make import JudgeSettings, make_judge
from persuasion_rl.prompts.wording import PLAIN
from persuasion_rl.runtime.command import stage
from persuasion_rl.statistics.intervals import Interval, bootstrap_mean
from persuasion_rl.tables import read_table, rows_of

ROOT = Path(__file__).parent.parent
CORPORA = Path(os.environ.get("PERSUASION_RL_CORPORA") or ROOT.parent / "shared/data")
PAIRS = CORPORA / "ukpconvarg1-strict/pairs.jsonl"
LIKE_LENGTH = 0.2
"""Pairs whose numbers of words differ by at most this share of the longer one count as of like length."""
NOTHING = "–"
DRAWS = 2000
SEED = 1
HELD_OUT = {
    "delta_pairs": "held-out delta pairs",
    "like_length": f"of these, within {judge_trust.LIKE_LENGTH:.0%} in words",
}
"""The measures of `judge_trust` that have no labels of the study's own making."""
HOW_TO_READ = """\
A tie is half right: a coin scores .5. Intervals are 95%, over pairs; an argument recurs in many of
them, and they come from few topics, so that the intervals are too narrow, all the more for other topics.

Published models that learned from the other topics of the whole corpus reach .76 to .78. But the longer
argument wins about 77% of it (here: the column `length`): a judge that beats a coin, or reaches those models,
may measure nothing but length. What it knows besides shows in the row of like length, above the number that
`length` has there."""


@dataclass(frozen=True)
class Case:
    """Two arguments and the verdict of people, "1" or "2"."""

    topic: str
    comparison: Comparison
    verdict: str

    @property
    def of_like_length(self) -> bool:
        one, other = (len(text.split()) for text in (self.comparison.first, self.comparison.second))
        return abs(one - other) <= LIKE_LENGTH * max(one, other)


def read_cases(path: Path) -> list[Case]:
    """The pairs of a file of {"label": "a1" or "a2", "topic", "stance", "a1", "a2"}."""
    verdicts = {"a1": FIRST, "a2": SECOND}
    cases = []
    for number, row in read_numbered(path):
        if missing := {"label", "topic", "stance", "a1", "a2"} - row.keys():
            raise UserError(f"{path}, line {number}: no {', '.join(sorted(missing))}")
        if row["label"] not in verdicts:
            raise UserError(f"{path}, line {number}: label {row['label']!r}; allowed: a1, a2")
        topic, stance = (row[key].replace("-", " ") for key in ("topic", "stance"))
        prompt = PLAIN.render(str(Turn("Claim", f"{topic}: {stance}")), "cmv")
        texts = (clean(row[key].replace("<br/>", "\n")) for key in ("a1", "a2"))
        cases.append(Case(topic, Comparison(prompt, *texts), verdicts[row["label"]]))
    if not cases:
        raise UserError(f"{path}: no pair")
    return cases


def sets_of(cases: list[Case]) -> dict[str, list[int]]:
    """The sets of pairs to measure on: a name and which pairs belong to it, by their numbers."""
    numbered = list(enumerate(cases))
    like_length = [number for number, case in numbered if case.of_like_length]
    return {
        "all pairs": [number for number, _ in numbered],
        f"of these, within {LIKE_LENGTH:.0%} in words": like_length,
    } | {
        topic: [number for number, case in numbered if case.topic == topic]
        for topic in sorted({case.topic for case in cases})
    }


def points(judge: Judge, cases: list[Case]) -> list[float]:
    """1 where the judge agrees with people, 0 where it says the contrary, .5 for a tie."""
    verdicts = judge_both_orders(judge, [case.comparison for case in cases])
    return [
        0.5 if verdict == TIE else float(verdict == case.verdict)
        for (verdict, _), case in zip(verdicts, cases, strict=True)
    ]


def accuracy(won: list[float]) -> str:
    """The mean with its interval, over pairs."""
    return formatted(bootstrap_mean(won, list(range(len(won))), DRAWS, SEED)) if won else NOTHING


def formatted(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def human_rows(judges: list[Judge], cases: list[Case]) -> list[list[str]]:
    """Rows of the table: the set of pairs, how many, and a cell a judge."""
    won = [points(judge, cases) for judge in judges]
    rows = []
    for name, numbers in sets_of(cases).items():
        cells = [accuracy([of_judge[number] for number in numbers]) for of_judge in won]
        rows.append([name, f"{len(numbers):,}", *cells])
    return rows


def held_out_rows(judges: list[Judge], study: Path) -> list[list[str]]:
    """Rows of a study's held-out delta pairs, from its judges/trust.csv: name, number of pairs, and a cell a judge."""
    trust = rows_of(read_table(study / "judges/trust.csv"))
    table = {(row["judge"], row["measure"]): row for row in trust}
    rows = []
    for measure, name in HELD_OUT.items():
        measured = [table.get((judge.name, measure)) for judge in judges]
        number = next((f"{row['rows']:,}" for row in measured if row), "0")
        rows.append([f"{study.name}: {name}", number, *map(held_out, measured)])
    return rows


def held_out(row: dict | None) -> str:
    """A cell from a row of a study's table, where the study has one."""
    if row is None:
        return NOTHING
    return formatted(Interval(*(row[key] for key in ("value", "low", "high"))))


def measure_judges(
    *,
    pairs: Path = PAIRS,
    base: Path | None = None,
    delta: Path | None = None,
    study: Path | None = None,
    device: str = "auto",
    threads: int = 2,
) -> None:
    """Print a table of the accuracy of the baselines and of a trained delta judge.

    Args:
        pairs: the arguments. base, delta: the folder of the delta judge's base model, and its adapter.
        study: results/{study}, from whose delta pairs the baseline interplay learns; its judges/trust.csv has the
            accuracy on held-out delta pairs.
    """
    cases = read_cases(pairs)
    settings = JudgeSettings(
        seed=SEED,
        threads=threads,
        device=device,
        base=base,
        delta_adapter=delta,
        delta_pairs=study / "processed/delta_pairs.jsonl" if study else None,
        sides=study / "splits/sides.csv" if study else None,
    )
    names = ["length"]
    if study:
        names.append("interplay")
    if base or delta:
        if not (base and delta):
            raise UserError("the delta judge needs --base and --delta")
        names.append("delta")
    judges = [make_judge(name, settings) for name in names]
    rows = human_rows(judges, cases) + (held_out_rows(judges, study) if study else [])
    print(f"{date.today()}, commit {commit()}\n")
    print("| pairs | number | " + " | ".join(judge.name for judge in judges) + " |")
    print("|---|---:" + "|---" * len(judges) + "|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(f"\n{HOW_TO_READ}")


if __name__ == "__main__":
    stage(measure_judges)
