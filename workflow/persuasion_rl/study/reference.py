"""Writes the list of keys in config/README.md, and the JSON schema by which editors check a study's file.

python -m persuasion_rl.study.reference
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.json_schema import GenerateJsonSchema

from persuasion_rl.files import write_text
from persuasion_rl.study.config import Config
from persuasion_rl.study.recipes import LoraRecipe, Recipe
from persuasion_rl.study.section import Section, section_in

PROJECT = Path(__file__).parents[3]
README = PROJECT / "config" / "README.md"
SCHEMA = PROJECT / "workflow" / "schemas" / "config.schema.json"
HEADING = "## Keys\n\n"
RECIPE = """Keys of a recipe (`recipes`, `models.NAME.recipe`). They are trl's own argument names, and a key that is left
out takes trl's default, unless one is shown here:"""


def key_list() -> str:
    """Every key of the configuration as a Markdown list."""
    return "\n".join([*_lines(Config, ""), "", RECIPE, "", *_lines(LoraRecipe, "")])


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
    """The allowed words of a key or of the entries of its list, if they are enumerated."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [json.dumps(word).strip('"') for word in parts]
    words = next(filter(None, map(_allowed, parts)), [])
    return [*words, "null"] if words and type(None) in parts else words


def readme() -> str:
    """config/README.md with the list of keys at its end."""
    before, _, _ = README.read_text(encoding="utf-8").partition(HEADING)
    return f"{before}{HEADING}{key_list()}\n"


class _Untitled(GenerateJsonSchema):
    """Leaves out titles of keys, which would repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema() -> str:
    """The JSON schema of a study's file, with which editors complete keys and mark mistakes."""
    schema = Config.model_json_schema(schema_generator=_Untitled)
    required = schema.pop("required")
    for section in (schema, *schema["$defs"].values()):
        section.pop("title", None)
        section.pop("required", None)
        for key in section["properties"].values():
            if isinstance(key.get("default"), dict):
                del key["default"]
            if "patternProperties" in key:
                key["additionalProperties"] = False
    # A file that extends another one may have a part of any section.
    name = {"type": "string", "description": "Another study's file, over which this one is laid."}
    schema["properties"] = {"extends": name} | schema["properties"]
    schema["anyOf"] = [{"required": required}, {"required": ["extends"]}]
    head = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A study of persuasion-rl",
    }
    return json.dumps(head | schema, indent=1) + "\n"


if __name__ == "__main__":
    for file, text in ((README, readme()), (SCHEMA, json_schema())):
        write_text(file, text)
        print(file.relative_to(PROJECT))
