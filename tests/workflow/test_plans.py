"""The full plans of six studies against the recorded ones: jobs, inputs, outputs, resources, commands."""

import pytest

import plans


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return plans.project_with_corpora(tmp_path_factory.mktemp("plans") / "checkout")


@pytest.mark.parametrize("study", plans.STUDIES)
def test_a_study_is_planned_as_recorded(study, root):
    """If a change is intended, run `python tests/plans.py --record` and read the diff."""
    assert plans.changes(study, root) == ""
