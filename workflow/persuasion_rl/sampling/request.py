"""What an engine gets and returns: limits, requests, samples."""

from dataclasses import dataclass

from persuasion_rl.prompts.reasoning import without_reasoning
from persuasion_rl.text import is_blank, readable

STOPPED, CUT = "stop", "length"
"""Finish reasons: the model ended its response, or the limit cut it."""
FILTERED, REFUSED, REJECTED = "content_filter", "refusal", "rejected"
"""Finish reasons of servers: a filter or the model withheld the response, or the server rejected the request. The text is
then empty."""
NO_REASON_GIVEN = "untold"
"""The finish reason where a server gives none."""


@dataclass(frozen=True)
class Limits:
    """Sampling limits of every pool and every evaluation."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Request:
    """A request for one sample. A prompt has samples 1, 2, ...; each may be attempted again."""

    prompt_id: str
    prompt: str
    sample_number: int
    attempt: int = 0


@dataclass(frozen=True)
class Sample:
    """A response to a prompt, as the model or the server gave it."""

    text: str
    tokens: int
    """Tokens with EOS, as the server counts them; else by the tokenizer, or for an endpoint words and punctuation. Those of
    reasoning count too."""
    finish_reason: str
    """STOPPED, or what else ended the response."""

    @property
    def reply(self) -> str:
        """The response as it is judged and shown: without the model's reasoning, odd characters (`text.readable`), and the white
        space around it; "" where that shows nothing."""
        reply = without_reasoning(readable(self.text)).strip()
        return "" if is_blank(reply) else reply

    @property
    def reasoning(self) -> int:
        """How many characters of reasoning `reply` leaves out."""
        text = readable(self.text).strip()
        return 0 if is_blank(text) else len(text) - len(self.reply)
