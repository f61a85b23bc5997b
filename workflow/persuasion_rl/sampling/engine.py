"""The interface of engines, which sample responses from a model, and the settings that they share."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType

from persuasion_rl.files import UserError, text_digest
from persuasion_rl.models.lineage import check_lineage
from persuasion_rl.prompts.reasoning import is_mark
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.runtime.progress import Progress
from persuasion_rl.sampling.request import CUT, STOPPED, Limits, Request, Sample


@dataclass(frozen=True)
class SamplingSettings:
    """The model, how it samples, and the engine that runs it.

    Attributes:
        model: the model's name in the study, under which the server of the engine openai serves it; for an endpoint,
            the name that the endpoint has for it.
        base: the folder of the base model; None for an endpoint.
        lineage: adapter files, from the first one above the base to the model's own.
        engine: a key of `study.names.ENGINE_MODULES`.
        prompt_format: "plain" or "chat", the form that the prompts are in.
        base_url: the address of the server of the engines openai and endpoint.
        batch_size: requests at a time; affects the speed only.
        threads: CPU threads of torch.
    """

    model: str
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    base: Path | None = None
    lineage: list[Path] = field(default_factory=list)
    prompt_format: str = "plain"
    engine: str = "transformers"
    base_url: str | None = None
    batch_size: int = 64
    device: str = "auto"
    trust_remote_code: bool = False
    threads: int = 1

    @property
    def limits(self) -> Limits:
        return Limits(self.temperature, self.top_p, self.max_new_tokens)


class Engine(ABC):
    """Samples responses from one model, which is loaded for the first sample.

    Raises:
        UserError: files of the model are missing, or its adapters do not belong together.

    Attributes:
        progress: an engine counts its tokens, `SampleStore` its samples.
    """

    def __init__(self, settings: SamplingSettings):
        self.settings = settings
        self.progress = Progress("sampling", unit="samples")
        self.model_digest = text_digest(self._identity())

    def _identity(self) -> str:
        """What identifies the model: the digest of its last adapter, or of the base model."""
        if self.settings.base is None:
            raise UserError(f"engine {self.name}: needs the folder of a base model (--base)")
        return check_lineage(self.settings.base, self.settings.lineage)

    @property
    def name(self) -> str:
        return self.settings.engine

    @abstractmethod
    def sample(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        """Yield each request with its sample, in any order, as soon as the sample is complete."""

    @property
    def reproducible(self) -> bool:
        """Whether a sample is the same in every batch, shard and order, apart from numeric near-ties."""
        return False

    def _key(self, request: Request) -> tuple:
        """The key that decides the randomness of a sample."""
        return (
            self.settings.seed,
            self.model_digest,
            request.prompt_id,
            request.sample_number,
            request.attempt,
        )

    @cached_property
    def text_tokenizer(self) -> TextTokenizer:
        """What makes the ids of prompts, by the files of the base model."""
        return TextTokenizer(self.settings.base, self.settings.prompt_format)

    def _sample(self, text: str, tokens: int, finish_reason: str) -> Sample:
        """A finished sample, of an engine whose tokenizer is here.

        What it says can have more tokens when it is tokenized again, as training does. What is then over the limit counts as cut,
        or it would be too long for a row that was planned.
        """
        sample = Sample(text.strip(), tokens, finish_reason)
        if finish_reason == STOPPED:
            (count,) = self.text_tokenizer.response_counts([sample.reply])
            if count > self.settings.max_new_tokens:
                return replace(sample, finish_reason=CUT)
        return sample

    def _seed(self, request: Request) -> int:
        """A seed for an engine that has a random generator for each request."""
        return int(text_digest(*self._key(request)), 16) % 2**31


def text_of(ids: list[int], tokenizer) -> str:
    """The text of a response's tokens.

    Special tokens are left out, but for marks of reasoning: without them it would be taken for what the model says.

    Args:
        tokenizer: of transformers.
    """
    left_out = _left_out(tokenizer)
    return tokenizer.decode([id_ for id_ in ids if id_ not in left_out])


@cache
def _left_out(tokenizer) -> frozenset[int]:
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(id_ for id_, token in added if token.special and not is_mark(token.content))


def import_library(name: str, how_to_install: str) -> ModuleType:
    """Import the library of an engine.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"sampling.engine: the package {name} is not installed; {how_to_install}"
        ) from None
