"""Agreement beyond chance: against other implementations, published examples, and its bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from persuasion_rl.statistics.agreement import kappa, krippendorffs_alpha
from persuasion_rl.statistics.intervals import Resamples, wilson


def independent(count: int, draws: int = 500) -> Resamples:
    """Resamples of rows, each a conversation of its own."""
    return Resamples([f"c{i}" for i in range(count)], draws, 1)


def test_kappa_is_that_of_another_implementation():
    generator = np.random.default_rng(0)
    one = generator.choice(["1", "2", "tie"], 400, p=[0.5, 0.3, 0.2])
    other = np.where(generator.random(400) < 0.6, one, generator.choice(["1", "2", "tie"], 400))
    interval = kappa(one, other, independent(400))
    assert interval.value == pytest.approx(cohen_kappa_score(one, other))
    assert interval.low < interval.value < interval.high


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("ab")), min_size=2, max_size=20))
def test_kappa_is_within_its_bounds_and_alike_for_both(votes):
    one, other = zip(*votes, strict=True)
    resamples = independent(len(one), draws=20)
    interval = kappa(one, other, resamples)
    assert -1 <= interval.value <= 1
    assert kappa(other, one, resamples).value == pytest.approx(interval.value)
    assert kappa(one, one, resamples).value == (1 if len(set(one)) > 1 else 0)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=12),
    st.integers(1, 3),
)
def test_no_agreement_is_certain(votes, sizes):
    """One conversation, all agree, none does, one label: nowhere an interval without width."""
    one, other = zip(*votes, strict=True)
    resamples = Resamples([str(row // sizes) for row in range(len(votes))], 50, 1)
    for interval in (kappa(one, other, resamples), krippendorffs_alpha(votes, resamples)):
        assert interval.low <= interval.value <= interval.high
        assert interval.high - interval.low > 0.05


def test_who_never_agree_may_sometimes():
    """As often as Wilson's interval of no agreement allows: kappa is that over chance, which is 0 here."""
    interval = kappa("1" * 40, "2" * 40, independent(40))
    assert (interval.value, interval.low) == (0, 0)
    assert interval.high == pytest.approx(wilson(0.0, 40).high)


def test_alpha_of_krippendorffs_own_example():
    """Four observers, twelve units, some without an answer (Krippendorff 2011): .743 for nominal data."""
    units = [
        "111", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", "555", "11", "3",
    ]  # fmt: skip
    assert krippendorffs_alpha(
        [list(unit) for unit in units], independent(12)
    ).value == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_voters_who_guess_is_zero():
    generator = np.random.default_rng(0)
    votes = generator.choice(["1", "2"], (2000, 2)).tolist()
    interval = krippendorffs_alpha(votes, independent(2000))
    assert interval.low < 0 < interval.high


@pytest.mark.parametrize("count", [4, 10, 100])
def test_labellers_who_agree_on_few_rows_may_not_always(count):
    labels = ["1", "2"] * (count // 2)
    agreed = wilson(1.0, count).low
    for interval in (
        kappa(labels, labels, independent(count)),
        krippendorffs_alpha([[label, label] for label in labels], independent(count)),
    ):
        assert interval.value == interval.high == 1
        assert -1 < interval.low <= 2 * agreed - 1 + 1e-9  # chance is one half
    for interval in (
        kappa(["1"] * count, ["1"] * count, independent(count)),
        krippendorffs_alpha([["1", "1"]] * count, independent(count)),
    ):
        assert (interval.value, interval.low, interval.high) == (
            0,
            -1,
            1,
        )  # one label tells nothing
