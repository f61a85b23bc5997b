"""The loss of a model on people's replies, without sampling."""

import math
import sys
from pathlib import Path

from persuasion_rl.evaluation.logits import (
    assert_as_plain,
    in_batches,
    prepare,
    reply_log_probs,
)
from persuasion_rl.files import write_json
from persuasion_rl.models.arguments import ModelArguments
from persuasion_rl.models.devices import pick_device, prepare_torch
from persuasion_rl.models.following import follow
from persuasion_rl.models.loading import load_for_inference
from persuasion_rl.models.plain import refuse_beyond_positions
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.records import SftRow, read_rows
from persuasion_rl.runtime.command import stage
from persuasion_rl.runtime.progress import Progress

LOSS_TOKENS = 2048
"""Tokens of a batch for the loss; more are not faster, and take memory for the logits of a large vocabulary."""


def response_loss(model, tokenizer: TextTokenizer, rows: list[tuple[str, str]]) -> float:
    """Mean negative log-likelihood, in nats a token, of the responses (EOS included) given their prompts.

    Raises:
        UserError: in a batch, a row is another than alone; or it is longer than the model has positions.
    """
    prompts = tokenizer.prompt_ids([prompt for prompt, _ in rows])
    responses = tokenizer.response_ids([response for _, response in rows])
    rows = list(zip(prompts, responses, strict=True))
    lengths = [len(prompt) + len(response) for prompt, response in rows]
    refuse_beyond_positions(model, max(lengths))
    assert_as_plain("evaluate_loss", model, rows)
    total, tokens = 0.0, 0
    progress = Progress("loss", len(rows), "rows", sum(lengths))
    follow(model, progress)
    for places in in_batches(lengths, LOSS_TOKENS):
        log_probs = reply_log_probs(model, [rows[place] for place in places])
        total -= sum(values.double().sum().item() for values in log_probs)
        tokens += sum(map(len, log_probs))
        progress.add(done=len(places))
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
    prepare(model)
    tokenizer = TextTokenizer(job.base, job.prompt_format)
    human = [(row["input_text"], row["response"]) for row in read_rows(held_out, SftRow)]
    nats = response_loss(model, tokenizer, human)
    measured = {"validation_loss": nats, "perplexity": perplexity(nats), "rows": len(human)}
    write_json(output, measured)
    return measured


if __name__ == "__main__":
    stage(evaluate_loss)
