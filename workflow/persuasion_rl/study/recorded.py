"""Studies that were made: their folders, and the configuration that they were made with."""

from pathlib import Path
from typing import Any

import yaml

from persuasion_rl.files import UserError


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


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The configuration that a study was made with, from its folder."""
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
