"""Writes the resolved configuration of a study, a record that is never an input."""

from pathlib import Path

import yaml

from persuasion_rl.files import write_text
from persuasion_rl.runtime.command import stage
from persuasion_rl.settings import from_words

HEADER = "# The complete configuration that this study was last run with: a record, not an input.\n"


def record_config(*, settings: dict[str, str], output: Path) -> None:
    """Write a study's configuration as YAML, the keys of each level sorted.

    Args:
        settings: all settings: dotted path -> value as YAML (`data.max_tokens=512`).
    """
    write_text(output, HEADER + yaml.safe_dump(from_words(settings)))


if __name__ == "__main__":
    stage(record_config)
