"""Writes the resolved configuration of a study: a record, never an input of anything."""

import json
from pathlib import Path

import yaml

from persuasion_rl.files import write_text
from persuasion_rl.runtime.command import stage


def record_config(*, config: str, output: Path) -> None:
    """Write the configuration, given as JSON, as YAML."""
    header = (
        "# The complete configuration that this study was last run with: a record, not an input.\n"
    )
    write_text(output, header + yaml.safe_dump(json.loads(config), sort_keys=False))


if __name__ == "__main__":
    stage(record_config)
