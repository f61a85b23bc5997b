"""Converts a GGUF file, which llama.cpp and Ollama run, to the ordinary folder of a base model.

transformers reads the file: it multiplies quantised weights out to float32, and builds the tokenizer anew. It knows fewer
models than llama.cpp, and drops in silence what it does not know. So whatever of the file would be lost is refused here,
from its header, before the weights are read. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.models.gguf_header import EMBEDS, TOKENIZER, Header, read_header
from persuasion_rl.models.loading import load_base, load_tokenizer, loading
from persuasion_rl.models.plain import plain_log_probs, refuse_difference
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.machine import refuse_without_room
from persuasion_rl.runtime.progress import Progress
from persuasion_rl.study.base_folder import CAUSAL
from persuasion_rl.text import readable

FLOAT32 = 4
"""Bytes of a number as it is written."""
ATTRIBUTES = {
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "rope.dimension_count": "rotary_width",
}
"""Keys of the header -> the attribute of transformers' configuration; of others it is what transformers maps them to, or
their last part."""
GPT2 = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe"}
"""Vocabularies whose text is split as GPT-2 splits it, which transformers does wherever it knows no other way."""
DIGIT_BY_DIGIT = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
"""Those that split digits off first, one by one (llama.cpp, src/llama-vocab.cpp)."""
WHOLE_WORDS = {
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken",
}  # fmt: skip
"""Those in which a word that is a token is never cut, whatever the merges, and whose texts begin with BOS where the header
does not say (there too)."""
SAMPLE = "In 2019 I'd have said no;  since then I have met 12 people who changed my mind.\n\nWhy? Ask them."


def convert_gguf(file: Path, folder: Path) -> dict[str, Any]:
    """Write the model of a GGUF file to a folder: weights in float32, configuration, tokenizer and chat template.

    What was written is compared with what transformers reads of the file: token ids, and log-probabilities of a row.

    Args:
        folder: there already, and empty.

    Returns:
        What the header tells of the model: its name, architecture, quantisation, licence (None where it says nothing).

    Raises:
        UserError: it is no whole GGUF file of a causal language model, or one that transformers would read as another model.
    """
    header = read_header(file)
    config = _config(file, header)
    note(
        f"{file.name}: {header.architecture}, {header.numbers:,} numbers in {', '.join(header.types)}"
    )
    refuse_without_room(folder, FLOAT32 * header.numbers)
    Progress(f"{file.name}: building the tokenizer")
    tokenizer = _tokenizer(file, header, config)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    with loading(file):
        ids = tokenizer(SAMPLE)["input_ids"]
    Progress(f"{file.name}: reading the weights")
    expected = _write_model(file, header, config, ids, folder)
    Progress(f"{file.name}: comparing what was written")
    _compare(file, folder, ids, expected)
    note(f"{file.name}: {_agreement(config)}")
    keys = {"name": "name", "architecture": "architecture", "licence": "license"}
    texts = {ours: header.metadata.get(f"general.{theirs}") for ours, theirs in keys.items()}
    facts = {name: text and " ".join(readable(text).split()) for name, text in texts.items()}
    return facts | {"quantisation": header.quantisation}


def _named(file: Path) -> dict[str, Any]:
    """The arguments of transformers' from_pretrained for a GGUF file."""
    return {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}


def _config(file: Path, header: Header):
    """transformers' configuration of the model.

    Raises:
        UserError: transformers does not know the architecture, or its configuration says something else than the file.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    with loading(file):
        config = AutoConfig.from_pretrained(**_named(file))
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise UserError(
            f"{file}: {header.architecture} is no causal language model of text alone; take one that transformers knows as"
            f" ...{CAUSAL[0]}"
        )
    settings = _settings(config)
    by_name = [GGUF_CONFIG_MAPPING.get(name) for name in (header.architecture, config.model_type)]
    renamed = next(filter(None, by_name), {})
    for key, value in header.metadata.items():
        prefix, _, own = key.partition(".")
        if prefix == header.architecture and own != EMBEDS and not _off(own, value):
            name = ATTRIBUTES.get(own) or renamed.get(own) or own.rpartition(".")[2]
            if settings.get(name) != value:
                raise UserError(
                    f"{file}: says {key} = {value}, and transformers would take it for a model with {name}"
                    f" {settings.get(name, 'as in every such model')}; take the model's own weights (safetensors)"
                )
    scale = settings.get(
        "query_pre_attn_scalar", settings["head_dim"]
    )  # Gemma's, of which no header tells
    if scale != settings["head_dim"]:
        raise UserError(
            f"{file}: does not say how its attention is scaled, and transformers would take {scale} for heads of"
            f" {settings['head_dim']} numbers; take the model's own weights (safetensors)"
        )
    return config


def _off(key: str, value: Any) -> bool:
    """Whether a key says that the model does not have what the key is about."""
    off = {"rope.scaling.type": "none", "attention.causal": True, "expert_count": 0, "expert_used_count": 0}  # fmt: skip
    return key in off and off[key] == value


def _settings(config) -> dict[str, Any]:
    """What a configuration says, by flat names."""
    settings = config.to_dict()
    heads = settings.get("num_attention_heads") or 1
    head = settings.get("head_dim") or config.hidden_size // heads
    rope = settings.get("rope_parameters") or {}
    rope = rope.get("full_attention") or rope  # Gemma 3 has other ones in its windows
    rotary = int(head * rope.get("partial_rotary_factor", 1))
    return settings | rope | {"head_dim": head, "rotary_width": rotary}


def _tokenizer(file: Path, header: Header, config):
    """The tokenizer, which splits text as the model's own did; the configuration gets its special tokens.

    Raises:
        UserError: it is not known how text is split, or tokens and model do not belong together.
    """
    from transformers import AutoTokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    metadata = header.metadata
    split = metadata.get(f"{TOKENIZER}.pre")
    known = {*GPT2, *DIGIT_BY_DIGIT, *GGUF_PRE_TOKENIZER_SPLITS}
    if metadata.get(f"{TOKENIZER}.model") == "gpt2" and split not in known:
        raise UserError(
            f"{file}: transformers does not know how its tokenizer splits text (tokenizer.ggml.pre = {split}), and would"
            " read other tokens than the model learned; take the model's own weights (safetensors)"
        )
    begins = split in WHOLE_WORDS and f"{TOKENIZER}.bos_token_id" in metadata
    silent_defaults = (
        {"add_bos_token": True} if begins and f"{TOKENIZER}.add_bos_token" not in metadata else {}
    )
    with loading(file):
        tokenizer = AutoTokenizer.from_pretrained(**_named(file), **silent_defaults)
    _split_as_llama_cpp(tokenizer.backend_tokenizer, metadata)
    if metadata.get(f"{TOKENIZER}.model") == "gpt2":
        for number, text in header.whole.items():
            if tokenizer.convert_tokens_to_ids(text) != number:
                raise UserError(
                    f"{file}: has the token {text!r}, which transformers would cut into pieces; take the model's own weights"
                    " (safetensors)"
                )
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"{file}: its tokenizer has {len(tokenizer):,} tokens, and its model embeds {config.vocab_size:,}"
        )
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        own, stated = (
            getattr(tokenizer, f"{name}_token_id"),
            metadata.get(f"{TOKENIZER}.{key}_token_id"),
        )
        if own != stated:
            raise UserError(
                f"{file}: its {name} token has the id {stated}, and {own} in the tokenizer that transformers builds"
            )
        setattr(config, f"{name}_token_id", own)
    return tokenizer


def _split_as_llama_cpp(tokenizer, metadata: dict[str, Any]) -> None:
    """Mend what transformers builds where llama.cpp gives other tokens.

    Args:
        tokenizer: of tokenizers. metadata: the metadata of the file.
    """
    from tokenizers import decoders, normalizers, pre_tokenizers

    split = metadata.get(f"{TOKENIZER}.pre")
    if (
        metadata.get(f"{TOKENIZER}.model") == "llama"
    ):  # SentencePiece: a space in front of each text, unless the header says no
        begins = metadata.get(f"{TOKENIZER}.add_space_prefix", True)
        space = [normalizers.Replace(" ", "▁")]
        bare = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        prefix, stripped = [normalizers.Prepend("▁")], [decoders.Strip(" ", 1, 0)]
        tokenizer.normalizer = normalizers.Sequence([*prefix * begins, *space])
        tokenizer.pre_tokenizer = None
        tokenizer.decoder = decoders.Sequence([*bare, *stripped * begins])
    elif split in DIGIT_BY_DIGIT:
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), by_bytes])
    elif split in WHOLE_WORDS:
        tokenizer.model.ignore_merges = True


def _write_model(file: Path, header: Header, config, ids: list[int], folder: Path):
    """Write weights and configuration; return the log-probabilities of a row `ids` by the model as it was read.

    Raises:
        UserError: tensors of the file have no place in the model, or the model has some that are not in the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    with loading(file):
        model, loading_info = AutoModelForCausalLM.from_pretrained(
            **_named(file), config=config, dtype=torch.float32, output_loading_info=True
        )
    numbers = sum(weights.numel() for weights in model.parameters())
    if loading_info["missing_keys"] or loading_info["mismatched_keys"] or numbers != header.numbers:
        raise UserError(
            f"{file}: holds {header.numbers:,} numbers, and transformers' {config.model_type} has {numbers:,}, so a part of"
            " the model would be lost, or random (scaled positions, for example); take its own weights (safetensors)"
        )
    for name, weights in model.named_parameters():
        if not weights.isfinite().all():
            raise UserError(
                f"{file}: {name} has numbers that are not finite; was the file damaged?"
            )
    ends = [config.eos_token_id, header.metadata.get(f"{TOKENIZER}.eot_token_id")]
    ends = sorted({end for end in ends if end is not None})
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=ends, pad_token_id=config.pad_token_id
    )
    model.hf_quantizer = None  # the weights are multiplied out
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    expected = plain_log_probs(model.eval(), ids)
    model.save_pretrained(folder, max_shard_size="1TB")
    return expected


def _compare(file: Path, folder: Path, ids: list[int], expected) -> None:
    """UserError where the folder is another model than was read, or of a kind that is no base model."""
    tokenizer = load_tokenizer(folder)
    with loading(file):
        written = tokenizer(SAMPLE)["input_ids"]
    if written != ids:
        raise UserError(f"{file}: the tokenizer reads other tokens once it is written")
    model = load_base(folder, "cpu")
    refuse_difference("the converted folder", model, [plain_log_probs(model, ids)], [expected])


def _agreement(config) -> str:
    """What file, configuration and tokenizer agree on, in one line."""
    settings = _settings(config)
    parts = {
        "vocabulary": config.vocab_size,
        "bos, eos, pad": f"{config.bos_token_id}, {config.eos_token_id}, {config.pad_token_id}",
        "tied embeddings": str(config.tie_word_embeddings).lower(),
        "RoPE theta": settings.get("rope_theta"),
        "epsilon of norms": next((settings[key] for key in settings if key.endswith(("norm_eps", "epsilon"))), None),
    }  # fmt: skip
    return "; ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
