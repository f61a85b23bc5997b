"""Settings and files as the words of a command line, and files as the inputs of a rule."""

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

    A remote storage gives an input another folder, so that how its path ends identifies a file.
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


def as_inputs(files: Mapping[str, Any]) -> dict[str, Any]:
    """Files by name as the inputs of a rule.

    Args:
        files: name -> a file, a list of files, or files by names of their own.
    """
    return {
        name: list(each.values()) if isinstance(each, Mapping) else each
        for name, each in files.items()
    }


def as_flags(input: Any, files: Mapping[str, Any]) -> str:
    """Files by name as flags, `--name FILE` or `--name KEY=FILE ...`, at the places of a rule's inputs.

    Args:
        input: the inputs of a job, by name. files: as for `as_inputs`.
    """
    return flags(
        {
            name: named(input[name], each) if isinstance(each, Mapping) else input[name]
            for name, each in files.items()
        }
    )
