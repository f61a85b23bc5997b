"""The flags of the judge `llm`. Every stage that judges has them, so nothing else is in this module."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationError

from persuasion_rl.files import UserError
from persuasion_rl.study.judging import Llm
from persuasion_rl.study.mistakes import message


@dataclass(frozen=True)
class LlmSettings:
    """The judge llm, a language model behind an API: the section `llm` of the configuration, which describes each key.

    Raises:
        UserError: a value that the configuration does not allow.
    """

    PREFIX: ClassVar[str] = "llm_"

    # These decide the answer.
    provider: str = "openai"
    model: str | None = None
    rubric: Path = Path("resources/rubrics/persuasiveness.md")
    max_tokens: int = 300
    temperature: int | float | None = 0
    # These decide how to ask for it.
    base_url: str | None = None
    timeout_s: float = 120
    retries: int = 5
    concurrency: int = 8
    requests_per_minute: int | None = None
    max_requests: int | None = None
    max_cost_usd: float | None = None
    prices: dict[str, float] | None = None
    batch: bool = False
    cache: Path = Path("llm.sqlite")

    def __post_init__(self):
        checked_values = {
            name: value for name, value in vars(self).items() if name not in ("rubric", "cache")
        }
        try:
            Llm.model_validate(checked_values)
        except ValidationError as error:
            mistake = message(error, root=Llm).removesuffix(" or null")  # flags cannot be null
            raise UserError(f"judge llm: --{self.PREFIX}{mistake}") from None
        if self.max_cost_usd is not None and self.prices is None:
            raise UserError("judge llm: --llm_max_cost_usd needs --llm_prices")
