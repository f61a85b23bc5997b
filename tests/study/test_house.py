"""The layout: imports point down the layers without cycles, packages are empty, files stay short."""

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

from running import ROOT

PACKAGE = ROOT / "workflow/persuasion_rl"
LAYERS = (
    "files", "text", "records", "tables", "settings", "prompts", "statistics", "runtime", "study", "data", "models", "training", "sampling",
    "judges", "annotation", "preferences", "evaluation", "report", "export", "tools",
)  # fmt: skip
"""From the lowest to the highest. A module may import those of its own layer and of lower ones."""
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}


@cache
def imported(module: str) -> frozenset[str]:
    """The modules of the package that a module imports anywhere, also inside of functions."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            above = node.module.split(".")[1:]
            for alias in node.names:
                inner = ".".join([*above, alias.name])
                names.add(inner if inner in MODULES else ".".join(above))
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith(PACKAGE.name) for alias in node.names), module
    return frozenset(names)


def layer(module: str) -> int:
    return LAYERS.index(module.split(".")[0])


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module):
    assert imported(module) <= MODULES.keys()
    assert {name for name in imported(module) if layer(name) > layer(module)} == set()


def test_imports_make_no_circle():
    try:
        list(TopologicalSorter({module: imported(module) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_packages_are_empty_so_that_light_stages_stay_light():
    texts = {path.parent: path.read_text() for path in PACKAGE.rglob("__init__.py")}
    assert texts.keys() == {path.parent for path in PACKAGE.rglob("*.py")}
    assert {folder for folder, text in texts.items() if text} == {PACKAGE}, "load_study is there"


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("folder", "pattern", "most"),
    [("workflow/persuasion_rl", "*.py", 400), ("workflow/rules", "*.smk", 320), ("tests", "*.py", 500)],
)  # fmt: skip
def test_files_are_short_enough_to_be_read(folder, pattern, most):
    long = {str(p.relative_to(ROOT)): lines(p) for p in (ROOT / folder).rglob(pattern)}
    assert {name: count for name, count in long.items() if count > most} == {}


def test_what_all_rules_share_is_little():
    assert lines(ROOT / "workflow/rules/common.smk") <= 160


def test_the_layers_are_those_that_there_are():
    assert {module.split(".")[0] for module in MODULES} == {*LAYERS}
    assert all(layer(one) < layer(other) for one, other in pairwise(LAYERS))


def test_the_page_about_the_code_has_the_layers_in_their_order():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    _, _, tree = page.partition("\nworkflow/persuasion_rl/\n")
    names = re.findall(r"^  (\w+)(?:/|\.py)", tree.partition("\nworkflow/")[0], re.M)
    assert [name for name in names if name != "__init__"] == list(LAYERS)
