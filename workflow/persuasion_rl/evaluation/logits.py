"""What models predict for replies, in batches without padding, and at the replies' tokens only."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from persuasion_rl.models.plain import (
    plain_log_probs,
    refuse_difference,
    token_log_probs,
    without_wrapper,
)
from persuasion_rl.training.unpadding import as_it_is, compute_without_padding


def in_batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Divide rows into batches of at most so many tokens, or of one row; the longest first.

    Args:
        lengths: the tokens of each row.

    Returns:
        The places of each batch's rows among `lengths`.
    """
    batch: list[int] = []
    held = 0
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and held + lengths[place] > tokens:
            yield batch
            batch, held = [], 0
        batch.append(place)
        held += lengths[place]
    if batch:
        yield batch


def prepare(model) -> None:
    """Let a model compute its batches without padding, if it can; it then only reads.

    Args:
        model: without an adapter, or with one that is merged or not.
    """
    compute_without_padding(without_wrapper(model))


def as_transformers(model) -> AbstractContextManager:
    """In this context a model computes as transformers does, whether it is prepared or not."""
    return as_it_is(model) if _is_prepared(model) else nullcontext()


def _is_prepared(model) -> bool:
    return hasattr(without_wrapper(model).base_model, "plain_attention")


def reply_logits(model, rows: list[tuple[list[int], list[int]]]) -> list:
    """The logits of the tokens of replies.

    Args:
        rows: token ids of a prompt and of its reply, each of one token or more.

    Returns:
        For each row (tokens of the reply, vocabulary) float32.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    sequences = [torch.tensor(prompt + reply) for prompt, reply in rows]
    ids = pad_sequence(sequences, batch_first=True).to(model.device)
    mask, positions = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for i, (prompt, reply) in enumerate(rows):
        mask[i, : len(prompt) + len(reply)] = 1
        positions[i, len(prompt) - 1 : len(prompt) + len(reply) - 1] = True
    asked = {"label_positions": positions} if _is_prepared(model) else {}
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **asked).logits
        logits = logits[positions] if logits.shape[:2] == positions.shape else logits[0]
        return list(logits.float().split([len(reply) for _, reply in rows]))


def reply_log_probs(model, rows: list[tuple[list[int], list[int]]]) -> list:
    """Log-probabilities of the tokens of replies, in nats: for each row of `reply_logits` (tokens of the reply,) float32."""
    import torch

    logits = reply_logits(model, rows)
    return [
        token_log_probs(of_row, torch.tensor(reply, device=of_row.device))
        for of_row, (_, reply) in zip(logits, rows, strict=True)
    ]


def assert_as_plain(what: str, model, rows: list[tuple[list[int], list[int]]]) -> None:
    """Check that a model computes the longest row and the shortest, in one batch, as transformers computes each alone.

    Args:
        what: the stage, for the message.
        rows: one or more, as those of `reply_logits`.

    Raises:
        UserError: it computes something else.
    """
    lengths = [len(prompt) + len(reply) for prompt, reply in rows]
    ends = [rows[lengths.index(end)] for end in (max(lengths), min(lengths))]
    with as_transformers(model):
        plain = [plain_log_probs(model, prompt + reply, len(reply)) for prompt, reply in ends]
    refuse_difference(what, model, reply_log_probs(model, ends), plain)
