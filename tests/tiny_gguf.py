"""Writes tiny models as GGUF files, by gguf's own writer and as llama.cpp's converter lays them out, and packs packages."""

import json
import math
from pathlib import Path
from zipfile import ZipFile

import numpy as np

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "phi3": "phi3",
    "gemma2": "gemma2",
}
"""model_type -> GGUF's name of the architecture."""


def write_gguf(base: Path, file: Path, kind: str = "F32", **metadata) -> Path:
    """The model of an ordinary folder as a GGUF file.

    Args:
        kind: GGML type of the matrices.
        metadata: more keys, with __ for a dot; None leaves a key out.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quants
    from gguf.constants import MODEL_ARCH_NAMES
    from safetensors.numpy import load_file

    config = json.loads((base / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    writer = GGUFWriter(file, architecture)
    keys = _keys(config, architecture) | _tokenizer(base)
    keys |= {key.replace("__", "."): value for key, value in metadata.items()}
    for key, value in keys.items():
        _add(writer, key, value)
    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(arch, config["num_hidden_layers"])
    for path in sorted(base.glob("*.safetensors")):
        for name, numbers in load_file(path).items():
            if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                heads = "attention" if "q_proj" in name else "key_value"
                numbers = _rotary_pairs_together(numbers, config[f"num_{heads}_heads"])
            as_kind = GGMLQuantizationType[kind if numbers.ndim == 2 else "F32"]
            content = quants.quantize(np.ascontiguousarray(numbers, np.float32), as_kind)
            writer.add_tensor(
                names.get_name(name, (".weight", ".bias")), content, raw_dtype=as_kind
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_header(file: Path, shape: tuple[int, int], positions: int) -> Path:
    """The start of a GGUF file, with one tensor of a shape, without its numbers."""
    from gguf import GGUFWriter

    writer = GGUFWriter(file, "qwen2")
    writer.add_array("tokenizer.ggml.token_type", [1, 3])
    writer.add_token_list(["a", "Ġnaïve"])
    writer.add_float32("qwen2.rope.freq_base", 1e4)
    writer.add_uint32("qwen2.rope.scaling.original_context_length", 7)
    writer.add_context_length(positions)
    writer.add_tensor_info("token_embd.weight", shape, np.dtype(np.float32), 4 * math.prod(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return file


def _add(writer, key: str, value) -> None:
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    if value is not None:
        getattr(writer, f"add_{kinds[type(value)]}")(key, value)


def _keys(config: dict, architecture: str) -> dict:
    """What the header says of the shape."""
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    shape = {
        "context_length": config["max_position_embeddings"],
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        "rope.dimension_count": head,
        "vocab_size": config["vocab_size"],
    }
    return {f"{architecture}.{key}": value for key, value in shape.items()}


def _tokenizer(base: Path) -> dict:
    """What the header says of a byte-level tokenizer; of its added tokens those are special that are neither normal nor bytes."""
    content = json.loads((base / "tokenizer.json").read_text())
    settings = json.loads((base / "tokenizer_config.json").read_text())
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    ids = content["model"]["vocab"] | added
    tokens = sorted(ids, key=ids.get)
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",  # as the stand-in splits text
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in added else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in content["model"]["merges"]],
        "tokenizer.chat_template": settings.get("chat_template"),
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if token := settings.get(f"{name}_token"):
            keys[f"tokenizer.ggml.{key}_token_id"] = ids[token]
    return keys


def _rotary_pairs_together(weights: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates numbers that lie side by side, and transformers those half a head apart."""
    halves = weights.reshape(heads, 2, len(weights) // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def write_wheel(wheel: Path, files: dict[str, Path | str], **metadata: str) -> Path:
    """A package of the Python registry: NAME-VERSION-py3-none-any.whl.

    Args:
        files: path in the package -> a file, or its text.
        metadata: more lines of its METADATA.
    """
    name, version, *_ = wheel.name.split("-")
    lines = {"Metadata-Version": "2.4", "Name": name, "Version": version} | metadata
    info = f"{name}-{version}.dist-info"
    texts = {
        f"{info}/METADATA": "".join(f"{key}: {value}\n" for key, value in lines.items()),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with ZipFile(wheel, "w") as package:
        for path, content in (files | texts).items():
            if isinstance(content, Path):
                package.write(content, path)
            else:
                package.writestr(path, content)
    return wheel
