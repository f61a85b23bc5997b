"""Measures how far each judge can be trusted: on held-out delta pairs, against labels, and for consistency."""

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from persuasion_rl.data.delta_pairs import pairs_on
from persuasion_rl.files import UserError
from persuasion_rl.judges.base import (
    FIRST,
    NONE,
    SECOND,
    TIE,
    Comparison,
    Judged,
    judge_both_orders,
)
from persuasion_rl.judges.length import LengthJudge
from persuasion_rl.judges.make import JudgeSettings, make_judge
from persuasion_rl.records import DeltaPair, LabelRow, read_rows
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.statistics.intervals import Interval
from persuasion_rl.tables import write_table

LIKE_LENGTH = 0.1
"""Two replies are of like length if their lengths differ by at most this share of the longer one."""
COLUMNS = ["judge", "measure", "value", "low", "high", "rows", "conversations", "shares_weights"]


@dataclass(frozen=True)
class Case:
    """A comparison with its expected verdict: that of the delta, or of the label.

    labels: the verdicts of single labellers, if the case comes from a label.
    """

    comparison: Comparison
    expected: str
    conversation: str
    labels: tuple[str, ...] = ()


def judge_trust(
    *,
    judges: list[str],
    output: Path,
    draws: int,
    settings: JudgeSettings,
    labels: dict[str, Path] = {},
    shared: dict[str, str] = {},
) -> None:
    """Write how often each judge is right, how far it agrees with the labels, and what biases it.

    Columns: judge, measure, value, low, high (95% over conversations), rows, conversations, shares_weights (the players
    whose weights are behind the judge's own, so that both may err alike). Measures:

    delta_pairs: share of test-side pairs where the judge prefers the reply with the delta; a tie or an abstention counts
    half, so that a coin scores .5. like_length: that share on pairs of like length. above_length: that share minus the
    length baseline's on the same pairs, resampled together.
    flips: share of these pairs where its answer changes with the order. first_place: share of its decided answers, of
    both orders, for the response shown first. longer: share of its decided answers for the longer one.
    {pool}_labels: agreement with the pool's decided labels. {pool}_kappa: Cohen's kappa with the verdicts of single
    labellers, ties too; the judge "labellers" has that of every two of them.

    Pairs without an answer of the judge do not count.

    Args:
        settings: must have the delta pairs, whose test side is judged, and the sides.
        labels: pool -> LabelRows; empty if no model learns from a pool.
        shared: judge -> the players with which it shares weights, in words; others share none.
    """
    if settings.delta_pairs is None or settings.sides is None:
        raise UserError("judges are measured on delta pairs: --delta_pairs and --sides are needed")
    held_out = pairs_on("test", settings.delta_pairs, settings.sides)
    sets = {"delta_pairs": [_delta_case(row) for row in held_out]}
    for pool, path in labels.items():
        sets[f"{pool}_labels"] = [_label_case(row) for row in _labelled(path)]
    table = Trust(draws, settings.seed, shared)
    for name in judges:
        judge = make_judge(name, settings)
        # In one call, so that a judge can tell the total cost beforehand.
        judged = iter(
            judge_both_orders(judge, [case.comparison for cases in sets.values() for case in cases])
        )
        for measure, cases in sets.items():
            cases_with_judgments = [(case, next(judged)) for case in cases]
            answered = [
                (case, judged_case)
                for case, judged_case in cases_with_judgments
                if judged_case.failure is None
            ]
            if not answered:
                note(f"{name}: no answer for {measure}")
            elif measure == "delta_pairs":
                table.on_delta_pairs(name, answered)
            else:
                table.on_labels(name, measure.removesuffix("_labels"), answered)
    for pool in labels:
        table.among_labellers(pool, sets[f"{pool}_labels"])
    write_table(output, table.rows, COLUMNS)


class Trust:
    """Collects the rows of the table.

    Args:
        draws, seed: of the bootstrap over conversations. shared: as in `judge_trust`.
    """

    def __init__(self, draws: int, seed: int, shared: dict[str, str]):
        self._draws, self._seed, self._shared = draws, seed, shared
        self.rows: list[dict] = []

    def on_delta_pairs(self, judge: str, answered: list[tuple[Case, Judged]]) -> None:
        self._rate(judge, "delta_pairs", [(_right(c, j), c.conversation) for c, j in answered])
        like = [(_right(c, j), c.conversation) for c, j in answered if _like_length(c.comparison)]
        self._rate(judge, "like_length", like)
        if judge != LengthJudge.name:
            self._above_length(judge, answered)
        flips = [
            (one.verdict != other.verdict, case.conversation)
            for case, judged in answered
            for one, other in [judged.judgments]
            if NONE not in (one.verdict, other.verdict)
        ]
        self._rate(judge, "flips", flips)
        self._rate(judge, "first_place", [vote for c, j in answered for vote in _for_first(c, j)])
        self._rate(judge, "longer", [vote for c, j in answered for vote in _for_longer(c, j)])

    def _above_length(self, judge: str, answered: list[tuple[Case, Judged]]) -> None:
        from persuasion_rl.statistics.intervals import bootstrap_rate

        baseline = judge_both_orders(LengthJudge(), [case.comparison for case, _ in answered])
        gaps = [_right(c, j) - _right(c, b) for (c, j), b in zip(answered, baseline, strict=True)]
        conversations = [case.conversation for case, _ in answered]
        # As a rate, (1 + gap) / 2, so that equal gaps have an interval too.
        rates = [(1 + gap) / 2 for gap in gaps]
        rate = bootstrap_rate(rates, conversations, self._draws, self._seed)
        ends = (2 * end - 1 for end in (rate.value, rate.low, rate.high))
        self._add(judge, "above_length", Interval(*ends), conversations)

    def on_labels(self, judge: str, pool: str, answered: list[tuple[Case, Judged]]) -> None:
        decided = [
            (_right(c, j), c.conversation) for c, j in answered if c.expected in (FIRST, SECOND)
        ]
        self._rate(judge, f"{pool}_labels", decided)
        self._kappa(
            judge,
            pool,
            [
                (label, judged.verdict, case.conversation)
                for case, judged in answered
                for label in case.labels
                if NONE not in (label, judged.verdict)
            ],
        )

    def among_labellers(self, pool: str, cases: list[Case]) -> None:
        """Agreement of several people, or simulated ones, who labelled the same pairs; each two count in both orders."""
        self._kappa(
            "labellers",
            pool,
            [
                (one, other, case.conversation)
                for case in cases
                for one, other in permutations(case.labels, 2)
            ],
        )

    def _kappa(self, judge: str, pool: str, verdicts: list[tuple[str, str, str]]) -> None:
        from persuasion_rl.statistics.agreement import kappa
        from persuasion_rl.statistics.intervals import Resamples

        if verdicts:
            ones, others, conversations = zip(*verdicts, strict=True)
            interval = kappa(ones, others, Resamples(conversations, self._draws, self._seed))
            self._add(judge, f"{pool}_kappa", interval, conversations)

    def _rate(self, judge: str, measure: str, points: list[tuple[float, str]]) -> None:
        from persuasion_rl.statistics.intervals import bootstrap_rate

        if points:
            values, conversations = zip(*points, strict=True)
            rate = bootstrap_rate(list(map(float, values)), conversations, self._draws, self._seed)
            self._add(judge, measure, rate, conversations)

    def _add(self, judge: str, measure: str, interval: Interval, conversations) -> None:
        row = {
            "judge": judge,
            "measure": measure,
            **interval.columns("value"),
            "rows": len(conversations),
            "conversations": len(set(conversations)),
            "shares_weights": self._shared.get(judge, "none"),
        }
        self.rows.append(row)
        note(f"{judge:>9} {measure:<13} {interval.text()}")


def _labelled(path: Path) -> list[LabelRow]:
    return [row for row in read_rows(path, LabelRow) if "excluded" not in row]


def _label_case(row: LabelRow) -> Case:
    comparison = Comparison(row["prompt"], row["response_1"], row["response_2"])
    return Case(
        comparison, row["verdict"], row["metadata"]["conversation_id"], _single_verdicts(row)
    )


def _delta_case(row: DeltaPair) -> Case:
    """A delta pair with the winner first; judges are asked in both orders, so the place gives nothing away."""
    comparison = Comparison(row["prompt"], row["winner"], row["loser"])
    return Case(comparison, FIRST, row["metadata"]["conversation_id"])


def _right(case: Case, judged: Judged) -> float:
    return 0.5 if judged.verdict in (TIE, NONE) else float(judged.verdict == case.expected)


def _for_first(case: Case, judged: Judged) -> list[tuple[bool, str]]:
    """Whether each decided answer is for the response that was shown first."""
    shown_first = (FIRST, SECOND)  # as given, and swapped
    return [
        (judgment.verdict == first, case.conversation)
        for judgment, first in zip(judged.judgments, shown_first, strict=True)
        if judgment.verdict in (FIRST, SECOND)
    ]


def _for_longer(case: Case, judged: Judged) -> list[tuple[bool, str]]:
    """Whether each decided answer is for the response with more words; empty for equal numbers of words."""
    one, other = _words(case.comparison)
    return [
        (judgment.verdict == (FIRST if one > other else SECOND), case.conversation)
        for judgment in judged.judgments
        if judgment.verdict in (FIRST, SECOND) and one != other
    ]


def _single_verdicts(row: LabelRow) -> tuple[str, ...]:
    """Each labeller's verdict on a pair; of a single labeller the label, which for a judge combines both orders."""
    by_labeler = {vote["labeler"]: vote["verdict"] for vote in row["votes"]}
    verdicts = by_labeler.values() if len(by_labeler) > 1 else [row["verdict"]]
    return tuple(verdict for verdict in verdicts if verdict != NONE)


def _words(comparison: Comparison) -> tuple[int, int]:
    return len(comparison.first.split()), len(comparison.second.split())


def _like_length(comparison: Comparison) -> bool:
    one, other = _words(comparison)
    return abs(one - other) <= LIKE_LENGTH * max(one, other)


if __name__ == "__main__":
    stage(judge_trust)
