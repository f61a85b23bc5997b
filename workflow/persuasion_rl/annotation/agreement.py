"""How far annotators agree with each other and with themselves, and what they did."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np

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
    from persuasion_rl.statistics.intervals import bootstrap_rate
    from persuasion_rl.statistics.pairwise import alpha

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
        "alpha": _told(alpha(given, resamples), len(several)),
    }


def cohens_kappa(votes: Sequence[Sequence[tuple[str, str]]], resamples: Resamples) -> Interval:
    """Cohen's kappa of annotators who answered the same pairs, with its interval; of more than two, Conger's (1980): what
    every two of them say alike, beyond what they would by chance, if each gave the opinions that they give as often, but
    without looking. Who is called what, and who comes first, makes no difference.

    Args:
        votes: (annotator, opinion) of each pair, at least two. resamples: of the pairs.
    """
    people = {name for row in votes for name, _ in row}
    shares = {
        key: place for place, key in enumerate(sorted({vote for row in votes for vote in row}))
    }
    twos = sorted({two for row in votes for two in combinations(sorted(name for name, _ in row), 2)})  # fmt: skip
    places = {two: 1 + place for place, two in enumerate(twos)}
    # A row: votes of two that are equal, how often each two met, how often each annotator had each opinion.
    rows = np.zeros((len(votes), 1 + len(twos) + len(shares)))
    for row, given in zip(rows, votes, strict=True):
        for (one, said), (other, said_too) in combinations(sorted(given), 2):
            row[0] += said == said_too
            row[places[one, other]] += 1
        for vote in given:
            row[1 + len(twos) + shares[vote]] += 1
    opinions = sorted({opinion for _, opinion in shares})

    def coefficient(sums: np.ndarray) -> np.ndarray:
        agreed, chance = _agreed_and_chance(sums)
        return np.divide(agreed - chance, 1 - chance, out=np.zeros_like(agreed), where=chance < 1)

    def _agreed_and_chance(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        met, counts = sums[:, 1 : 1 + len(twos)], sums[:, 1 + len(twos) :]
        total = np.maximum(met.sum(axis=1), 1)
        own = {}
        for name in people:
            had = np.stack([counts[:, shares[name, o]] if (name, o) in shares else np.zeros(len(sums)) for o in opinions], axis=1)  # fmt: skip
            own[name] = had / np.maximum(had.sum(axis=1, keepdims=True), 1)
        by_chance = np.stack([(own[one] * own[other]).sum(axis=1) for one, other in twos], axis=1)
        return sums[:, 0] / total, (met * by_chance).sum(axis=1) / total

    found = resamples.interval(*resamples.of_sums(rows, coefficient))
    agreed, chance = (float(one[0]) for one in _agreed_and_chance(rows.sum(axis=0)[None]))
    if agreed < 1:
        return found
    # Where all agree, so do all draws; one opinion alone tells nothing.
    if chance == 1:
        return Interval(found.value, -1.0, 1.0)
    lowest = (wilson(1.0, resamples.size).low - chance) / (1 - chance)
    return Interval(found.value, min(found.low, float(lowest)), found.high)


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
