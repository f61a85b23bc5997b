"""The judge `delta`: the reward model that the workflow trains (`training.reward`)."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

from persuasion_rl.judges.base import Comparison, ScoringJudge
from persuasion_rl.models.devices import pick_device
from persuasion_rl.models.following import follow
from persuasion_rl.models.lineage import check_lineage
from persuasion_rl.models.loading import load_classifier, load_tokenizer
from persuasion_rl.models.plain import refuse_beyond_positions
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.runtime.progress import Progress

BATCH = 64
"""Texts scored at a time, at most."""
TOKENS = 4096
"""Tokens of these texts, at most; more leave a processor's cache."""


class DeltaJudge(ScoringJudge):
    """The workflow's reward model, trained on replies that won a delta and replies that did not.

    Its preference is 2 P(first wins) - 1 under the Bradley-Terry model of its two rewards.
    """

    name = "delta"
    tie_margin = 0.05

    def __init__(self, base: Path, adapter: Path, device: str, prompt_format: str = "plain"):
        self._score = load_scorer(base, adapter, device, BATCH, prompt_format)
        self._rewards: dict[tuple[str, str], float] = {}

    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        texts = {(c.prompt, response) for c in comparisons for response in (c.first, c.second)}
        new = sorted(texts - self._rewards.keys())
        self._rewards.update(zip(new, self._score(new), strict=True))
        return [
            math.tanh((self._rewards[c.prompt, c.first] - self._rewards[c.prompt, c.second]) / 2)
            for c in comparisons
        ]


def load_scorer(
    base: Path, adapter: Path, device: str, batch_size: int, prompt_format: str = "plain"
) -> Callable[[list[tuple[str, str]]], list[float]]:
    """A function from (prompt, response) pairs to their rewards, computed in padded batches.

    Args:
        base: the folder of the reward model's base model. adapter: the file of its adapter.
        prompt_format: "plain" or "chat", the form that the prompts are in.

    Raises:
        UserError: the adapter was trained on another base model, scores differ from the plain model's, or it has
            no positions for a text.
    """
    import torch
    from peft import PeftModel

    from persuasion_rl.training.assertions import assert_as_plain
    from persuasion_rl.training.fused import fuse
    from persuasion_rl.training.unpadding import compute_without_padding

    check_lineage(base, [adapter])
    device = pick_device(device)
    tokenizer, ids = load_tokenizer(base), TextTokenizer(base, prompt_format)
    model = load_classifier(base, device, tokenizer.pad_token_id)
    compute_without_padding(model)
    model = PeftModel.from_pretrained(model, adapter.parent).eval()
    fuse(model)
    progress = Progress("delta judge", unit="texts")
    follow(model, progress)
    compared = False

    def score(texts: list[tuple[str, str]]) -> list[float]:
        nonlocal compared
        if not texts:
            return []
        prompts = ids.prompt_ids([prompt for prompt, _ in texts])
        replies = ids.response_ids([reply for _, reply in texts])
        sequences = [p + r for p, r in zip(prompts, replies, strict=True)]
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        refuse_beyond_positions(model, len(sequences[order[-1]]))
        if not compared:
            assert_as_plain("the delta judge", model, [sequences[order[i]] for i in (-1, 0)])
            compared = True
        rewards = [0.0] * len(sequences)
        progress.begin(len(sequences), sum(map(len, sequences)))
        for batch in _batches(order, [*map(len, sequences)], batch_size):
            inputs = tokenizer.pad(
                {"input_ids": [sequences[i] for i in batch]},
                padding_side="right",
                return_tensors="pt",
            ).to(device)
            with torch.inference_mode():
                logits = model(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
                ).logits
            for i, reward in zip(batch, logits[:, 0].float().tolist(), strict=True):
                rewards[i] = reward
            progress.add(done=len(batch))
        return rewards

    return score


def _batches(order: list[int], lengths: list[int], most: int) -> Iterator[list[int]]:
    """Divide texts, in the order given, into batches of at most `most` texts and TOKENS tokens, or of one text."""
    batch: list[int] = []
    for place in order:
        held = sum(lengths[i] for i in batch)
        if batch and (len(batch) == most or held + lengths[place] > TOKENS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
