"""Estimates with intervals: a percentile bootstrap over conversations (Efron & Tibshirani 1993).

Rows of one conversation are not independent, so whole conversations are drawn, not rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        return {name: self.value, "low": self.low, "high": self.high}


def percentiles(estimate: float, draws: np.ndarray) -> Interval:
    """The middle 95% of an estimate's draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(estimate), float(low), float(high))


def wilson(share: float, trials: int) -> Interval:
    """A share of independent trials with its 95% Wilson interval, which holds for a few trials too, where every
    draw of a bootstrap may be the same."""
    from scipy.stats import binomtest

    found = binomtest(round(share * trials), trials).proportion_ci(method="wilson")
    return Interval(share, float(found.low), float(found.high))


class Resamples:
    """Draws of as many whole conversations as there are, with replacement.

    Args:
        conversations: the conversation of each row.
    """

    def __init__(self, conversations: Sequence[str], draws: int, seed: int):
        names, self.member = np.unique(np.asarray(conversations), return_inverse=True)
        self.size, self.draws, self.seed = len(names), draws, seed

    @cached_property
    def times(self) -> np.ndarray:
        """(draws, conversations): how often each conversation was drawn."""
        shape = (self.draws, self.size)
        picks = np.random.default_rng(self.seed).integers(0, self.size, shape)
        picks += self.size * np.arange(self.draws)[:, None]
        return np.bincount(picks.ravel(), minlength=picks.size).reshape(shape).astype(float)

    def by_conversation(self, rows: np.ndarray) -> np.ndarray:
        """Sums of (rows, ...) over each conversation's rows: (conversations, ...)."""
        rows = np.asarray(rows, dtype=float)
        sums = np.zeros((self.size, *rows.shape[1:]))
        np.add.at(sums, self.member, rows)
        return sums

    def of_sums(self, rows: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple:
        """A statistic of sums over all rows: its estimate, and its draws.

        Args:
            rows: (rows, ...). statistic: takes (n, ...), sums of n samples, and gives (n, ...).
        """
        sums = self.by_conversation(rows)
        flat = self.times @ sums.reshape(self.size, -1)
        drawn = flat.reshape(self.draws, *sums.shape[1:])
        return statistic(sums.sum(axis=0)[None])[0], statistic(drawn)


def bootstrap_mean(
    values: Sequence[float], conversations: Sequence[str], draws: int, seed: int
) -> Interval:
    """The mean of `values` and its 95% interval over draws of whole conversations.

    Args:
        values: one number a row. conversations: the row's conversation, of the same length.
    """
    resamples = Resamples(conversations, draws, seed)
    return mean_of(values, resamples)


def mean_of(values: Sequence[float], resamples: Resamples) -> Interval:
    """`bootstrap_mean` with draws that exist."""
    numbers = np.asarray(values, dtype=float)
    rows = np.stack([numbers, np.ones_like(numbers)], axis=1)
    return percentiles(*resamples.of_sums(rows, lambda sums: sums[:, 0] / sums[:, 1]))


def bootstrap_rate(
    points: Sequence[float], conversations: Sequence[str], draws: int, seed: int
) -> Interval:
    """`bootstrap_mean` of numbers in [0, 1]. Where all of them are 0, or all are 1, every draw is the same: the
    interval is then Wilson's for as many trials as there are conversations."""
    if set(points) in ({0.0}, {1.0}):
        return wilson(float(points[0]), len(set(conversations)))
    return bootstrap_mean(points, conversations, draws, seed)
