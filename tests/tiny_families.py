"""Tiny random models of real families, each with all that its family does differently."""

from pathlib import Path

import torch

WINDOW = 8
"""Tokens of a sliding window: shorter than every row of the tests."""
SIZE = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    initializer_range=0.3,
)
ALTERNATING = ["sliding_attention", "full_attention"]
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = {
    "llama": {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False},
    "mistral": {"sliding_window": WINDOW, "tie_word_embeddings": False},
    "phi3": {"sliding_window": WINDOW, "tie_word_embeddings": False, "original_max_position_embeddings": 512},
    "gemma2": {
        "sliding_window": WINDOW, "layer_types": ALTERNATING, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 16, "head_dim": 8, "tie_word_embeddings": True,
    },
    "gemma3_text": {
        "sliding_window": WINDOW, "layer_types": ALTERNATING, "query_pre_attn_scalar": 16, "head_dim": 8,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
        },
    },
    "olmo": {"tie_word_embeddings": False, "clip_qkv": 0.05},
    "olmo2": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": True, "head_dim": 16},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "cohere2": {"logit_scale": 0.25, "sliding_window": WINDOW, "layer_types": ALTERNATING},
    "gpt2": {"num_key_value_heads": 4},
    "gpt_neox": {"num_key_value_heads": 4, "tie_word_embeddings": False},
    "stablelm": {"tie_word_embeddings": False},
    "phi": {"tie_word_embeddings": False},
    "mixtral": {
        "sliding_window": WINDOW, "tie_word_embeddings": False, "num_local_experts": 4, "num_experts_per_tok": 2,
    },
    "deepseek_v3": {
        "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
        "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 2,
        "topk_group": 1, "first_k_dense_replace": 1,
    },
    "phimoe": {"sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "falcon": {"alibi": True, "parallel_attn": False, "multi_query": True, "bias": True},
}  # fmt: skip
"""model_type -> what its configuration has besides the size."""


def family_config(family: str, vocab_size: int = 64, **changed):
    """A small configuration of a family, as its models have it."""
    from transformers import AutoConfig

    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 0}
    return AutoConfig.for_model(
        family, **(SIZE | ids | {"vocab_size": vocab_size} | FAMILIES[family] | changed)
    )


def family_model(family: str, **changed):
    """A random model of a family in evaluation mode."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(family_config(family, **changed)).eval()


def write_family_base(family: str, tokenizer_of: Path, folder: Path, **changed) -> Path:
    """A base model's folder: a random model of a family, with the tokenizer of another folder.

    Args:
        changed: overrides of its configuration.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = family_model(family, **({"vocab_size": len(tokenizer)} | ids | changed))
    model.save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    return folder
