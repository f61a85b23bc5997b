"""Digests of the package's modules, so that a changed module makes the outputs of its stages stale.

A digest is over the code without comments, docstrings and layout: rewording them changes nothing.
"""

import ast
from collections.abc import Collection
from functools import cache
from hashlib import blake2b
from pathlib import Path

PACKAGE = Path(__file__).parent


def module_digests(module: str, without: Collection[str] = ()) -> list[str]:
    """`module:digest` of a module of this package and of all that it imports from the package, sorted.

    Args:
        without: modules that are not followed, since a stage does not run them.
    """
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and name not in without:
            found.add(name)
            waiting += _read(name)[1]
    return [f"{name}:{_read(name)[0]}" for name in sorted(found)]


@cache
def _read(module: str) -> tuple[str, list[str]]:
    """The digest of a module and the names of the package's modules that it imports, wherever it does."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            PACKAGE.name + "."
        ):
            imports.append(node.module.removeprefix(PACKAGE.name + "."))
        if hasattr(node, "body") and isinstance(node.body, list):
            node.body = [part for part in node.body if not _is_docstring(part)] or [ast.Pass()]
    return blake2b(ast.dump(tree).encode(), digest_size=6).hexdigest(), imports


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
