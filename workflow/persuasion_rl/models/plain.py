"""Compares what a stage computes with what transformers computes for one row alone, without padding, cache or layout.

Batches, caches and merged adapters must not change what a model is. Each stage looks at that when it starts.
"""

from collections.abc import Iterator

from persuasion_rl.files import UserError
from persuasion_rl.runtime.command import note
from persuasion_rl.study.names import POSITIONS

LAST = 64
"""Tokens at the end of a row that are compared."""
MOST = {"float32": 0.01, "half": 0.1}
"""The difference, in nats, above which a model is not computed as it is: of one token in float32. In half precision of
the mean, since single tokens differ by the order of sums."""
CHANGING_ROPES = ("longrope", "dynamic")
"""Kinds of positions that change for a whole batch where one of its rows is long."""


def plain_log_probs(model, ids: list[int], last: int = LAST):
    """Log-probabilities of the last tokens of a row, by a forward pass of it alone: (last or fewer,) float32.

    Args:
        ids: two tokens or more; the first has no probability.
    """
    import torch

    from persuasion_rl.models.linear import by_torch

    last = min(last, len(ids) - 1)
    row = torch.tensor([ids], device=model.device)
    with torch.no_grad(), by_torch():
        logits = model(input_ids=row, logits_to_keep=last + 1).logits[0, -last - 1 : -1]
        return token_log_probs(logits, row[0, -last:])


def token_log_probs(logits, ids):
    """Log-probabilities of tokens ids (n,) by logits (n, vocabulary): (n,) float32."""
    return logits.float().log_softmax(-1).gather(-1, ids[:, None])[:, 0]


def without_wrapper(model):
    """The transformers model within peft's wrapper, if it has one; an adapter that is not merged stays in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def refuse_difference(what: str, model, own: list, plain: list) -> None:
    """Say how far values are from the plain model's.

    Args:
        what: the stage, as "sampling".
        own, plain: for each row its log-probabilities, or its scores.

    Raises:
        UserError: they differ by more than the number format explains.
    """
    import torch

    differences = (torch.cat(own).float() - torch.cat(plain).float()).abs()
    half = model.dtype != torch.float32
    difference = (differences.mean() if half else differences.max()).item()
    if not difference <= MOST["half" if half else "float32"]:
        raise UserError(
            f"{what}: differs by {difference:.3g} nats a token from the plain {model.config.model_type} model"
            f" ({', '.join(features(model.config)) or 'no known feature'}), which this stage cannot compute;"
            " take another base model"
        )
    note(f"checked: {what} differs by {difference:.1g} nats a token from the plain model")


def features(config) -> Iterator[str]:
    """What a configuration has that a stage may get wrong, as `sliding_window 4096`."""
    for name in ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "attention_chunk_size"):  # fmt: skip
        if getattr(config, name, None) is not None:
            yield f"{name} {getattr(config, name)}"
    if kinds := set(_rope_kinds(config)) - {"default"}:
        yield f"rope_type {' '.join(sorted(kinds))}"


def _rope_kinds(config) -> list[str]:
    rope = getattr(config, "rope_parameters", None) or {}
    layers = [rope] if "rope_type" in rope else [part for part in rope.values() if isinstance(part, dict)]  # fmt: skip
    return [part["rope_type"] for part in layers if "rope_type" in part]


def refuse_beyond_positions(model, tokens: int) -> None:
    """UserError if a model has no positions for rows of so many tokens, or other ones than for short rows."""
    config = model.config
    most = next((getattr(config, name) for name in POSITIONS if hasattr(config, name)), None)
    why = "positions for"
    if set(_rope_kinds(config)) & set(CHANGING_ROPES):
        original = (config.rope_parameters or {}).get("original_max_position_embeddings")
        most = original or getattr(config, "original_max_position_embeddings", None) or most
        why = "unscaled positions for"
    if most is not None and tokens > most:
        raise UserError(
            f"a row has {tokens:,} tokens, and the base model has {why} {most:,}: lower data.max_context_tokens and"
            " data.max_tokens, or sampling.max_new_tokens"
        )
