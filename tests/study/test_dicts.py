"""What a study's configuration means: lineages, sizes, who is needed, settings as flags."""

import shlex
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.files import UserError
from persuasion_rl.study.dicts import (
    flags,
    lineage,
    load_study,
    needs_people,
    pool_sizes,
    refuse_other_studies,
    split_sizes,
)

CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture
def published() -> dict:
    return yaml.safe_load((CONFIG / "config.yaml").read_text())


def test_the_published_study_has_its_sizes(published):
    data = load_study(published)["data"]
    assert split_sizes(data) == {"train": 40_000, "val": 5_000, "test": 5_000}
    assert pool_sizes(data) == {"ai": 8_000, "human": 300}


@pytest.mark.parametrize("examples", [30_000, 50_000, 100_000])
def test_the_number_of_examples_is_one_key(published, examples):
    """Without a size of its own the AI pool is what the two other pools leave of validation and test."""
    published["data"] = {"max_examples": examples}
    data = load_study(published)["data"]
    sizes = {side: int(examples * share) for side, share in data["split"].items()}
    assert split_sizes(data) == sizes
    assert pool_sizes(data) == {"ai": sizes["val"] + sizes["test"] - 2_000, "human": 300}
    published["data"]["use_val_set"] = False
    assert pool_sizes(load_study(published)["data"])["ai"] == sizes["test"] - 2_000


def test_the_lineage_begins_above_the_base(published):
    models = load_study(published)["models"]
    assert list(lineage(models, "rlaif_rlhf")) == ["sft", "rlaif", "rlaif_rlhf"]
    assert list(lineage(models, "sft")) == ["sft"] and list(lineage(models, "base")) == []


def test_only_a_lineage_with_answers_of_people_needs_people(published):
    study = load_study(published)
    assert {m for m in study["models"] if needs_people(study, m)} == {"rlhf", "rlaif_rlhf"}
    study["models"]["longer"] = {"parent": "rlhf", "method": "dpo", "pool": "ai"}
    assert needs_people(study, "longer")
    study["labels"]["human"]["source"] = "simulated"
    assert not any(needs_people(study, model) for model in study["models"])


def test_a_target_of_another_study_is_refused_with_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/other.yaml").write_text("study: mine")
    (tmp_path / "config/broken.yaml").write_text("study: [")
    refuse_other_studies(["results/cmv/report.html", "all"], "cmv")
    with pytest.raises(UserError, match="add --configfile config/other.yaml"):
        refuse_other_studies(["results/mine/report.html"], "cmv")
    with pytest.raises(UserError, match="no file in config/ has `study: theirs`"):
        refuse_other_studies(["results/theirs/report.html"], "cmv")


NAMES = st.sampled_from(["beta", "max_length", "loss_type", "use_4bit", "study", "learning_rate"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(0, 1) | st.text(max_size=8)
VALUES = SCALARS | st.lists(SCALARS.filter(lambda value: value is not None), min_size=1, max_size=3)


@given(st.dictionaries(NAMES, VALUES))
def test_flags_are_canonical_and_survive_a_shell(settings):
    text = flags(settings)
    assert text == flags(dict(reversed(settings.items())))
    expected = []
    for name in sorted(settings):
        value = settings[name]
        if value is not None:
            expected.append(f"--{name}")
            for item in value if isinstance(value, list) else [value]:
                expected.append(str(item).lower() if isinstance(item, bool) else str(item))
    assert shlex.split(text) == expected


def test_flags_by_example():
    settings = {
        "use_4bit": False,
        "beta": 0.1,
        "adapter": None,
        "run": "it's $HOME",
        "loss_type": ["sft", "ipo"],
    }
    assert (
        flags(settings)
        == "--beta 0.1 --loss_type sft ipo --run 'it'\"'\"'s $HOME' --use_4bit false"
    )
    assert flags({"beta": 0.1}) != flags({"beta": 0.2})
    assert flags({}) == ""
