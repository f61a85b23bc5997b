"""Reads what a GGUF file says of its model, and refuses what is no whole language model. The weights are not read."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from persuasion_rl.files import UserError
from persuasion_rl.study.base_folder import check_gguf

LONGEST_ARRAY = 1024
"""Entries of the header's arrays that are read; vocabularies and merges are longer, and only counted."""
EXACT = ("F32", "F16", "BF16")
"""Types that float32 holds exactly."""
TOKENIZER = "tokenizer.ggml"
"""How the keys of the tokenizer begin."""
TEXTS = {"general.architecture", "general.type", "general.name", "general.license", "tokenizer.chat_template"}  # fmt: skip
"""Keys whose values are text, of those that are read here."""
WHOLE = (3, 4)
"""Types of the tokens that are found whole in a text: control, and defined by users."""
IDS = {f"{TOKENIZER}.{name}_token_id" for name in ("bos", "eos", "eot", "padding", "unknown")}
"""Keys whose values are tokens."""
EMBEDS = "pooling_type"
"""Only models of embeddings say how they pool, unless it is 0."""


class Header(NamedTuple):
    """What a GGUF file says of its model.

    Attributes:
        metadata: key -> value, long arrays left out.
        tokens: entries of the vocabulary.
        whole: id -> text of the tokens that are found whole in a text: control tokens, and those that users defined.
        numbers: the numbers of all tensors together.
        types: GGML type -> numbers that are stored so.
    """

    metadata: dict[str, Any]
    tokens: int
    whole: dict[int, str]
    numbers: int
    types: Counter[str]

    @property
    def architecture(self) -> str:
        return self.metadata["general.architecture"]

    @property
    def quantisation(self) -> str:
        """The types of the weights that were quantised, the most frequent first."""
        return (
            ", ".join(name for name, _ in self.types.most_common() if name not in EXACT) or "none"
        )


def read_header(file: Path) -> Header:
    """What a GGUF file says of its model.

    Raises:
        UserError: it is no whole file, or holds no language model whose weights can be multiplied out.
    """
    from gguf import GGUFReader, GGUFValueType

    check_gguf(file)
    try:
        reader = GGUFReader(file)
        metadata = {
            key: field.contents()
            for key, field in reader.fields.items()
            if field.types[:1] != [GGUFValueType.ARRAY] or len(field.data) <= LONGEST_ARRAY
        }
        tokens, kinds = (
            reader.fields.get(f"{TOKENIZER}.{key}") for key in ("tokens", "token_type")
        )
        whole = {
            number: tokens.contents(number)
            for number, kind in enumerate(kinds.contents() if tokens and kinds else ())
            if kind in WHOLE
        }
    except Exception as error:  # where a file ends too early numpy and gguf raise many kinds
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: no whole GGUF file ({reason}); was the copy cut off?") from None
    types: Counter[str] = Counter()
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] += tensor.n_elements
    header = Header(metadata, len(tokens.data) if tokens else 0, whole, types.total(), types)
    _refuse_kind(file, header)
    _refuse_values(file, header, len(reader.tensors))
    _refuse_types(file, reader.tensors)
    _refuse_gaps(file, reader.tensors, int(reader.alignment))
    return header


def _refuse_values(file: Path, header: Header, tensors: int) -> None:
    """UserError for a value that is of another type than is read here, names no token, or promises more than the file has."""
    layers = f"{header.metadata.get('general.architecture')}.block_count"
    for key, value in header.metadata.items():
        if key in TEXTS and not isinstance(value, str):
            wanted = "a text"
        elif key in IDS and not (isinstance(value, int) and 0 <= value < header.tokens):
            wanted = f"the number of one of its {header.tokens:,} tokens"
        elif key == layers and not (isinstance(value, int) and value <= tensors):
            wanted = f"a whole number, and no larger than that of its tensors, {tensors:,}"
        else:
            continue
        raise UserError(f"{file}: {key} is {value!r}, and should be {wanted}; make the file anew")


def _refuse_kind(file: Path, header: Header) -> None:
    """UserError for a file that holds something else than a whole language model."""
    metadata = header.metadata
    kind, architecture = metadata.get("general.type", "model"), metadata.get("general.architecture")
    if architecture is None:
        raise UserError(f"{file}: does not say which model it is (general.architecture)")
    if kind == "adapter" or "adapter.type" in metadata:
        what = "an adapter, and no base model: merge it into its model first"
    elif kind == "mmproj" or architecture == "clip":
        what = "the part of a model that sees images; take the file of its language model"
    elif kind != "model":
        what = f"of the type {kind!r}, and no model"
    elif metadata.get("split.count", 1) not in (0, 1):
        what = f"one of {metadata['split.count']} files; join them (llama.cpp's llama-gguf-split --merge)"
    elif metadata.get(f"{architecture}.{EMBEDS}", 0):
        what = "a model of embeddings, which writes no text"
    elif not header.tokens:
        what = "without a vocabulary (tokenizer.ggml.tokens), so no text can be read"
    elif f"{TOKENIZER}.eos_token_id" not in metadata:
        what = f"without an EOS token ({TOKENIZER}.eos_token_id), so no response could end"
    else:
        return
    raise UserError(f"{file}: is {what}")


def _refuse_types(file: Path, tensors: list) -> None:
    """UserError for tensors of a type that gguf does not multiply out; a row of each type is tried."""
    from gguf import dequantize

    for tensor in {tensor.tensor_type: tensor for tensor in tensors}.values():
        try:
            rows = tensor.data.reshape(-1, max(1, tensor.data.shape[-1]))
            dequantize(rows[:1], tensor.tensor_type)
        except NotImplementedError:
            raise UserError(
                f"{file}: {tensor.name} is stored as {tensor.tensor_type.name}, which the package gguf does not read; take"
                " the model in another quantisation"
            ) from None


def _refuse_gaps(file: Path, tensors: list, alignment: int) -> None:
    """UserError where a tensor does not begin where the one before it ends, as in every whole file: it would be other numbers."""
    for before, tensor in pairwise(tensors):
        if tensor.data_offset != _aligned(before.data_offset + before.n_bytes, alignment):
            raise UserError(
                f"{file}: {tensor.name} does not begin where {before.name} ends; was the file damaged?"
            )


def _aligned(place: int, alignment: int) -> int:
    return -(-int(place) // alignment) * alignment
