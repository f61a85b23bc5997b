"""Makes SFT rows within the token budget from contexts and responses, for both sources of examples."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from persuasion_rl.data.contexts import Context, Turn, fit_contexts
from persuasion_rl.files import UserError
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.records import SftRow, Source
from persuasion_rl.runtime.command import note
from persuasion_rl.study.plan_checks import positions_of

BATCH = 1024
"""Responses a batch: the tokenizer spreads a batch over the cores."""

Counts = defaultdict[str, Counter]
"""Numbers of conversations, comments and texts by what became of them, in groups ("read", "won", "lost", ...)."""


def note_counts(counts: Counts) -> None:
    """Print the counts, a line a group."""
    for group, numbers in counts.items():
        note(f"{group}: " + ", ".join(f"{name} {count:,}" for name, count in numbers.items()))


class CleanTexts(dict):
    """Raw text -> cleaned text. A text is cleaned and counted once, though a post is in many contexts."""

    def __init__(self, clean: Callable[[str, Counter], str], counts: Counter):
        super().__init__()
        self._clean, self._counts = clean, counts

    def __missing__(self, raw: str) -> str:
        self[raw] = self._clean(raw, self._counts)
        return self[raw]


@dataclass
class Budget:
    """Limits of an example in tokens of the base model, and the format of its prompt ("plain" or "chat").

    `min_tokens` and `max_tokens` limit the response with its end-of-text token, `max_seq_length` prompt and response
    together. `max_prompt_tokens` is the longest prompt that leaves room for every reply, sampled ones included, by the
    study's plan (`study.plan_checks.longest_prompt`).
    """

    min_tokens: int
    max_tokens: int
    max_context_tokens: int
    max_seq_length: int
    prompt_format: str = "plain"
    max_prompt_tokens: int | None = None


@dataclass
class Draft:
    """A response and the turns it follows, before they are rendered and counted."""

    turns: list[Turn]
    response: str
    metadata: dict


class RowMaker:
    """Renders drafts and counts their tokens, in batches, with the base model's tokenizer and chat template.

    Args:
        tokenizer: a tokenizer.json; the tokenizer's configuration and chat template lie beside it.

    Raises:
        UserError: a prompt of the longest context would leave too little room for replies.
    """

    def __init__(self, source: Source, tokenizer: Path, budget: Budget):
        self.source = source
        self.tokenizer = TextTokenizer(tokenizer, budget.prompt_format)
        self.budget = budget
        self._frame = self.tokenizer.frame_tokens(source)
        longest, room = self._frame + budget.max_context_tokens, budget.max_prompt_tokens
        if room is not None and longest > room:
            raise UserError(
                f"data.max_context_tokens: {budget.max_context_tokens} make prompts of up to {longest} tokens (frame:"
                f" {self._frame}), and only {room} leave room for every reply; write at most {room - self._frame}"
            )
        positions = positions_of(self.tokenizer.folder)
        if positions is not None and budget.max_seq_length > positions:
            raise UserError(
                f"data.max_seq_length: {budget.max_seq_length} tokens are more than the {positions} positions of the model"
                f" in {self.tokenizer.folder}; lower it, or take a model with more"
            )

    def rows(self, drafts: list[Draft]) -> list[SftRow | str]:
        """For each draft its SFT row, or the reason why there is none.

        The context does not depend on the response: if the two do not fit together, the row is left out.
        """
        contexts = fit_contexts(
            [draft.turns for draft in drafts],
            self.tokenizer,
            self.source,
            self.budget.max_context_tokens,
        )
        response_tokens = self.tokenizer.response_counts([draft.response for draft in drafts])
        return [self._row(*parts) for parts in zip(drafts, contexts, response_tokens, strict=True)]

    def _row(self, draft: Draft, context: Context | None, response_tokens: int) -> SftRow | str:
        budget = self.budget
        if context is None:
            return "answered_comment_too_long"
        if response_tokens < budget.min_tokens:
            return "response_too_short"
        if response_tokens > budget.max_tokens:
            return "response_too_long"
        if self._frame + context.tokens + response_tokens > budget.max_seq_length:
            return "over_max_seq_length"
        prompt = self.tokenizer.format.render(context.text, self.source)
        return {
            "input_text": prompt,
            "full_text": prompt + draft.response,
            "response": draft.response,
            "metadata": {
                "source": self.source,
                **draft.metadata,
                "response_tokens": response_tokens,
                "context_tokens": context.tokens,
                "context_cut": context.cut,
            },
        }
