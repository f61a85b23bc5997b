"""A study whose processes are killed at random moments ends as one that nobody disturbed. More kills: interruptions.py."""

import pytest

from interruptions import KINDS, STUDY, compare, tell

pytestmark = pytest.mark.kills


def test_a_study_that_is_killed_four_times_ends_as_if_it_had_not_been(tmp_path):
    """Up to the ranking of an SFT and a DPO model, in which every kind of job is."""
    target = f"{STUDY}/evaluation/ranking.csv"
    undisturbed, story, wrong = compare(tmp_path, kills=4, seed=1, target=target)
    print(tell(undisturbed, story))
    assert wrong == []
    assert story.hit() == set(KINDS.values())
