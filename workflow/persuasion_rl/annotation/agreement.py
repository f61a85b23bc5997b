"""Measures how far annotators agree with each other and with themselves, and counts their answers."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

from persuasion_rl.annotation.plan import (
    FIRST_TIME,
    FLAG,
    PRACTICE,
    REPEAT,
    SKIP,
    Answer,
    judgment_of,
    pair_id,
    tally,
)
from persuasion_rl.annotation.store import read_answers
from persuasion_rl.files import write_json
from persuasion_rl.records import ResponsePair, read_rows
from persuasion_rl.runtime.command import stage
from persuasion_rl.statistics.intervals import Interval, Resamples, wilson

DRAWS = 2000
"""Bootstrap draws for the intervals."""
LEAST = 10
"""The least number of pairs answered by several people for which their agreement is measured."""


def describe_answers(rows: Sequence[ResponsePair], answers: Sequence[Answer], seed: int) -> dict:
    """Statistics of the answers to a pool; None for those that cannot be measured.

    Returns:
        pairs, answered, flagged: numbers of pairs in the pool, of judged ones, and of those left out as unsafe.
        other_pairs: the number of answers to pairs that are no longer in the pool, because its responses changed.
        annotators: name -> numbers of answers, skips and flags, median seconds an answer.
        agreement, kappa, alpha: for pairs with several people, the share of equal judgments, Cohen's kappa
        (`statistics.agreement.cohens_kappa`), Krippendorff's alpha.
        consistency: the share of hidden repeats with the same judgment as before.
        The last four are {"value", "low", "high", "rows"} with a 95% interval over conversations (consistency: Wilson's).
    """
    pool = {pair_id(row): row for row in rows}
    to_pool = [a for a in answers if a.pair in pool and a.kind != PRACTICE]
    first = [a for a in to_pool if a.kind == FIRST_TIME]
    counts = tally(pool, first)
    judgments: dict[str, list[tuple[str, str]]] = {}
    for answer in first:
        if judgment := judgment_of(answer):
            judgments.setdefault(answer.pair, []).append((answer.annotator, judgment))
    shared = {pair: by_people for pair, by_people in judgments.items() if len(by_people) > 1}
    conversations = [pool[pair]["metadata"]["conversation_id"] for pair in shared]
    return {
        "pairs": len(pool),
        "answered": counts.answered,
        "flagged": counts.flagged,
        "other_pairs": sum(a.kind == FIRST_TIME and a.pair not in pool for a in answers),
        "annotators": _annotators(to_pool),
        **_agreement(list(shared.values()), conversations, seed),
        "consistency": _consistency(to_pool),
    }


def _annotators(answers: list[Answer]) -> dict[str, dict]:
    rows = {}
    for name in sorted({answer.annotator for answer in answers}):
        of_annotator = [answer for answer in answers if answer.annotator == name]
        seconds = [answer.seconds for answer in of_annotator if answer.seconds is not None]
        counts = Counter(answer.answer for answer in of_annotator)
        rows[name] = {
            "answers": len(of_annotator),
            "skips": counts[SKIP],
            "flags": counts[FLAG],
            "median_seconds": round(median(seconds), 1) if seconds else None,
        }
    return rows


def _agreement(
    judgments: list[list[tuple[str, str]]], conversations: list[str], seed: int
) -> dict[str, dict | None]:
    """Agreement of several people on pairs.

    Args:
        judgments: for each pair, at least two of (annotator, judgment).
        conversations: the conversation of each pair.
    """
    from persuasion_rl.statistics.agreement import cohens_kappa, krippendorffs_alpha
    from persuasion_rl.statistics.intervals import bootstrap_rate

    if len(judgments) < LEAST:
        return {"agreement": None, "kappa": None, "alpha": None}
    labels = [[label for _, label in by_people] for by_people in judgments]
    equal = [
        (conversation, float(one == other))
        for conversation, pair_labels in zip(conversations, labels, strict=True)
        for one, other in combinations(pair_labels, 2)
    ]
    names, points = zip(*equal, strict=True)
    resamples = Resamples(conversations, DRAWS, seed)
    return {
        "agreement": _columns(bootstrap_rate(points, names, DRAWS, seed), len(labels)),
        "kappa": _columns(cohens_kappa(judgments, resamples), len(labels)),
        "alpha": _columns(krippendorffs_alpha(labels, resamples), len(labels)),
    }


def _consistency(answers: Sequence[Answer]) -> dict | None:
    """The share of repeats with the annotator's first judgment of that pair; None without repeats."""
    first = {(a.annotator, a.pair): judgment_of(a) for a in answers if a.kind == FIRST_TIME}
    judgments = [
        (first.get((a.annotator, a.pair)), judgment_of(a)) for a in answers if a.kind == REPEAT
    ]
    judged = [(one, other) for one, other in judgments if one and other]
    if not judged:
        return None
    equal = sum(one == other for one, other in judged)
    return _columns(wilson(equal / len(judged), len(judged)), len(judged))


def _columns(interval: Interval, rows: int) -> dict:
    return {**interval.columns("value"), "rows": rows}


def report_agreement(*, responses: Path, answers: Path, output: Path, seed: int) -> None:
    """Write statistics of the answers in a store (`describe_answers`) as JSON.

    Args:
        responses: the pool. answers: the store.
    """
    rows = list(read_rows(responses, ResponsePair))
    write_json(output, describe_answers(rows, read_answers(answers), seed))


if __name__ == "__main__":
    stage(report_agreement)
