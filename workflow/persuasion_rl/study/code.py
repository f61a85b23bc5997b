"""Digests of the package's modules and templates, so that a changed module makes the outputs of its stages stale.

A digest covers the code without comments, docstrings and layout, and is the same under every version of Python.
"""

import ast
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from persuasion_rl.files import file_digest

PACKAGE = Path(__file__).parents[1]
AROUND = ("runtime.", "study.", "judges.llm.settings")
"""Modules that run around a job and decide no artifact, so that changing them trains nothing anew. The flags of the judge
llm are among them, since each of their values is a param."""
KEPT = Path(".snakemake/code_digests.jsonl")
"""Cached digests, since every start of Snakemake needs those of all sources."""
KEPT_LINES = 500
"""Start the file anew above this many lines: most are then of sources that no longer exist."""


def module_digests(*modules: str) -> list[str]:
    """`module:digest` of modules of this package and of all that they import from the package, sorted.

    Modules that only run around a job (AROUND) are left out.
    """
    closure: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in closure and not name.startswith(AROUND):
            closure.add(name)
            waiting += _read(name)[1]
    return [f"{name}:{_read(name)[0]}" for name in sorted(closure)]


def template_digests(*names: str) -> list[str]:
    """The digests of templates of the report's pages, by their names without ".j2"."""
    folder = PACKAGE / "report/templates"
    return [file_digest(folder / f"{name}.j2") for name in names]


@cache
def _read(module: str) -> tuple[str, list[str]]:
    """The digest of a module and the names of the package's modules that it imports, at its top or inside functions."""
    source = _file(module).read_bytes()
    key = _digest(_own_source() + source)
    if key not in _kept():
        _kept()[key] = _analysed(source)
        _keep(key)
    return _kept()[key]


def _analysed(source: bytes) -> tuple[str, list[str]]:
    tree = ast.parse(source)
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == PACKAGE.name:
            imports += _imported(node)
        if hasattr(node, "body") and isinstance(node.body, list):
            node.body = [part for part in node.body if not _is_docstring(part)] or [ast.Pass()]
    return _digest("".join(_serialized(tree)).encode()), imports


def _file(module: str) -> Path:
    return PACKAGE / f"{module.replace('.', '/')}.py"


def _imported(node: ast.ImportFrom) -> list[str]:
    """The modules that `from persuasion_rl.a import b` names: a.b, or a if b is something in a."""
    above = node.module.split(".")[1:]
    inner = [".".join([*above, alias.name]) for alias in node.names]
    return [name if _file(name).is_file() else ".".join(above) for name in inner]


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=6).hexdigest()


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _serialized(part: Any) -> Iterator[str]:
    """A syntax tree as text, without what only some versions of Python have: empty fields, and empty texts in f-strings."""
    if isinstance(part, ast.AST):
        yield f"{type(part).__name__}("
        for name, value in ast.iter_fields(part):
            if value is not None and value != []:
                yield f"{name}="
                yield from _serialized(
                    _without_empty(value) if isinstance(part, ast.JoinedStr) else value
                )
        yield ")"
    elif isinstance(part, list):
        for each in part:
            yield from _serialized(each)
            yield ","
    else:
        yield repr(part)


def _without_empty(pieces: list[ast.AST]) -> list[ast.AST]:
    """The pieces of an f-string without its empty texts."""
    return [p for p in pieces if not (isinstance(p, ast.Constant) and p.value == "")]


@cache
def _own_source() -> bytes:
    return Path(__file__).read_bytes()


@cache
def _kept() -> dict[str, tuple[str, list[str]]]:
    """The cache: digest of a source -> digest of its code, imports."""
    digests = {}
    with suppress(OSError):
        lines = KEPT.read_bytes().splitlines()
        if len(lines) > KEPT_LINES:
            KEPT.unlink()
            return {}
        for line in lines:
            with suppress(ValueError):  # a kill may have cut a line off, or a power cut emptied it
                match json.loads(line):
                    case [str(key), str(digest), [*imports]]:
                        digests[key] = (digest, imports)
    return digests


def _keep(key: str) -> None:
    """Add an entry to the cache file, if it can be written."""
    with suppress(OSError):  # a read-only checkout: analysed anew the next time
        KEPT.parent.mkdir(exist_ok=True)
        with KEPT.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps([key, *_kept()[key]]) + "\n")
