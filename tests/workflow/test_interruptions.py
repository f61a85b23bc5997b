"""A study whose processes are killed at random moments ends as one that nobody disturbed. More kills: interruptions.py."""

import pytest

from interruptions import KINDS, compare, tell

pytestmark = pytest.mark.kills


def test_a_study_that_is_killed_five_times_ends_as_if_it_had_not_been(tmp_path):
    undisturbed, story, wrong = compare(tmp_path, kills=5, seed=1)
    print(tell(undisturbed, story))
    assert wrong == []
    assert story.hit() == set(KINDS.values())
