"""What every source of examples shares: from a context and a response to an SFT row, within the budget."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from persuasion_rl.prompts import TokenCounter, Turn, fit_context, read_chat_template, render

END_TOKENS = 1
"""The end-of-text token that closes a response counts towards its length."""


@dataclass
class Budget:
    """Limits in tokens of the base model; `max_seq_length` is that of prompt and response together."""

    min_tokens: int
    max_tokens: int
    max_context_tokens: int
    max_seq_length: int


class RowMaker:
    """Renders and counts; `counts` tells what was made, cut and left out, and why."""

    def __init__(
        self,
        source: str,
        tokenizer: Path,
        budget: Budget,
        prompt_format: str,
    ):
        self.source = source
        self.counter = TokenCounter(tokenizer)
        self.budget = budget
        self.prompt_format = prompt_format
        self.chat_template = (
            read_chat_template(tokenizer.parent) if prompt_format == "chat" else None
        )
        self.counts: Counter = Counter()

    def row(self, turns: list[Turn], response: str, metadata: dict) -> dict | None:
        """An SFT row, or None (counted) where the response is outside the limits."""
        context, cut = fit_context(turns, self.counter, self.budget.max_context_tokens)
        prompt = render(context, self.source, self.prompt_format, self.chat_template)
        context_tokens, prompt_tokens, response_tokens = self.counter.counts(
            [context, prompt, response]
        )
        response_tokens += END_TOKENS
        if why := self._over(prompt_tokens, response_tokens):
            self.counts[why] += 1
            return None
        self.counts["context_cut"] += cut
        return {
            "input_text": prompt,
            "full_text": prompt + response,
            "response": response,
            "metadata": {
                "source": self.source,
                **metadata,
                "response_tokens": response_tokens,
                "context_tokens": context_tokens,
            },
        }

    def _over(self, prompt_tokens: int, response_tokens: int) -> str | None:
        """Which limit a row would break, if any."""
        if response_tokens < self.budget.min_tokens:
            return "response_too_short"
        if response_tokens > self.budget.max_tokens:
            return "response_too_long"
        if prompt_tokens + response_tokens > self.budget.max_seq_length:
            return "over_max_seq_length"
        return None
