"""How far annotators agree with each other and with themselves, and what they did."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

from persuasion_rl.annotation.store import (
    FIRST_TIME,
    FLAG,
    PRACTICE,
    REPEAT,
    SKIP,
    Answer,
    opinion_of,
    pair_id,
    read_answers,
    tally,
)
from persuasion_rl.files import read_jsonl, write_json
from persuasion_rl.runtime.command import stage
from persuasion_rl.statistics.intervals import Interval, Resamples, wilson

DRAWS = 2000
"""Bootstrap draws for the intervals."""
LEAST = 10
"""Pairs that several people have answered, below which their agreement is not told."""


def describe_answers(rows: Sequence[dict], answers: Sequence[Answer], seed: int) -> dict:
    """What the answers to a pool are like; what cannot be measured is None.

    pairs, answered, flagged: pairs of the pool, those that somebody has judged, those left out as unsafe.
    other_pairs: answers to pairs that are not in the pool, because its responses changed since.
    annotators: name -> answers, skips, flags, median seconds an answer.
    agreement, kappa, alpha: of people who answered the same pair: the share of equal opinions, Cohen's kappa
    (`cohens_kappa`), Krippendorff's alpha. consistency: the share of hidden repeats with the same verdict as before.
    The latter four are {"value", "low", "high", "rows"} with a 95% interval over conversations (consistency: Wilson's).
    """
    pool = {pair_id(row): row for row in rows}
    own = [a for a in answers if a.pair in pool and a.kind != PRACTICE]
    first = [a for a in own if a.kind == FIRST_TIME]
    counted = tally(pool, first)
    votes: dict[str, list[tuple[str, str]]] = {}
    for answer in first:
        if opinion := opinion_of(answer):
            votes.setdefault(answer.pair, []).append((answer.annotator, opinion))
    several = {pair: given for pair, given in votes.items() if len(given) > 1}
    conversations = {pair: pool[pair]["metadata"]["conversation_id"] for pair in several}
    return {
        "pairs": len(pool),
        "answered": counted.answered,
        "flagged": counted.flagged,
        "other_pairs": sum(a.kind == FIRST_TIME and a.pair not in pool for a in answers),
        "annotators": _annotators(own),
        **_agreement(several, conversations, seed),
        "consistency": _consistency(own),
    }


def _annotators(answers: list[Answer]) -> dict[str, dict]:
    found = {}
    for name in sorted({answer.annotator for answer in answers}):
        own = [answer for answer in answers if answer.annotator == name]
        seconds = [answer.seconds for answer in own if answer.seconds is not None]
        said = Counter(answer.answer for answer in own)
        found[name] = {
            "answers": len(own),
            "skips": said[SKIP],
            "flags": said[FLAG],
            "median_seconds": round(median(seconds), 1) if seconds else None,
        }
    return found


def _agreement(
    several: dict[str, list[tuple[str, str]]], conversations: dict[str, str], seed: int
) -> dict:
    """Of (annotator, opinion) of each pair that has more than one."""
    from persuasion_rl.statistics.agreement import cohens_kappa, krippendorffs_alpha
    from persuasion_rl.statistics.intervals import bootstrap_rate

    if len(several) < LEAST:
        return {"agreement": None, "kappa": None, "alpha": None}
    given = [[opinion for _, opinion in votes] for votes in several.values()]
    same = [
        (conversations[pair], float(one == other))
        for pair, opinions in zip(several, given, strict=True)
        for one, other in combinations(opinions, 2)
    ]
    names, points = zip(*same, strict=True)
    resamples = Resamples([conversations[pair] for pair in several], DRAWS, seed)
    return {
        "agreement": _told(bootstrap_rate(points, names, DRAWS, seed), len(several)),
        "kappa": _told(cohens_kappa(list(several.values()), resamples), len(several)),
        "alpha": _told(krippendorffs_alpha(given, resamples), len(several)),
    }


def _consistency(answers: Sequence[Answer]) -> dict | None:
    """Of repeats: how often an annotator said the same of a pair once more."""
    before = {(a.annotator, a.pair): opinion_of(a) for a in answers if a.kind == FIRST_TIME}
    again = [
        (before.get((a.annotator, a.pair)), opinion_of(a)) for a in answers if a.kind == REPEAT
    ]
    decided = [(one, other) for one, other in again if one and other]
    if not decided:
        return None
    same = sum(one == other for one, other in decided)
    return _told(wilson(same / len(decided), len(decided)), len(decided))


def _told(interval: Interval, rows: int) -> dict:
    return {**interval.columns("value"), "rows": rows}


def report_agreement(*, responses: Path, answers: Path, output: Path, seed: int) -> None:
    """Write what the answers in a store are like (`describe_answers`) as JSON."""
    write_json(output, describe_answers(list(read_jsonl(responses)), read_answers(answers), seed))


if __name__ == "__main__":
    stage(report_agreement)
