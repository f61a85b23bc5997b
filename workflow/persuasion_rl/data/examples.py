"""Makes SFT rows within the token budget from contexts and responses, for both sources of examples."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from persuasion_rl.data.prompts import (
    Context,
    TokenCounter,
    Turn,
    fit_contexts,
    read_chat_template,
    render,
)
from persuasion_rl.records import SftRow, Source
from persuasion_rl.runtime.command import note

END_TOKENS = 1
"""The end-of-text token that closes a response counts towards its length."""
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
    together.
    """

    min_tokens: int
    max_tokens: int
    max_context_tokens: int
    max_seq_length: int
    prompt_format: str = "plain"


@dataclass
class Draft:
    """A response and the turns it follows, before they are rendered and counted."""

    turns: list[Turn]
    response: str
    metadata: dict


class RowMaker:
    """Renders drafts and counts their tokens, in batches, with the base model's tokenizer and chat template.

    Args:
        tokenizer: a tokenizer.json; for the format "chat" the chat template must be beside it.
    """

    def __init__(self, source: Source, tokenizer: Path, budget: Budget):
        self.source = source
        self.counter = TokenCounter(tokenizer)
        self.budget = budget
        self.chat_template = (
            read_chat_template(tokenizer.parent) if budget.prompt_format == "chat" else None
        )

    def rows(self, drafts: list[Draft]) -> list[SftRow | str]:
        """For each draft its SFT row, or the reason why there is none.

        The context does not depend on the response: if the two do not fit together, the row is left out.
        """
        contexts = fit_contexts(
            [draft.turns for draft in drafts], self.counter, self.budget.max_context_tokens
        )
        prompts = [
            render(context.text, self.source, self.budget.prompt_format, self.chat_template)
            if context
            else ""
            for context in contexts
        ]
        prompt_tokens = self.counter.counts_of_lines(
            [
                self._parts(context, prompt)
                for context, prompt in zip(contexts, prompts, strict=True)
            ]
        )
        response_tokens = self.counter.counts([draft.response for draft in drafts])
        return [
            self._row(*parts)
            for parts in zip(drafts, contexts, prompts, prompt_tokens, response_tokens, strict=True)
        ]

    def _parts(self, context: Context | None, prompt: str) -> list[str]:
        """A prompt in parts that end with a line, so that parts of the context are not counted twice."""
        if context is None or self.chat_template is not None:
            return [prompt]
        before, _, after = prompt.partition(context.text + "\n")
        return [before, *context.parts, after]

    def _row(
        self,
        draft: Draft,
        context: Context | None,
        prompt: str,
        prompt_tokens: int,
        response_tokens: int,
    ) -> SftRow | str:
        budget = self.budget
        response_tokens += END_TOKENS
        if context is None:
            return "answered_comment_too_long"
        if response_tokens < budget.min_tokens:
            return "response_too_short"
        if response_tokens > budget.max_tokens:
            return "response_too_long"
        if prompt_tokens + response_tokens > budget.max_seq_length:
            return "over_max_seq_length"
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
