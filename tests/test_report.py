"""What a reader is told before any number."""

import pytest

from persuasion_rl.report import _notices


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"synthetic": True}, "Synthetic data"),
        ({"base_source": "standin"}, "Stand-in base model"),
        ({"ai_judge": "truth"}, "AI labels are simulated"),
        ({"ai_judge": "llm"}, "AI labels are a language model's opinions"),
        ({"human_source": "simulated"}, "Human labels are simulated"),
        ({"pending": ["rlhf"]}, "Pending: rlhf"),
    ],
)
def test_what_is_not_as_in_the_published_study_is_said_first(changed, told):
    usual = dict(
        base_source="Qwen/Qwen2.5-0.5B-Instruct",
        synthetic=False,
        ai_judge="delta",
        ai_noise=0.0,
        human_source="people",
        human_judge="delta",
        pending=[],
    )
    assert _notices(**usual) == []
    (notice,) = _notices(**(usual | changed))
    assert notice.startswith(told)
