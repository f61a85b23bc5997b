"""Settings and files as the words of a command line, and small helpers of rules."""

import os
import shlex
from collections.abc import Iterable, Mapping
from typing import Any


def flags(settings: Mapping[str, Any]) -> str:
    """Settings as one canonical string of `--name value` flags, sorted; None and empty lists are left out.

    Snakemake compares a param as a string, so that a changed setting, and only that, makes a file stale.
    """
    words = []
    for name, value in sorted(settings.items()):
        if value is None or value == [] or value == {}:
            continue
        if isinstance(value, Mapping):
            value = [f"{key}={_word(inner)}" for key, inner in value.items()]
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(shlex.quote(_word(each)) for each in values)]
    return " ".join(words)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def named(files: Iterable[str], declared: Mapping[str, str]) -> list[str]:
    """Arguments `name=file` for a rule's inputs, each found by the path that the study declares for its name.

    A remote storage gives an input another folder, so that files are told by how their paths end.
    """
    files = list(map(str, files))
    arguments = []
    for name, path in declared.items():
        (file,) = [file for file in files if file == path or file.endswith(f"/{path}")]
        arguments.append(f"{name}={file}")
    return arguments


def folders_of(files: Iterable[str]) -> list[str]:
    """The folders of some files, each once, in their order."""
    return list(dict.fromkeys(os.path.dirname(file) for file in files))


def folder_of(files: Iterable[str]) -> str:
    """The one folder that some files are in."""
    (folder,) = folders_of(files)
    return folder


def branch_of(scope: str) -> str:
    """The folder of a scope's own pages and tables among the study's: "" or "unattended/"."""
    return "" if scope == "evaluation" else f"{scope}/"


def scope_of(folder: str) -> str:
    """The scope of what lies in a folder of the study: that of "unattended/" is unattended, else it is all."""
    return "unattended" if folder.startswith("unattended") else "evaluation"


def one_of(names: Iterable[str]) -> str:
    """A wildcard constraint; it matches nothing where there are no names."""
    return "|".join(names) or "(?!)"
