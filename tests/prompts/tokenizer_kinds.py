"""Small tokenizers of every kind that language models have, in folders as models have them, and chat templates.

The templates are written from the formats' documentation.
"""

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "Claim: buses are slow.\nPoster: They are, and <b>loud</b> too! end of turn user assistant system",
    "[SYSTEM] You are a respectful assistant.\n[CONTEXT]\n[TASK]\nWrite the next message.\n[RESPONSE]\n",
    "think tool call s im_start im_end start header id endoftext eot <|>/_ 0123456789",
] * 3
CONTROLS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "<|eot_id|>"]


def _added(tokenizer: Tokenizer) -> None:
    tokenizer.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("    ", special=False)])


def byte_level() -> Tokenizer:
    """As Qwen2, Llama 3, SmolLM2: every byte has a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_level_in_vocabulary() -> Tokenizer:
    """As GPT-2 and SmolLM2: the control tokens are entries of the model's vocabulary too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _byte_pieces() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _sentence_piece_decoder() -> decoders.Decoder:
    return decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )


def byte_fallback(legacy: bool = False) -> Tokenizer:
    """As Llama 2, Mistral, Zephyr, Phi 3: SentencePiece's BPE; what it has no piece for are bytes."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    trained.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=250, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
        ),
    )
    content = json.loads(trained.to_str())
    vocabulary = content["model"]["vocab"]
    for piece in _byte_pieces():
        vocabulary.setdefault(piece, len(vocabulary))
    content["model"] |= {"byte_fallback": True, "fuse_unk": True, "vocab": vocabulary}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = _sentence_piece_decoder()
    if legacy:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def unigram() -> Tokenizer:
    """As T5's and some multilingual models': pieces with scores, control tokens among them."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    trained.train_from_iterator(TEXTS, trainer)
    content = json.loads(trained.to_str())
    content["model"]["vocab"] += [[piece, -20.0] for piece in _byte_pieces()]
    content["model"]["byte_fallback"] = True
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = _sentence_piece_decoder()
    return tokenizer


def word_level() -> Tokenizer:
    """Whole words; what is none is [UNK]. A control token may be a word."""
    words = sorted({word for text in TEXTS for word in text.split()})
    names = ["[UNK]", "<s>", "</s>", *words]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    tokenizer.add_special_tokens(["[UNK]"])
    return tokenizer


def word_piece() -> Tokenizer:
    """As BERT's: lower case, and no control characters."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


KINDS = {
    "byte_level": byte_level,
    "byte_level_in_vocabulary": byte_level_in_vocabulary,
    "byte_fallback": byte_fallback,
    "legacy": lambda: byte_fallback(legacy=True),
    "unigram": unigram,
    "word_level": word_level,
    "word_piece": word_piece,
}
LOSSLESS = [name for name in KINDS if name not in ("word_level", "word_piece")]


def write_base(
    folder: Path,
    kind: str,
    template: str | None = None,
    begins: bool = False,
    ends: bool = False,
    **config: object,
) -> Path:
    """A folder with a tokenizer of a kind and its configuration.

    Args:
        begins, ends: whether the tokenizer puts <s> in front of each text, and </s> behind it.
        config: more of tokenizer_config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = KINDS[kind]()
    _added(tokenizer)
    if begins or ends:
        single = " ".join(["<s>"] * begins + ["$A"] + ["</s>"] * ends)
        special = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=special
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named | config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


TURNS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML: Qwen2, SmolLM2."""
LLAMA_3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""Llama 3: BOS, headers, <|eot_id|>."""
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
"""Zephyr: EOS closes every turn; the headers are no tokens."""
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""Mistral 7B Instruct: no role of the system."""
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<|im_start|>' + role + '\n' + message['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
"""Gemma 2, with this file's names of its tokens: refuses the system."""
PHI_3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""Phi 3, with this file's names of its tokens: a header and an end for each turn, no BOS."""
OLMO_2 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|assistant|>\n' }}{% endif %}"
)
"""OLMo 2: BOS, headers that are no tokens, EOS behind answers only."""
DROPS_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<|im_start|>user\n{{ message['content'] }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = "{{ strftime_now('%d %b %Y') }} " + TURNS
GENERATION = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% generation %}{{ message.content }}<|im_end|>\n"
    "{% endgeneration %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "chatml": TURNS,
    "llama_3": LLAMA_3,
    "zephyr": ZEPHYR,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi_3": PHI_3,
    "olmo_2": OLMO_2,
    "drops_system": DROPS_SYSTEM,
    "generation": GENERATION,
}
WITHOUT_SYSTEM = ("mistral", "gemma", "drops_system")
