"""How far a DPO model has gone from its parent, on its own replies to the held-out prompts, in nats."""

from pathlib import Path

from persuasion_rl.evaluation.logits import assert_as_plain, in_batches, prepare, reply_logits
from persuasion_rl.files import UserError, write_jsonl
from persuasion_rl.models.arguments import ModelArguments
from persuasion_rl.models.devices import pick_device, prepare_torch
from persuasion_rl.models.following import follow
from persuasion_rl.models.loading import load_for_inference
from persuasion_rl.models.plain import refuse_beyond_positions
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.records import KlRow, ReplyRow, read_rows
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.progress import Progress

KL_TOKENS = 1024
"""Tokens of a batch, whose replies' logits are in memory twice."""


def evaluate_kl(*, job: ModelArguments, responses: Path, output: Path) -> None:
    """Write a KlRow for each reply that has a token.

    kl is exact at every token (over the whole vocabulary, given what stands before it), and so never negative and of
    less variance than the log ratio of the sampled tokens (Amini, Vieira and Cotterell 2025). Both are at
    temperature 1, while the replies are sampled as the study samples: over the replies that readers see it is a mean,
    and of the KL divergence between whole distributions of replies an estimate only where temperature and top_p are 1.

    Args:
        job: the dpo model; the last adapter but one of its lineage is its parent's.
        responses: the model's own ReplyRows, of `sampling.evaluate_model`.

    Raises:
        UserError: the model has no adapter, and so no parent; or no positions for a prompt with its reply; or in a batch it, or
            its parent, computes another row than alone.
    """
    if not job.lineage:
        raise UserError(
            "KL is measured against the parent, and --lineage names no adapter; it is for dpo models"
        )
    prepare_torch(job.threads, job.seed, job.device)
    device = pick_device(job.device)
    model, _, _ = load_for_inference(job.base, job.lineage, device, job.trust_remote_code)
    parent, _, _ = load_for_inference(job.base, job.lineage[:-1], device, job.trust_remote_code)
    tokenizer = TextTokenizer(job.base, job.prompt_format)
    replies = list(read_rows(responses, ReplyRow))
    progress = Progress("kl", len(replies), "replies")
    ids = [_token_ids(tokenizer, row) for row in replies]
    lengths = [len(prompt) + len(reply) for prompt, reply in ids]
    refuse_beyond_positions(model, max(lengths, default=0))
    measurable = [row for row in ids if row[1]]
    for what, each in (("evaluate_kl", model), ("the parent in evaluate_kl", parent)):
        prepare(each)
        if measurable:
            assert_as_plain(what, each, measurable)
        follow(each, progress)
    measured: dict[int, KlRow] = {}
    for batch in in_batches(lengths, KL_TOKENS):
        places = [place for place in batch if ids[place][1]]
        sums = kl_and_log_ratios(model, parent, [ids[place] for place in places])
        for place, of_row in zip(places, sums, strict=True):
            of_whom = {
                key: replies[place]["metadata"][key] for key in ("prompt_id", "conversation_id")
            }
            measured[place] = {**of_whom, "tokens": len(ids[place][1]), **of_row}
        progress.add(done=len(batch))
    rows = [measured[place] for place in sorted(measured)]
    write_jsonl(output, rows)
    if rows:
        mean = sum(row["kl"] / row["tokens"] for row in rows) / len(rows)
        note(f"{output.name}: {mean:.4f} nats a token over {len(rows):,} replies")


def _token_ids(tokenizer: TextTokenizer, row: ReplyRow) -> tuple[list[int], list[int]]:
    """Prompt and reply as in training; the reply with EOS where the model ended it."""
    ended = row["metadata"]["finish_reason"] == "stop"
    (prompt,) = tokenizer.prompt_ids([row["prompt"]])
    (reply,) = tokenizer.response_ids([row["response"]], ended)
    return prompt, reply


def kl_and_log_ratios(
    model, parent, rows: list[tuple[list[int], list[int]]]
) -> list[dict[str, float]]:
    """{"kl", "log_ratio"} of a model and its parent for each row: sums over a reply's tokens, in nats.

    Args:
        rows: token ids of a prompt and of its reply, of one token or more.
    """
    import torch

    sums = []
    both = (reply_logits(each, rows) for each in (model, parent)) if rows else ([], [])
    for own, before, (_, reply) in zip(*both, rows, strict=True):
        own, before = own.log_softmax(-1), before.log_softmax(-1)
        sampled = torch.tensor(reply, device=own.device)[:, None]
        log_ratio = (own.gather(1, sampled) - before.gather(1, sampled)).sum()
        kl = torch.linalg.vecdot(own.exp(), own - before).sum()
        sums.append({"kl": kl.item(), "log_ratio": log_ratio.item()})
    return sums


if __name__ == "__main__":
    stage(evaluate_kl)
