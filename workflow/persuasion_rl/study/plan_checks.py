"""Checks that a study can be as its configuration plans: sides, sources and pools, and rows that are not too long."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from persuasion_rl.files import UserError, read_json
from persuasion_rl.prompts.wording import PLAIN, SYSTEM, task
from persuasion_rl.study.config import Config, Data
from persuasion_rl.study.gguf_size import positions_in
from persuasion_rl.study.names import (
    BASE,
    POSITIONS,
    is_packed,
    kind_of,
    model_folder,
    package_of,
    packed_file,
)
from persuasion_rl.study.section import key_path


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


class Asked(NamedTuple):
    """A model that gets prompts, in which form, and where it will be; `key` names its source.

    Attributes:
        local: whether the folder is the user's own, and not downloaded by the study.
        words: the greatest length that its prompts ask for, that of the longest human reply; None where they ask for none.
    """

    key: str
    folder: Path | None
    local: bool
    prompt_format: str
    positions: int | None
    words: int | None = None


class Limit(NamedTuple):
    """Settings whose tokens stand in one row with those of a prompt's frame, the most that such a row may have, and why."""

    keys: str
    tokens: int
    most: int
    why: str


def check_lengths(config: Config, exactly: bool = False) -> None:
    """UserError where the longest prompt leaves no room for a reply: in a row, or in the positions of a model.

    A prompt is a frame and a context of up to data.max_context_tokens. No tokenizer makes fewer tokens of a frame than it
    has words.

    Args:
        exactly: count the frame's tokens with each tokenizer that is here; else only with those of local folders, where a
            frame may not fit.
    """
    base, *others = _asked(config)
    if base.positions is not None and config.data.max_seq_length > base.positions:
        raise UserError(
            f"data.max_seq_length: {config.data.max_seq_length} tokens are more than the {base.positions} positions of"
            f" {base.key}; lower it, or take a model with more"
        )
    _check_room(config, base, [*_limits_of_rows(config), *_limits_of(base, config)], exactly)
    for other in others:
        _check_room(config, other, _limits_of(other, config), exactly)


def longest_prompt(config: Config) -> int:
    """The tokens of the longest prompt that leaves room for a reply in every row."""
    context = config.data.max_context_tokens
    return min(limit.most - (limit.tokens - context) for limit in _limits_of_rows(config))


def _limits_of_rows(config: Config) -> list[Limit]:
    data = config.data
    shortest = data.max_context_tokens + data.min_tokens
    row = Limit(
        "data.max_context_tokens + data.min_tokens",
        shortest,
        data.max_seq_length,
        f"data.max_seq_length {data.max_seq_length}",
    )
    lengths = {
        key_path("models", name): config.recipe_of(name)["max_length"]
        for name, model in config.models.items()
        if model.method == "dpo"
    }
    return [
        row,
        *(
            _sampled(config, most, f"max_length {most} of {key} (recipes.dpo)")
            for key, most in lengths.items()
        ),
    ]


def _limits_of(asked: Asked, config: Config) -> list[Limit]:
    if asked.positions is None:
        return []
    return [_sampled(config, asked.positions, f"{asked.positions} positions of {asked.key}")]


def _sampled(config: Config, most: int, why: str) -> Limit:
    """The limit of a row with a sampled reply."""
    tokens = config.sampling.max_new_tokens + config.data.max_context_tokens
    return Limit("sampling.max_new_tokens + data.max_context_tokens", tokens, most, why)


def _asked(config: Config) -> Iterator[Asked]:
    """The base model, and the players of the evaluation that are other models or are asked in another form."""
    source, own = config.models[BASE].source, config.data.prompt_format
    folder = None if source == "standin" else Path(model_folder(source))
    positions = 4 * config.standin.max_length if folder is None else _positions(source)
    local = kind_of(source) == "folder"
    yield Asked(key_path("models", BASE), folder, local, own, positions)
    for name, other in config.evaluation.other_players.items():
        key = key_path("evaluation", "other_players", name)
        words = config.data.max_tokens if other.match_length else None
        if other.source is not None:
            there = Path(model_folder(other.source))
            yield Asked(
                key,
                there,
                kind_of(other.source) == "folder",
                other.prompt_format,
                _positions(other.source),
                words,
            )
        elif other.model is not None:
            yield Asked(key, folder, local, other.prompt_format, positions, words)


def _positions(source: str) -> int | None:
    """How many tokens a model takes, by the file that it is unpacked from, or by its folder; None where neither tells."""
    package, stated = package_of(source), None
    if is_packed(source):
        stated = positions_in(Path(packed_file(source)), package.inside if package else None)
    return stated or positions_of(Path(model_folder(source)))


def positions_of(folder: Path) -> int | None:
    """How many tokens a model takes, by its config.json; None where that is not here, or does not say.

    Whoever loads the model names a file that cannot be read.
    """
    content = None
    with suppress(UserError, OSError):
        content = read_json(folder / "config.json")
    if not isinstance(content, dict):
        return None
    content = content.get("text_config") or content
    named = (content.get(key) for key in POSITIONS)
    return next((value for value in named if isinstance(value, int) and value > 0), None)


def _check_room(config: Config, asked: Asked, limits: list[Limit], exactly: bool) -> None:
    """UserError where a frame and what a limit names are more than it allows."""
    sources = {"cmv", *(["p4g"] if config.data.use_p4g else [])}
    room = min((limit.most - limit.tokens for limit in limits), default=math.inf)
    here = asked.folder is not None and (asked.folder / "tokenizer.json").is_file()
    exact = here and (exactly or (asked.local and _most_tokens(asked, sources) > room))
    if exact:
        from persuasion_rl.prompts.tokens import TextTokenizer

        tokenizer = TextTokenizer(asked.folder, asked.prompt_format)
        frame = max(tokenizer.frame_tokens(source, asked.words) for source in sources)
    elif asked.prompt_format == PLAIN.name:
        frame = max(len(PLAIN.render("", source, asked.words).split()) for source in sources)
    else:
        frame = max(len(f"{SYSTEM} {task(source, asked.words)}".split()) for source in sources)
    for limit in limits:
        if frame + limit.tokens > limit.most:
            raise UserError(
                f"{limit.keys}: {limit.tokens} and a prompt's frame of {frame} tokens{'' if exact else ' or more'} do not fit"
                f" {limit.why}; lower one of them by {frame + limit.tokens - limit.most}, or raise that limit"
            )


def _most_tokens(asked: Asked, sources: set[str]) -> int:
    """More tokens than the frame of a prompt has by any tokenizer: twice its bytes."""
    from persuasion_rl.prompts.templates import read_format

    form = read_format(asked.folder, asked.prompt_format)
    return max(2 * len(form.render("", source, asked.words).encode()) for source in sources)
