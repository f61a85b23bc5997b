"""Loads and checks the configuration of a study: its file, laid over the files that it extends."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from persuasion_rl.files import UserError
from persuasion_rl.study.checks import LOOKS_LIKE_A_KEY, check_config
from persuasion_rl.study.config import Config
from persuasion_rl.study.mistakes import message
from persuasion_rl.study.parsing import (
    keys_of_file,
    line_of,
    paths_of,
    read_config_file,
    shortened,
    value_at,
)
from persuasion_rl.study.section import is_optional, key_path, takes_null

BELONGS = (
    ("models", "*", "source", "revision"),
    ("evaluation", "other_players", "*", "source", "revision"),
    ("llm", "model", "prices"),
)
"""Paths whose last key describes the value of the key before it: with another value it is not inherited. * is any name."""


def load_config(study_keys: dict[str, Any], file: Path | None = None) -> Config:
    """The complete configuration of a study, with all defaults, checked.

    Args:
        study_keys: the keys of the study's file and of --config, as Snakemake read them.
        file: the study's file, from which a relative `extends:` is looked up.

    Raises:
        UserError: an unknown key, a wrong type or value, an impossible plan, a broken lineage. One line: the key, the value,
            what is allowed. It does not name the study's file.
    """
    # Snakemake silently takes the last of repeated keys; reading the file here refuses them.
    file_keys = keys_of_file(file) if file is not None and file.is_file() else None
    config = _complete(study_keys, file, file_keys)
    if file_keys is not None:
        _refuse_name_of_another(config.study, file, file_keys)
    return config


def _complete(
    study_keys: dict[str, Any], file: Path | None, file_keys: dict[str, Any] | None
) -> Config:
    """A study's configuration with all defaults, checked without a look at the names of other studies.

    Args:
        file_keys: the keys of the file alone, where there is one.
    """
    layers = _layers(deepcopy(study_keys), file)
    if len(layers) > 1 and layers[0][1].get("study") is None:
        parent = layers[1][0]
        raise UserError(
            f"study: a file that extends {parent} needs a name of its own, or it would write over that study's results:"
            " add `study: NAME`"
        )
    study: dict[str, Any] = {}
    for number in reversed(range(len(layers))):
        keys = layers[number][1]
        for path in BELONGS:
            _refuse_inherited(path, study, keys, layers[number + 1 :])
        study = _merged(study, keys)
    try:
        for section in ("llm", "sampling"):
            _refuse_keys(section, study.get(section))
        try:
            config = Config.model_validate(study)
        except ValidationError as error:
            raise UserError(message(error, study_keys, file_keys)) from None
        config = config.at_its_size()
        check_config(config)
    except UserError as error:
        raise UserError(f"{error}{_inherited_from(str(error), layers)}") from None
    return config


def _refuse_name_of_another(name: str, file: Path, file_keys: dict[str, Any]) -> None:
    """UserError where another file beside a study's has the same name for another configuration, and neither of the two
    extends the other: both would write to one folder of results.

    Args:
        file_keys: the keys of the study's file. A file that is no study, or cannot be read, is in nobody's way.
    """
    below = {os.path.realpath(each) for each, _ in _layers(deepcopy(file_keys), file)}
    named = re.compile(rb"study\W+" + re.escape(name.encode()))
    for other in sorted(file.parent.glob("*.yaml")):
        if os.path.realpath(other) in below or not other.is_file():
            continue
        with suppress(UserError, OSError):
            # Reading all of a text costs little, and parsing it much more.
            if not named.search(other.read_bytes()):
                continue
            keys = keys_of_file(other)
            extended = {os.path.realpath(each) for each, _ in _layers(deepcopy(keys), other)}
            if keys.get("study") != name or os.path.realpath(file) in extended:
                continue
            if _complete(keys, other, keys) != _complete(file_keys, file, file_keys):
                break
    else:
        return
    raise UserError(
        f"study: {name!r} is the name of {other} too, which is another study, and both would write to results/{name}/;"
        " give one of them a name of its own"
    )


def load_config_file(file: Path) -> Config:
    """The complete configuration of a study from its file alone.

    Raises:
        UserError: as `load_config` and `read_config_file` raise, always with the name of the file.
    """
    try:
        return load_config(keys_of_file(file), file)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def the_one_file(files: Sequence[Path]) -> Path:
    """The file of --configfile.

    Raises:
        UserError: there are several. Snakemake merges them, which loses `extends:` of all but the last.
    """
    if len(files) > 1:
        *others, last = files
        below = os.path.relpath(others[-1], Path(last).parent)
        raise UserError(
            f"--configfile: a study is one file, not {' and '.join(map(str, files))}; write `extends: {below}` in"
            f" {last}, and give that alone"
        )
    return Path(files[0])


def _layers(study: dict, file: Path | None) -> list[tuple[Path | None, dict]]:
    """The keys of a study and of each file that it extends, the lowest one last; each without `extends`."""
    layers = [(file, study)]
    while (name := layers[-1][1].pop("extends", None)) is not None:
        if not isinstance(name, str) or not name.isprintable():
            raise UserError(f"extends: {name!r} must be the name of a file")
        last = layers[-1][0]
        parent = (last.parent if last else Path("config")) / name
        chain = [place for place, _ in layers if place]
        if os.path.realpath(parent) in map(os.path.realpath, chain):
            names = " -> ".join(path.name for path in [*chain, parent])
            raise UserError(f"extends: {parent} extends itself ({names})")
        try:
            layers.append((parent, read_config_file(parent)))
        except UserError as error:
            raise UserError(f"extends: {error}") from None
    return layers


def _merged(below: dict, above: dict, path: tuple[str, ...] = ()) -> dict:
    """Keys laid over others. A null removes a key, so that its default holds, unless the key may be null.

    Null for an `optional` key is dropped even if the files below lack the key.
    """
    merged = dict(below)
    for key, value in above.items():
        inner = (*path, str(key))
        if isinstance(value, dict):
            under = merged.get(key)
            merged[key] = _merged(under if isinstance(under, dict) else {}, value, inner)
        elif value is None and is_optional(Config, inner):
            merged.pop(key, None)
        elif value is None and key in merged and not takes_null(Config, inner):
            del merged[key]
        else:
            merged[key] = value
    return merged


def _refuse_inherited(path: tuple[str, ...], below: dict, above: dict, layers: list) -> None:
    """UserError where keys set one of BELONGS anew (a source, say) and inherit what described the old one (its revision)."""
    *start, owner, dependent = path
    if "*" in start:
        names = value_at(above, start[:-1])
        starts = [(*start[:-1], name) for name in (names if isinstance(names, dict) else ())]
    else:
        starts = [tuple(start)]
    for place in starts:
        new, old = value_at(above, place), value_at(below, place)
        if not isinstance(new, dict) or not isinstance(old, dict):
            continue
        if (
            owner in new
            and dependent not in new
            and old.get(dependent) is not None
            and new[owner] != old.get(owner)
        ):
            file = next(
                file for file, keys in layers if value_at(keys, (*place, dependent)) is not None
            )
            whose, other = shortened(old.get(owner)), shortened(new[owner])
            raise UserError(
                f"{key_path(*place, dependent)}: {shortened(old[dependent])} is that of {whose} in {file}; beside {owner}: {other}"
                f" write its own {dependent}, or null for {'main or a model that is local' if dependent == 'revision' else 'none'}"
            )


def _inherited_from(mistake: str, layers: list) -> str:
    """The file and line of the key that a mistake begins with, if the study inherits that key."""
    key = mistake.partition(": ")[0]
    for file, keys in layers:
        path = next((path for path in paths_of(keys) if key_path(*path) == key), None)
        if path is not None:
            line = line_of(file, path) if keys is not layers[0][1] else None
            return f" (in {file}, line {line})" if line else ""
    return ""


def _refuse_keys(section: str, settings: Any) -> None:
    """UserError, without the value, where a section holds an API key: the configuration is kept with the results."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        words = ("key", "secret", "password", "authorization")
        named = any(word in str(name).lower() for word in words)
        if named or (isinstance(value, str) and LOOKS_LIKE_A_KEY.search(value)):
            raise UserError(
                f"{key_path(section, name)}: looks like a key; keys come from the environment only (OPENAI_API_KEY or"
                " ANTHROPIC_API_KEY), since a study's configuration is kept with its results"
            )
