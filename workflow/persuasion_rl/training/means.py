"""Means over tokens and pairs of what a trainer reports, whatever the size of its batches.

trl and transformers average the means of batches, so that a small last batch counts as much as a full one, and a loss, and with
it the best checkpoint, depends on the size of an evaluation's batches.
"""

from collections import defaultdict
from typing import Any

MIN, MAX = ("min_reward",), ("max_reward",)
BY_TOKEN = {
    "entropy": "tokens",
    "mean_token_accuracy": "chosen",
    "logits/chosen": "chosen",
    "logits/rejected": "rejected",
}
"""Metric of trl -> what it is a mean of; the others are means of pairs, or of an SFT's tokens."""


def counts_of(inputs: dict[str, Any]) -> dict[str, float]:
    """What a batch of trl's collators holds: labelled "tokens", of them those of "chosen" and "rejected" responses, and
    "pairs"; of SFT's rows, all their labelled tokens are chosen."""
    if "labels" in inputs:
        tokens = (inputs["labels"][:, 1:] != -100).sum().item()
        return {"tokens": tokens, "chosen": tokens, "rejected": 0, "pairs": tokens}
    pairs = len(inputs["input_ids"]) // 2
    chosen = rejected = 0
    if "completion_mask" in inputs:
        chosen, rejected = (half.sum().item() for half in inputs["completion_mask"].chunk(2))
    return {"tokens": chosen + rejected, "chosen": chosen, "rejected": rejected, "pairs": pairs}


class Means:
    """The batches since the last reading: their losses, and what they hold."""

    def __init__(self) -> None:
        self._counts: list[dict[str, float]] = []
        self._sums: dict[str, float] = defaultdict(float)

    def add(self, loss: float, counts: dict[str, float], sft_loss: float = 0.0) -> None:
        """Count a batch.

        Args:
            loss: its mean loss by pair, or by token of an SFT, with `sft_loss` in it.
            sft_loss: the part of a DPO's loss that is a mean over the tokens of chosen responses, weighted.
        """
        self._counts.append(counts)
        self._sums["pairs"] += (loss - sft_loss) * counts["pairs"]
        self._sums["chosen"] += sft_loss * counts["chosen"]

    def loss(self) -> float:
        """The mean loss of all batches."""
        by_pair = self._sums["pairs"] / sum(counts["pairs"] for counts in self._counts)
        chosen = sum(counts["chosen"] for counts in self._counts)
        return by_pair + (self._sums["chosen"] / chosen if chosen else 0.0)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def combine(self, name: str, values: list[float]) -> float:
        """One value of a metric of trl from its values of all batches."""
        if name in MIN + MAX:
            return min(values) if name in MIN else max(values)
        weights = [counts[BY_TOKEN.get(name, "pairs")] for counts in self._counts]
        if len(values) != len(weights) or not sum(weights):
            return values[-1]  # a sum that trl keeps itself
        return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
