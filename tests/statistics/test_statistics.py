"""Intervals, ranking and agreement against other implementations, known values, and simulations whose truth is known."""

import math
from itertools import combinations

import evalica
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression

from csv_files import read_csv
from persuasion_rl.evaluation.tables import evaluate_ranking, evaluate_win_rates
from persuasion_rl.files import file_digest, write_jsonl
from persuasion_rl.statistics.intervals import Resamples, bootstrap_mean, bootstrap_rate, wilson
from persuasion_rl.statistics.pairwise import (
    bradley_terry,
    detectable,
    effect,
    holm,
    length_controlled,
    logistic,
    over_seeds,
    prompts_needed,
    ranks,
    sign_flip,
    standings,
)

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
    # .95 within three standard errors of a share of 400; `benchmarks/coverage.py` counts over more.
    assert 0.917 < held / datasets < 0.983
    assert naive / datasets < 0.8  # rows drawn one by one would claim too much


def test_intervals_over_few_conversations_hold_the_truth_too():
    """In 94.5% of such studies; plain percentiles would in 90.4%."""
    rng, held = np.random.default_rng(12), 0
    for seed in range(1500):
        values = rng.standard_normal(12).tolist()
        found = bootstrap_mean(values, [f"c{i}" for i in range(12)], draws=1000, seed=seed)
        held += found.low <= 0 <= found.high
    assert 0.925 < held / 1500 < 0.97


@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from("abcd")), min_size=1, max_size=12))
def test_an_interval_holds_its_estimate_and_the_order_of_rows_does_not_matter(rows):
    found, turned = (
        bootstrap_mean(*zip(*given, strict=True), draws=50, seed=1) for given in (rows, rows[::-1])
    )
    assert found.low <= found.value <= found.high
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (found.value, found.low, found.high)
    )


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
    ties = bootstrap_rate([0.5] * 8, list("aabbccdd"), draws=100, seed=1)
    assert (ties.low, ties.high) == (wilson(0.5, 4).low, wilson(0.5, 4).high)


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
    # Half of them is worth as much as a tie in a game: less in doubt than a whole one.
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
    """Where those of the bootstrap alone do in fewer: more in benchmarks/coverage.py."""
    share, held = 1 / 50, {bootstrap_rate: 0, bootstrap_mean: 0}
    for seed in range(600):
        points = (np.random.default_rng(seed).random(200) < share).astype(float)
        for interval in held:
            found = interval(points, [str(i) for i in range(200)], 200, seed)
            held[interval] += found.low <= share <= found.high
    assert held[bootstrap_mean] / 600 < 0.925 < held[bootstrap_rate] / 600 < 0.98


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


def each_game(points: np.ndarray, conversations: int) -> np.ndarray:
    """(rows, players, players): in every row all pairs play; the row's player wins this share of the rows."""
    row = np.arange(conversations)[:, None, None]
    wins = row < np.triu(points, 1) * conversations
    games = np.triu(np.ones_like(points), 1) * wins
    return games + np.triu(np.ones_like(points), 1).T * (1 - games.transpose(0, 2, 1))


def test_who_wins_every_game_is_not_certain_to():
    """All draws are the same; the low end is that of Wilson's interval, as odds."""
    games = each_game(np.array([[0.0, 1.0], [0.0, 0.0]]), 40)
    (_, first), (strength, rank) = standings(games[:, ::-1, ::-1], alone(40))
    lowest = wilson(1.0, 40).low
    assert strength.low == pytest.approx(math.log(lowest / (1 - lowest)), abs=0.15)
    assert np.isfinite([strength.value, strength.high]).all() and strength.high >= strength.value
    assert (first.value, rank.value) == (2, 1)


def test_where_a_weak_first_player_always_loses_the_others_are_uncertain_but_keep_their_places():
    shares = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.3], [0.0, 0.0, 0.0]])
    found = standings(each_game(shares, 100), alone(100))
    assert [rank.value for _, rank in found] == [3, 2, 1]
    (base, _), (middle, _), (best, _) = found
    assert (base.value, base.low, base.high) == (0, 0, 0)
    assert middle.value - middle.low > 1 and best.value - best.low > 1
    assert all(rank.low == rank.value == rank.high for _, rank in found[:1])


def test_standings_recover_the_strengths_that_games_were_drawn_from():
    generator, true = np.random.default_rng(8), np.array([0.0, 0.5, 1.2, 1.2])
    chance = logistic(true[:, None] - true[None, :])
    games = np.zeros((800, 4, 4))
    for i in range(4):
        for j in range(i + 1, 4):
            games[:, i, j] = generator.random(800) < chance[i, j]
            games[:, j, i] = 1 - games[:, i, j]
    found = standings(games, alone(800))
    for (strength, rank), truth in zip(found, true, strict=True):
        assert strength.low <= truth <= strength.high
        assert strength.high - strength.low < 0.5
        assert rank.low <= rank.value <= rank.high
    assert [(rank.low, rank.high) for _, rank in found] == [(4, 4), (3, 3), (1, 2), (1, 2)]


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
    points, longer = judged_by_length(0.7, 0.3, 500)
    found = length_controlled(points, longer, alone(500))
    term = np.tanh(longer / longer.std())[:, None]
    model = LogisticRegression(C=1e9, tol=1e-9).fit(term, points)
    assert found.value == pytest.approx(logistic(model.intercept_[0]), abs=2e-3)


def test_a_judge_who_only_wants_the_longer_one_finds_all_equal_at_equal_length():
    """A straight line would make 59% of this."""
    longer = np.random.default_rng(1).normal(100, 67, 5000)
    points = (np.random.default_rng(2).random(5000) < logistic(1.2 * np.tanh(longer / 40))) * 1.0
    assert points.mean() > 0.7
    assert length_controlled(points, longer, alone(5000)).value == pytest.approx(0.5, abs=0.04)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-50, 50)), min_size=2))
def test_the_rate_at_equal_length_mirrors_and_never_breaks(games):
    points, longer = map(np.array, zip(*games, strict=True))
    resamples = alone(len(games), draws=50)
    found = length_controlled(points, longer, resamples)
    turned = length_controlled(1 - points, -longer, resamples)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.05  # also where all games went one way
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


# Several seeds


def test_seeds_that_differ_widen_the_interval():
    generator = np.random.default_rng(1)
    rows = 0.2 + 0.6 * generator.random((3, 300))
    names = [str(i) for i in range(300)]
    alike = over_seeds(rows, names, 500, 1)
    apart = over_seeds(rows + np.array([[-0.2], [0.0], [0.2]]), names, 500, 1)
    assert alike.value == pytest.approx(apart.value) == pytest.approx(rows.mean())
    assert apart.high - apart.low > 5 * (alike.high - alike.low)


def test_seeds_that_agree_leave_the_interval_of_the_conversations():
    """Where every seed has the same points, more of them say nothing more."""
    points = (np.random.default_rng(0).random(300) < 0.6) * 1.0
    names = [str(i // 2) for i in range(300)]
    several, one = over_seeds([points] * 3, names, 2000, 1), bootstrap_rate(points, names, 2000, 1)
    assert several.low == pytest.approx(one.low, abs=0.01)
    assert several.high == pytest.approx(one.high, abs=0.01)
    assert over_seeds([[1.0] * 8] * 2, list("aabbccdd"), 100, 1) == wilson(1.0, 4)


@pytest.mark.parametrize("between", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_over_seeds_hold_the_truth(seeds, between):
    """Whether seeds differ less, as much, or more than conversations make them seem to."""
    generator, names, held = np.random.default_rng(4), [str(i // 2) for i in range(200)], 0
    for study in range(600):
        offsets = generator.normal(0, between, (seeds, 1))
        prompts = np.repeat(generator.normal(0, 0.15, 100), 2)
        values = 0.5 + offsets + prompts + generator.normal(0, 0.15, (seeds, 200))
        found = over_seeds(values, names, 100, study)
        held += found.low <= 0.5 <= found.high
    # Not below .95 by more than two standard errors. Above it where seeds hardly differ: the quantile of so few seeds is
    # that of 1 or 2 degrees of freedom whatever they do, and a rule of thumb for less would undercover where they differ.
    assert 0.932 <= held / 600 <= 0.992


# The tables of a study


@pytest.fixture
def tabulate(tmp_path):
    """The tables that the stages make of verdicts: name -> rows."""

    def run(verdicts: list[dict], players: list[str], words=None, **settings) -> dict:
        prompts = {row["prompt_id"]: row["conversation_id"] for row in verdicts}
        responses = {}
        for name in players:
            responses[name] = tmp_path / f"{name}.jsonl"
            write_jsonl(
                responses[name],
                [
                    {"prompt": prompt, "response": "word " * (words(name, prompt) if words else 50),
                     "metadata": {"prompt_id": prompt, "conversation_id": where}}
                    for prompt, where in prompts.items()
                ],
            )  # fmt: skip
        write_jsonl(tmp_path / "judge.jsonl", verdicts)
        common = {"verdicts": {"judge": tmp_path / "judge.jsonl"}, "draws": 500, "seed": 1}
        evaluate_win_rates(responses=responses, output=tmp_path / "win_rates.csv", **common)
        evaluate_ranking(
            players=players,
            ranking=tmp_path / "ranking.csv",
            declared=tmp_path / "comparisons.csv",
            power=tmp_path / "power.csv",
            **common,
            **settings,
        )
        names = ("win_rates", "ranking", "comparisons", "power")
        return {name: read_csv(tmp_path / f"{name}.csv") for name in names}

    return run


def ranked(count: int, rates: dict[tuple[str, str], float], seed: int = 1) -> list[dict]:
    """Verdicts of `count` rankings, one a conversation, in which the first of each pair stands above the second in
    this share of them. Orders are drawn, and then swapped one by one until the shares are those."""
    generator = np.random.default_rng(seed)
    players = sorted({name for pair in rates for name in pair})
    orders = [list(generator.permutation(players)) for _ in range(count)]

    def above(pair) -> int:
        return sum(order.index(pair[0]) < order.index(pair[1]) for order in orders)

    def distance() -> int:
        return sum(abs(above(pair) - round(rate * count)) for pair, rate in rates.items())

    left = distance()
    while left:
        which, (one, other) = generator.integers(count), generator.permutation(len(players))[:2]
        order = orders[which]
        order[one], order[other] = order[other], order[one]
        found = distance()
        if found > left:
            order[one], order[other] = order[other], order[one]
        left = min(found, left)
    return [
        {"prompt_id": f"p{i}", "conversation_id": f"c{i}", "player_1": one, "player_2": other,
         "verdict": "1" if order.index(one) < order.index(other) else "2"}
        for i, order in enumerate(orders)
        for one, other in combinations(players, 2)
    ]  # fmt: skip


PUBLISHED = {("base", "sft"): 0.687, ("rlhf", "base"): 0.557, ("rlhf", "rlaif_rlhf"): 0.513}


def test_a_published_run_shows_its_first_difference_only(tabulate):
    """115 rankings of four models with the published pairwise rates, through all that the study does with verdicts."""
    comparisons = [":".join(pair) for pair in PUBLISHED]
    models = ["base", "sft", "rlhf", "rlaif_rlhf"]
    tables = tabulate(ranked(115, PUBLISHED), models, comparisons=comparisons)
    first, *others = tables["comparisons"]
    for row, rate in zip([first, *others], PUBLISHED.values(), strict=True):
        assert float(row["win_rate"]) == pytest.approx(rate, abs=0.005)
    assert float(first["p_holm"]) < 0.01 and float(first["low"]) > 0.5
    for row in others:
        assert float(row["p_holm"]) > 0.3 and float(row["low"]) < 0.5 < float(row["high"])
    places = {row["player"]: row for row in tables["ranking"]}
    assert sorted(row["rank"] for row in places.values()) == list("1234")
    assert places["sft"]["rank"] == "4" and float(places["sft"]["high"]) < 0
    alone, corrected = tables["power"][-2:]
    assert {alone["judge"], corrected["judge"]} == {"judge"}
    assert (alone["prompts"], alone["comparisons"], corrected["comparisons"]) == ("115", "1", "3")
    assert float(alone["difference"]) == pytest.approx(0.131, abs=1e-3)
    # Three comparisons: the quantile of .05 / 6 instead of that of .05 / 2.
    assert float(corrected["difference"]) == pytest.approx((2.394 + 0.842) / 2 / 115**0.5, abs=1e-3)


def some_verdicts(seed: int = 1) -> list[dict]:
    """Of three players, with ties and without some, two prompts a conversation."""
    generator = np.random.default_rng(seed)
    said = generator.choice(["1", "2", "tie", "none"], (60, 3), p=[0.5, 0.25, 0.2, 0.05])
    return [
        {"prompt_id": f"p{i}", "conversation_id": f"c{i // 2}", "player_1": one, "player_2": other,
         "verdict": verdict}
        for i, row in enumerate(said.tolist())
        for (one, other), verdict in zip(combinations("abc", 2), row, strict=True)
    ]  # fmt: skip


def test_the_order_of_verdicts_changes_no_table(tabulate):
    verdicts = some_verdicts()
    tables, turned = (
        tabulate(rows, list("abc"), comparisons=["a:b", "c:a"])
        for rows in (verdicts, verdicts[::-1])
    )
    for name, rows in tables.items():
        assert sorted(map(str, rows)) == sorted(map(str, turned[name])), name


def test_turning_the_players_round_mirrors_the_tables(tabulate):
    mirror = {"1": "2", "2": "1"}
    verdicts = some_verdicts()
    swapped = [
        row | {"player_1": row["player_2"], "player_2": row["player_1"],
               "verdict": mirror.get(row["verdict"], row["verdict"])}
        for row in verdicts
    ]  # fmt: skip
    one, other = (tabulate(v, list("abc"), comparisons=["a:b"]) for v in (verdicts, swapped))
    assert one["comparisons"] == other["comparisons"]
    assert one["ranking"] == other["ranking"]
    for row, back in zip(one["win_rates"], other["win_rates"], strict=True):
        assert (row["wins"], row["undecided"]) == (back["losses"], back["undecided"])
        for name in ("win_rate", "length_controlled"):
            assert float(row[name]) == pytest.approx(1 - float(back[name]), abs=2e-6)
        assert float(row["low"]) == pytest.approx(1 - float(back["high"]), abs=2e-6)


def test_the_same_seed_writes_the_same_bytes(tabulate, tmp_path):
    def digests():
        tabulate(some_verdicts(), list("abc"), comparisons=["a:b"])
        return [file_digest(path) for path in sorted(tmp_path.glob("*.csv"))]

    assert digests() == digests()


def test_who_was_never_judged_has_no_row(tabulate):
    verdicts = [
        row if row["player_2"] != "c" else row | {"verdict": "none"} for row in some_verdicts()
    ]
    tables = tabulate(verdicts, list("abc"), comparisons=["a:b", "a:c"])
    assert {row["player"] for row in tables["ranking"]} == {"a", "b"}
    assert [row["against"] for row in tables["comparisons"]] == ["b"]
    nothing = tabulate([row | {"verdict": "none"} for row in verdicts], list("abc"))
    assert nothing["ranking"] == nothing["win_rates"] == nothing["comparisons"] == []


def test_seeds_of_a_model_are_pooled_beside_the_single_ones(tabulate):
    tables = tabulate(some_verdicts(), list("abc"), comparisons=["a:c", "b:c"], groups={"b": "a"})
    *single, pooled = tables["comparisons"]
    assert [row["seeds"] for row in single] == ["1", "1"]
    assert (pooled["player"], pooled["against"], pooled["seeds"]) == ("a", "c", "2")
    assert pooled["p"] == pooled["p_holm"] == ""
    width = float(pooled["high"]) - float(pooled["low"])
    assert width > max(float(row["high"]) - float(row["low"]) for row in single)


def test_what_was_excluded_adds_no_power(tabulate):
    """Nor what nobody could decide: the conversations of a declared comparison are those with a verdict on it."""
    verdicts = [row for row in some_verdicts() if row["verdict"] != "none"]
    for row in verdicts:
        if int(row["prompt_id"][1:]) >= 20 and (row["player_1"], row["player_2"]) == ("a", "b"):
            del row["verdict"]
            row["excluded"] = "refused"
    power = tabulate(verdicts, list("abc"), comparisons=["a:b", "a:c"])["power"]
    assert {row["prompts"] for row in power if row["judge"]} == {"10"}
    assert not [row for row in tabulate(verdicts, list("abc"))["power"] if row["judge"]]


def test_a_pooled_row_names_the_side_that_was_trained_once(tabulate):
    groups = {"b": "a"}
    *_, pooled = tabulate(some_verdicts(), list("abc"), comparisons=["a:c", "b:c"], groups=groups)[
        "comparisons"
    ]
    assert pooled["fixed"] == "c"
    *_, single = tabulate(some_verdicts(), list("abc"), comparisons=["a:c"], groups=groups)[
        "comparisons"
    ]
    assert (single["seeds"], single["fixed"]) == ("1", "")


def test_strengths_are_against_the_first_player_that_was_judged(tabulate):
    ranking = tabulate(some_verdicts(), ["nobody", *"abc"])["ranking"]
    assert {row["against"] for row in ranking} == {"a"}
    assert {float(row["strength"]) for row in ranking if row["player"] == "a"} == {0.0}


def test_length_is_counted_in_words_whatever_a_player_counts_as_tokens(tabulate):
    """A judge to whom more words mostly win finds both alike at equal length."""
    draw = np.random.default_rng(2)
    lengths = {("a", f"p{i}"): int(n) for i, n in enumerate(draw.integers(20, 100, 300))}
    lengths |= {("b", f"p{i}"): int(n) for i, n in enumerate(draw.integers(10, 80, 300))}
    verdicts = [
        {"prompt_id": f"p{i}", "conversation_id": f"c{i}", "player_1": "a", "player_2": "b",
         "verdict": "1" if draw.normal(lengths["a", f"p{i}"] - lengths["b", f"p{i}"], 20) > 0 else "2"}
        for i in range(300)
    ]  # fmt: skip
    (row,) = tabulate(verdicts, ["a", "b"], words=lambda *of: lengths[of])["win_rates"]
    assert float(row["low"]) > 0.55
    assert float(row["length_controlled_low"]) < 0.5 < float(row["length_controlled_high"])
