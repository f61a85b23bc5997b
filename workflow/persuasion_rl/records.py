"""The rows that stages hand on, as JSON lines: the first file to open.

A row is a plain dict at run time. Its type here says which keys it has, and `read_rows` refuses a file whose rows lack
one, with file and line. `metadata` goes along from stage to stage and grows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeVar, is_typeddict

from persuasion_rl.files import UserError, read_jsonl

Verdict = Literal["1", "2", "tie", "none"]
"""Which response is more persuasive; "none" where nobody can or would say."""


class SftMetadata(TypedDict):
    """Where an example is from. Token counts are the base model's tokenizer's, EOS not counted."""

    source: Literal["cmv", "p4g"]
    conversation_id: str
    utterance_id: str
    response_tokens: int
    context_tokens: int
    context_cut: bool


class SftRow(TypedDict):
    """A prompt and a reply that changed a mind (processed/*_examples.jsonl, splits/sft_*.jsonl)."""

    input_text: str
    full_text: str
    response: str
    metadata: SftMetadata


class DeltaPair(TypedDict):
    """Two persuaders' replies to one comment, one with and one without a delta (processed/delta_pairs.jsonl)."""

    prompt: str
    winner: str
    loser: str
    metadata: dict[str, Any]


class PoolMetadata(TypedDict):
    """Which prompt it is."""

    prompt_id: str
    conversation_id: str
    source: Literal["cmv", "p4g"]


class PoolRow(TypedDict):
    """A prompt of a pool or of the final evaluation (preferences/*_prompts.jsonl).

    `asked` is what a player gets instead that wants another format (evaluation/prompts/*.jsonl).
    """

    prompt: str
    asked: NotRequired[str]
    metadata: PoolMetadata


class SampledRow(TypedDict):
    """A prompt with its sampled responses, usable or not (a shard of a pool)."""

    prompt: str
    responses: list[dict[str, Any]]
    metadata: dict[str, Any]


class ResponsePair(TypedDict):
    """A prompt and two sampled responses (preferences/*_pool_responses.jsonl)."""

    prompt: str
    response_1: str
    response_2: str
    metadata: dict[str, Any]


class LabelRow(ResponsePair):
    """A response pair with its verdict (preferences/*_pool_labels.jsonl).

    A pair that could not be labelled is a row of `excluded`, the reason, and `metadata` alone.
    """

    verdict: Verdict
    labeler: str
    votes: list[dict[str, Any]]
    excluded: NotRequired[str]


class PreferencePair(TypedDict):
    """What DPO learns from (preferences/{pool}_train.jsonl, {pool}_val.jsonl)."""

    prompt: str
    chosen: str
    rejected: str
    metadata: dict[str, Any]


class ReplyRow(TypedDict):
    """A player's reply to a prompt of the final evaluation (evaluation/responses/*.jsonl)."""

    prompt: str
    response: str
    metadata: dict[str, Any]


class VerdictRow(TypedDict):
    """A judge's verdict on two players' replies to a prompt (evaluation/verdicts/*.jsonl).

    Without a verdict, `excluded` names what kept the judge from answering.
    """

    prompt_id: str
    conversation_id: str
    player_1: str
    player_2: str
    verdict: NotRequired[Verdict]
    answers: NotRequired[list[Verdict]]
    excluded: NotRequired[str]


Row = TypeVar("Row")


def read_rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    """Yield the rows of a JSON-lines file.

    Raises:
        UserError: a row lacks a key of its kind, or of its metadata, or the file is no JSON lines; with file and line.
    """
    metadata = kind.__annotations__.get("metadata")
    inner = metadata.__required_keys__ if is_typeddict(metadata) else frozenset()
    for number, row in enumerate(read_jsonl(path), 1):
        missing = kind.__required_keys__ - row.keys() or inner - row.get("metadata", {}).keys()
        if missing and "excluded" not in row:
            raise UserError(
                f"{path}, line {number}: the key {min(missing)!r} is missing from a {kind.__name__}"
            )
        yield row
