"""Two files in one folder with the same name of a study."""

import pytest
import yaml

from persuasion_rl.files import UserError
from persuasion_rl.study.loading import load_config, load_config_file
from persuasion_rl.study.parsing import read_config_file
from test_loading import STUDY


@pytest.fixture
def mine(tmp_path):
    """A study beside a file of the same name."""
    for name, seed in (("demo.yaml", 1), ("mine.yaml", 2)):
        (tmp_path / name).write_text(yaml.safe_dump(STUDY | {"seed": seed}))
    return tmp_path / "mine.yaml"


def test_two_files_with_one_name_are_refused_where_they_are_two_studies(mine):
    other = mine.with_name("demo.yaml")
    for file, sibling in ((mine, other), (other, mine)):
        with pytest.raises(UserError) as error:
            load_config_file(file)
        message = f"{file}: study: 'small' is the name of {sibling} too, which is another study"
        assert str(error.value).startswith(message) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="is the name of .*demo.yaml too"):
        load_config(read_config_file(mine) | {"study": "small"}, mine)
    assert load_config(read_config_file(mine) | {"study": "other"}, mine).study == "other"


@pytest.mark.parametrize(
    "other",
    [
        b"study: small\nseed: [",
        b"study: small\n# no models\n",
        b"study: small\nextends: mine.yaml\nseed: 3\n",
        b"study: small-2\nextends: mine.yaml\n",
        b"- small",
        yaml.safe_dump(STUDY | {"seed": 2, "device": "auto"}).encode(),
    ],
)
def test_files_that_are_no_other_study_of_that_name_are_accepted(mine, other):
    """The same file by another path or a link, a file in a subfolder, and one with another ending are accepted too."""
    sibling = mine.with_name("demo.yaml")
    (mine.parent / "below").mkdir()
    for name in ("below/demo.yaml", "demo.yaml.bak"):
        (mine.parent / name).write_bytes(sibling.read_bytes())
    sibling.write_bytes(other)
    (mine.parent / "link.yaml").symlink_to("mine.yaml")
    (mine.parent / "nowhere.yaml").symlink_to("gone.yaml")
    for file in (mine, mine.parent / "link.yaml", mine.parent / "below/../mine.yaml"):
        assert load_config_file(file).seed == 2


def test_a_file_may_extend_one_of_its_own_name(mine):
    mine.write_text("extends: demo.yaml\nstudy: small\nseed: 2\n")
    assert load_config_file(mine).seed == 2
    assert load_config_file(mine.with_name("demo.yaml")).seed == 1
