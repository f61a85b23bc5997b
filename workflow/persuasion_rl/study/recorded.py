"""Studies that were made: their folders, and the configuration that they were made with."""

import os
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from persuasion_rl.files import UserError
from persuasion_rl.study.checks import check_lineage
from persuasion_rl.study.config import Config
from persuasion_rl.study.mistakes import message
from persuasion_rl.study.names import BASE, model_folder
from persuasion_rl.study.parsing import keys_of_file, read_config_file, shortened

DEFAULT_FILE = Path("config/config.yaml")
"""The study's file that Snakemake reads where none is named."""
IN_CHECKOUT = "run this in the checkout, the folder with the Snakefile"

STUDY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
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
"""A study that was made has some of these folders; a folder of other configurations has none."""


def study_folder(name: str) -> Path:
    """The folder of a study that was made, by its name under results/ or else as a folder.

    Raises:
        UserError: there is no such study; the message names those that exist.
    """
    by_name, by_path = os.path.join("results", name), name
    if name and os.path.basename(name) == name and os.path.isfile(f"{by_name}/config.yaml"):
        return Path(by_name).resolve()
    parts = [f"{by_path}/{part}" for part in MADE]
    if name and os.path.isfile(f"{by_path}/config.yaml") and any(map(os.path.isdir, parts)):
        return Path(by_path).resolve()
    config_files = sorted(path for path in Path("results").glob("*/config.yaml") if path.is_file())
    there = f"there {'are ' + ', '.join(path.parent.name for path in config_files) if config_files else 'is none'}"
    study = os.path.basename(os.path.normpath(name))
    if not STUDY_NAME.fullmatch(study):
        raise UserError(f"{shortened(name)}: no name or folder of a study that was made; {there}")
    record = f"results/{study}/config.yaml"
    if os.path.isdir(record):
        raise UserError(
            f"{record}: a folder, where the study's settings are recorded: move it away"
        )
    making = command_for(study, "unattended --cores all")
    raise UserError(
        f"{name}: no study that was made ({record} is not there; {making} makes it); {there}"
    )


def file_of_study(name: str) -> Path | None:
    """The file in config/ that has this name as its `study:`; None where there is none."""
    for file in (DEFAULT_FILE, *sorted(Path("config").glob("*.yaml"))):
        with suppress(UserError):
            if read_config_file(file).get("study") == name:
                return file
    return None


def from_here(file: Path) -> Path:
    """The path of a file from the current folder, however it was named; the whole path of a file elsewhere."""
    file, here = file.absolute(), Path.cwd()
    # A file behind a link counts as here if the link or its target is here.
    for path in (file.parent.resolve() / file.name, Path(os.path.normpath(file))):
        if path.is_relative_to(here):
            return path.relative_to(here)
    return file


def naming(file: Path) -> str:
    """The option that names a study's file in a command for the checkout; empty for the default file.

    Away from the checkout it is the whole path.
    """
    file = from_here(file) if Path("Snakefile").is_file() else file.absolute()
    return "" if file == DEFAULT_FILE else f" --configfile {shlex.quote(str(file))}"


def command_for(study: str, words: str) -> str:
    """A Snakemake command for a study of which only the name is known, as messages quote it."""
    file = file_of_study(study)
    if file is None:
        return f"`snakemake {words}` with the --configfile of study {study}"
    return f"`snakemake {words}{naming(file)}`"


def recorded_base(folder: Path, config: Config) -> Path:
    """The folder of the base model of a study that was made.

    Args:
        folder: results/{study}. config: what it was made with.
    """
    source = config.models[BASE].source
    return folder / "models/base" if source == "standin" else Path(model_folder(source))


def recorded_config(folder: Path) -> Config:
    """The configuration that a study was made with, from its folder. Keys that an older version did not record have defaults.

    Raises:
        UserError: the file is missing or incomplete; one line with the file and how to make it again.
    """
    settings = recorded_settings(folder)
    try:
        config = Config.model_validate(settings)
        check_lineage(config)
    except ValidationError as error:
        raise _to_make_again(folder, message(error)) from None
    except UserError as error:
        raise _to_make_again(folder, error) from None
    return config


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The keys and values that a study recorded, unchecked, so that those of older versions can be read.

    Raises:
        UserError: there are none; one line with the file and how to make it again.
    """
    try:
        return keys_of_file(folder / "config.yaml")
    except UserError as error:
        raise _to_make_again(folder, error) from None


def _to_make_again(folder: Path, mistake: UserError | str) -> UserError:
    """The error for a broken record of a configuration, with the command that makes it again."""
    making = command_for(folder.name, f"results/{folder.name}/config.yaml --cores 1")
    return UserError(f"{folder / 'config.yaml'}: {mistake}; make it again: {making}")
