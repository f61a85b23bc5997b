"""The loss of a model on people's replies, without sampling."""

import math
import sys
from pathlib import Path

from persuasion_rl.files import write_json
from persuasion_rl.models.arguments import ModelArguments
from persuasion_rl.models.devices import pick_device, prepare_torch
from persuasion_rl.models.following import follow
from persuasion_rl.models.loading import load_for_inference
from persuasion_rl.models.plain import (
    plain_log_probs,
    refuse_beyond_positions,
    refuse_difference,
    token_log_probs,
)
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.records import SftRow, read_rows
from persuasion_rl.runtime.command import stage
from persuasion_rl.runtime.progress import Progress

LOSS_TOKENS = 4096
"""Tokens of a batch for the loss; more would fill a GPU with the logits of a large vocabulary."""


def response_loss(model, tokenizer: TextTokenizer, rows: list[tuple[str, str]]) -> float:
    """Mean negative log-likelihood, in nats a token, of the responses (EOS included) given their prompts.

    Raises:
        UserError: in a batch, a row is another than alone; or it is longer than the model has positions.
    """
    import torch

    prompts = tokenizer.prompt_ids([prompt for prompt, _ in rows])
    responses = tokenizer.response_ids([response for _, response in rows])
    pairs = sorted(zip(prompts, responses, strict=True), key=lambda pair: -len(pair[0] + pair[1]))
    refuse_beyond_positions(model, len(pairs[0][0] + pairs[0][1]))
    total = tokens = 0.0
    progress = Progress("loss", len(pairs), "rows", sum(len(p + r) for p, r in pairs))
    follow(model, progress)
    while pairs:
        width = len(pairs[0][0] + pairs[0][1])
        size = max(1, LOSS_TOKENS // width)
        batch, pairs = pairs[:size], pairs[size:]
        ids = torch.full((len(batch), width), tokenizer.eos)
        supervised = torch.zeros((len(batch), width), dtype=torch.bool)
        for i, (prompt, response) in enumerate(batch):
            ids[i, : len(prompt) + len(response)] = torch.tensor(prompt + response)
            supervised[i, len(prompt) : len(prompt) + len(response)] = True
        ids, supervised = ids.to(model.device), supervised.to(model.device)[:, 1:]
        with torch.inference_mode():
            # Padding, by any token, is on the right, so causal attention never sees it.
            logits = model(input_ids=ids).logits[:, :-1][supervised].float()
        if not tokens:  # the longest row, and the one with most padding of its batch
            own = token_log_probs(logits, ids[:, 1:][supervised]).split(supervised.sum(1).tolist())
            plain = [plain_log_probs(model, p + r, len(r)) for p, r in (batch[0], batch[-1])]
            refuse_difference("evaluate_loss", model, [own[0], own[-1]], plain)
        total += torch.nn.functional.cross_entropy(
            logits, ids[:, 1:][supervised], reduction="sum"
        ).item()
        tokens += supervised.sum().item()
        progress.add(done=len(batch))
    return total / tokens


def perplexity(nats: float) -> float | None:
    """The exponential of a loss in nats a token; None above 709, where it is more than any float."""
    return math.exp(nats) if nats < math.log(sys.float_info.max) else None


def evaluate_loss(*, job: ModelArguments, held_out: Path, output: Path) -> dict[str, float]:
    """Write {"validation_loss": nats a token of the replies in `held_out`, "perplexity" (null if None), "rows"}.

    Args:
        held_out: SftRows.
    """
    prepare_torch(job.threads, job.seed, job.device)
    model, _, _ = load_for_inference(
        job.base, job.lineage, pick_device(job.device), job.trust_remote_code
    )
    tokenizer = TextTokenizer(job.base, job.prompt_format)
    human = [(row["input_text"], row["response"]) for row in read_rows(held_out, SftRow)]
    nats = response_loss(model, tokenizer, human)
    measured = {"validation_loss": nats, "perplexity": perplexity(nats), "rows": len(human)}
    write_json(output, measured)
    return measured


if __name__ == "__main__":
    stage(evaluate_loss)
