"""What llama.cpp is told of a byte-level BPE tokenizer, from its tokenizer.json.

llama.cpp knows how a text is cut before the merges ("pre-tokenized") by a name only. PRE_TOKENIZERS has the ways that are
known by name here; any other would give other tokens, and is refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError, read_json
from persuasion_rl.prompts.templates import special_tokens
from persuasion_rl.prompts.tokens import TextTokenizer

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens in llama.cpp."""
PRE_TOKENIZERS = {
    "gpt-2": ("bytes, words of GPT-2",),
    "smollm": ("single digits", "bytes, words of GPT-2"),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "bytes",
    ),
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "bytes",
    ),
    "tekken": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "bytes",
    ),
}
"""llama.cpp's name -> the steps of the pre-tokenizer in tokenizer.json (`_steps`)."""
PRE_TOKENIZERS["smaug-bpe"] = PRE_TOKENIZERS["llama-bpe"]
WHOLE_WORDS = ("llama-bpe", "tekken")
"""Names by which llama.cpp never cuts a word that is a token (`ignore_merges` in tokenizer.json)."""


CONVERTER = "the merged weights are in that folder, and convert_hf_to_gguf.py of llama.cpp takes such folders"
"""What to do where no GGUF file is written."""


@dataclass(frozen=True)
class LlamaTokenizer:
    """A tokenizer as a GGUF file has it.

    Attributes:
        pre: llama.cpp's name of its pre-tokenizer.
        tokens: the texts by id; what a model embeds beyond the tokenizer's own is unused.
        types: NORMAL, CONTROL, ... of each token.
        merges: as "a b".
        ids: name of a special token ("bos", "eos", "pad", "unk") -> its id, of those that there are.
        add_bos: whether a prompt of the study begins with the BOS that the tokenizer puts in front of texts.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]
    add_bos: bool


def read_llama_tokenizer(folder: Path, embedded: int, prompt_format: str) -> LlamaTokenizer:
    """The tokenizer of a model's folder, for a GGUF file.

    Args:
        embedded: the number of tokens that the model embeds.
        prompt_format: the study's, "plain" or "chat".

    Raises:
        UserError: it is no byte-level BPE, or cuts texts in a way that has no name here.
    """
    file = folder / "tokenizer.json"
    content = read_json(file)
    pre = _pre_tokenizer_name(file, content)
    vocabulary: dict[str, int] = content["model"]["vocab"]
    texts = {number: text for text, number in vocabulary.items()}
    added = {token["id"]: token for token in content.get("added_tokens") or ()}
    texts |= {number: token["content"] for number, token in added.items()}
    numbers = range(embedded)
    types = [UNUSED if number not in texts else NORMAL for number in numbers]
    for number, token in added.items():
        if number < embedded:
            types[number] = CONTROL if token["special"] else USER_DEFINED
    by_text = {text: number for number, text in texts.items() if number < embedded}
    named = {
        name.removesuffix("_token"): by_text[text]
        for name, text in special_tokens(folder).items()
        if text in by_text
    }
    begins = adds_bos(folder, prompt_format)
    if begins and TextTokenizer(folder).bos != [named.get("bos")]:
        raise UserError(_not_written(file, "more or other tokens than BOS in front of a text"))
    return LlamaTokenizer(
        pre=pre,
        tokens=[texts.get(number, f"[PAD{number}]") for number in numbers],
        types=types,
        merges=[
            merge if isinstance(merge, str) else " ".join(merge)
            for merge in content["model"]["merges"]
        ],
        ids=named,
        add_bos=begins,
    )


def adds_bos(folder: Path, prompt_format: str) -> bool:
    """Whether prompts of a form begin with the BOS that the tokenizer itself puts in front of a text."""
    own = TextTokenizer(folder).bos
    tokenizer = TextTokenizer(folder, prompt_format)
    prompt = tokenizer.format.render("a", "cmv")
    return bool(own) and tokenizer.prompt_ids([prompt])[0][: len(own)] == own


def _pre_tokenizer_name(file: Path, content: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer cuts texts before its merges."""
    model, normalizer = content["model"], content.get("normalizer") or {}
    if model["type"] != "BPE" or (content.get("decoder") or {}).get("type") != "ByteLevel":
        raise UserError(
            _not_written(file, f"a tokenizer of type {model['type']}, no byte-level BPE")
        )
    # llama.cpp leaves a text as it is written; NFC changes decomposed letters only.
    if normalizer.get("type", "NFC") != "NFC":
        raise UserError(_not_written(file, f"the normalizer {normalizer['type']}"))
    steps = _steps(content.get("pre_tokenizer") or {})
    whole_words = bool(model.get("ignore_merges"))
    for name, known in PRE_TOKENIZERS.items():
        if steps == known and whole_words == (name in WHOLE_WORDS):
            return name
    raise UserError(
        _not_written(file, f"a pre-tokenizer of another kind than {', '.join(PRE_TOKENIZERS)}")
    )


def _not_written(file: Path, what: str) -> str:
    return f"{file}: no GGUF file is written, since it has {what}; {CONVERTER}"


def _steps(part: dict[str, Any]) -> tuple[str, ...]:
    """What a pre-tokenizer does, step by step: regular expressions that it splits by, and names of other steps."""
    match part:
        case {"type": "Sequence", "pretokenizers": parts}:
            return tuple(step for each in parts for step in _steps(each))
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"} if not part[
            "invert"
        ]:
            return (regex,)
        case {"type": "Digits", "individual_digits": True}:
            return ("single digits",)
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return ("bytes, words of GPT-2" if part.get("use_regex", True) else "bytes",)
    return (f"another: {part.get('type')}",)
