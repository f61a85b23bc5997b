"""Lets people talk to the study's models: two models reply to a claim, or one converses in the terminal."""

from functools import cached_property
from pathlib import Path
from random import SystemRandom
from secrets import token_hex
from threading import Lock
from typing import Any

from persuasion_rl.data.contexts import Turn, fit_contexts
from persuasion_rl.files import UserError
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.study.config import Config
from persuasion_rl.study.names import TRAINED_FILES
from persuasion_rl.study.recorded import recorded_base
from persuasion_rl.text import is_blank, readable

LONGEST_CLAIM = 4000
"""The most characters that a person may write."""
TITLE = 120
"""The most characters of a text's first line that become the claim."""


def claim_turns(text: str) -> list[Turn]:
    """The turns of a post that a person wrote; its first line is the claim.

    Raises:
        UserError: the text is empty, or longer than LONGEST_CLAIM.
    """
    text = text.strip()
    if is_blank(text) or len(text) > LONGEST_CLAIM:
        raise UserError(f"a view has 1 to {LONGEST_CLAIM:,} characters")
    title = text.splitlines()[0]
    title = title if len(title) <= TITLE else title[:TITLE].rsplit(" ", 1)[0] + " ..."
    return [Turn("Claim", title), Turn("Poster", text, is_post=True)]


class LoadedModels:
    """The models of a study whose weights exist. Each is loaded for its first reply; one replies at a time.

    Args:
        folder: results/{study}.
        config: the recorded configuration of the study.
    """

    def __init__(self, folder: Path, config: Config):
        self.folder, self.config = folder, config
        self._lock = Lock()
        self._engines: dict[str, Any] = {}

    @cached_property
    def _base(self) -> Path:
        return recorded_base(self.folder, self.config)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return TextTokenizer(self._base, self.config.data.prompt_format)

    def _adapters(self, model: str) -> list[Path]:
        names = self.config.lineage(model)
        return [self.folder / f"models/{name}/{TRAINED_FILES['adapter']}" for name in names]

    @property
    def names(self) -> list[str]:
        """Names of the models whose weights exist."""
        if not (self._base / "config.json").is_file():
            return []
        models = self.config.models
        return [name for name in models if all(path.is_file() for path in self._adapters(name))]

    def context(self, turns: list[Turn]) -> str:
        """The context of a conversation, cut in its middle to the length that the study's models learned from.

        Raises:
            UserError: the claim and the last message alone are too long.
        """
        limit = self.config.data.max_context_tokens
        (context,) = fit_contexts([turns], self._tokenizer, "cmv", limit)
        if context is None:
            raise UserError(f"that is over the {limit:,} tokens of a context: write less")
        return context.text

    def reply(self, model: str, context: str) -> str:
        """A new reply of a model, sampled with the settings of the pools."""
        prompt = self._tokenizer.format.render(context, "cmv")
        with self._lock:
            engine = self._engine(model)
            from persuasion_rl.sampling.request import Request

            ((_, sample),) = engine.sample([Request(token_hex(8), prompt, 1)])
        return sample.reply

    def _engine(self, model: str):
        if model not in self._engines:
            from persuasion_rl.models.devices import prepare_torch
            from persuasion_rl.sampling.engine import SamplingSettings
            from persuasion_rl.sampling.make import make_engine

            config, sampling = self.config, self.config.sampling
            prepare_torch(1, config.seed, config.device)
            served = sampling.engine == "openai"
            self._engines[model] = make_engine(
                SamplingSettings(
                    model=model,
                    base=self._base,
                    lineage=self._adapters(model),
                    engine="openai" if served else "transformers",
                    base_url=sampling.base_url,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_new_tokens=sampling.max_new_tokens,
                    seed=config.seed,
                    device=config.device,
                    trust_remote_code=config.trust_remote_code,
                    prompt_format=config.data.prompt_format,
                )
            )
        return self._engines[model]

    def battle(self, turns: list[Turn]) -> tuple[str, list[str], list[str], list[str]]:
        """A context, two random models (left and right), their replies to it, and their digests.

        Raises:
            UserError: there are fewer than two models.
        """
        context, names = self.context(turns), self.names
        if len(names) < 2:
            raise UserError("fewer than two models of this study are there: make them first")
        models = SystemRandom().sample(names, 2)
        replies = [self.reply(model, context) for model in models]
        return context, models, replies, [self._engines[model].model_digest for model in models]


def chat(models: LoadedModels, model: str) -> None:
    """Converse with a model in the terminal, until an empty line."""
    if model not in models.names:
        names = ", ".join(models.names) or "none yet"
        raise UserError(f"no model {model!r}; there are: {names}")
    print(
        "Say what you think and why; an empty line ends it. The model is made to persuade and may make things up."
    )
    turns: list[Turn] = []
    while text := _read_line():
        turns += claim_turns(text) if not turns else [Turn("Poster", text)]
        reply = models.reply(model, models.context(turns))
        print(f"\n{model}: {reply}\n", flush=True)
        turns.append(Turn("Persuader", reply))


def _read_line() -> str:
    """A line that somebody types; "" at the end of the input.

    Raises:
        UserError: there is no standard input.
    """
    try:
        return readable(input("you: ")).strip()
    except RuntimeError as error:
        raise UserError(f"chat needs a terminal, or text that is piped into it ({error})") from None
    except (EOFError, KeyboardInterrupt):
        return ""
