"""The configuration of a study: every key with its type, its default, its limits and its purpose.

`loading.load_config` reads one. The editor's schema and the list in config/README.md are generated from this model.
"""

import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from persuasion_rl.files import UserError
from persuasion_rl.study.judging import Evaluation, Labels, Llm
from persuasion_rl.study.names import BASE
from persuasion_rl.study.recipes import Model, ModelName, Recipes, Standin
from persuasion_rl.study.section import (
    MOST_ROWS,
    Address,
    Count,
    FolderName,
    Integer,
    Natural,
    Positive,
    PositiveShare,
    Rows,
    Section,
    Seed,
    Threads,
    Unique,
    Whole,
    Word,
    check_text,
)

OR_DEFAULT = re.compile(r"\$\{(\w+):-([^{}]*)\}")
"""${NAME:-DEFAULT}, as shells have it: the default holds where the variable is unset or empty."""
MULTIPLIED = (
    "threads", "max_examples", "max_p4g_examples", "ai_pool_size", "human_pool_size", "final_eval_size",
)  # fmt: skip
"""The keys of `data` and `world` that `size_factor` multiplies."""


class Downloads(Section):
    timeout_s: Positive = Field(
        60, description="Seconds without data after which an attempt has failed."
    )
    retries: Natural = Field(3, description="Further attempts.")


class World(Section):
    threads: Whole = Field(ge=10, le=MOST_ROWS, description="Number of threads.")
    replies: Whole = Field(ge=2, le=1000, description="About how many persuaders reply to a post.")


class Split(Section):
    train: PositiveShare = Field(0.8, description="Share of the conversations on the train side.")
    val: PositiveShare = Field(0.1, description="Share of those on the validation side.")
    test: PositiveShare = Field(0.1, description="Share of those on the test side.")


def _zero_is_not_false(value: Any) -> Any:
    if type(value) in (int, float):
        raise PydanticCustomError("literal_error", "not allowed", {"expected": "'auto' or False"})
    return value


class Data(Section):
    use_cmv: bool = Field(True, description="Learn from ChangeMyView.")
    use_p4g: bool | None = Field(
        None,
        validate_default=True,
        description="Learn from PersuasionForGood; without it, only where use_cmv is false.",
    )
    cmv_corpora: Annotated[list[FolderName], Unique] = Field(
        ["winning-args-corpus", "subreddit-changemyview"],
        min_length=1,
        description="ConvoKit names of the ChangeMyView corpora; a comment in two of them counts once, in the first."
        " The delta judge learns from them too.",
    )
    p4g_corpus: FolderName = Field(
        "persuasionforgood-corpus", description="ConvoKit name of PersuasionForGood."
    )
    prompt_format: Literal["plain", "chat"] = Field(
        "plain", description="Tagged text, or the tokenizer's chat template."
    )
    min_tokens: Count = Field(
        20, description="Shortest human reply that is kept, in tokens of the base model."
    )
    max_tokens: Integer = Field(
        1024, ge=2, description="Longest human reply that is kept, in tokens of the base model."
    )
    max_context_tokens: Integer = Field(
        700, ge=16, description="Budget of the context; its middle is cut."
    )
    max_seq_length: Integer = Field(
        1024, ge=32, description="Budget of prompt and response together."
    )
    max_examples: Whole = Field(
        50000, ge=10, le=MOST_ROWS, description="Examples of all sides together."
    )
    max_p4g_examples: Rows | None = Field(
        None, description="Examples of PersuasionForGood at most."
    )
    p4g_donation_weighted: bool = Field(
        False,
        description="Pick the max_p4g_examples turns in proportion to what the persuadee donated.",
    )
    split: Split = Field(Split(), description="Shares of the sides; they add up to 1.")
    official_split: Annotated[Literal["auto", False], BeforeValidator(_zero_is_not_false)] = Field(
        "auto",
        description="Keep to a corpus' own hold-out (the `train` mark of winning-args-corpus) where its shares allow"
        " data.split.",
    )
    shingle_words: Count = Field(5, description="Words of a shingle, by which posts are compared.")
    near_duplicate: PositiveShare = Field(
        0.8,
        description="Jaccard similarity from which on two posts are near-duplicates and stand on one side.",
    )
    on_shortage: Literal["scale", "error"] = Field(
        "scale",
        description="Where the data is too small for the plan: shrink all parts in proportion, or stop.",
    )
    use_val_set: bool = Field(True, description="The AI pool takes the validation prompts too.")
    ai_pool_size: Rows | None = Field(
        None,
        description="Prompts of the AI-labelled pool; without it, all that the two other pools leave.",
    )
    human_pool_size: Rows = Field(300, description="Prompts of the human-labelled pool.")
    final_eval_size: Rows = Field(1700, description="Prompts of the final evaluation.")
    pool_source: Literal["cmv", "p4g"] | None = Field(
        None,
        validate_default=True,
        description="The source whose prompts the pools hold; without it cmv where that is used.",
    )

    @field_validator("use_p4g")
    @classmethod
    def _one_source_at_least(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        return not info.data.get("use_cmv") if value is None else value

    @field_validator("pool_source")
    @classmethod
    def _of_a_source_that_is_used(cls, value: str | None, info: ValidationInfo) -> str:
        return value or ("cmv" if info.data.get("use_cmv") else "p4g")


class Sampling(Section):
    temperature: Positive = Field(0.7, description="Temperature of the softmax.")
    top_p: PositiveShare = Field(0.9, description="Nucleus.")
    max_new_tokens: Count = Field(
        256, description="Longest reply that a model samples, in tokens; a longer one is cut."
    )
    engine: Literal["transformers", "vllm", "openai"] = Field(
        "transformers",
        description="What draws the samples: transformers (continuous batching on a GPU, padded batches on a CPU), vllm"
        " (an environment of its own, envs/vllm.yaml; not tried by us on a GPU), or openai, a server that speaks"
        " OpenAI's completions and knows the study's models by their names. Only transformers on a CPU promises that"
        " batches and shards leave a sample as it is.",
    )
    base_url: Address | None = Field(
        None,
        description="Address of the engine openai, as http://127.0.0.1:8000/v1; its key is in OPENAI_API_KEY, which a"
        " server on this machine may do without.",
    )
    batch_size: Count = Field(
        64,
        description="Samples at a time. It changes the speed only; on a GPU, or by another engine, a few samples may differ, too.",
    )
    redraws: Natural = Field(
        2, description="Further draws of an empty, cut or identical response of a pool."
    )


class ResponsePool(Section):
    responses_from: str = Field("sft", description="The model whose responses are compared.")
    responses: Whole = Field(
        2,
        ge=2,
        le=100,
        description="Responses a prompt; every pair of its usable ones is labelled, so that 4 make 6 pairs.",
    )
    shard_rows: Count = Field(
        1000, description="Prompts that one job answers; another number draws nothing again."
    )


class Pools(Section):
    ai: ResponsePool = Field(ResponsePool(), description="The pool that a judge labels.")
    human: ResponsePool = Field(ResponsePool(), description="The pool that people label.")

    def __getitem__(self, pool: str) -> ResponsePool:
        return dict(self.items())[pool]


class Wandb(Section):
    mode: Literal["off", "offline", "online"] = Field(
        "off", description="Whether trainings report to it; online without a key is offline."
    )
    project: Word = Field("persuasion-rl-cs230", description="Project to report to.")

    @field_validator("mode", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        """YAML reads a bare `off` as false."""
        return "off" if value is False else value


class Publish(Section):
    namespace: Annotated[str, Field(pattern="^[A-Za-z0-9._][A-Za-z0-9._-]*$")] | None = Field(
        None, description="User or organisation; a model becomes NAMESPACE/STUDY-MODEL."
    )
    private: bool = Field(True, description="Whether a new repository is private.")
    dataset: bool = Field(
        False,
        description="Whether the rows of the study go too (exported/dataset/), as NAMESPACE/STUDY-data. Texts of people are"
        " in them: see whether you may.",
    )


class Config(Section):
    """A study. Whether its parts fit each other is for `checks` to tell."""

    study: str = Field(
        pattern="^[A-Za-z0-9_][A-Za-z0-9_-]*$",
        max_length=100,
        description="The study's name; everything that it makes is under results/{study}/.",
    )
    seed: Seed = Field(1, description="Seed of splits, trainings and samples.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where models run. With cuda, a missing device stops the job."
    )
    threads: Threads | None = Field(
        None,
        description="CPU threads of each training, whatever --cores is; another number gives other last bits. null: those"
        " that the study began with, at first the machine's cores, at most 4. Sampling, measuring and judging take one"
        " thread a job, and run side by side.",
    )
    trust_remote_code: bool = Field(
        False, description="Whether a base model may bring its own code."
    )
    corpora_dir: str | None = Field(
        None,
        description="Folder that holds the corpora by their ConvoKit names; $VARIABLES and ~ are filled in, and"
        " ${NAME:-} where the variable may be unset. Without a folder they are downloaded to resources/corpora/.",
    )
    downloads: Downloads = Field(Downloads(), description="How corpora are downloaded.")
    world: World | None = Field(
        None,
        description="With it, the ChangeMyView corpus is a synthetic one, whose delta function is known.",
    )
    data: Data = Field(Data(), description="Which examples there are, and how they are divided.")
    size_factor: Positive = Field(
        1,
        le=MOST_ROWS,
        description="The same study at another size: multiplies world.threads and, in data, max_examples, max_p4g_examples"
        " and the pools' sizes. The config.yaml of the results has the products, and 1 here.",
    )
    standin: Standin = Field(
        Standin(),
        description="The stand-in base model (models.base.source: standin), with Qwen2's architecture.",
    )
    models: dict[ModelName, Model] = Field(
        description="The lineage. `base` has a source; every other model has a parent and a method, and a dpo model a"
        " pool. Each further line adds a variant."
    )
    recipes: Recipes = Field(
        Recipes(), description="How each method trains, in the trainers' own argument names."
    )
    sampling: Sampling = Field(Sampling(), description="How pools and evaluation sample.")
    pools: Pools = Field(Pools(), description="Preference pools.")
    labels: Labels = Field(Labels(), description="Who labels the pools.")
    llm: Llm = Field(
        Llm(),
        description="The judge `llm`, a language model behind an API. Its key comes from the environment"
        " (OPENAI_API_KEY or ANTHROPIC_API_KEY) and from nowhere else.",
    )
    evaluation: Evaluation = Field(Evaluation(), description="The comparison on held-out prompts.")
    wandb: Wandb = Field(
        Wandb(), description="Weights & Biases; the key comes from the environment."
    )
    publish: Publish = Field(
        Publish(),
        description="Where `snakemake publish --cores 1`, and nothing else, puts the models: the Hugging Face Hub; the"
        " token comes from HF_TOKEN or `hf auth login`.",
    )

    @field_validator("corpora_dir")
    @classmethod
    def _variables_filled_in(cls, value: str | None) -> str | None:
        if value is None:
            return None
        with_defaults = OR_DEFAULT.sub(lambda match: os.environ.get(match[1]) or match[2], value)
        if value and not with_defaults:
            return None
        expanded = os.path.expanduser(os.path.expandvars(with_defaults))
        if "$" in expanded:
            raise ValueError(
                f"the environment variable in {value!r} is not set; set it to the folder that holds the corpora, or"
                " pass --config corpora_dir=FOLDER"
            )
        if not expanded:
            raise ValueError("must not be empty; leave it out, and the corpora are downloaded")
        return check_text(expanded)

    def at_its_size(self) -> "Config":
        """The study with the products of `size_factor` and the numbers that it multiplies, rounded, and with the factor 1.

        Raises:
            UserError: a product is no allowed number.
        """
        sections = {"data": self.data, "world": self.world} if self.world else {"data": self.data}
        for name, section in sections.items():
            products = {
                key: round(number * self.size_factor)
                for key in MULTIPLIED
                if (number := getattr(section, key, None)) is not None
            }
            try:
                sections[name] = type(section).model_validate(section.resolved() | products)
            except ValidationError as error:
                key, product = error.errors()[0]["loc"][0], error.errors()[0]["input"]
                raise UserError(
                    f"size_factor: {self.size_factor}: {name}.{key} would be {product:,}, which is not allowed"
                ) from None
        return self.model_copy(update={**sections, "size_factor": 1})

    def lineage(self, model: str) -> Iterator[str]:
        """The trained models from the first one above the base down to `model` itself."""
        if model != BASE:
            yield from self.lineage(self.models[model].parent)
            yield model

    def recipe_of(self, model: str) -> dict[str, Any]:
        """The settings of a model's training: those of its method, with its own changes."""
        trained = self.models[model]
        changes = trained.recipe.settings() if trained.recipe else {}
        return self.recipes[trained.method].settings() | changes

    def pools_behind(self, model: str) -> set[str]:
        """The pools that a model's lineage learns from, and those that made their responses."""
        pools: set[str] = set()
        waiting = [model]
        while waiting:
            for name in self.lineage(waiting.pop()):
                pool = self.models[name].pool
                if pool is not None and pool not in pools:
                    pools.add(pool)
                    waiting.append(self.pools[pool].responses_from)
        return pools
