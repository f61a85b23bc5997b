"""What the folder of a base model must hold, and what it must not be; how a GGUF file begins.

It is said in one line when a study names a local folder, when a download has ended, and when a job loads the model.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError, read_json
from persuasion_rl.study.names import MODEL_FILES, TRAINED_FILES, WEIGHTS, weight_files

CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How transformers ends the names of models that write on from a text."""
EXPERTS = {"experts", "router", "gate"}
"""Parts of the names of weights that no adapter can be put on."""
OTHER_WEIGHTS = ("*.gguf", "*.bin", "*.pth", "*.pt")
GGUF_VERSIONS = (2, 3)


def check_base_folder(folder: Path) -> None:
    """Refuse a folder that is no base model.

    Raises:
        UserError: a file is missing, or the model is of a kind that cannot be trained here.
    """
    if (folder / TRAINED_FILES["config"]).is_file():
        raise UserError(
            f"{folder}: holds an adapter ({TRAINED_FILES['config']}), and is no base model: merge it (peft's"
            " merge_and_unload), and save the whole model to a folder of its own"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{str(folder)!r} is not the folder of a model (no config.json there)")
    _check_kind(folder / "config.json")
    check_files(folder)
    _check_ends(folder / "generation_config.json")


def check_gguf(file: Path) -> None:
    """Refuse a file that does not begin as a GGUF of one part does; `models.gguf` reads on.

    The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    Raises:
        UserError: there is no such file, it is none or a part of one, or of another version or byte order.
    """
    if not file.is_file():
        raise UserError(f"there is no file {str(file)!r}")
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", file.name.lower()):
        raise UserError(
            f"{file}: a part of a model in several files, which transformers does not read; join them (llama.cpp's"
            " llama-gguf-split --merge)"
        )
    with file.open("rb") as start:
        magic, version = start.read(4), start.read(4)
    if magic != b"GGUF":
        raise UserError(f"{file}: no GGUF file (it does not begin with GGUF)")
    if int.from_bytes(version, "big") in GGUF_VERSIONS:
        raise UserError(f"{file}: its bytes are in big-endian order, which is not read here")
    if int.from_bytes(version, "little") not in GGUF_VERSIONS:
        raise UserError(
            f"{file}: GGUF version {int.from_bytes(version, 'little')}, and versions"
            f" {' and '.join(map(str, GGUF_VERSIONS))} are read; make it anew with a current llama.cpp"
        )


def check_files(folder: Path) -> None:
    """UserError where a file of a base model is missing in its folder."""
    names = [name for name in MODEL_FILES if name != WEIGHTS] + weight_files(str(folder))
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"base model {folder}: {name} is missing{_what_to_do(folder, name)}")


def _what_to_do(folder: Path, name: str) -> str:
    if name == WEIGHTS:
        others = [file.name for pattern in OTHER_WEIGHTS for file in folder.glob(pattern)]
        not_read = f", and {sorted(others)[0]} is not read" if others else ""
        if others and sorted(others)[0].endswith(".gguf"):
            return f"; name the GGUF file itself as the source: {folder / sorted(others)[0]}"
        return (
            f"{not_read}; AutoModelForCausalLM.from_pretrained(...).save_pretrained(...) writes it"
        )
    if name.startswith("tokenizer"):
        return "; AutoTokenizer.from_pretrained(...).save_pretrained(...) writes it for any fast tokenizer"
    return (
        f", which {WEIGHTS}.index.json names; was the copy cut off?"
        if name != "config.json"
        else ""
    )


def _check_kind(file: Path) -> None:
    """UserError where a config.json is none of a causal language model in full or half precision."""
    config: Any = read_json(file)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UserError(f"{file}: has no model_type, which says what model this is")
    if quantised := config.get("quantization_config") or config.get("compression_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise UserError(
            f"{file}: the weights are quantised ({method}); take the model that they were made from, which use_4bit:"
            " true keeps in four bits"
        )
    kinds = config.get("architectures") or [f"{config['model_type']} {CAUSAL[0]}"]
    kind = kinds if isinstance(kinds, str) else str(kinds[0])
    writes = kind.endswith(CAUSAL) or "AutoModelForCausalLM" in (config.get("auto_map") or {})
    if config.get("is_encoder_decoder") or "vision_config" in config or not writes:
        raise UserError(
            f"{file}: {kind} is no causal language model of text alone; take one whose architecture ends in"
            f" {CAUSAL[0]}"
        )


def _check_ends(file: Path) -> None:
    """UserError where the generation_config.json of a model does not say which tokens end a reply.

    transformers would leave a broken one out without a word.
    """
    if not file.is_file():
        return
    content = read_json(file)
    ends = content.get("eos_token_id") if isinstance(content, dict) else "none"
    ends = ends if isinstance(ends, list) else [ends]
    if not all(end is None or isinstance(end, int) for end in ends):
        raise UserError(f"{file}: eos_token_id must be a number or a list of numbers")


def linear_modules(folder: Path) -> set[str]:
    """The last names of the modules of layers that have a matrix as their weights, as "q_proj".

    Without those of experts, which transformers computes all at once, and of what chooses them.
    """
    named = (name.split(".") for name, shape in _tensors(folder) if len(shape) == 2)
    return {
        parts[-2]
        for parts in named
        if parts[-1] == "weight" and any(map(str.isdigit, parts[:-2])) and not EXPERTS & {*parts}
    }


def _tensors(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of each tensor of a model's weights, from the headers of their files."""
    for name in weight_files(str(folder)):
        if name.endswith(".safetensors"):
            for tensor, entry in read_header(folder / name)[0].items():
                yield tensor, entry["shape"]


def read_header(file: Path) -> tuple[dict[str, dict], int]:
    """Tensor -> its entry in the header of a file of weights, and where in the file the numbers begin.

    Raises:
        UserError: the file is no whole one in the format safetensors.
    """
    try:
        with file.open("rb") as weights:
            length = int.from_bytes(weights.read(8), "little")
            if not 0 < length < file.stat().st_size:
                raise ValueError("its header is cut off")
            header = json.loads(weights.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if 8 + length + end > file.stat().st_size:
            raise ValueError("its numbers are cut off")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: no whole file of weights in the format safetensors ({error})"
        ) from None
    return header, 8 + length
