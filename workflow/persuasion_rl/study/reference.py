"""Writes what people read of the configuration: the list of keys in config/README.md.

python -m persuasion_rl.study.reference
"""

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from persuasion_rl.study.config import Config
from persuasion_rl.study.recipes import MethodRecipe, Recipe
from persuasion_rl.study.section import Section, section_in


def reference() -> str:
    """Every key of the configuration as a Markdown list; config/README.md holds it, and a test compares them."""
    return "\n".join([*_lines(Config, ""), "", "A recipe:", "", *_lines(MethodRecipe, "")])


def _lines(section: type[Section], path: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        words = _allowed(field.annotation)
        allowed = f" Allowed: {', '.join(words)}." if words else ""
        yield f"- `{path}{name}`: {field.description}{allowed}{_default(field.default)}"
        below = section_in(field.annotation)
        if below is not None and not issubclass(below, Recipe):
            by_name = "NAME." if get_origin(field.annotation) is dict else ""
            yield from _lines(below, f"{path}{name}.{by_name}")


def _default(value: Any) -> str:
    plain = isinstance(value, bool | int | float | str | list)
    return f" Default `{json.dumps(value)}`." if plain else ""


def _allowed(annotation: Any) -> list[str]:
    """The words that a key may hold, itself or as an entry of its list, where they are few."""
    if get_origin(annotation) is Literal:
        return [str(word).lower() if word is False else word for word in get_args(annotation)]
    words = [_allowed(part) for part in get_args(annotation)]
    return next(filter(None, words), []) + (
        ["null"] if any(words) and type(None) in get_args(annotation) else []
    )


if __name__ == "__main__":
    print(reference())
