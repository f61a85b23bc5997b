"""The base class and the value types of every section of the configuration.

A setting becomes a flag, and flags are compared as text. So 1.0 is written as 1 everywhere: otherwise another spelling
of the same number would train a model anew.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WrapValidator
from pydantic.fields import FieldInfo

from persuasion_rl.study.parsing import shortened


class Section(BaseModel):
    """A section of the configuration. It refuses unknown keys and converts no types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Keys and values, as of a dict, without the `optional` keys that are missing."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if not (value is None and is_optional(type(self), [name])):
                yield name, value

    def resolved(self) -> dict[str, Any]:
        """The section as a plain dict, with every default, ready to be written as JSON."""
        return {name: _plain(value) for name, value in self.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.resolved()
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return list(value) if isinstance(value, list) else value


def optional(description: str, **limits: Any) -> Any:
    """A key that may be missing and has no default. A missing key reads as None, which is not allowed as a value."""
    return Field(default=None, description=description, json_schema_extra=_no_default, **limits)


def section_in(annotation: Any) -> "type[Section] | None":
    """The section that a key of this type holds, directly or as a dict by name; None where it holds none."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and get_origin(part) is None and issubclass(part, Section):
            return part
    return None


def section_at(root: "type[Section]", path: Sequence[str]) -> "type[Section] | None":
    """The section at the end of a path of keys and of names of models and players; None where a value is there."""
    return _walk(root, path)[0]


def expects_name(root: "type[Section]", path: Sequence[str]) -> bool:
    """Whether a name of a model or player comes next after a path of keys."""
    return _walk(root, path)[1]


def _walk(root: "type[Section]", path: Sequence[str]) -> "tuple[type[Section] | None, bool]":
    section, by_name = root, False
    for key in path:
        if by_name:
            by_name = False
        elif section is not None:
            field = section.model_fields.get(key)
            annotation = field.annotation if field else None
            section, by_name = section_in(annotation), get_origin(annotation) is dict
    return section, by_name


def takes_null(root: "type[Section]", path: Sequence[str]) -> bool:
    """Whether the key at the end of a path may be null, as llm.temperature may."""
    field = _field(root, path)
    return field is not None and type(None) in get_args(field.annotation)


def is_optional(root: "type[Section]", path: Sequence[str]) -> bool:
    """Whether the key at the end of a path may be missing, as models.base.revision may: its default is None, and None is
    not allowed as a value."""
    field = _field(root, path)
    return field is not None and field.default is None and not takes_null(root, path)


def _field(root: "type[Section]", path: Sequence[str]) -> "FieldInfo | None":
    """The key at the end of a path; None where a name or no key is there."""
    *above, name = path
    section, by_name = _walk(root, above)
    return section.model_fields.get(name) if section and not by_name else None


def key_path(*parts: Any) -> str:
    """The path of a key, such as `data.max_tokens`. Parts with dots, brackets, spaces or line breaks are quoted."""
    return ".".join(part if _is_plain(part) else shortened(part, 60) for part in map(str, parts))


def _is_plain(part: str) -> bool:
    return part.isprintable() and 0 < len(part) <= 60 and not any(each in ".[] " for each in part)


def keys_of(section: "type[Section]", path: str = "") -> "Iterator[tuple[str, FieldInfo]]":
    """Every key below a section, as a.b or a.NAME.b, with its field; keys of recipes included."""
    for name, field in section.model_fields.items():
        yield f"{path}{name}", field
        if below := section_in(field.annotation):
            by_name = "NAME." if get_origin(field.annotation) is dict else ""
            yield from keys_of(below, f"{path}{name}.{by_name}")


def _no_default(schema: dict[str, Any]) -> None:
    """Tell editors that a key may be missing: it has no default, and null stands for its absence."""
    del schema["default"]
    value = {name: schema.pop(name) for name in [*schema] if name != "description"}
    schema["anyOf"] = [value, {"type": "null"}]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _in_one_spelling(value: Any, validate: Any) -> Any:
    validate(value)
    return _whole(value) if abs(value) <= LARGEST else value


def check_text(text: str) -> str:
    """Return a text that can be a part of a path and a word of a command; ValueError for any other."""
    if any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in text):
        raise ValueError(f"{shortened(text)} has a character that cannot be printed")
    if "{" in text or "}" in text:
        raise ValueError(
            f"{shortened(text)} has a brace, which Snakemake takes for a wildcard: do without"
        )
    if text.startswith("-"):
        raise ValueError(f"{shortened(text)} begins with -, as a flag of a command: do without")
    if text != text.strip():
        raise ValueError(f"{shortened(text)} begins or ends with a space")
    return text


def check_address(text: str) -> str:
    """Return the URL of a server; ValueError for any other text."""
    if not text.startswith(("http://", "https://")) or " " in text:
        raise ValueError(
            f"{shortened(text)} is no address: it begins with http:// or https:// and has no spaces"
        )
    try:
        parts = urlsplit(text)
        named = parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        named = False
    if not named:
        raise ValueError(
            f"{shortened(text)} is no address: write http://HOST:PORT/v1, with a port from 1 to 65535 or none"
        )
    return text


def check_name(text: str, most: int = 60) -> str:
    """Return a name that files can have and Snakemake takes as a wildcard's value; ValueError for any other."""
    if len(text) > most:
        raise ValueError(f"{shortened(text)} has more than {most} letters: choose a shorter name")
    if ending := re.search(r"(.+?)\1{19,}$", text):
        raise ValueError(
            f"{shortened(text)} ends in {ending[1]!r} twenty times or more, which Snakemake takes for rules without an end:"
            " choose another name"
        )
    return text


def _check_folder(text: str) -> str:
    check_name(text, 200)
    if {*text.split("/")} & {"", ".", ".."}:
        raise ValueError(f"{shortened(text)} is no name of a folder below another one")
    return text


def _unique(values: list) -> list:
    repeated_value = next(
        (value for place, value in enumerate(values) if value in values[:place]), None
    )
    if repeated_value is not None:
        raise ValueError(f"{shortened(repeated_value)} stands there twice")
    return values


WHOLE = BeforeValidator(_whole)
LARGEST = 2**53
"""The largest whole number that every reader of JSON keeps."""
Integer = Annotated[int, Field(le=LARGEST), WHOLE]
"""A whole number; 512.0 is 512."""
Natural = Annotated[int, Field(ge=0, le=LARGEST), WHOLE]
Count = Annotated[int, Field(ge=1, le=LARGEST), WHOLE]
Threads = Annotated[int, Field(ge=1, le=1024), WHOLE]
"""A number of CPU threads."""
Whole = Annotated[int, WHOLE]
"""A whole number whose limits the section sets."""
MOST_ROWS = 10_000_000
Rows = Annotated[int, Field(ge=1, le=MOST_ROWS), WHOLE]
"""A number of rows: more would not fit the memory of a job."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), WHOLE]
"""A seed that numpy and torch accept."""
ONE_SPELLING = WrapValidator(_in_one_spelling)
"""Whole numbers stay int, however they were written."""
Positive = Annotated[float, Field(gt=0), ONE_SPELLING]
NonNegative = Annotated[float, Field(ge=0), ONE_SPELLING]
Share = Annotated[float, Field(ge=0, le=1), ONE_SPELLING]
PositiveShare = Annotated[float, Field(gt=0, le=1), ONE_SPELLING]
HalfShare = Annotated[float, Field(ge=0, le=0.5), ONE_SPELLING]
Word = Annotated[str, Field(min_length=1), AfterValidator(check_text)]
"""A text that can be a part of a path and a word of a command."""
Address = Annotated[Word, AfterValidator(check_address)]
"""URL of a server."""
FolderName = Annotated[Word, AfterValidator(_check_folder)]
"""Path of a folder below another one."""
Unique = AfterValidator(_unique)
"""Reject repeated entries of a list."""
