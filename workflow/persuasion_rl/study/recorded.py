"""Studies that were made: their folders, and the configuration that they were made with."""

from pathlib import Path
from typing import Any

import yaml

from persuasion_rl.files import UserError
from persuasion_rl.study.lineage import model_folder
from persuasion_rl.study.names import BASE


def study_folder(name: str) -> Path:
    """The folder of a study that was made, by its name or as a folder.

    Raises:
        UserError: there is no such study; with the names of those that there are.
    """
    for folder in (Path(name), Path("results") / name):
        if (folder / "config.yaml").is_file():
            return folder.resolve()
    names = sorted(path.parent.name for path in Path("results").glob("*/config.yaml"))
    raise UserError(
        f"{name}: no study that was made (results/{name}/config.yaml is not there; `snakemake unattended --cores all` makes it);"
        f" there {'are ' + ', '.join(names) if names else 'is none'}"
    )


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
