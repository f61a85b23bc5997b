"""Explains a mistake in a configuration in one line: the key, the value, what is allowed, what may be meant."""

import difflib
from datetime import date
from math import isfinite
from typing import Any

from pydantic import ValidationError

from persuasion_rl.study.config import Config
from persuasion_rl.study.parsing import is_number, shortened, value_at
from persuasion_rl.study.recipe_checks import NEVER_SET
from persuasion_rl.study.recipes import Recipe
from persuasion_rl.study.section import (
    Section,
    expects_name,
    key_path,
    keys_of,
    section_at,
    takes_null,
)


def message(
    error: ValidationError,
    all_keys: Any = None,
    file_keys: Any = None,
    root: type[Section] = Config,
) -> str:
    """The first mistake in one line: the key, the value, what is allowed. Unknown keys explain others, and come first.

    Args:
        all_keys: the keys of the study's file and of --config together.
        file_keys: the keys of the file alone, where there is one.
        root: the section that was validated.
    """
    mistakes = error.errors(include_url=False)
    unknown = ("extra_forbidden", "invalid_key")
    first = min(
        mistakes,
        key=lambda mistake: (
            mistake["type"] not in unknown,
            len(mistake["loc"]),
            mistake["type"] == "missing",
        ),
    )
    path = _path(first, root)
    if first["type"] in unknown:
        return _unknown_key(path, root)
    if first["loc"][-1] == "[key]" and first["type"] == "string_type":
        key = first["input"]
        return f"{key_path(*path[:-1], key)}: the key {shortened(key)} is no text: put it in quotes"
    if first["type"] == "missing":
        return f"{key_path(*path[:-1]) or 'the configuration'}: the key {path[-1]!r} is missing"
    if first["type"] == "value_error":
        return f"{key_path(*path)}: {first['ctx']['error']}"
    allowed = f"{_allowed(first)}{' or null' if takes_null(root, path) else ''}{_hint(first, all_keys, file_keys)}"
    return f"{key_path(*path)}: {shortened(first['input'])} {allowed}"


def _path(mistake: dict[str, Any], root: type[Section]) -> list[str]:
    """The keys down to a mistake. Where a name itself is wrong, pydantic adds "[key]" to it."""
    path = [str(part) for part in mistake["loc"]]
    about_a_name = path[-1:] == ["[key]"] and mistake["type"] != "extra_forbidden"
    if about_a_name and not expects_name(root, path[:-1]):
        del path[-1]
    return path


def _unknown_key(path: list[str], root: type[Section]) -> str:
    *above, name = path
    section = section_at(root, above)
    if issubclass(section, Recipe) and name in NEVER_SET:
        return f"{key_path(*path)}: {NEVER_SET[name]}"
    allowed = sorted(section.model_fields)
    close = difflib.get_close_matches(name, allowed, 1)
    elsewhere = [key for key, _ in keys_of(root) if key.split(".")[-1] == name]
    suggestions = close or (elsewhere if len(elsewhere) <= 3 else [])
    hint = f" (did you mean {' or '.join(suggestions)}?)" if suggestions else ""
    return f"{key_path(*path)}: unknown key{hint}; allowed here: {', '.join(allowed)}"


def _allowed(mistake: dict[str, Any]) -> str:
    limits = mistake.get("ctx", {})
    match mistake["type"]:
        case "literal_error":
            words = limits["expected"].replace(" or ", ", ").replace("'", "")
            return f"must be one of {words}"
        case "greater_than":
            return f"must be above {_number(limits['gt'])}"
        case "less_than":
            return f"must be below {_number(limits['lt'])}"
        case "greater_than_equal":
            return f"must be at least {_number(limits['ge'])}"
        case "less_than_equal":
            return f"must be at most {_number(limits['le'])}"
        case "too_short":
            return f"must have at least {limits['min_length']} entries"
        case "string_too_long":
            return f"must have at most {limits['max_length']} letters"
        case "string_pattern_mismatch":
            return f"must match {limits['pattern']}"
    return MUST_BE.get(mistake["type"], mistake["msg"])


def _number(limit: float) -> str:
    """A limit with all its digits."""
    return str(int(limit)) if limit == int(limit) else str(limit)


MUST_BE = {
    "bool_type": "must be a boolean: true or false",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "list_type": "must be an array, as [one, two]",
    "dict_type": "must be an object, with keys and values",
    "model_type": "must be an object, with keys and values",
}
"""Messages for pydantic's error types that have no limit."""
NOT_TEXT = ("bool_type", "int_type", "float_type", "list_type", "dict_type", "model_type")
"""Error types of text in place of another type."""


def _hint(mistake: dict[str, Any], all_keys: Any, file_keys: Any) -> str:
    """The likely reason why a value is text and should not be, or should be text and is not."""
    value = mistake["input"]
    if mistake["type"] == "string_type" and isinstance(value, bool | int | float | date):
        if file_keys is not None and value_at(file_keys, mistake["loc"]) != value:
            return " (--config reads it as none: write it, in quotes, into a file that extends this one)"
        return " (put it in quotes, if it is meant)"
    if not isinstance(value, str) or mistake["type"] not in NOT_TEXT:
        return ""
    if file_keys is not None and len(mistake["loc"]) > 1:
        file_value, full_value = (value_at(keys, mistake["loc"]) for keys in (file_keys, all_keys))
        if full_value == value != file_value:
            return " (inside --config 'KEY={...}' every value is text: write it in a file that extends this one)"
    return _written_otherwise(value) if mistake["type"] in ("int_type", "float_type") else ""


def _written_otherwise(text: str) -> str:
    """How to write a number that YAML reads as text."""
    if is_number(text):
        return " (in quotes it is text)"
    try:
        number = float(text)
    except ValueError:
        return ""
    if not isfinite(number):
        return ""
    mantissa, _, exponent = text.lower().partition("e")
    yaml_form = str(int(number) if number == int(number) else number)
    if exponent:
        yaml_form = f"{float(mantissa)}e{int(exponent):+d}"
    return f" (YAML reads {shortened(text, 40)} as text: write {yaml_form})"
