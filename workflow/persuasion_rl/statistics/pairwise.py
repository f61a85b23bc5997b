"""Statistics of pairwise comparisons, for all draws of a bootstrap at once.

Points are 1 for a win, .5 for a tie and 0 for a loss, as in the win rates.
"""

from collections.abc import Sequence

import numpy as np

from persuasion_rl.statistics.intervals import UNKNOWN, Interval, Resamples, wilson

PRIOR = 1.0
"""The prior, as a number of ties: of each player with a player of average strength, and of each coefficient of the
regression on length. Without it, a player that never wins would have no finite strength."""
NOTHING_KNOWN = Interval(UNKNOWN, UNKNOWN, UNKNOWN)
STEPS, CLOSE = 50, 1e-9
"""Newton's method ends when no coefficient moves by more than this, or after this many steps."""
ALIKE = 1e-7
"""Strengths that differ by no more are equal."""
POWER = 0.8
"""The probability of showing a difference, in the table of power."""


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def bradley_terry(games: np.ndarray, prior: float = PRIOR) -> np.ndarray:
    """Log-strengths, of mean zero, under which each player's expected points equal its actual ones (Bradley & Terry 1952).
    A tie is half a win for both, so a difference of strengths is the logit of an expected win rate.

    Args:
        games: (n, players, players), points of the row's player against the column's, for n samples.
    Returns:
        (n, players).
    """
    played = games + games.transpose(0, 2, 1)
    points = games.sum(axis=2)
    count = games.shape[1]
    strength = np.zeros(points.shape)
    for _ in range(STEPS):
        expected = logistic(strength[:, :, None] - strength[:, None, :])
        average = logistic(strength)
        gradient = points - (played * expected).sum(axis=2) + prior * (0.5 - average)
        weight = played * expected * (1 - expected)
        information = -weight
        diagonal = weight.sum(axis=2) + prior * average * (1 - average)
        information[:, range(count), range(count)] += diagonal
        step = np.linalg.solve(information, gradient[:, :, None])[:, :, 0]
        strength = strength + step
        if np.abs(step).max() < CLOSE:
            break
    return strength - strength.mean(axis=1, keepdims=True)


def standings(games: np.ndarray, resamples: Resamples) -> list[tuple[Interval, Interval]]:
    """Each player's strength against the first player, and its rank, with intervals.

    If a pair's games hardly vary (one always won, or all were ties), the draws have that in common. Each player is then
    fitted twice more, with such games of its own and of the first player as bad and as good for it as Wilson's interval
    allows, and its intervals reach at least to these fits. So are all games of a player whose strength is the same in every
    draw, as where wins and losses go round in a circle.

    Nothing is known of a player whom no chain of games connects with the first one. All others may be behind it.

    Args:
        games: (rows, players, players), points of the row's player against the column's.
    """
    totals = games.sum(axis=0)
    linked = _linked_to_first(totals)
    if not linked.all():
        within = iter(standings(games[:, linked][:, :, linked], resamples))
        return [
            _before(next(within), (~linked).sum()) if known else (NOTHING_KNOWN, NOTHING_KNOWN)
            for known in linked
        ]
    estimate, resampled = resamples.of_sums(games, bradley_terry)
    varies = np.ptp(resampled - resampled[:, :1], axis=0) > ALIKE
    varies[0] = varies[1:].any()
    doubted = _doubted(games, resamples, varies)
    fits = np.concatenate([estimate[None], bradley_terry(doubted), resampled])
    strengths, places = fits - fits[:, :1], ranks(fits)
    return [
        (
            _reaching(strengths[:, who], who, resamples),
            _reaching(places[:, who], who, resamples),
        )
        for who in range(len(totals))
    ]


def _linked_to_first(totals: np.ndarray) -> np.ndarray:
    """(players,): whether a chain of games connects each player with the first one."""
    from scipy.sparse.csgraph import connected_components

    _, part = connected_components(totals + totals.T, directed=False)
    return part == part[0]


def _before(standing: tuple[Interval, Interval], others: int) -> tuple[Interval, Interval]:
    """A standing among players, each of `others` of whom may be before them."""
    strength, rank = standing
    return strength, Interval(rank.value, rank.low, rank.high + others)


def _reaching(fits: np.ndarray, who: int, resamples: Resamples) -> Interval:
    """The interval of a player's first fit, extended to contain its two doubted ones.

    Args:
        fits: the estimate, two of each player (`_doubted`), those of the draws.
    """
    own = fits[1 + 2 * who : 3 + 2 * who]
    interval = resamples.interval(fits[0], fits[-resamples.draws :])
    return Interval(interval.value, min(interval.low, *own), max(interval.high, *own))


def _doubted(games: np.ndarray, resamples: Resamples, varies: np.ndarray) -> np.ndarray:
    """(2 * players, players, players): points of a fit that is bad for a player, and of one that is good for it.

    Only games of pairs that hardly vary, and those of a player that does not vary, have other points than they had: the low or
    high end of Wilson's interval.

    Args:
        varies: (players,), whether a player's strength varies in the draws.
    """
    totals = games.sum(axis=0)
    low, high = totals.copy(), totals.copy()
    hardly = np.zeros(totals.shape, dtype=bool)
    for one, other in zip(*np.nonzero(np.triu(totals + totals.T)), strict=True):
        points, played = games[:, one, other], games[:, one, other] + games[:, other, one]
        hardly[one, other] = hardly[other, one] = resamples.hardly_vary(points, played)
        conversations = (resamples.by_conversation(played) > 0).sum()
        rate = wilson(points.sum() / played.sum(), conversations)
        for player, against, worst, best in (
            (one, other, rate.low, rate.high),
            (other, one, 1 - rate.high, 1 - rate.low),
        ):
            low[player, against], high[player, against] = np.array([worst, best]) * played.sum()
    fits = []
    for who in range(len(totals)):
        doubts = hardly | (not varies[who])
        for of_player, of_first in ((low, high), (high, low)):
            fit = totals.copy()
            for player, ends, of_others in ((0, of_first, of_player), (who, of_player, of_first)):
                fit[player], fit[:, player] = ends[player], of_others[:, player]
            fits.append(np.where(doubts, fit, totals))
    return np.stack(fits)


def ranks(strengths: np.ndarray) -> np.ndarray:
    """Strengths (n, players) -> ranks from 1, the strongest first; equal strengths share a rank."""
    return 1 + (strengths[:, None, :] > strengths[:, :, None] + ALIKE).sum(axis=2)


def length_controlled(
    points: Sequence[float], longer: Sequence[float], resamples: Resamples
) -> Interval:
    """The win rate that a judge would give at equal length: a logistic regression of the points on the difference in
    length, at zero. Its term is the tanh of the difference in standard deviations (Dubois et al. 2024), since a judge's
    bonus for length saturates; a linear term would then blame the player. Their term for the prompt's difficulty is
    left out.

    Args:
        points: one a game; if all are the same, length explains nothing and the interval is Wilson's. If they hardly
            vary, the interval contains Wilson's.
        longer: words of the first response minus those of the second.
    """
    points, longer = np.asarray(points, float), np.asarray(longer, float)
    if len(set(points)) == 1:
        return wilson(float(points[0]), resamples.size)
    terms = np.stack([np.ones_like(longer), np.tanh(longer / (longer.std() or 1))], axis=1)
    weights = np.vstack([np.ones(len(points)), resamples.times[:, resamples.member]])
    rates = logistic(_fitted(terms, points, weights)[:, 0])
    interval = resamples.interval(rates[0], rates[1:])
    return resamples.doubted(interval) if resamples.hardly_vary(points) else interval


def _fitted(terms: np.ndarray, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients (n, terms) of logistic regressions of `points` (rows,) on `terms` (rows, terms) under n `weights`
    (n, rows), with the prior on each coefficient."""
    pairs = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), -1)
    count = terms.shape[1]
    fitted = np.zeros((len(weights), count))
    for _ in range(STEPS):
        expected = logistic(fitted @ terms.T)
        average = logistic(fitted)
        gradient = (weights * (points - expected)) @ terms + PRIOR * (0.5 - average)
        information = ((weights * expected * (1 - expected)) @ pairs).reshape(-1, count, count)
        information[:, range(count), range(count)] += PRIOR * average * (1 - average)
        step = np.linalg.solve(information, gradient[:, :, None])[:, :, 0]
        fitted = fitted + step
        if np.abs(step).max() < CLOSE:
            break
    return fitted


def sign_flip(points: Sequence[float], resamples: Resamples, draws: int = 10_000) -> float:
    """The two-sided p-value of "the two players are alike" by a randomisation test (Fisher 1935): a coin flips each
    conversation's result or not, and p is the share of draws at least as far from one half as the actual result."""
    excess = resamples.by_conversation(np.asarray(points, float) - 0.5)
    signs = np.random.default_rng(resamples.seed).integers(0, 2, (draws, len(excess))) * 2 - 1
    flipped = np.abs(signs @ excess)
    return float((1 + (flipped >= abs(excess.sum()) - 1e-9).sum()) / (1 + draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the given order."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(order), 0.0
    for place, which in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[which]))
        corrected[which] = largest
    return corrected


def effect(rate: float) -> float:
    """Cohen's h (1988) of a win rate against one half: .2 is small, .5 medium, .8 large."""
    return float(2 * np.arcsin(np.sqrt(rate)) - np.pi / 2)


def prompts_needed(difference: float) -> int:
    """The number of prompts, one game each without ties, that shows a win rate of one half plus `difference` with the
    probability POWER: in one comparison, at the two-sided 5% level (normal approximation)."""
    return int(np.ceil((_reach(1) / 2 / difference) ** 2 - 0.5))


def detectable(prompts: int, comparisons: int = 1) -> float:
    """The difference from one half that this many prompts show with the probability POWER, at the two-sided 5% level
    divided by the number of comparisons, as in Holm's first step."""
    return float(_reach(comparisons) / 2 / np.sqrt(prompts))


def _reach(comparisons: int) -> float:
    """The size of a difference, in standard errors, that is shown with the probability POWER."""
    from scipy.stats import norm

    return float(norm.ppf(1 - 0.025 / comparisons) + norm.ppf(POWER))


def over_seeds(
    points: Sequence[Sequence[float]], conversations: Sequence[str], draws: int, seed: int
) -> Interval:
    """The mean win rate over training seeds, with an interval for other seeds and other conversations.

    It has two sources of variance. One is the seeds: the variance of their means, divided by their number, with Student's
    quantile for one degree of freedom less than seeds (12.7 for two seeds, 4.3 for three: so few say little, and the
    interval shows that). The other is the conversations, which all seeds share: the mean covariance of the seeds' means
    over the draws. Each has its own quantile, and the widths add in squares (MOVER: Zou & Donner 2008).

    Args:
        points: (seeds, rows), each seed's points in the same rows.
    """
    from scipy.special import stdtrit

    points = np.asarray(points, dtype=float)
    resamples = Resamples(conversations, draws, seed)
    if points.min() == points.max():
        return wilson(float(points[0, 0]), resamples.size)
    seeds = len(points)
    rows = np.vstack([points, np.ones(points.shape[1])]).T
    means, resampled = resamples.of_sums(rows, lambda sums: sums[:, :-1] / sums[:, -1:])
    covariance = np.cov(resampled.T)
    shared = (covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1))
    from_seeds = stdtrit(seeds - 1, 0.975) * np.sqrt(means.var(ddof=1) / seeds)
    half = np.hypot(from_seeds, resamples.quantile * np.sqrt(max(shared, 0.0)))
    # Seeds whose means are the same by chance leave what conversations do to the mean of just these trainings.
    half = max(half, resamples.quantile * np.sqrt(max(covariance.mean(), 0.0)))
    mean = float(means.mean())
    interval = Interval(mean, float(max(mean - half, 0.0)), float(min(mean + half, 1.0)))
    alike = resamples.hardly_vary(points.mean(axis=0))
    return resamples.doubted(interval) if alike else interval
