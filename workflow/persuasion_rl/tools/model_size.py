"""The size of a decoder: parameters, and floating-point operations of a forward pass."""

from dataclasses import dataclass
from pathlib import Path

from persuasion_rl.files import read_json
from persuasion_rl.study.study import Study


@dataclass(frozen=True)
class Size:
    """The size of a decoder: layers, width, widths of its MLP, queries and keys, vocabulary."""

    layers: int
    width: int
    inner: int
    queries: int
    keys: int
    vocab: int

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
        """Number of parameters of the layers, without the few of norms and biases."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear.values())

    @property
    def head(self) -> int:
        """Number of parameters of the embedding, which is also the head."""
        return self.vocab * self.width

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


def size_of(study: Study) -> Size | None:
    """The size of a study's base model, by its config.json; None if the file is not here, or has another form.

    Raises:
        UserError: the file was cut off.
    """
    try:
        config = read_json(Path(study.base_folder, "config.json"))
        heads, width = config["num_attention_heads"], config["hidden_size"]
        per_head = config.get("head_dim") or width // heads
        return Size(
            layers=config["num_hidden_layers"],
            width=width,
            inner=config["intermediate_size"],
            queries=heads * per_head,
            keys=config.get("num_key_value_heads", heads) * per_head,
            vocab=config["vocab_size"],
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None
