"""Agreement of labellers beyond chance, with intervals: Cohen's kappa and Krippendorff's alpha.

Both are 1 if all agree, 0 if they agree as often as by chance, and 0 if only one label is ever used. Where no draw differs,
the interval is that of the agreement by Wilson, less chance.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from persuasion_rl.statistics.intervals import SAME, Interval, Resamples, wilson


def cohens_kappa(votes: Sequence[Sequence[tuple[str, str]]], resamples: Resamples) -> Interval:
    """Cohen's kappa (1960) of two labellers, and Conger's (1980) of more, with its interval.

    Chance is how often every two labellers with common rows would agree, if each gave its labels equally often, but at
    random. Names and order of labellers make no difference.

    Args:
        votes: (labeller, label) of each row, at least two.
        resamples: of the rows.
    """
    labellers = {name for row in votes for name, _ in row}
    couples = sorted(
        {couple for row in votes for couple in combinations(sorted(name for name, _ in row), 2)}
    )
    labels = sorted({label for row in votes for _, label in row})
    used = {
        vote: place for place, vote in enumerate(sorted({vote for row in votes for vote in row}))
    }
    met = {couple: 1 + place for place, couple in enumerate(couples)}
    # Columns of a row: equal labels of couples, meetings of each couple, how often each labeller gave each label.
    rows = np.zeros((len(votes), 1 + len(couples) + len(used)))
    for row, row_votes in zip(rows, votes, strict=True):
        for (one, label), (other, other_label) in combinations(sorted(row_votes), 2):
            row[0] += label == other_label
            row[met[one, other]] += 1
        for vote in row_votes:
            row[1 + len(couples) + used[vote]] += 1

    def observed_and_chance(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, columns) -> the share of equal labels, and the share expected by chance, (n,) each."""
        meetings, counts = sums[:, 1 : 1 + len(couples)], sums[:, 1 + len(couples) :]
        total = np.maximum(meetings.sum(axis=1), 1)
        none = np.zeros(len(sums))
        shares = {}
        for name in labellers:
            label_counts = [
                counts[:, used[name, label]] if (name, label) in used else none for label in labels
            ]
            label_counts = np.stack(label_counts, axis=1)
            shares[name] = label_counts / np.maximum(label_counts.sum(axis=1, keepdims=True), 1)
        by_chance = [(shares[one] * shares[other]).sum(axis=1) for one, other in couples]
        chance = (meetings * np.stack(by_chance, axis=1)).sum(axis=1) / total
        return sums[:, 0] / total, chance

    def coefficient(sums: np.ndarray) -> np.ndarray:
        observed, chance = observed_and_chance(sums)
        return np.divide(
            observed - chance, 1 - chance, out=np.zeros_like(observed), where=chance < 1
        )

    interval = resamples.interval(*resamples.of_sums(rows, coefficient))
    observed, chance = (float(share[0]) for share in observed_and_chance(rows.sum(axis=0)[None]))
    return _doubted(interval, observed, chance, resamples)


def kappa(one: Sequence[str], other: Sequence[str], resamples: Resamples) -> Interval:
    """Cohen's kappa of two labellers of the same rows, with its interval."""
    votes = [
        [("one", label), ("other", of_other)] for label, of_other in zip(one, other, strict=True)
    ]
    return cohens_kappa(votes, resamples)


def krippendorffs_alpha(labels: Sequence[Sequence[str]], resamples: Resamples) -> Interval:
    """Krippendorff's alpha (nominal) of any number of labels a row, with its interval.

    Rows with one label do not count.

    Args:
        labels: of each row. resamples: of the rows.
    """
    place = {name: number for number, name in enumerate(sorted({v for row in labels for v in row}))}
    coincidences = np.zeros((len(labels), len(place), len(place)))
    for row, row_labels in enumerate(labels):
        if len(row_labels) > 1:
            counts = np.zeros(len(place))
            np.add.at(counts, [place[label] for label in row_labels], 1)
            pairs = np.outer(counts, counts) - np.diag(counts)
            coincidences[row] = pairs / (len(row_labels) - 1)

    def coefficient(sums: np.ndarray) -> np.ndarray:
        total, by_label = sums.sum(axis=(1, 2)), sums.sum(axis=2)
        differ = total - np.trace(sums, axis1=1, axis2=2)
        chance = (total**2 - (by_label**2).sum(axis=1)) / (total - 1)
        return 1 - np.divide(differ, chance, out=np.ones_like(differ), where=chance > 0)

    interval = resamples.interval(*resamples.of_sums(coincidences, coefficient))
    counts = coincidences.sum(axis=0)
    shares = counts.sum(axis=0) / counts.sum()
    agreed = float(np.trace(counts) / counts.sum())
    return _doubted(interval, agreed, float((shares**2).sum()), resamples)


def _doubted(interval: Interval, observed: float, chance: float, resamples: Resamples) -> Interval:
    """The interval, extended if all agree or no draw differs: by the coefficients at the ends of Wilson's interval of
    agreement. A single label (chance is 1) is no information: from -1 to 1."""
    if observed < 1 and interval.high - interval.low > SAME:
        return interval
    if chance == 1:
        return Interval(interval.value, -1.0, 1.0)
    rate = wilson(observed, resamples.size)
    ends = [max((end - chance) / (1 - chance), -1.0) for end in (rate.low, rate.high)]
    return Interval(interval.value, min(interval.low, ends[0]), max(interval.high, ends[1]))
