"""Intervals: by their formulas, their bounds, and simulations whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student

from persuasion_rl.statistics.intervals import bootstrap_mean, bootstrap_rate, wilson


def clustered(rng, conversations: int, rows_each: int, within: float) -> tuple[list, list]:
    """Values around 0: conversations differ with variance 1, rows of one by `within` besides."""
    names = [f"c{i}" for i in range(conversations) for _ in range(rows_each)]
    shared = rng.standard_normal(conversations).repeat(rows_each)
    return (shared + within * rng.standard_normal(len(names))).tolist(), names


def test_the_estimate_is_the_plain_mean_inside_its_interval():
    values = [0.0, 1.0, 1.0, 0.5, 0.25, 1.0]
    interval = bootstrap_mean(values, ["a", "a", "b", "c", "d", "d"], draws=500, seed=1)
    assert math.isclose(interval.value, sum(values) / 6)
    assert 0 <= interval.low < interval.value < interval.high <= 1
    assert interval.columns("rate") == {
        "rate": interval.value,
        "low": interval.low,
        "high": interval.high,
    }


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([0.3] * 10, "aabbccddee"),
        ([1.0, 2.0, 4.0], "aaa"),
        ([5.0], "a"),
        ([0.0, 9.0] * 3, "aabbcc"),
    ],
    ids=["equal rows", "one conversation", "one row", "equal conversations"],
)
def test_where_no_conversation_differs_the_interval_of_a_mean_is_not_known(values, names):
    interval = bootstrap_mean(values, list(names), draws=100, seed=1)
    mean = sum(values) / len(values)
    assert interval.value == pytest.approx(mean)
    assert interval.columns("mean") == {"mean": interval.value, "low": None, "high": None}
    assert interval.text(".1f") == f"{mean:.1f} [not known]"


def test_the_interval_is_a_function_of_the_seed():
    values, names = clustered(np.random.default_rng(0), 20, 3, 1.0)
    assert bootstrap_mean(values, names, 200, 1) == bootstrap_mean(values, names, 200, 1)
    one, other = (bootstrap_mean(values, names, 200, seed) for seed in (1, 2))
    assert one.value == other.value and one.low != other.low


def test_rows_of_one_conversation_widen_the_interval():
    values, names = clustered(np.random.default_rng(0), 40, 8, 0.1)
    together = bootstrap_mean(values, names, draws=1000, seed=1)
    apart = bootstrap_mean(values, [f"r{i}" for i in range(len(values))], draws=1000, seed=1)
    assert together.value == pytest.approx(apart.value)
    # Eight copies of nearly the same row tell as much as one: sqrt(8) = 2.8 times as wide.
    assert 2.2 < (together.high - together.low) / (apart.high - apart.low) < 3.4


def test_the_width_is_that_of_the_normal_interval():
    rng = np.random.default_rng(1)
    values = rng.standard_normal(400)
    interval = bootstrap_mean(values.tolist(), [f"c{i}" for i in range(400)], draws=4000, seed=1)
    half = 1.96 * values.std() / math.sqrt(400)
    assert math.isclose(interval.high - interval.low, 2 * half, rel_tol=0.06)
    assert math.isclose(interval.high + interval.low, 2 * interval.value, abs_tol=0.2 * half)


def test_95_percent_of_the_intervals_hold_the_truth():
    rng = np.random.default_rng(5)
    datasets = 400
    covered = naive = 0
    for seed in range(datasets):
        values, names = clustered(rng, 40, 4, 0.5)
        interval = bootstrap_mean(values, names, draws=400, seed=seed)
        covered += interval.low <= 0 <= interval.high
        rows = bootstrap_mean(values, list(map(str, range(len(values)))), draws=200, seed=seed)
        naive += rows.low <= 0 <= rows.high
    # .95 within three standard errors of a share of 400; `benchmarks/coverage.py` counts over more.
    assert 0.917 < covered / datasets < 0.983
    assert naive / datasets < 0.8  # rows drawn one by one would claim too much


def test_intervals_over_few_conversations_hold_the_truth_too():
    """They do in 94.5% of such studies; plain percentiles would in 90.4%."""
    rng, covered = np.random.default_rng(12), 0
    for seed in range(1500):
        values = rng.standard_normal(12).tolist()
        interval = bootstrap_mean(values, [f"c{i}" for i in range(12)], draws=1000, seed=seed)
        covered += interval.low <= 0 <= interval.high
    assert 0.925 < covered / 1500 < 0.97


@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from("abcd")), min_size=1, max_size=12))
def test_an_interval_holds_its_estimate_and_the_order_of_rows_does_not_matter(rows):
    interval, reordered = (
        bootstrap_mean(*zip(*ordered, strict=True), draws=50, seed=1)
        for ordered in (rows, rows[::-1])
    )
    assert not interval.low > interval.value and not interval.high < interval.value
    assert interval.low != interval.high
    assert (reordered.value, reordered.low, reordered.high) == pytest.approx(
        (interval.value, interval.low, interval.high), nan_ok=True
    )


def test_a_share_of_few_trials_is_not_certain():
    """Wilson's interval, by its formula."""
    for right, trials in ((2, 2), (0, 3), (7, 10), (50, 100)):
        z, share = 1.959964, right / trials
        middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
        half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)  # fmt: skip
        interval = wilson(share, trials)
        assert (interval.low, interval.high) == pytest.approx(
            (middle - half, middle + half), abs=1e-6
        )
    assert wilson(1.0, 2).low < 0.35


def test_a_rate_without_any_variation_is_not_certain():
    ones = bootstrap_rate([1.0] * 8, list("aabbccdd"), draws=100, seed=1)
    assert ones.value == ones.high == 1.0
    assert ones == wilson(1.0, 4)  # four conversations, not eight rows
    assert bootstrap_rate([0.0] * 20, [str(i) for i in range(20)], 100, 1).high > 0.1
    ties = bootstrap_rate([0.5] * 8, list("aabbccdd"), draws=100, seed=1)
    assert (ties.low, ties.high) == (wilson(0.5, 4).low, wilson(0.5, 4).high)


def test_a_rate_of_many_ties_and_few_decisions_is_as_uncertain_as_one_of_ties_alone():
    """39 ties and a win, or 19 ties and a win: a bootstrap would find it within .5 and .54."""
    for ties in (39, 19):
        names = [str(i) for i in range(ties + 1)]
        rate = bootstrap_rate([1.0] + [0.5] * ties, names, 500, 1)
        assert rate == wilson(0.5 + 0.5 / (ties + 1), ties + 1)


def test_a_rate_that_is_not_rare_is_bootstrapped():
    mixed = [1.0] * 30 + [0.0] * 10
    names = [str(i) for i in range(40)]
    assert bootstrap_rate(mixed, names, 100, 1) == bootstrap_mean(mixed, names, 100, 1)


def test_a_rare_rate_has_the_interval_of_the_trials_that_it_is_worth():
    """Wilson's formula for one trial fewer, as sample variances go, and as many fewer as Student's quantile is wider."""

    def expected(conversations: int) -> tuple[float, float]:
        worth = (conversations - 1) * (norm.ppf(0.975) / student.ppf(0.975, conversations - 1)) ** 2
        return pytest.approx((wilson(1 / conversations, worth).low, wilson(1 / conversations, worth).high))  # fmt: skip

    alone = bootstrap_rate([1.0] + [0.0] * 59, [str(i) for i in range(60)], 500, 1)
    assert (alone.low, alone.high) == expected(60)
    alike = bootstrap_rate([1.0, 1.0] + [0.0] * 58, [str(i // 2) for i in range(60)], 500, 1)
    assert (alike.low, alike.high) == expected(30)
    # Half a point, as for a tie, is less uncertain than a whole one.
    half = bootstrap_rate([0.5] + [0.0] * 59, [str(i) for i in range(60)], 500, 1)
    assert half.value == alone.value / 2 and 0 < half.low < alone.low and half.high < alone.high


@given(
    points=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40),
    sizes=st.integers(1, 4),
)
def test_a_rate_and_its_opposite_have_the_same_interval_turned_round(points, sizes):
    names = [str(i // sizes) for i in range(len(points))]
    rate, opposite = (
        bootstrap_rate(values, names, 200, 1) for values in (points, [1 - p for p in points])
    )
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.high > rate.low
    assert (1 - opposite.high, 1 - opposite.low) == pytest.approx((rate.low, rate.high), abs=0.02)


def test_intervals_of_a_rare_rate_hold_it_in_about_95_percent_of_studies():
    """Those of the bootstrap alone hold it in fewer; see benchmarks/coverage.py."""
    share, covered = 1 / 50, {bootstrap_rate: 0, bootstrap_mean: 0}
    for seed in range(600):
        points = (np.random.default_rng(seed).random(200) < share).astype(float)
        for method in covered:
            interval = method(points, [str(i) for i in range(200)], 200, seed)
            covered[method] += interval.low <= share <= interval.high
    assert covered[bootstrap_mean] / 600 < 0.925 < covered[bootstrap_rate] / 600 < 0.98
