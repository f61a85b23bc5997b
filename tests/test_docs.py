"""What the documentation names is there: tests, files, commands."""

import re

import pytest

from persuasion_rl.cli import main
from running import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_THE_PROJECT = ("workflow/", "config/", "docs/", "envs/", "profiles/", "benchmarks/", "tests/", "resources/rubrics/")  # fmt: skip
CALLED = re.compile(r"persuasion-rl ([a-z-]+)((?: --?[a-z]+)*)")


def test_every_test_that_is_named_is_there():
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in sources} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_of_the_project_lead_somewhere(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]+)", text) + re.findall(r'src="([^"]+)"', text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    paths = [word for word in re.findall(r"`([\w./-]+)`", text) if word.startswith(OF_THE_PROJECT)]
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert missing == []


def test_every_command_that_is_named_is_one(capsys):
    named = {match for page in PAGES for match in CALLED.findall(page.read_text())}
    assert {"doctor", "annotate", "chat", "compare"} <= {command for command, _ in named}
    for command, _ in named:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0, command
        capsys.readouterr()
