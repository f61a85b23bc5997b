"""The flags of the judge `llm`. Every stage that judges has them, so nothing else stands here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from persuasion_rl.files import UserError

PROVIDERS = ("openai", "anthropic")


@dataclass(frozen=True)
class LlmSettings:
    """The judge llm, a language model behind an API: the section `llm` of the configuration, which describes each key.

    Raises:
        UserError: a value that the configuration may not have.
    """

    PREFIX: ClassVar[str] = "llm_"

    # These decide the answer.
    provider: str = "openai"
    model: str | None = None
    rubric: Path = Path("resources/rubrics/persuasiveness.md")
    max_tokens: int = 300
    temperature: int | float | None = 0
    # These decide how it is asked for.
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
        for name, (allowed, check) in ALLOWED.items():
            value = getattr(self, name)
            if value is not None and not check(value):
                raise UserError(
                    f"judge llm: --{self.PREFIX}{name} must be {allowed}, not {value!r}"
                )
        if self.max_cost_usd is not None and self.prices is None:
            raise UserError("judge llm: --llm_max_cost_usd needs --llm_prices")


def _at_least(least: float) -> tuple[str, Callable[[Any], bool]]:
    return f"{least:g} or more", lambda value: value >= least


def _positive() -> tuple[str, Callable[[Any], bool]]:
    return "above 0", lambda value: value > 0


ALLOWED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "provider": (" or ".join(PROVIDERS), lambda value: value in PROVIDERS),
    "model": ("a name", bool),
    "base_url": (
        "an address as http://localhost:8000/v1",
        lambda value: value.startswith(("http://", "https://")),
    ),
    "max_tokens": _at_least(16),
    "temperature": ("from 0 to 2", lambda value: 0 <= value <= 2),
    "timeout_s": _positive(),
    "retries": _at_least(0),
    "concurrency": _at_least(1),
    "requests_per_minute": _at_least(1),
    "max_requests": _at_least(1),
    "max_cost_usd": _positive(),
    "prices": (
        "input=USD output=USD, for a million tokens",
        lambda value: value.keys() == {"input", "output"} and min(value.values()) >= 0,
    ),
}
"""What a setting may be, in words and as a test; None is for those to decide that may be None."""
