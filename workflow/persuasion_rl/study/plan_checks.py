"""Checks that the data of a study can be divided as its configuration plans: sides, sources and pools."""

from persuasion_rl.files import UserError
from persuasion_rl.study.config import Data


def check_plan(data: Data) -> None:
    """UserError where the sides, the limits of a row, the sources or the pools do not fit each other."""
    shares = dict(data.split.items())
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"data.split: {shares} must add up to 1")
    for side, share in shares.items():
        if round(data.max_examples * share) < 1:
            raise UserError(
                f"data.split.{side}: {share} of data.max_examples {data.max_examples:,} is no row; write a larger share, or"
                " more examples"
            )
    if data.min_tokens >= data.max_tokens:
        raise UserError(
            f"data.min_tokens: {data.min_tokens} must be below max_tokens {data.max_tokens}"
        )
    if data.max_context_tokens >= data.max_seq_length:
        raise UserError(
            f"data.max_context_tokens: {data.max_context_tokens} must be below max_seq_length"
            f" {data.max_seq_length}"
        )
    if not data.use_cmv and not data.use_p4g:
        raise UserError(
            "data.use_cmv and data.use_p4g: both are false; there is nothing to learn from"
        )
    if not getattr(data, f"use_{data.pool_source}"):
        raise UserError(
            f"data.pool_source: {data.pool_source!r}, but data.use_{data.pool_source} is false"
        )
    if (data.max_p4g_examples is not None or data.p4g_donation_weighted) and not data.use_p4g:
        name = "p4g_donation_weighted" if data.p4g_donation_weighted else "max_p4g_examples"
        raise UserError(
            f"data.{name}: means nothing without PersuasionForGood; write use_p4g: true, or leave it out (null where it is"
            " inherited)"
        )
    _check_corpora_names(data)
    _check_pool_sizes(data)


def ai_room(data: Data) -> int:
    """The prompts that the other two pools leave to the AI pool."""
    test = round(data.max_examples * data.split.test)
    val = round(data.max_examples * data.split.val) if data.use_val_set else 0
    return test - data.human_pool_size - data.final_eval_size + val


def _check_corpora_names(data: Data) -> None:
    """UserError where two corpora have the same last part of the name, by which sides.csv tells them apart."""
    corpora: dict[str, str] = {}
    for name in [*data.cmv_corpora, *([data.p4g_corpus] if data.use_p4g else [])]:
        last = name.rpartition("/")[2]
        if last in corpora:
            raise UserError(
                f"data.{'cmv_corpora' if name in data.cmv_corpora else 'p4g_corpus'}: {corpora[last]!r} and {name!r} both"
                f" have the name {last!r}; rename one of these folders"
            )
        corpora[last] = name


def _check_pool_sizes(data: Data) -> None:
    test = round(data.max_examples * data.split.test)
    held_out = data.human_pool_size + data.final_eval_size
    if held_out > test:
        raise UserError(
            f"data.human_pool_size + data.final_eval_size: {held_out:,} prompts are more than the test"
            f" side's {test:,} (max_examples x split.test)"
        )
    room = ai_room(data)
    uses_val = f"(use_val_set: {str(data.use_val_set).lower()})"
    if data.ai_pool_size is None and room < 1:
        raise UserError(
            "data.human_pool_size + data.final_eval_size: they leave no prompt for the AI pool"
            f" {uses_val}"
        )
    if (data.ai_pool_size or 0) > room:
        raise UserError(
            f"data.ai_pool_size: {data.ai_pool_size:,} prompts are more than the {room:,} that validation"
            f" and test leave {uses_val}"
        )
