"""The digest of the code: rewording does not change it, a changed constant does."""

import ast
import importlib.util
import re
import shutil
from pathlib import Path

import pytest

import persuasion_rl
from persuasion_rl.study.code import AROUND, module_digests

PACKAGE = Path(persuasion_rl.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)


@pytest.fixture
def package(tmp_path):
    """A copy of the package that may be edited."""
    return Path(
        shutil.copytree(
            PACKAGE, tmp_path / "persuasion_rl", ignore=shutil.ignore_patterns("__pycache__")
        )
    )


def digests(package: Path, module: str) -> dict[str, str]:
    """module -> digest, from a freshly loaded study.code of this copy of the package."""
    spec = importlib.util.spec_from_file_location("fresh_code_digest", package / "study/code.py")
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return dict(line.split(":") for line in fresh.module_digests(module))


def edit(package: Path, module: str, old: str, new: str) -> None:
    path = package / f"{module.replace('.', '/')}.py"
    source = path.read_text()
    assert source.count(old) >= 1, f"{old!r} is no longer in {module}.py"
    path.write_text(source.replace(old, new, 1))


def test_comments_docstrings_and_layout_change_no_digest(package):
    """Each module is rewritten without its comments and layout, and with other docstrings."""
    before = {module: digests(package, module) for module in MODULES}
    for module in MODULES:
        path = package / f"{module.replace('.', '/')}.py"
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(
                node
            ):
                node.body[0].value.value = "Another docstring."
        path.write_text("# A comment.\n" + ast.unparse(tree) + "\n\n\n# The end.\n")
    assert {module: digests(package, module) for module in MODULES} == before


def test_a_docstring_that_is_added_or_removed_changes_no_digest(package):
    before = digests(package, "data.cmv")
    edit(
        package,
        "data.cmv",
        "        def write(batch: list[list[Reply]], rows: Iterator[SftRow | str]) -> None:\n",
        "        def write(batch: list[list[Reply]], rows: Iterator[SftRow | str]) -> None:\n"
        '            """Write rows."""\n',
    )
    edit(
        package,
        "files",
        '    """A stable 64-bit digest (16 hex digits) of some values; their order matters."""\n',
        "",
    )
    assert digests(package, "data.cmv") == before


def test_a_changed_constant_changes_the_module_and_all_that_import_it_name_it(package):
    before = {module: digests(package, module) for module in MODULES}
    edit(package, "data.near_duplicates", "MISSED = 1e-4", "MISSED = 1e-3")
    for module in MODULES:
        after = digests(package, module)
        changed = {name for name in after if after[name] != before[module][name]}
        assert changed == ({"data.near_duplicates"} & after.keys())
    users = {module for module in MODULES if "data.near_duplicates" in before[module]}
    assert {"data.sides", "data.leakage", "data.synthetic.synthesize"} <= users
    assert not {"data.split", "training.sft", "data.synthetic.grammar"} & users


@pytest.mark.parametrize(
    "module, old, new",
    [
        ("data.synthetic.grammar", "BIAS = -3.0", "BIAS = -2.0"),
        ("prompts.wording", "Write the next message", "Write a message"),
        ("data.cmv", "86_400", "86_401"),
        ("data.clean", "re.I", "re.A"),
        ("files", "digest_size=8", "digest_size=4"),
        ("data.examples", "min_tokens: int", "least_tokens: int"),
    ],
)
def test_changed_code_changes_the_digest(package, module, old, new):
    before = digests(package, module)
    edit(package, module, old, new)
    after = digests(package, module)
    assert {name for name in after if after[name] != before[name]} == {module}


def test_a_stage_has_the_code_of_the_judges_that_it_asks_and_of_no_other():
    def names(*modules):
        return {line.split(":")[0] for line in module_digests(*modules)}

    judges = {
        "judges.truth",
        "judges.delta",
        "judges.interplay",
        "judges.llm.judge",
        "judges.llm.asking",
        "judges.llm.provider",
        "data.synthetic.grammar",
        "training",
    }
    assert not judges & names("preferences.label_ai")
    assert judges & names("preferences.label_ai", "judges.llm.judge") == {
        "judges.llm.judge",
        "judges.llm.asking",
        "judges.llm.provider",
    }
    assert judges & names("preferences.label_ai", "judges.truth") == {
        "judges.truth",
        "data.synthetic.grammar",
    }
    assert judges & names("preferences.label_ai", "judges.delta", "judges.interplay") == {
        "judges.delta",
        "judges.interplay",
    }


def test_only_what_reads_the_truth_of_a_synthetic_world_has_the_code_of_its_grammar():
    grammar = "data.synthetic.grammar"
    assert {
        module
        for module in MODULES
        if grammar in {line.split(":")[0] for line in module_digests(module)}
    } == {grammar, "data.synthetic.synthesize", "evaluation.truth", "judges.truth"}


def test_a_string_that_is_no_docstring_counts(package):
    before = digests(package, "data.synthetic.grammar")
    edit(package, "data.synthetic.grammar", '"school uniforms"', '"school uniform"')
    assert digests(package, "data.synthetic.grammar") != before


@pytest.mark.parametrize(
    "line", [b"5", b"null", b"{}", b"[[], 1, 2]", b"\xff\xfe", b"\0" * 9, b'["key", "dig']
)
def test_a_broken_line_of_the_cache_is_ignored(package, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    before = digests(package, "data.cmv")
    cache = tmp_path / ".snakemake/code_digests.jsonl"
    cache.write_bytes(line + b"\n" + cache.read_bytes() + line)
    assert digests(package, "data.cmv") == before


def test_the_cache_does_not_grow_without_end(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = digests(package, "data.cmv")
    cache = tmp_path / ".snakemake/code_digests.jsonl"
    content = cache.read_text()
    cache.write_text("".join(f'["{n}", "gone", []]\n' for n in range(1000)) + content)
    assert digests(package, "data.cmv") == before
    assert cache.read_text() == content


@pytest.mark.parametrize("module", MODULES)
def test_everything_that_a_module_imports_from_the_package_is_named(module):
    """The imports are read from the text, those inside of functions too."""
    modules, queue = set(), [module]
    while queue:
        name = queue.pop()
        if name in modules or name.startswith(AROUND):
            continue
        modules.add(name)
        source = (PACKAGE / f"{name.replace('.', '/')}.py").read_text()
        for module_, names in re.findall(
            r"^\s*from persuasion_rl\.([\w.]+) import ([\w, ]+|\()", source, re.M
        ):
            inner = [f"{module_}.{each.split(' as ')[0]}" for each in names.split(", ")]
            queue += inner if set(inner) <= set(MODULES) else [module_]
        assert not re.search(r"^\s*(import persuasion_rl|from \.)", source, re.M), (
            "a form that is not followed"
        )
    listed = module_digests(module)
    assert [line.split(":")[0] for line in listed] == sorted(modules)
    assert all(re.fullmatch(r"[\w.]+:[0-9a-f]{12}", line) for line in listed)
