"""Studies that were made: their folders, and the configuration that they were made with."""

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from persuasion_rl.files import UserError
from persuasion_rl.study.lineage import model_folder
from persuasion_rl.study.names import BASE
from persuasion_rl.study.parsing import read_config_file

DEFAULT_FILE = Path("config/config.yaml")
"""The study's file that Snakemake reads where none is named."""


def study_folder(name: str) -> Path:
    """The folder of a study that was made, by its name or as a folder.

    Raises:
        UserError: there is no such study; with the names of those that there are.
    """
    for folder in (Path(name), Path("results") / name):
        if (folder / "config.yaml").is_file():
            return folder.resolve()
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
    """The configuration that a study was made with, from its folder."""
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
