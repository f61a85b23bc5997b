"""Renders prompts and fits them into their token budget.

A context is a claim, the post, and the chain of comments down to the answered one, a line each with the speaker's
role. If it is too long, its middle is cut, but neither the claim nor the answered comment. An answered post may lose
its middle, because its title, the claim, stays.
"""

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer

from persuasion_rl.files import UserError, read_json

SYSTEM = "You are a respectful assistant who tries to change people's minds with honest arguments."
TASKS = {
    "cmv": "Write the next message to the poster.",
    "p4g": "Write the persuader's next message.",
}
SEAM_TOKENS = 10
"""Room for the marks " [...] " of a cut, with the role of the next speaker."""


@dataclass
class Turn:
    """One message of a context, with its speaker's role ("Claim", "Poster", "Persuader", ...)."""

    role: str
    text: str
    is_post: bool = False

    def __str__(self) -> str:
        return f"{self.role}: {self.text}"


class TokenCounter:
    """Counts text in the base model's tokens, without importing transformers."""

    def __init__(self, tokenizer: Path):
        if not tokenizer.is_file():
            raise UserError(
                f"{tokenizer} does not exist; AutoTokenizer.from_pretrained(...).save_pretrained(...)"
                " writes one for any fast tokenizer"
            )
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.divides_at_lines = self._divides_at_lines()

    def counts(self, texts: list[str]) -> list[int]:
        """The number of tokens of each text, in one batch."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding) for encoding in encodings]

    def counts_of_lines(self, texts: list[list[str]]) -> list[int]:
        """The number of tokens of each text. Texts are lists of parts that end with a line.

        If the tokenizer never joins the end of a line with a letter or a bracket after it, that is the sum over the
        parts, and a part that many texts share is counted once.
        """
        if not self.divides_at_lines:
            return self.counts(["".join(parts) for parts in texts])
        parts = list(dict.fromkeys(chain.from_iterable(texts)))
        tokens = dict(zip(parts, self.counts(parts), strict=True))
        return [sum(map(tokens.__getitem__, text)) for text in texts]

    def encode(self, texts: list[str]) -> list[Encoding]:
        """The tokens of each text, with their positions in it."""
        return self._tokenizer.encode_batch(texts, add_special_tokens=False)

    def _divides_at_lines(self) -> bool:
        """Whether tokens end where lines do, tried on all kinds of characters."""
        ends = [
            "word\n",
            "1\n",
            "end.\n",
            "end. \n",
            "?!)\n",
            "\n",
            "\n\n",
            "\t\n",
            "…\n",
            "> *q*\n",
            "é\n",
            " \n",
        ]
        starts = ["Poster: a", "Other: b", "[TASK]\nc", "Persuadee: 1"]
        pairs = [(end, start) for end in ends for start in starts]
        joined = self.counts([end + start for end, start in pairs])
        apart = [sum(self.counts([end, start])) for end, start in pairs]
        return joined == apart


class Context(NamedTuple):
    """A context that fits: its parts, each of which ends with a line, its length in tokens, and whether it was cut."""

    parts: list[str]
    tokens: int
    cut: bool

    @property
    def text(self) -> str:
        return "".join(self.parts)[:-1]


def fit_contexts(
    threads: list[list[Turn]], counter: TokenCounter, max_tokens: int
) -> list[Context | None]:
    """For each list of turns its context of at most `max_tokens` tokens.

    The first turn is the claim, the last one the answered message; each is a line or more. The context is None if
    claim and answered comment alone are too long.
    """
    line_lists = [[f"{turn}\n" for turn in turns] for turns in threads]
    contexts: list[Context | None] = [
        Context(lines, tokens, False)
        for lines, tokens in zip(line_lists, counter.counts_of_lines(line_lists), strict=True)
    ]
    too_long = [number for number, context in enumerate(contexts) if context.tokens > max_tokens]
    cut = _cut([threads[number] for number in too_long], counter, max_tokens)
    for number, context in zip(too_long, cut, strict=True):
        contexts[number] = context
    return contexts


def _cut(threads: list[list[Turn]], counter: TokenCounter, max_tokens: int) -> list[Context | None]:
    """For each thread its context with as much of the turns that may be cut as fits, without their middle."""
    # The claim stays whole, and so does the answered message, unless it is the post.
    uncut_turns = [[turns[0]] if turns[-1].is_post else [turns[0], turns[-1]] for turns in threads]
    uncut_parts = [[f"{turn}\n" for turn in turns] for turns in uncut_turns]
    cuttable = [turns[1:] if turns[-1].is_post else turns[1:-1] for turns in threads]
    uncut_tokens = counter.counts_of_lines(uncut_parts)
    contexts: list[Context | None] = [
        Context(parts, tokens, True) if tokens <= max_tokens and not turns[-1].is_post else None
        for parts, tokens, turns in zip(uncut_parts, uncut_tokens, threads, strict=True)
    ]
    encodings = counter.encode(["\n".join(map(str, turns)) for turns in cuttable])
    room = {
        number: min(max_tokens - tokens - SEAM_TOKENS, len(encodings[number]) - 1)
        for number, tokens in enumerate(uncut_tokens)
        if tokens <= max_tokens
    }
    # Tokens split differently at the seams: count the result, and try fewer if it does not fit.
    while room := {number: tokens for number, tokens in room.items() if tokens > 1}:
        shorter = {
            number: [
                uncut_parts[number][0],
                _without_middle(cuttable[number], encodings[number], tokens),
                *uncut_parts[number][1:],
            ]
            for number, tokens in room.items()
        }
        lengths = dict(zip(shorter, counter.counts_of_lines(list(shorter.values())), strict=True))
        for number, length in lengths.items():
            if length <= max_tokens:
                contexts[number] = Context(shorter[number], length, True)
        room = {number: room[number] - 8 for number in room if lengths[number] > max_tokens}
    return contexts


def _without_middle(turns: list[Turn], encoding: Encoding, tokens: int) -> str:
    """The joined turns with only `tokens` of their tokens, half from the head and half from the tail.

    Every remaining line keeps its speaker's role, also the one in which the tail begins.
    """
    starts = [0, *accumulate(len(str(turn)) + 1 for turn in turns)]
    head_end = encoding.token_to_chars((tokens + 1) // 2 - 1)[1]
    tail_at = encoding.token_to_chars(len(encoding) - tokens // 2)[0]
    first, last = bisect_left(starts, head_end) - 1, bisect_right(starts, tail_at) - 1

    def place_in_text(number: int, place: int) -> int:
        return max(0, place - starts[number] - len(f"{turns[number].role}: "))

    head = turns[first].text[: place_in_text(first, head_end)].rstrip()
    tail = turns[last].text[place_in_text(last, tail_at) :].lstrip()
    lines = [str(turn) for turn in turns[:first]]
    lines += [f"{turns[first].role}: {head}"] if head else []
    if head and tail and first == last:
        lines[-1] += f" [...] {tail}"
    else:
        lines[-1:] = [f"{line} [...]" for line in lines[-1:]]
        uncut_tail = lines and tail == turns[last].text
        lines += (
            [str(turns[last]) if uncut_tail else f"{turns[last].role}: [...] {tail}"]
            if tail
            else []
        )
    return "".join(f"{line}\n" for line in [*lines, *turns[last + 1 :]])


def read_chat_template(base: Path) -> str:
    """The chat template of a model folder: its own file, or an entry of the tokenizer's configuration.

    Raises:
        UserError: it has none.
    """
    if (base / "chat_template.jinja").is_file():
        return (base / "chat_template.jinja").read_text(encoding="utf-8")
    config = base / "tokenizer_config.json"
    template = read_json(config).get("chat_template") if config.is_file() else None
    if template is None:
        raise UserError(f"prompt_format: chat, but {base} has no chat template; use plain")
    return template


def messages(context: str, source: str, words: int | None = None) -> list[dict[str, str]]:
    """A context and its task as the messages of a chat model: system and user. For `words` see `render`."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{context}\n\n{_task(source, words)}"},
    ]


def _task(source: str, words: int | None) -> str:
    return TASKS[source] + (f" Use about {words} words." if words else "")


def render(
    context: str,
    source: str,
    prompt_format: str,
    chat_template: str | None = None,
    words: int | None = None,
) -> str:
    """The prompt for a context, up to where the response begins.

    Args:
        source: "cmv" or "p4g"; decides the task.
        prompt_format: "plain", or "chat" for the tokenizer's own chat template.
        chat_template: the template's text, needed for "chat".
        words: the length to ask for, if any.
    """
    if prompt_format == "plain":
        task = _task(source, words)
        return f"[SYSTEM] {SYSTEM}\n[CONTEXT]\n{context}\n[TASK]\n{task}\n[RESPONSE]\n"
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        [messages(context, source, words)], chat_template=chat_template, add_generation_prompt=True
    )
    return rendered[0]


def context_of(
    prompt: str, source: str, prompt_format: str, chat_template: str | None = None
) -> str:
    """The context that a prompt was rendered for.

    Raises:
        UserError: the prompt was rendered in another way.
    """
    mark = "\x00"
    before, after = render(mark, source, prompt_format, chat_template).split(mark)
    if not (prompt.startswith(before) and prompt.endswith(after)):
        raise UserError(f"not a prompt of the format {prompt_format}: {prompt[:60]!r}...")
    return prompt.removeprefix(before).removesuffix(after)


TURN = re.compile(r"^(Claim|Poster|Persuader|Persuadee|Other): ", re.MULTILINE)


def turns_of(context: str) -> list[Turn]:
    """The turns of a context, for people to read: every line that begins like a turn counts as one."""
    places = [match.start() for match in TURN.finditer(context)]
    if not places or places[0] > 0:
        return [Turn("", context)]
    parts = [context[a:b].rstrip("\n") for a, b in zip(places, [*places[1:], None], strict=True)]
    return [Turn(*part.split(": ", 1)) for part in parts]
