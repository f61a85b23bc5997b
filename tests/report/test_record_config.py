"""A study's configuration as words of a command line, and as the recorded file."""

import json
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import plans
from persuasion_rl.settings import as_words, from_words
from persuasion_rl.study.flags import flags
from persuasion_rl.study.loading import load_config
from running import ROOT

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1).filter(
    lambda name: "=" not in name
)
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
)
SETTINGS = st.recursive(
    st.dictionaries(NAMES, VALUES | st.lists(VALUES, max_size=3), max_size=4),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("name", plans.STUDIES)
def test_a_studys_record_is_its_configuration(name, tmp_path, monkeypatch):
    """The command runs as pasted into a shell; the record sorts the keys of each level."""
    for corpus in plans.CORPORA:
        (tmp_path / corpus).mkdir()
        for file in ("conversations.json", "utterances.jsonl"):
            (tmp_path / corpus / file).touch()
    monkeypatch.setenv("PERSUASION_RL_CORPORA", str(tmp_path))
    file = ROOT / plans.STUDIES[name]
    study = load_config(yaml.safe_load(file.read_text()), file).resolved()
    words = flags({"settings": as_words(study), "output": str(tmp_path / "config.yaml")})
    command = f"{sys.executable} -m persuasion_rl.report.record_config {words}"
    subprocess.run(["bash", "-c", command], check=True)
    comment, _, record = (tmp_path / "config.yaml").read_text().partition("\n")
    assert comment.startswith("# ")
    assert record == yaml.safe_dump(json.loads(json.dumps(study)))


@given(SETTINGS)
def test_settings_come_back_from_words(settings):
    words = dict(word.partition("=")[::2] for word in as_words(settings))
    if settings:
        assert from_words(words) == settings
    assert not any("\n" in word for word in words.values())


def test_words_read_as_a_person_writes_them():
    settings = {"data": {"max_tokens": 512}, "models": {"gpt-4.1": {"on": True, "of": ["a", "b"]}}}
    assert as_words(settings | {"rate": 1e-4, "none": {}, "mode": "off"}) == [
        "data.max_tokens=512",
        "mode='off'",
        r"models.gpt-4\.1.of=[a, b]",
        r"models.gpt-4\.1.on=true",
        "none={}",
        "rate=0.0001",
    ]
