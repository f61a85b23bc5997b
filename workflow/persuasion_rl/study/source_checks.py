"""Checks of the names of models that a study does not train: what cannot be a model is refused before anything is downloaded."""

import os
import re
from pathlib import Path

from persuasion_rl.files import UserError
from persuasion_rl.study.base_folder import check_base_folder, check_gguf
from persuasion_rl.study.config import Config
from persuasion_rl.study.names import BASE, is_local, kind_of, package_of, packed_file
from persuasion_rl.study.section import key_path

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def check_language_model(key: str, source: str) -> None:
    """UserError for a source of a language model that cannot be one, or is a folder or file that cannot be a base model."""
    _check_source(key, source)
    kind = kind_of(source)
    try:
        if kind == "folder":
            check_base_folder(Path(os.path.expanduser(source)))
        elif kind == "gguf":
            check_gguf(Path(packed_file(source)))
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _check_source(key: str, source: str) -> None:
    """UserError for a source that is neither local, nor a package, nor a possible name on the Hub."""
    kind = kind_of(source)
    if kind == "package":
        if package_of(source) is None:
            raise UserError(
                f"{key}: {source!r} names no package with its exact version: pypi:NAME==VERSION, or"
                " pypi:NAME==VERSION#PATH for one of several models in it"
            )
    elif kind == "folder":
        if not _is_model_folder(os.path.expanduser(source)):
            raise UserError(
                f"{key}: {source!r} is not the folder of a model (no config.json there)"
            )
    elif kind == "hub" and (
        not HUB_NAME.fullmatch(source)
        or "--" in source
        or ".." in source
        or source.lower().endswith(".gguf")
    ):
        raise UserError(
            f"{key}: {source!r} is no name of a Hub model (NAME or OWNER/NAME); a local folder or GGUF file starts with ./, / or"
            " ~"
        )


def _is_model_folder(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "config.json"))


def check_revisions(config: Config) -> None:
    """A Hub model is downloaded to the folder of its name, so a study can have one revision of it only."""
    base = config.models[BASE]
    revision_of = {base.source: (f"models.{BASE}.revision", base.revision or "main")}
    for name, other in config.evaluation.other_players.items():
        if other.source is None or kind_of(other.source) != "hub":
            continue
        key = key_path("evaluation", "other_players", name, "revision")
        first, revision = revision_of.setdefault(other.source, (key, other.revision))
        if other.revision != revision:
            raise UserError(
                f"{key}: {other.revision!r} of {other.source}, and {first} is {revision!r}; a study has one revision of a"
                " model: write the same one, or download one of them yourself and name its folder as the source"
            )


def check_encoder(config: Config) -> None:
    """UserError for a model of embeddings that cannot be one."""
    name = config.evaluation.embedding_model
    if name is not None and (is_local(name) or not os.path.isdir(name)):
        _check_source("evaluation.embedding_model", name)
        if kind_of(name) == "gguf":
            raise UserError(
                f"evaluation.embedding_model: {name!r} is a GGUF file, and no model of sentence-transformers"
            )
