"""Studies that were made: their folders, and the configuration that they were made with."""

import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.study.names import BASE, model_folder
from persuasion_rl.study.parsing import keys_of_file, read_config_file

DEFAULT_FILE = Path("config/config.yaml")
"""The study's file that Snakemake reads where none is named."""

MADE = (
    "processed",
    "splits",
    "preferences",
    "models",
    "evaluation",
    "unattended",
    "judges",
    "state",
)
"""Folders of a study of which one that was made has some; a folder with other configurations has none."""
SECTIONS = ("data", "labels", "labels.human", "llm", "models", "sampling")
"""Parts of a recorded configuration that have keys of their own, and of which something is asked."""


def study_folder(name: str) -> Path:
    """The folder of a study that was made, by its name under results/ or else as a folder.

    Raises:
        UserError: there is no such study; with the names of those that there are.
    """
    own, other = Path("results") / name, Path(name)
    if other.name == name and (own / "config.yaml").is_file():
        return own.resolve()
    if (other / "config.yaml").is_file() and any((other / part).is_dir() for part in MADE):
        return other.resolve()
    names = sorted(path.parent.name for path in Path("results").glob("*/config.yaml"))
    study = Path(name).name
    making = command_for(study, "unattended --cores all")
    raise UserError(
        f"{name}: no study that was made (results/{study}/config.yaml is not there; {making} makes it);"
        f" there {'are ' + ', '.join(names) if names else 'is none'}"
    )


def file_of_study(name: str) -> Path | None:
    """The file in config/ that has this name as its `study:`; None where there is none."""
    for file in (DEFAULT_FILE, *sorted(Path("config").glob("*.yaml"))):
        with suppress(UserError):
            if read_config_file(file).get("study") == name:
                return file
    return None


def from_here(file: Path) -> Path:
    """A file by its path from the current folder, the same whichever way it was named; of one elsewhere the whole path."""
    file, here = file.absolute(), Path.cwd()
    # What is reached by a link lies where the link leads to, or where the link is.
    for path in (file.parent.resolve() / file.name, Path(os.path.normpath(file))):
        if path.is_relative_to(here):
            return path.relative_to(here)
    return file


def naming(file: Path) -> str:
    """How a command names a study's file, but for the one that is read unasked."""
    file = from_here(file)
    return "" if file == DEFAULT_FILE else f" --configfile {shlex.quote(str(file))}"


def command_for(study: str, words: str) -> str:
    """A command of Snakemake for a study, of which only the name is known, as a message says it."""
    file = file_of_study(study)
    if file is None:
        return f"`snakemake {words}` with the --configfile of study {study}"
    return f"`snakemake {words}{naming(file)}`"


def recorded_base(folder: Path, settings: dict[str, Any]) -> Path:
    """Where the base model of a study that was made is.

    Args:
        folder: results/{study}. settings: its recorded configuration.
    """
    source = settings["models"][BASE]["source"]
    return folder / "models/base" if source == "standin" else Path(model_folder(source))


def recorded_lineage(settings: dict[str, Any], model: str) -> list[str]:
    """The trained models from the first one above the base down to `model` itself, of a recorded configuration."""
    if model == BASE:
        return []
    return [*recorded_lineage(settings, settings["models"][model]["parent"]), model]


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The configuration that a study was made with, from its folder. A key that it lacks is a UserError, too.

    Raises:
        UserError: it is not there, or is no whole configuration; one line with the file and how it is made again.
    """
    file = folder / "config.yaml"
    again = (
        f"make it again: {command_for(folder.name, f'results/{folder.name}/config.yaml --cores 1')}"
    )
    try:
        settings = keys_of_file(file)
    except UserError as error:
        raise UserError(f"{file}: {error}; {again}") from None
    settings = _Recorded.of(settings, lambda key: UserError(f"{file}: has no {key}; {again}"))
    if not isinstance(settings["study"], str):
        raise UserError(f"{file}: study: is no name; {again}")
    models = settings.get("models", {})
    each = [f"models.{name}" for name in models] if isinstance(models, dict) else []
    for key in (*SECTIONS, *each):
        part: Any = settings
        for name in key.split("."):
            part = part.get(name, {})
            if not isinstance(part, dict):
                raise UserError(f"{file}: {key}: has no keys of its own; {again}")
    return settings


class _Recorded(dict):
    """A part of a recorded configuration; a key that it lacks is an error of its own."""

    lacks: Callable[[str], UserError]
    path: str

    @classmethod
    def of(cls, keys: dict, lacks: Callable[[str], UserError], path: str = "") -> "_Recorded":
        part = cls(
            (name, cls.of(value, lacks, f"{path}{name}.") if isinstance(value, dict) else value)
            for name, value in keys.items()
        )
        part.lacks, part.path = lacks, path
        return part

    def __missing__(self, name: str):
        raise self.lacks(f"{self.path}{name}")
