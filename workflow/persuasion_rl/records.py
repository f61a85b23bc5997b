"""The rows that stages hand on, as JSON lines: the first file to open.

A row is a plain dict at run time. Its type here says which keys it has, and `read_rows` refuses a file whose rows lack
one, with file and line. Other keys may stand beside them: `metadata` goes along from stage to stage and grows.

    corpora -> SftRow -> PoolRow -> SampledRow -> ResponsePair -> LabelRow -> PreferencePair
                                 -> ReplyRow -> VerdictRow, SimilarityRow, KlRow, ReadingRow
    corpora -> DeltaPair
    trainings -> HistoryRow

Lengths in tokens are by the base model's tokenizer, or as a server counts them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, TypeVar

from persuasion_rl.files import UserError, read_numbered

SIDES = ("train", "val", "test")
"""What `splits/sides.csv` divides the conversations into, by cluster of near-duplicate posts."""
Source = Literal["cmv", "p4g"]
"""ChangeMyView or PersuasionForGood."""
Verdict = Literal["1", "2", "tie", "none"]
"""Which response is more persuasive; "none" where nobody can or would say."""


EXAMPLE_KEYS = ("conversation_id", "utterance_id")


class SftMetadata(TypedDict):
    """Where an example is from, and its lengths in tokens."""

    source: Source
    conversation_id: str
    utterance_id: str
    reply_to: str
    """The utterance that it answers."""
    response_tokens: int
    """The end-of-text token counts too."""
    context_tokens: int
    """The claim, the post and the comments, without what the prompt format puts around them."""
    context_cut: bool
    """Whether the middle of the context was left out, to fit the budget."""
    donation: NotRequired[float | None]
    """Dollars that the persuadee gave; of p4g only."""


class SftRow(TypedDict):
    """A prompt and a reply that changed a mind (processed/*_examples.jsonl, splits/sft_*.jsonl)."""

    input_text: str
    """The prompt, up to where the response begins."""
    full_text: str
    """The prompt and the response."""
    response: str
    metadata: SftMetadata


def example_id(metadata: SftMetadata) -> str:
    """The id of an example, as "cmv-thread/reply": no two are equal, since ids of replies may repeat in other threads."""
    parts = (metadata[key].replace("~", "~0").replace("/", "~1") for key in EXAMPLE_KEYS)
    return f"{metadata['source']}-{'/'.join(parts)}"


class DeltaPairMetadata(TypedDict):
    """The utterances of the two replies, and their thread."""

    conversation_id: str
    winner_id: str
    loser_id: str


class DeltaPair(TypedDict):
    """Two persuaders' replies to one comment, one with and one without a delta (processed/delta_pairs.jsonl)."""

    prompt: str
    winner: str
    loser: str
    metadata: DeltaPairMetadata


class PoolMetadata(TypedDict):
    """Which prompt it is: `prompt_id` is the `example_id` of the reply that won beneath it."""

    prompt_id: str
    conversation_id: str
    source: Source


class PoolRow(TypedDict):
    """A prompt of a pool or of the final evaluation (preferences/*_prompts.jsonl).

    `asked` is what a player gets instead that wants another format or a length (evaluation/prompts/*.jsonl).
    """

    prompt: str
    asked: NotRequired[str]
    metadata: PoolMetadata


class SampledResponse(TypedDict):
    """A sampled response, usable or not."""

    text: str
    tokens: int
    """The end-of-text token counts too."""
    finish_reason: str
    """"stop", "length" where the limit cut it, or what a server said ended it."""
    draws: int
    """How often it was sampled: 1, or more where earlier samples were of no use."""
    reasoning: NotRequired[int]
    """How many characters of the model's reasoning were cut off `text`; its tokens count."""


class SampledMetadata(PoolMetadata, total=False):
    """Which prompt it is, and what sampled the responses to it."""

    model_digest: str
    """Of the base model and its adapters (lineage)."""
    engine: str
    reproducible: bool
    """Whether the engine gives the same responses again."""


class SampledRow(TypedDict):
    """A prompt with its sampled responses, usable or not (preferences/shards/*.jsonl)."""

    prompt: str
    responses: list[SampledResponse]
    metadata: SampledMetadata


class PairMetadata(SampledMetadata, total=False):
    """Which prompt it is, what sampled the responses, and of the two: `SampledResponse` says what each is."""

    samples: list[int]
    """Their numbers among the prompt's responses, from 1."""
    tokens: list[int]
    draws: list[int]
    finish_reasons: list[str]


class ResponsePair(TypedDict):
    """A prompt and two sampled responses (preferences/*_pool_responses.jsonl)."""

    prompt: str
    response_1: str
    response_2: str
    metadata: PairMetadata


class Vote(TypedDict):
    """One answer on a pair, of a judge or an annotator."""

    labeler: str
    order: NotRequired[Literal["12", "21"]]
    """Which response was shown first."""
    verdict: str
    """Of the responses as the row numbers them; of an annotator, "both_bad" and the like too."""
    answer: NotRequired[str]
    """An annotator's, of the pair as it was shown: "left", "right", ..."""
    confidence: NotRequired[int]
    """1 (a guess) to 3 (sure)."""
    reason: NotRequired[str]


class LabelRow(ResponsePair):
    """A response pair with its verdict (preferences/*_pool_labels.jsonl)."""

    verdict: Verdict
    labeler: str
    votes: list[Vote]
    excluded: NotRequired[str]
    """The reason why a pair could not be labelled: its row has this and `metadata` alone."""


class LabelledMetadata(PairMetadata, total=False):
    """That of the label row, and who labelled it."""

    labeler: str


class PreferencePair(TypedDict):
    """What DPO learns from (preferences/{pool}_train.jsonl, {pool}_val.jsonl)."""

    prompt: str
    chosen: str
    rejected: str
    metadata: LabelledMetadata


class ReplyMetadata(SampledMetadata, total=False):
    """Which prompt it is, what sampled the reply (unless a person wrote it), its tokens, and what ended it."""

    finish_reason: str
    tokens: int
    """The end-of-text token counts too."""
    reasoning: int
    """As of `SampledResponse`."""


class ReplyRow(TypedDict):
    """A player's reply to a prompt of the final evaluation (evaluation/responses/*.jsonl)."""

    prompt: str
    response: str
    metadata: ReplyMetadata


class VerdictRow(TypedDict):
    """A judge's verdict on two players' replies to a prompt (evaluation/verdicts/*.jsonl)."""

    prompt_id: str
    conversation_id: str
    player_1: str
    player_2: str
    verdict: NotRequired[Verdict]
    """"1" is for player_1."""
    answers: NotRequired[list[Verdict]]
    """In both orders, of the players as they are numbered here."""
    excluded: NotRequired[str]
    """What kept the judge from answering: then there is no verdict."""


class SimilarityRow(TypedDict):
    """How near in meaning a player's reply is to the human one (evaluation/similarities/*.jsonl)."""

    prompt_id: str
    conversation_id: str
    similarity: float
    """The cosine of their sentence embeddings."""


class KlRow(TypedDict):
    """How far a dpo model is from its parent on a reply of its own (evaluation/kl/*.jsonl)."""

    prompt_id: str
    conversation_id: str
    tokens: int
    """Of the reply; the end-of-text token counts where the model ended it."""
    kl: float
    """The sum over the tokens of the exact KL divergence from the parent, in nats."""
    log_ratio: float
    """The log-probability of the reply less that under the parent, in nats."""


class ReadingRow(TypedDict):
    """What a language model reads of a reply's honesty, by its rubric (evaluation/readings/*.jsonl)."""

    prompt_id: str
    conversation_id: str
    reason: str
    unsupported_claims: bool
    invented_experience: bool
    manipulation: bool
    disrespect: bool
    excluded: NotRequired[str]
    """What kept the model from answering: such a row has this, `prompt_id` and `conversation_id` alone."""


class HistoryRow(TypedDict):
    """What a trainer logged at a step (models/*/history.jsonl): also speed, memory, and what its method measures."""

    step: int
    """Updates so far."""
    loss: NotRequired[float]
    """The mean since the last row that has it: over tokens of responses, or over pairs."""
    eval_loss: NotRequired[float]
    """On the validation rows."""


Row = TypeVar("Row")
CHECKED_METADATA = (SftMetadata, DeltaPairMetadata, PoolMetadata)
"""Metadata whose keys `read_rows` checks; of later rows a part is enough, as people's replies and labels have it."""
LEFT_IF_EXCLUDED = {LabelRow: {"metadata"}, ReadingRow: {"prompt_id", "conversation_id"}}
"""The keys that a row of these kinds needs where it is `excluded`; a row of another kind needs them all."""


def read_rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    """Yield the rows of a JSON-lines file.

    Raises:
        UserError: the file is no JSON lines, a row lacks a key of its kind or of its metadata, or has something else than
            text where its kind has text; with file and line. A label row or a reading that is `excluded` may lack those
            of a label or a reading (LEFT_IF_EXCLUDED).
    """
    expected = kind.__required_keys__
    metadata = kind.__annotations__.get("metadata")
    inner = metadata.__required_keys__ if metadata in CHECKED_METADATA else frozenset()
    texts = [key for key in expected if kind.__annotations__[key] is str]
    inner_texts = [key for key in inner if metadata.__annotations__[key] is str]
    for number, row in read_numbered(path):
        missing = expected - row.keys()
        if "excluded" in row:
            missing &= LEFT_IF_EXCLUDED.get(kind, expected)
        if not missing and inner:
            keys = row["metadata"].keys() if isinstance(row["metadata"], dict) else set()
            missing = {f"metadata.{key}" for key in inner - keys}
        if missing:
            raise UserError(
                f"{path}, line {number}: the key {min(missing)!r} is missing from a {kind.__name__}"
            )
        wrong = [key for key in texts if key in row and not isinstance(row[key], str)]
        wrong += [f"metadata.{k}" for k in inner_texts if not isinstance(row["metadata"][k], str)]
        if wrong:
            raise UserError(f"{path}, line {number}: {wrong[0]!r} of a {kind.__name__} is no text")
        yield row
