"""Who labels and who compares, as keys of the configuration: labels, the language model that judges, the evaluation."""

import os
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator

from persuasion_rl.study.section import (
    ONE_SPELLING,
    Address,
    Count,
    HalfShare,
    Integer,
    Natural,
    NonNegative,
    Positive,
    Section,
    Share,
    Unique,
    Whole,
    Word,
    check_name,
    optional,
)

JudgeName = Literal["truth", "delta", "length", "interplay", "llm"]


def _player_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{name!r} is no name of a player: letters, digits, _, - and .")
    return check_name(name)


PlayerName = Annotated[
    str,
    AfterValidator(_player_name),
    WithJsonSchema({"type": "string", "pattern": r"^\w[\w.-]{0,59}$"}),
]
"""It names files, and stands in comparisons beside a colon."""


class AiLabels(Section):
    judge: JudgeName = Field("delta", description="The judge that labels.")
    noise: HalfShare = Field(
        0,
        description="Share of decided verdicts that are flipped; simulates a fallible judge.",
    )


class HumanLabels(Section):
    source: Literal["people", "simulated"] = Field(
        "people", description="People's answers, or simulated annotators."
    )
    min_labels: Count = Field(
        200, description="Fewer pairs with a verdict than these stop the human branch."
    )
    overlap: Annotated[float, Field(ge=0.2, le=1), ONE_SPELLING] = Field(
        0.2, description="Share of pairs that several annotators answer, to see how far they agree."
    )
    several: Whole = Field(2, ge=2, le=1000, description="Annotators of such a pair.")
    repeats: Share = Field(
        0.05,
        description="Share of an annotator's pairs that come back once, sides changed, to see whether they say the same.",
    )
    judge: Literal["truth", "delta", "length", "interplay"] = Field(
        "delta", description="The judge whose preferences simulated annotators have, with noise."
    )
    annotators: Whole = Field(3, ge=1, le=1000, description="Simulated annotators.")
    noise: NonNegative = Field(
        0.2,
        description="Standard deviation of an annotator's noise, on preferences in [-1, 1].",
    )
    tie_margin: Share = Field(
        0.1, description="A preference nearer to 0 than this is a tie to a simulated annotator."
    )


class Labels(Section):
    val_fraction: Annotated[float, Field(gt=0, le=0.5), ONE_SPELLING] = Field(
        0.1, description="Share of the conversations whose pairs validate."
    )
    ai: AiLabels = Field(AiLabels(), description="The AI labels.")
    human: HumanLabels = Field(HumanLabels(), description="The human labels.")


class Prices(Section):
    input: NonNegative = Field(description="USD per million input tokens.")
    output: NonNegative = Field(description="USD per million output tokens.")


class Llm(Section):
    provider: Literal["openai", "anthropic"] = Field(
        "openai", description="Whose interface it has."
    )
    model: Word | None = Field(
        None, description="The model, in the provider's words; the judge needs it."
    )
    base_url: Address | None = Field(
        None,
        description="Address of a compatible server, with its path (http://localhost:8000/v1); without it the"
        " provider's own. On this machine it needs no key.",
    )
    rubric: Word = Field(
        "resources/rubrics/persuasiveness.md",
        description="What the model judges by; a changed text makes labels stale and is asked anew.",
    )
    honesty_rubric: Word = Field(
        "resources/rubrics/honesty.md",
        description="What it reads the players' replies by for honesty, where it evaluates.",
    )
    max_tokens: Integer = Field(300, ge=16, description="Longest answer of the judge, in tokens.")
    temperature: Annotated[float, Field(ge=0, le=2), ONE_SPELLING] | None = Field(
        0,
        description="Sampling temperature; null leaves it out, for models that take none.",
    )
    timeout_s: Positive = Field(
        120, description="Seconds without data after which a request has failed."
    )
    retries: Natural = Field(
        5, description="Further attempts of a request that failed or whose answer is no verdict."
    )
    concurrency: Count = Field(8, description="Requests at a time.")
    requests_per_minute: Count | None = Field(None, description="Requests a minute at most.")
    max_requests: Count | None = Field(
        None,
        description="Answered requests of the study at most, all jobs and reruns together.",
    )
    max_cost_usd: Positive | None = Field(
        None,
        description="What the study may spend in USD, all jobs and reruns together; needs prices.",
    )
    prices: Prices | None = Field(
        None,
        description="What the model costs in USD for a million tokens, without the discount of a batch.",
    )
    batch: bool = Field(
        False,
        description="Ask through the provider's batch interface: half the price, an answer within a day.",
    )


class OtherPlayer(Section):
    model: str = optional(
        "A model of the study that is asked otherwise: in another format, or for a length."
    )
    source: Word = optional("Another model, named as `models.base.source` names one.")
    revision: Word = Field("main", description="Revision of the source.")
    endpoint: Address = optional(
        "Address of a server that speaks OpenAI's chat completions, as https://api.openai.com/v1; its key is in"
        " OPENAI_API_KEY."
    )
    served_model: Word = optional("The model's name at the endpoint.")
    prompt_format: Literal["plain", "chat"] = Field(
        "chat",
        description="How the player is asked: as the study's rows, or by its own chat template. An endpoint always gets"
        " a conversation.",
    )
    match_length: bool = Field(
        False,
        description="Ask for as many words as the human reply has, in tens: a control of length.",
    )


class Evaluation(Section):
    players: Annotated[list[str], Unique] = Field(
        ["base", "sft", "rlaif", "rlhf", "rlaif_rlhf", "human"],
        min_length=2,
        description="Models that are compared, and `human`, the human winning reply.",
    )
    other_players: dict[PlayerName, OtherPlayer] = Field(
        {},
        description="Players that are no model of the lineage, by their names. Each has one of model, source and"
        " endpoint.",
    )
    comparisons: Annotated[list[Annotated[str, Field(pattern="^[^:]+:[^:]+$")]], Unique] | None = (
        Field(
            None,
            min_length=1,
            description="The comparisons (PLAYER:AGAINST) whose p-values are corrected together; null for every model"
            " with each one that it comes from.",
        )
    )
    judges: Annotated[list[JudgeName], Unique] = Field(
        ["delta", "interplay", "length"],
        min_length=2,
        description="Judges of the pairwise comparison, two or more: at least one of them labels nothing that a model"
        " learns from.",
    )
    bootstrap: Whole = Field(2000, ge=100, le=1_000_000, description="Bootstrap draws.")
    embedding_model: Word | None = Field(
        None,
        description="Folder, Hub name or package (`pypi:NAME==VERSION`) of a model of sentence-transformers, by which replies"
        " are compared with the human ones; without it their similarity is not measured.",
    )
    num_samples: Count = Field(
        10,
        description="Prompts of a look at one model alone (`snakemake results/STUDY/look/MODEL.md --cores 2`).",
    )
    sample_replies: Count = Field(
        5, description="Prompts whose replies the report shows side by side."
    )

    @field_validator("embedding_model")
    @classmethod
    def _home_filled_in(cls, value: str | None) -> str | None:
        return value and os.path.expanduser(value)
