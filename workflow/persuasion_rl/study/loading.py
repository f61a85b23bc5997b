"""The configuration of a study: its file, laid over the files that it extends, checked."""

import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from persuasion_rl.files import UserError
from persuasion_rl.study.checks import LOOKS_LIKE_A_KEY, check_config
from persuasion_rl.study.config import Config
from persuasion_rl.study.mistakes import message
from persuasion_rl.study.parsing import keys_of_file, read_config_file
from persuasion_rl.study.section import key_path


def load_config(given: dict[str, Any], file: Path | None = None) -> Config:
    """The complete configuration of a study, with all defaults, checked.

    Args:
        given: the keys of the study's file and of --config, as Snakemake read them.
        file: the study's file, from which a relative `extends:` is looked up.

    Raises:
        UserError: an unknown key, a wrong type or value, an impossible plan, a broken lineage. One line: the key, the value,
            what is allowed. It does not name the study's file.
    """
    # Snakemake takes the last of two keys of one name, without a word; that is refused in reading.
    own = keys_of_file(file) if file is not None and file.is_file() else None
    study = _extended(deepcopy(given), file, above=[])
    for section in ("llm", "sampling"):
        _refuse_keys(section, study.get(section))
    try:
        config = Config.model_validate(study)
    except ValidationError as error:
        raise UserError(message(error, given, own)) from None
    check_config(config)
    return config


def load_config_file(file: Path) -> Config:
    """The complete configuration of a study from its file alone.

    Raises:
        UserError: as of `load_config` and `read_config_file`, always with the file.
    """
    try:
        return load_config(keys_of_file(file), file)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def the_one_file(files: Sequence[Path]) -> Path:
    """The file of --configfile.

    Raises:
        UserError: there are several. Snakemake lays them over each other, and `extends:` of all but the last is lost.
    """
    if len(files) > 1:
        *others, last = files
        below = os.path.relpath(others[-1], Path(last).parent)
        raise UserError(
            f"--configfile: a study is one file, not {' and '.join(map(str, files))}; write `extends: {below}` in"
            f" {last}, and give that alone"
        )
    return Path(files[0])


def _extended(study: dict, file: Path | None, above: list[Path]) -> dict:
    """Lay a study over the one that it names under `extends:`, if it does."""
    name = study.pop("extends", None)
    if name is None:
        return study
    if not isinstance(name, str) or not name.isprintable():
        raise UserError(f"extends: {name!r} must be the name of a file")
    parent_file = (file.parent if file else Path("config")) / name
    chain = [*above, *([file] if file else [])]
    if os.path.realpath(parent_file) in map(os.path.realpath, chain):
        names = " -> ".join(path.name for path in [*chain, parent_file])
        raise UserError(f"extends: {parent_file} extends itself ({names})")
    try:
        parent = read_config_file(parent_file)
    except UserError as error:
        raise UserError(f"extends: {error}") from None
    return _merged(_extended(parent, parent_file, chain), study)


def _merged(below: dict, above: dict) -> dict:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _refuse_keys(section: str, settings: Any) -> None:
    """UserError, without its value, where an API key stands in a section: the configuration is written down."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        words = ("key", "secret", "password", "authorization")
        named = any(word in str(name).lower() for word in words)
        if named or (isinstance(value, str) and LOOKS_LIKE_A_KEY.search(value)):
            raise UserError(
                f"{key_path(section, name)}: looks like a key; keys come from the environment only (OPENAI_API_KEY or"
                " ANTHROPIC_API_KEY), since a study's configuration is kept with its results"
            )
