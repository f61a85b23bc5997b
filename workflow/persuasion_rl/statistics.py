"""Means and rates with intervals: a percentile bootstrap over conversations (Efron & Tibshirani 1993).

Rows of one conversation are not independent, so whole conversations are drawn, not rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        return {name: self.value, "low": self.low, "high": self.high}


def wilson(share: float, trials: int) -> Interval:
    """A share of independent trials with its 95% Wilson interval, which holds for a few trials too, where every
    draw of a bootstrap may be the same."""
    from scipy.stats import binomtest

    found = binomtest(round(share * trials), trials).proportion_ci(method="wilson")
    return Interval(share, float(found.low), float(found.high))


def bootstrap_mean(
    values: Sequence[float], conversations: Sequence[str], draws: int, seed: int
) -> Interval:
    """The mean of `values` and its 95% interval over draws of whole conversations.

    Args:
        values: one number a row. conversations: the row's conversation, of the same length.
    """
    numbers = np.asarray(values, dtype=float)
    _, member = np.unique(np.asarray(conversations), return_inverse=True)
    sums = np.bincount(member, weights=numbers)
    sizes = np.bincount(member)
    picks = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    means = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(numbers.mean()), float(low), float(high))
