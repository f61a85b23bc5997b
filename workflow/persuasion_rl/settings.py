"""Converts nested settings to `a.b.c=value` words of a command line, and back. Values are YAML."""

import re
from collections.abc import Iterator
from math import inf
from typing import Any

import yaml

PART = re.compile(r"(?:[^.\\]|\\.)+")
"""One key of a dotted path; a dot in the key itself is written `\\.`."""


def as_words(settings: dict[str, Any]) -> list[str]:
    """Each setting as `a.b.c=value`, sorted. Lists and empty inner mappings are single values."""
    return sorted(f"{path}={_yaml(value)}" for path, value in flat(settings))


def from_words(words: dict[str, str]) -> dict[str, Any]:
    """The settings that `as_words` wrote.

    Args:
        words: dotted path -> value as YAML, as a `dict[str, str]` flag gives them.
    """
    settings: dict[str, Any] = {}
    for path, value in words.items():
        *above, last = (re.sub(r"\\(.)", r"\1", part) for part in PART.findall(path))
        inner = settings
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = yaml.safe_load(value)
    return settings


def flat(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and the values at their ends, in the order of the settings."""
    if not isinstance(settings, dict) or (path and not settings):
        yield path, settings
        return
    for key, value in settings.items():
        part = re.sub(r"([.\\])", r"\\\1", str(key))
        yield from flat(value, f"{path}.{part}" if path else part)


class _OneLine(yaml.SafeDumper):
    """Escapes line breaks and other unprintable characters."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_OneLine.add_representer(str, _text)


def _yaml(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.dump(value, Dumper=_OneLine, default_flow_style=True, width=inf, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
