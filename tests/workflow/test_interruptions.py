"""A study with processes killed at random moments ends like an undisturbed one. interruptions.py kills more often."""

import pytest

from interruptions import KINDS, STUDY, compare, summary

pytestmark = pytest.mark.kills


def test_a_study_that_is_killed_four_times_ends_as_if_it_had_not_been(tmp_path):
    """The target is the ranking of an SFT and a DPO model, which needs every kind of job."""
    target = f"{STUDY}/evaluation/ranking.csv"
    undisturbed, story, wrong = compare(tmp_path, kills=4, seed=1, target=target)
    print(summary(undisturbed, story))
    assert wrong == []
    assert story.hit() == set(KINDS.values())
