"""docs/architecture.md matches the code: the tree has every file, the stops of the walk and the names in the pages exist."""

import ast
import json
import re
from functools import cache

import pytest

from persuasion_rl.study.config import Config
from persuasion_rl.study.section import keys_of
from running import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "workflow/persuasion_rl"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
PAGES += [ROOT / "profiles/README.md", ROOT / "benchmarks/README.md"]


def section(title: str) -> str:
    """The text below a heading of the page."""
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", PAGE, re.M | re.S).group(1)


def tree() -> dict[str, str]:
    """Path -> description."""
    lines = (
        re.search(r"^```text\n(.*?)^```$", section("The tree"), re.M | re.S).group(1).splitlines()
    )
    described, folders = {}, []
    for line in lines:
        indent, name, words = re.fullmatch(r"( *)(\S+)(?: {2,}(.*))?", line).groups()
        folders = folders[: len(indent) // 2]
        described["".join([*folders, name])] = words or ""
        if name.endswith("/"):
            folders.append(name)
    return described


def test_the_tree_has_every_module_and_every_rule_file_and_nothing_that_is_not_there():
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "workflow/rules").glob("*.smk")]
    expected = {
        str(path.relative_to(ROOT))
        for path in files
        if path.name != "__init__.py" or path.parent == PACKAGE
    }
    listed = {path for path in tree() if path.endswith((".py", ".smk"))}
    assert listed == expected
    others = {path for path in tree() if path not in listed and path != "results/{study}/"}
    assert {path for path in others if not (ROOT / path).exists()} == set()


def test_every_file_of_the_tree_has_a_line_of_words():
    assert [path for path, words in tree().items() if not words and not path.endswith("/")] == []


@cache
def stops() -> list[list[str]]:
    rows = [
        line for line in section(r"One prompt, [^\n]*").splitlines() if re.match(r"\| \d+ \|", line)
    ]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@cache
def names_in(path) -> frozenset[str]:
    """What a module defines: functions, classes and their members, constants."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else []
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    names.add(f"{node.name}.{inner.name}")
    return frozenset(names)


def test_the_walk_has_twelve_stops_at_most_in_their_order():
    assert 8 <= len(stops()) <= 12
    assert [int(stop[0]) for stop in stops()] == list(range(1, len(stops()) + 1))


@pytest.mark.parametrize("stop", stops(), ids=lambda stop: stop[1].strip("`"))
def test_a_stop_is_a_function_of_its_file_and_a_rule_that_leaves_its_artifact(stop):
    _, function, file, _, leaves = stop
    function, file = function.strip("`"), file.strip("`")
    assert function in names_in(PACKAGE / file)
    plan = json.loads((ROOT / "tests/plans/config.json").read_text())
    module = "persuasion_rl." + file.removesuffix(".py").replace("/", ".")
    jobs = [job for job in plan if job["rule"] == function]
    assert jobs and all(f"{module} " in " ".join([*job["command"], ""]) for job in jobs)
    artifact, *rule = re.findall(r"`([^`]+)`", leaves)
    jobs = [job for job in plan if job["rule"] == (rule or [function])[0]]
    outputs = {path for job in jobs for path in job["output"]}
    assert {artifact, f"results/cmv/{artifact}"} & outputs


@cache
def keys() -> frozenset[str]:
    return frozenset(key for key, _ in keys_of(Config))


def is_key(name: str) -> bool:
    """Whether a dotted name is a key of the configuration or a section; any name of a model fits."""
    parts = name.split(".")
    if parts[0] == "models" and len(parts) > 1 and "NAME" not in parts:
        parts[1] = "NAME"
    return any(key == (dotted := ".".join(parts)) or key.startswith(f"{dotted}.") for key in keys())


def leads_somewhere(name: str) -> bool:
    """Whether `package.module`, `package.module.name` or `package.module.Class.member` exists."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:length])
        if path.with_suffix(".py").is_file():
            rest = ".".join(parts[length:])
            return not rest or rest in names_in(path.with_suffix(".py"))
        if path.is_dir():
            return length == len(parts)
    return False


OF_LIBRARIES = {"trainer.evaluate", "trainer.train"}


def names_of_nothing(text: str) -> set[str]:
    """Dotted names in a text that begin with a module or package of the project, but neither exist nor are keys."""
    modules = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    ours = {module.parts[0] for module in modules} | {module.stem for module in modules}
    wrong = set()
    for name in re.findall(r"`([a-z_]\w*(?:\.\w+)+)(?=`|\()", text):
        is_file = name.endswith(
            (".py", ".csv", ".html", ".json", ".jsonl", ".md", ".yaml", ".sqlite")
        )
        if name.split(".")[0] in ours and not is_file and name not in OF_LIBRARIES:
            wrong |= {name} if not is_key(name) and not leads_somewhere(name) else set()
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_and_function_that_a_page_names_is_there_with_its_package(page):
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    wrong = names_of_nothing(text)
    for file in re.findall(r"`((?:\w+/)+\w+\.py)`", text):
        wrong |= {file} if not any(at.joinpath(file).is_file() for at in (ROOT, PACKAGE)) else set()
    assert wrong == set()


def test_every_module_and_function_that_the_code_names_in_words_is_there():
    wrong = {}
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "workflow/rules").glob("*.smk")]:
        package = ".".join(path.relative_to(ROOT / "workflow").parts[1:-1])
        names = names_of_nothing(path.read_text(encoding="utf-8"))
        if names := {name for name in names if not leads_somewhere(f"{package}.{name}")}:
            wrong[path.name] = names
    assert wrong == {}
