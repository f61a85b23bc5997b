"""Intervals, ranking and agreement against other implementations, known values, and simulations whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.comparisons import (
    alpha,
    bradley_terry,
    detectable,
    effect,
    holm,
    kappa,
    length_controlled,
    logistic,
    over_seeds,
    prompts_needed,
    ranks,
    sign_flip,
)
from persuasion_rl.statistics import Resamples, bootstrap_mean, bootstrap_rate, wilson

# Intervals


def clustered(rng, conversations: int, rows_each: int, within: float) -> tuple[list, list]:
    """Values around 0: conversations differ with variance 1, rows of one by `within` besides."""
    names = [f"c{i}" for i in range(conversations) for _ in range(rows_each)]
    shared = rng.standard_normal(conversations).repeat(rows_each)
    return (shared + within * rng.standard_normal(len(names))).tolist(), names


def test_the_estimate_is_the_plain_mean_inside_its_interval():
    values = [0.0, 1.0, 1.0, 0.5, 0.25, 1.0]
    found = bootstrap_mean(values, ["a", "a", "b", "c", "d", "d"], draws=500, seed=1)
    assert math.isclose(found.value, sum(values) / 6)
    assert 0 <= found.low < found.value < found.high <= 1
    assert found.columns("rate") == {"rate": found.value, "low": found.low, "high": found.high}


def test_equal_values_have_an_interval_of_no_width():
    found = bootstrap_mean([0.3] * 10, [f"c{i // 2}" for i in range(10)], draws=100, seed=1)
    assert all(math.isclose(number, 0.3) for number in (found.value, found.low, found.high))


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
    found = bootstrap_mean(values.tolist(), [f"c{i}" for i in range(400)], draws=4000, seed=1)
    half = 1.96 * values.std() / math.sqrt(400)
    assert math.isclose(found.high - found.low, 2 * half, rel_tol=0.06)
    assert math.isclose(found.high + found.low, 2 * found.value, abs_tol=0.2 * half)


def test_95_percent_of_the_intervals_hold_the_truth():
    rng = np.random.default_rng(5)
    datasets = 400
    held = naive = 0
    for seed in range(datasets):
        values, names = clustered(rng, 40, 4, 0.5)
        found = bootstrap_mean(values, names, draws=400, seed=seed)
        held += found.low <= 0 <= found.high
        rows = bootstrap_mean(values, list(map(str, range(len(values)))), draws=200, seed=seed)
        naive += rows.low <= 0 <= rows.high
    # .95, less about .015 for 40 conversations, within four standard errors of a share of 400.
    assert 0.89 < held / datasets < 0.985
    assert naive / datasets < 0.8  # rows drawn one by one would claim too much


def test_a_share_of_few_trials_is_not_certain():
    """Wilson's interval, by its formula."""
    for right, trials in ((2, 2), (0, 3), (7, 10), (50, 100)):
        z, share = 1.959964, right / trials
        middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
        half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)  # fmt: skip
        found = wilson(share, trials)
        assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert wilson(1.0, 2).low < 0.35


def alone(count: int, draws: int = 500) -> Resamples:
    """Rows that are conversations of their own."""
    return Resamples([f"c{i}" for i in range(count)], draws, 1)


def test_a_rate_without_any_variation_is_not_certain():
    ones = bootstrap_rate([1.0] * 8, list("aabbccdd"), draws=100, seed=1)
    assert ones.value == ones.high == 1.0
    assert ones == wilson(1.0, 4)  # four conversations, not eight rows
    assert bootstrap_rate([0.0] * 20, [str(i) for i in range(20)], 100, 1).high > 0.1
    mixed = [1.0] * 7 + [0.0]
    names = [str(i) for i in range(8)]
    assert bootstrap_rate(mixed, names, 100, 1) == bootstrap_mean(mixed, names, 100, 1)


# Ranking


@st.composite
def tournaments(draw) -> np.ndarray:
    """Points of up to five players against each other."""
    count = draw(st.integers(2, 5))
    cells = draw(st.lists(st.integers(0, 30), min_size=count * count, max_size=count * count))
    points = np.array(cells, dtype=float).reshape(count, count) / 2
    np.fill_diagonal(points, 0)
    return points


@given(tournaments())
def test_expected_points_under_the_strengths_are_those_that_there_are(points):
    """What a maximum of the likelihood is, with the tie against an average player."""
    strength = bradley_terry(points[None])[0]
    assert np.isfinite(strength).all() and abs(strength.mean()) < 1e-9
    played = points + points.T
    expected = played * logistic(strength[:, None] - strength[None, :])
    # The average player's strength is not at zero but where the players' points balance.
    left = points.sum(axis=1) - expected.sum(axis=1)
    assert abs(left.sum()) < 1e-6
    assert (abs(left) <= 0.5 + 1e-6).all()


@given(tournaments(), st.randoms())
def test_the_order_of_players_does_not_matter_and_turned_round_they_mirror(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    strength = bradley_terry(points[None])[0]
    shuffled = bradley_terry(points[np.ix_(order, order)][None])[0]
    assert shuffled == pytest.approx(strength[order], abs=1e-6)
    assert bradley_terry(points.T[None])[0] == pytest.approx(-strength, abs=1e-6)


def test_strengths_are_those_of_another_implementation():
    evalica = pytest.importorskip("evalica")
    generator = np.random.default_rng(3)
    true = np.array([0.0, 0.4, 1.1, 1.3, -0.5])
    names, one, other, winner = list("abcde"), [], [], []
    points = np.zeros((5, 5))
    for _ in range(3000):
        i, j = generator.choice(5, 2, replace=False)
        drawn = generator.random()
        chance = logistic(true[i] - true[j])
        result = 1.0 if drawn < 0.8 * chance else 0.0 if drawn > 0.2 + 0.8 * chance else 0.5
        points[i, j] += result
        points[j, i] += 1 - result
        one.append(names[i])
        other.append(names[j])
        said = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
        winner.append(said[result])
    theirs = evalica.bradley_terry(one, other, winner, tie_weight=0.5, tolerance=1e-10, limit=10**5)
    logs = np.log(theirs.scores[names].to_numpy())
    ours = bradley_terry(points[None], prior=1e-9)[0]
    assert ours == pytest.approx(logs - logs.mean(), abs=1e-4)


def test_who_never_wins_has_a_finite_strength_and_the_last_rank():
    points = np.zeros((3, 3))
    points[0, 1], points[1, 0], points[0, 2], points[1, 2] = 60, 40, 100, 100
    strength = bradley_terry(points[None])
    assert np.isfinite(strength).all()
    assert ranks(strength).tolist() == [[1, 2, 3]]


def test_equal_players_share_a_rank():
    assert ranks(np.array([[0.5, 0.5, -1.0]])).tolist() == [[1, 1, 3]]


# Length


def judged_by_length(bias: float, advantage: float, count: int, seed: int = 1):
    """Games in which the first response is better by `advantage` and longer by 20 tokens on average."""
    generator = np.random.default_rng(seed)
    longer = generator.normal(20, 40, count)
    return (generator.random(count) < logistic(advantage + bias * longer / 40)) * 1.0, longer


@pytest.mark.parametrize("advantage", [-0.5, 0.0, 0.8])
def test_the_rate_at_equal_length_is_that_without_the_judges_bias(advantage):
    points, longer = judged_by_length(1.5, advantage, 4000)
    found = length_controlled(points, longer, alone(4000))
    assert found.low < logistic(advantage) < found.high
    assert abs(points.mean() - logistic(advantage)) > 0.05  # the plain rate is another


def test_the_rate_at_equal_length_is_that_of_another_implementation():
    linear = pytest.importorskip("sklearn.linear_model")
    points, longer = judged_by_length(0.7, 0.3, 500)
    found = length_controlled(points, longer, alone(500))
    model = linear.LogisticRegression(C=1e9, tol=1e-9).fit(longer[:, None] / 40, points)
    assert found.value == pytest.approx(logistic(model.intercept_[0]), abs=2e-3)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-50, 50)), min_size=2))
def test_the_rate_at_equal_length_mirrors_and_never_breaks(games):
    points, longer = map(np.array, zip(*games, strict=True))
    resamples = alone(len(games), draws=50)
    found = length_controlled(points, longer, resamples)
    turned = length_controlled(1 - points, -longer, resamples)
    assert 0 < found.low <= found.high < 1
    assert turned.value == pytest.approx(1 - found.value, abs=1e-6)


# Tests of significance


def test_p_values_of_players_that_are_alike_are_uniform():
    generator = np.random.default_rng(5)
    p_values = []
    for _ in range(300):
        points = np.repeat(generator.normal(0.5, 0.3, 60), 2)  # twice the same, in one conversation
        names = [str(i // 2) for i in range(120)]
        p_values.append(sign_flip(points, Resamples(names, 1, 1), draws=999))
    below = [np.mean(np.array(p_values) <= level) for level in (0.05, 0.2, 0.5)]
    for share, level in zip(below, (0.05, 0.2, 0.5), strict=True):
        assert abs(share - level) < 4 * math.sqrt(level * (1 - level) / 300)


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_corrected_p_values_are_larger_and_keep_their_order(p_values):
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    for i, p in enumerate(p_values):
        for j, q in enumerate(p_values):
            assert not (p < q and corrected[i] > corrected[j])


def test_the_power_of_a_number_of_prompts():
    assert prompts_needed(0.1) == 196 and prompts_needed(0.05) == 785
    for difference in (0.03, 0.1, 0.2):
        assert detectable(prompts_needed(difference)) == pytest.approx(difference, rel=0.01)
    generator = np.random.default_rng(2)
    wins = generator.binomial(196, 0.6, 4000) / 196
    deviation = np.sqrt(wins * (1 - wins) / 196)
    shown = (np.abs(wins - 0.5) > 1.96 * deviation).mean()
    assert abs(shown - 0.8) < 0.03


def test_effects_are_cohens():
    assert effect(0.5) == pytest.approx(0)
    assert effect(0.75) == pytest.approx(math.pi / 6)
    assert effect(0.25) == pytest.approx(-math.pi / 6)


def test_a_published_run_is_significant_where_it_can_be():
    """115 rankings of four models with the published pairwise rates: only the first difference is shown."""
    rates = {"base-sft": 0.687, "rlhf-base": 0.557, "rlhf-rlaif_rlhf": 0.513}
    p_values, resamples = [], alone(115)
    for rate in rates.values():
        points = np.zeros(115)
        points[: round(rate * 115)] = 1.0
        found = bootstrap_rate(points, [f"c{i}" for i in range(115)], 2000, 1)
        p_values.append(sign_flip(points, resamples))
        assert (found.low > 0.5) == (rate == 0.687)
    corrected = holm(p_values)
    assert corrected[0] < 0.01
    assert min(corrected[1:]) > 0.3


# Several seeds


def test_seeds_that_differ_widen_the_interval():
    generator = np.random.default_rng(1)
    rows = generator.random((3, 300))
    names = [str(i) for i in range(300)]
    alike = over_seeds(rows, names, 500, 1)
    apart = over_seeds(rows + np.array([[-0.2], [0.0], [0.2]]), names, 500, 1)
    assert alike.value == pytest.approx(apart.value) == pytest.approx(rows.mean())
    assert apart.high - apart.low > 5 * (alike.high - alike.low)


def test_intervals_over_seeds_hold_the_truth():
    generator = np.random.default_rng(4)
    held, names = 0, [str(i // 2) for i in range(200)]
    for study in range(300):
        seeds = generator.normal(0, 0.05, (3, 1))
        prompts = np.repeat(generator.normal(0, 0.3, 100), 2)
        values = 0.6 + seeds + prompts + generator.normal(0, 0.3, (3, 200))
        found = over_seeds(values, names, 100, study)
        held += found.low < 0.6 < found.high
    assert 0.92 <= held / 300 <= 1


# Agreement


def test_kappa_is_that_of_another_implementation():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    one = generator.choice(["1", "2", "tie"], 400, p=[0.5, 0.3, 0.2])
    other = np.where(generator.random(400) < 0.6, one, generator.choice(["1", "2", "tie"], 400))
    found = kappa(one, other, alone(400))
    assert found.value == pytest.approx(metrics.cohen_kappa_score(one, other))
    assert found.low < found.value < found.high


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("ab")), min_size=2, max_size=20))
def test_kappa_is_within_its_bounds_and_alike_for_both(votes):
    one, other = zip(*votes, strict=True)
    resamples = alone(len(one), draws=20)
    found = kappa(one, other, resamples)
    assert -1 <= found.value <= 1
    assert kappa(other, one, resamples).value == pytest.approx(found.value)
    assert kappa(one, one, resamples).value == (1 if len(set(one)) > 1 else 0)


def test_alpha_of_krippendorffs_own_example():
    """Four observers, twelve units, some without an answer (Krippendorff 2011): .743 for nominal data."""
    units = [
        "111", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", "555", "11", "3",
    ]  # fmt: skip
    assert alpha([list(unit) for unit in units], alone(12)).value == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_voters_who_guess_is_zero():
    generator = np.random.default_rng(0)
    votes = generator.choice(["1", "2"], (2000, 2)).tolist()
    found = alpha(votes, alone(2000))
    assert found.low < 0 < found.high
    assert alpha([["1", "1"], ["2", "2"]] * 50, alone(100)).value == 1
