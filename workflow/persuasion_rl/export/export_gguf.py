"""Writes a merged model as one GGUF file, which llama.cpp and Ollama run, by gguf's own writer.

Names of tensors are gguf's, and shapes, metadata and the order of heads are those that convert_hf_to_gguf.py of llama.cpp
writes. A tensor at a time is read and written.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from persuasion_rl.export.llama_tokenizer import (
    CONVERTER,
    LlamaTokenizer,
    read_llama_tokenizer,
)
from persuasion_rl.export.modelfile import modelfile_text
from persuasion_rl.files import UserError, read_json, write_text, written_whole
from persuasion_rl.prompts.templates import read_template
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.machine import refuse_without_room
from persuasion_rl.runtime.progress import Progress
from persuasion_rl.study.names import WEIGHTS

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
"""model_type in transformers -> architecture in llama.cpp."""
MOST_FLOAT16 = 65504.0
"""The largest number that float16 holds."""


def export_gguf(
    *,
    model: Path,
    name: str,
    output: Path,
    modelfile: Path,
    prompt_format: str,
    source: str,
    num_ctx: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
) -> None:
    """Write a model's folder as a GGUF file, with the Modelfile for Ollama beside it.

    Matrices are in float16, those that it cannot hold and all vectors in float32.

    Args:
        model: the folder of `export_model`. name: the model's, within the file.
        output: the GGUF file. modelfile: what Ollama is told of it.
        prompt_format: the study's, "plain" or "chat". source: of its prompts, "cmv" or "p4g".
        num_ctx: the longest prompt and the longest reply together, in tokens.
        temperature, top_p, max_new_tokens: the study's sampling.

    Raises:
        UserError: the model is of an architecture, or has a tokenizer, that is not written here; or the disk is full.
    """
    from transformers import AutoConfig, GenerationConfig

    kind = read_json(model / "config.json")["model_type"]
    if kind not in ARCHITECTURES:
        raise UserError(_no_gguf(model, f"{kind} is none of {', '.join(ARCHITECTURES)}"))
    config = AutoConfig.from_pretrained(model)
    _refuse_other_values(model, config, num_ctx)
    tokenizer = read_llama_tokenizer(model, config.vocab_size, prompt_format)
    ends = GenerationConfig.from_pretrained(model).eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    settings = {
        "temperature": temperature, "top_p": top_p, "top_k": 0, "repeat_penalty": 1.0,
        "num_predict": max_new_tokens, "num_ctx": min(num_ctx, _positions(config)),
    }  # fmt: skip
    text = modelfile_text(
        output.name, model, prompt_format, source, settings,
        stops=[tokenizer.tokens[end] for end in ends if 0 <= end < config.vocab_size], add_bos=tokenizer.add_bos,
    )  # fmt: skip
    refuse_without_room(output.parent, (model / WEIGHTS).stat().st_size)
    write_gguf(model, config, tokenizer, name, output)
    write_text(modelfile, text)
    note(f"{output}: {output.stat().st_size / 1e6:,.0f} MB")


def _refuse_other_values(model: Path, config, tokens: int) -> None:
    """UserError for a configuration that llama.cpp would compute in another way for texts of so many tokens."""
    kind = config.model_type
    rope = config.rope_parameters["rope_type"]
    if config.hidden_act != "silu":
        raise UserError(_no_gguf(model, f"its activation is {config.hidden_act}, not silu"))
    if rope != "default" and (rope, ARCHITECTURES[kind]) != ("llama3", "llama"):
        raise UserError(_no_gguf(model, f"the positions of this {kind} are of the type {rope}"))
    if (window := _window(config)) is not None and window < tokens:
        why = f"it attends to {window:,} tokens, and a prompt with its reply has {tokens:,}"
        raise UserError(_no_gguf(model, why))


def _no_gguf(model: Path, why: str) -> str:
    return f"{model}: no GGUF file is written, since {why}; {CONVERTER}"


def write_gguf(
    model: Path, config: Any, tokenizer: LlamaTokenizer, name: str, output: Path
) -> None:
    """Write the GGUF file of a model's folder, a tensor at a time.

    Args:
        config: the model's configuration, as transformers reads it. name: the model's, within the file.
    """
    import gguf

    with written_whole(output) as part:
        writer = gguf.GGUFWriter(part, ARCHITECTURES[config.model_type])
        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        _add_settings(writer, config)
        _add_tokenizer(writer, tokenizer, model)
        for key, numbers in _tensors(model, config):
            writer.add_tensor_info(key, numbers.shape, numbers.dtype, numbers.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        progress = Progress(f"writing {output.name}", total=len(writer.tensors[0]), unit="tensors")
        for _, numbers in _tensors(model, config):
            writer.write_tensor_data(numbers)
            progress.add(1)
        writer.close()


def _add_settings(writer, config) -> None:
    """The shape of a model, by the names that llama.cpp gives to its parts."""
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(_positions(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _positions(config) -> int:
    """The longest text that llama.cpp computes as transformers does: it has no sliding window for these models."""
    return min(config.max_position_embeddings, _window(config) or config.max_position_embeddings)


def _window(config) -> int | None:
    slides = getattr(config, "use_sliding_window", True)
    return getattr(config, "sliding_window", None) if slides else None


def _add_tokenizer(writer, tokenizer: LlamaTokenizer, model: Path) -> None:
    writer.add_tokenizer_model("gpt2")  # the name of all byte-level BPE
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges(tokenizer.merges)
    for name, number in tokenizer.ids.items():
        if name in ("bos", "eos", "pad", "unk"):
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(tokenizer.add_bos)
    if place_and_template := read_template(model):
        writer.add_chat_template(place_and_template[1])


def _tensors(model: Path, config) -> Iterator[tuple[str, Any]]:
    """Name in llama.cpp and numbers of each tensor of a model, as NumPy arrays.

    Raises:
        UserError: llama.cpp has no tensor of that kind.
    """
    import gguf
    from safetensors import safe_open

    architecture = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers
    )
    if config.rope_parameters["rope_type"] == "llama3":
        yield "rope_freqs.weight", _rope_factors(config)
    with safe_open(model / WEIGHTS, framework="pt") as weights:
        for key in weights.keys():  # noqa: SIM118
            name = names.get_name(key, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise UserError(_no_gguf(model / WEIGHTS, f"llama.cpp has no tensor for {key}"))
            tensor = weights.get_tensor(key).float()
            if architecture == "llama" and ".attn_q." in name:
                tensor = _rotated_in_pairs(tensor, config.num_attention_heads)
            if architecture == "llama" and ".attn_k." in name:
                tensor = _rotated_in_pairs(tensor, config.num_key_value_heads)
            fits = tensor.ndim == 2 and tensor.abs().max() <= MOST_FLOAT16
            yield name, (tensor.half() if fits else tensor).numpy()


def _rotated_in_pairs(tensor, heads: int):
    """The rows of a projection (heads x size, ...) in the order in which llama.cpp rotates them: neighbours together.

    transformers rotates the first half of a head with its second half.
    """
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape).contiguous()


def _rope_factors(config):
    """By how much Llama 3 slows each frequency of its positions: (head size / 2,) float32."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    exponents = torch.arange(len(slowed)) / len(slowed)
    return (config.rope_parameters["rope_theta"] ** -exponents / slowed).float().numpy()


if __name__ == "__main__":
    stage(export_gguf)
