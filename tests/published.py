"""The published study's configuration and downloads."""

import yaml

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
