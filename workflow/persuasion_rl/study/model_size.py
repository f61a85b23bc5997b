"""The size of a decoder: parameters, and floating-point operations of a forward pass."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persuasion_rl.files import read_json


@dataclass(frozen=True)
class Size:
    """The size of a decoder: layers, width, widths of its MLP, queries and keys, vocabulary; whether its head is its
    embedding. Of a mixture of experts, `inner` is the width of those that a token takes, and `idle` that of the others.
    `capped_heads` are a layer's heads of attention whose scores have a soft cap."""

    layers: int
    width: int
    inner: int
    queries: int
    keys: int
    vocab: int
    tied: bool = True
    idle: int = 0
    capped_heads: int = 0

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Linear module of a layer -> its inputs and outputs."""
        return {
            "q_proj": (self.width, self.queries),
            "k_proj": (self.width, self.keys),
            "v_proj": (self.width, self.keys),
            "o_proj": (self.queries, self.width),
            "gate_proj": (self.width, self.inner),
            "up_proj": (self.width, self.inner),
            "down_proj": (self.inner, self.width),
        }

    @property
    def backbone(self) -> int:
        """Number of parameters of the layers that a token passes, without the few of norms and biases."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear.values())

    @property
    def head(self) -> int:
        """Number of parameters of the head, and of the embedding."""
        return self.vocab * self.width

    @property
    def parameters(self) -> int:
        """Number of all parameters, without the few of norms and biases."""
        idle = 3 * self.layers * self.width * self.idle
        return self.backbone + idle + self.head * (1 if self.tied else 2)

    def forward(self, tokens: float, context: float, head_share: float = 1.0) -> float:
        """FLOPs of a forward pass with causal attention over `context` tokens."""
        attention = 2 * context * self.width * self.layers
        return tokens * (2 * self.backbone + attention + 2 * self.head * head_share)

    def adapter(self, rank: int, modules: list[str]) -> int:
        """Number of parameters of a LoRA adapter; modules that are unknown here count as 0."""
        sizes = [sum(self.linear[name]) for name in modules if name in self.linear]
        return self.layers * rank * sum(sizes)


QWEN = Size(layers=24, width=896, inner=4864, queries=896, keys=128, vocab=151_936)
"""Qwen2.5-0.5B."""


EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""What families call the number of a layer's experts."""


def size_of(config: dict[str, Any]) -> Size | None:
    """The size that a model's config.json tells; None if it has another form."""
    config = config.get("text_config") or config  # of a model that sees images too

    def number(*names: str) -> int:
        """The first of some numbers that stands there; of those of single layers the largest; 0 if none does."""
        given = (config.get(name) for name in names)
        return int(next((max(n) if isinstance(n, list) else n for n in given if n), 0))

    try:
        layers, width = number("num_hidden_layers"), number("hidden_size")
        heads, inner = number("num_attention_heads"), number("intermediate_size")
        experts, experts_a_token = number(*EXPERTS), number("num_experts_per_tok")
        latent = number("qk_nope_head_dim") + number("qk_rope_head_dim")  # of DeepSeek's attention
        per_head = latent or number("head_dim") or width // heads
        idle = 0
        if experts:
            expert = number("moe_intermediate_size") or inner
            shared = number("shared_expert_intermediate_size") or expert * number(
                "n_shared_experts"
            )
            inner, idle = experts_a_token * expert + shared, (experts - experts_a_token) * expert
        size = Size(
            layers=layers,
            width=width,
            inner=inner,
            queries=heads * per_head,
            keys=(number("num_key_value_heads") or heads) * per_head,
            vocab=number("vocab_size"),
            tied=config.get(
                "tie_word_embeddings", config.get("model_type", "").startswith("gemma")
            ),
            idle=idle,
            capped_heads=heads if config.get("attn_logit_softcapping") else 0,
        )
    except (TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None
    return size if min(layers, width, inner, size.vocab) > 0 else None


def size_in(folder: str | Path) -> Size | None:
    """The size of the model in a folder; None if its config.json is not here, or has another form.

    Raises:
        UserError: the file was cut off.
    """
    try:
        config = read_json(Path(folder, "config.json"))
    except OSError:
        return None
    return size_of(config) if isinstance(config, dict) else None
