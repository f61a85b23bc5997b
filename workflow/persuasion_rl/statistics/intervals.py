"""Estimates with intervals: a percentile bootstrap over conversations (Efron & Tibshirani 1993).

Rows of one conversation are not independent, so whole conversations are resampled, not rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval; what is not known is not a number (UNKNOWN)."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float | None]:
        """The three numbers as cells of a table or values of JSON; None where one is not known."""
        cells = {name: self.value, "low": self.low, "high": self.high}
        return {key: None if np.isnan(cell) else cell for key, cell in cells.items()}

    def text(self, form: str = ".3f") -> str:
        """The estimate with its interval as text, every number in this format."""
        ends = "not known" if np.isnan(self.low) else f"{self.low:{form}}, {self.high:{form}}"
        return f"{self.value:{form}} [{ends}]"


UNKNOWN = float("nan")
SAME = 1e-9
"""Numbers that differ by no more are the same."""
RARE = 10
"""The number of successes or failures, one a conversation, below which a rate is too rare for a bootstrap."""
Z = 1.959964
"""The normal distribution's 97.5% quantile."""


def wilson(share: float, trials: float) -> Interval:
    """A share of independent trials with its 95% interval (Wilson 1927), which is also valid for few trials, for which all
    draws of a bootstrap may be the same."""
    middle = (share + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    deviation = np.sqrt(share * (1 - share) / trials + (Z / (2 * trials)) ** 2)
    half = Z * deviation / (1 + Z**2 / trials)
    low, high = min(middle - half, share), max(middle + half, share)
    return Interval(share, float(max(low, 0.0)), float(min(high, 1.0)))


def difference(one: Interval, other: Interval) -> Interval:
    """The difference of two independent estimates, from their intervals (MOVER: Zou & Donner 2008)."""
    value = one.value - other.value
    below = np.hypot(one.value - one.low, other.high - other.value)
    above = np.hypot(one.high - one.value, other.value - other.low)
    return Interval(value, float(value - below), float(value + above))


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
        """(draws, conversations): how often each conversation is in a draw."""
        shape = (self.draws, self.size)
        members = np.random.default_rng(self.seed).integers(0, self.size, shape)
        members += self.size * np.arange(self.draws)[:, None]
        return np.bincount(members.ravel(), minlength=members.size).reshape(shape).astype(float)

    def hardly_vary(self, points: np.ndarray, games: np.ndarray | float = 1.0) -> bool:
        """Whether draws cannot show what else may be: the rate is the same in all conversations, or in more than half of
        them and another one in fewer than RARE.

        Args:
            points: (rows,). games: (rows,), out of how many; only rows with games count.
        """
        games = self.by_conversation(np.broadcast_to(games, np.shape(points)))
        played = games > 0
        rates = self.by_conversation(points)[played] / games[played]
        if abs(rates - points.sum() / games.sum()).max(initial=0) < SAME:
            return True
        same = np.unique(rates.round(9), return_counts=True)[1].max()
        return len(rates) / 2 < same and len(rates) - same < RARE

    def interval(self, estimate: float, resampled: np.ndarray) -> Interval:
        """The middle 95% of an estimate's draws, widened for few conversations, whose draws vary too little: as much as
        Student's interval is wider than the normal one (the expanded percentile interval of Hesterberg 2015). The
        interval always contains the estimate.

        Args:
            resampled: (draws,), the estimate in each draw.
        """
        from scipy.special import ndtr

        few = np.sqrt(self.size / (self.size - 1)) if self.size > 1 else np.inf
        tail = ndtr(-few * self.quantile)
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return Interval(float(estimate), float(min(low, estimate)), float(max(high, estimate)))

    def doubted(self, rate: Interval) -> Interval:
        """The interval of a rate, extended to contain Wilson's for a trial a conversation."""
        wide = wilson(rate.value, self.size)
        return Interval(rate.value, min(rate.low, wide.low), max(rate.high, wide.high))

    @property
    def quantile(self) -> float:
        """Student's 97.5% quantile for this number of conversations."""
        from scipy.special import stdtrit

        return float(stdtrit(max(self.size - 1, 1), 0.975))

    def by_conversation(self, rows: np.ndarray) -> np.ndarray:
        """Sums over the rows of each conversation: (rows, ...) -> (conversations, ...)."""
        rows = np.asarray(rows, dtype=float)
        sums = np.zeros((self.size, *rows.shape[1:]))
        np.add.at(sums, self.member, rows)
        return sums

    def of_sums(self, rows: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple:
        """The estimate and the draws of a statistic of sums over all rows.

        Args:
            rows: (rows, ...). statistic: takes (n, ...), sums of n samples, and gives (n, ...).
        """
        sums = self.by_conversation(rows)
        flat = self.times @ sums.reshape(self.size, -1)
        resampled = flat.reshape(self.draws, *sums.shape[1:])
        return statistic(sums.sum(axis=0)[None])[0], statistic(resampled)


def bootstrap_mean(
    values: Sequence[float], conversations: Sequence[str], draws: int, seed: int
) -> Interval:
    """The mean of `values` and its 95% interval over draws of whole conversations.

    The ends are UNKNOWN where no conversation differs from the mean, as a single one does not.

    Args:
        values: one number a row. conversations: the row's conversation, of the same length.
    """
    resamples = Resamples(conversations, draws, seed)
    numbers = np.asarray(values, dtype=float)
    mean = float(numbers.mean())
    if abs(resamples.by_conversation(numbers - mean)).max() <= SAME * max(1.0, abs(mean)):
        return Interval(mean, UNKNOWN, UNKNOWN)
    rows = np.stack([numbers, np.ones_like(numbers)], axis=1)
    return resamples.interval(*resamples.of_sums(rows, lambda sums: sums[:, 0] / sums[:, 1]))


def bootstrap_rate(
    points: Sequence[float], conversations: Sequence[str], draws: int, seed: int
) -> Interval:
    """`bootstrap_mean` of numbers in [0, 1], with a wider interval if successes or failures are too rare for it.

    With few successes, or few failures, a bootstrap has few different draws, on one side. The interval is then Wilson's
    for the effective number of trials (Korn & Graubard 1998): the number of independent trials with the same variance as
    over conversations, fewer if conversations are few, and at most one a conversation if they hardly vary.
    """
    resamples = Resamples(conversations, draws, seed)
    numbers = np.asarray(points, dtype=float)
    rate = float(numbers.mean())
    excess = resamples.by_conversation(numbers - rate)
    if np.abs(excess).max() < SAME:
        return wilson(rate, resamples.size)
    hardly = resamples.hardly_vary(numbers)
    if not hardly and min(rate, 1 - rate) * resamples.size >= RARE:
        return bootstrap_mean(points, conversations, draws, seed)
    variance = (excess**2).sum() / len(numbers) ** 2 * resamples.size / (resamples.size - 1)
    worth = rate * (1 - rate) / variance * (Z / resamples.quantile) ** 2
    return wilson(rate, min(worth, resamples.size) if hardly else worth)
