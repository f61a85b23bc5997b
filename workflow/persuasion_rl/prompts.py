"""Renders prompts and fits them into their token budget.

A context is a claim, the post, and the chain of comments down to the one that is answered, a line each
with its speaker's role. When it is too long, tokens in the middle are cut: never the claim, never the
comment that is answered (of an answered post that is too long by itself, the middle goes).
"""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from persuasion_rl.files import UserError, read_json

SYSTEM = "You are a respectful assistant who tries to change people's minds with honest arguments."
TASKS = {
    "cmv": "Write the next message to the poster.",
    "p4g": "Write the persuader's next message.",
}
CUT = " [...] "


@dataclass
class Turn:
    """One message of a context, with its speaker's role ("Claim", "Poster", "Persuader", ...)."""

    role: str
    text: str

    def __str__(self) -> str:
        return f"{self.role}: {self.text}"


class TokenCounter:
    """Counts and cuts text by the base model's tokens, without importing transformers."""

    def __init__(self, tokenizer: Path):
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def counts(self, texts: list[str]) -> list[int]:
        """The number of tokens of each text, in one batch."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding) for encoding in encodings]

    def cut_middle(self, text: str, tokens: int) -> str:
        """The text with its middle replaced by " [...] " so that it has at most `tokens` tokens."""
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        if len(offsets) <= tokens:
            return text
        kept = tokens - self.counts([CUT])[0]
        while kept > 0:
            head = text[: offsets[(kept + 1) // 2 - 1][1]].rstrip()
            tail = text[offsets[len(offsets) - kept // 2][0] :].lstrip() if kept > 1 else ""
            shorter = head + CUT + tail
            # Tokens at the two seams can split differently: check, and try with a few fewer.
            if self.counts([shorter])[0] <= tokens:
                return shorter
            kept -= 2
        return ""


def fit_context(turns: list[Turn], counter: TokenCounter, max_tokens: int) -> tuple[str, bool]:
    """Join the turns to a context of at most `max_tokens` tokens; say whether anything was cut.

    `turns` are the claim first and the answered message last. Single newlines stand between turns.
    """
    whole = "\n".join(map(str, turns))
    if counter.counts([whole])[0] <= max_tokens:
        return whole, False
    first, last = str(turns[0]), str(turns[-1])
    middle = "\n".join(map(str, turns[1:-1]))
    room = max_tokens - counter.counts([first + "\n" + last])[0] - 2
    if middle and room > counter.counts([CUT])[0]:
        middle = counter.cut_middle(middle, room)
        return "\n".join((first, middle, last)), True
    if counter.counts([f"{first}\n{last}"])[0] <= max_tokens:
        return f"{first}\n{last}", True
    room = max_tokens - counter.counts([first])[0] - 2
    return "\n".join((first, counter.cut_middle(last, room))), True


def read_chat_template(base: Path) -> str:
    """The chat template of a model folder: a file of its own, or in the tokenizer's configuration."""
    if (base / "chat_template.jinja").is_file():
        return (base / "chat_template.jinja").read_text(encoding="utf-8")
    config = base / "tokenizer_config.json"
    template = read_json(config).get("chat_template") if config.is_file() else None
    if template is None:
        raise UserError(f"prompt_format: chat, but {base} has no chat template; use plain")
    return template


def render(context: str, source: str, prompt_format: str, chat_template: str | None = None) -> str:
    """The prompt for a context, up to where the response begins.

    Args:
        source: "cmv" or "p4g"; says what the task is.
        prompt_format: "plain", or "chat" for the tokenizer's own chat template.
        chat_template: the template's text, needed for "chat".
    """
    task = TASKS[source]
    if prompt_format == "plain":
        return f"[SYSTEM] {SYSTEM}\n[CONTEXT]\n{context}\n[TASK]\n{task}\n[RESPONSE]\n"
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{context}\n\n{task}"},
    ]
    rendered, _ = render_jinja_template(
        [messages], chat_template=chat_template, add_generation_prompt=True
    )
    return rendered[0]
