"""The published study's configuration and downloads, and a folder that passes for a base model's when planning."""

import json
from pathlib import Path

import yaml

from persuasion_rl.study.names import MODEL_FILES
from persuasion_rl.study.study import Study
from running import ROOT

PUBLISHED = ROOT / "config/config.yaml"
CORPORA = ["corpora/winning-args-corpus", "corpora/subreddit-changemyview"]
BASE_FOLDER = "resources/models/Qwen--Qwen2.5-0.5B-Instruct"
PUBLISHED_SIZE = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
"""What Qwen2.5-0.5B-Instruct's config.json says."""
KEYS = {name: f"planted-{name}" for name in ("WANDB_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")}


def published(**changes) -> Study:
    """The published study, with other settings at the top level."""
    return Study.read(yaml.safe_load(PUBLISHED.read_text()) | changes, PUBLISHED)


def write_model_folder(folder: Path, **config) -> Path:
    """The folder of a base model for plans: whole, with matrices of one number, and a tokenizer of one word.

    Args:
        config: more keys of its config.json.
    """
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer(WordLevel({"word": 0, "</s>": 1}, unk_token="word"))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    for name in MODEL_FILES:
        if not (folder / name).exists():
            (folder / name).write_text("{}")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"} | config))
    modules = [f"self_attn.{name}_proj" for name in "qkvo"]
    modules += [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    names = [f"model.layers.0.{module}.weight" for module in modules]
    save_file({name: np.zeros((1, 1), "f") for name in names}, folder / "model.safetensors")
    return folder
