"""Fits contexts into their token budget.

A context is a claim, the post, and the chain of comments down to the answered one, a line each with the speaker's
role. If it is too long, its middle is cut, but neither the claim nor the answered comment. An answered post may lose
its middle, because its title, the claim, stays.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from persuasion_rl.prompts.tokens import TextTokenizer

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


class Context(NamedTuple):
    """A context that fits: its parts, each of which ends with a line, its length in tokens, and whether it was cut."""

    parts: list[str]
    tokens: int
    cut: bool

    @property
    def text(self) -> str:
        return "".join(self.parts)[:-1]


def fit_contexts(
    threads: list[list[Turn]], tokenizer: TextTokenizer, source: str, max_tokens: int
) -> list[Context | None]:
    """For each list of turns its context, which makes a prompt of `source` at most `max_tokens` tokens longer.

    The first turn is the claim, the last one the answered message; each is a line or more. The context is None if
    claim and answered comment alone are too long.
    """
    line = cache(lambda role, text: f"{role}: {text}\n")  # A post is a line of many contexts.
    line_lists = [[line(turn.role, turn.text) for turn in turns] for turns in threads]
    contexts: list[Context | None] = [
        Context(lines, tokens, False)
        for lines, tokens in zip(
            line_lists, tokenizer.context_counts(line_lists, source), strict=True
        )
    ]
    too_long = [number for number, context in enumerate(contexts) if context.tokens > max_tokens]
    cut = _cut([threads[number] for number in too_long], tokenizer, source, max_tokens)
    for number, context in zip(too_long, cut, strict=True):
        contexts[number] = context
    return contexts


def _cut(
    threads: list[list[Turn]], tokenizer: TextTokenizer, source: str, max_tokens: int
) -> list[Context | None]:
    """For each thread its context with as much of the turns that may be cut as fits, without their middle."""
    # The claim stays whole, and so does the answered message, unless it is the post.
    uncut_turns = [[turns[0]] if turns[-1].is_post else [turns[0], turns[-1]] for turns in threads]
    uncut_parts = [[f"{turn}\n" for turn in turns] for turns in uncut_turns]
    cuttable = [turns[1:] if turns[-1].is_post else turns[1:-1] for turns in threads]
    uncut_tokens = tokenizer.context_counts(uncut_parts, source)
    contexts: list[Context | None] = [
        Context(parts, tokens, True) if tokens <= max_tokens and not turns[-1].is_post else None
        for parts, tokens, turns in zip(uncut_parts, uncut_tokens, threads, strict=True)
    ]
    lines = _encoded(cuttable, tokenizer, max_tokens // 2 + 1)
    room = {
        number: min(max_tokens - tokens - SEAM_TOKENS, sum(t.tokens for t in lines[number]) - 1)
        for number, tokens in enumerate(uncut_tokens)
        if tokens <= max_tokens
    }
    # Tokens split differently at the seams: count the result, and try fewer if it does not fit.
    while room := {number: tokens for number, tokens in room.items() if tokens > 1}:
        shorter = {
            number: [
                uncut_parts[number][0],
                _without_middle(lines[number], tokens),
                *uncut_parts[number][1:],
            ]
            for number, tokens in room.items()
        }
        counts = tokenizer.context_counts(list(shorter.values()), source)
        lengths = dict(zip(shorter, counts, strict=True))
        for number, length in lengths.items():
            if length <= max_tokens:
                contexts[number] = Context(shorter[number], length, True)
        room = {number: room[number] - 8 for number in room if lengths[number] > max_tokens}
    return contexts


class _Line(NamedTuple):
    """A turn that may be cut: the number of its line's tokens; where, in its text, the first of them end and the last begin."""

    turn: Turn
    tokens: int
    ends: list[int]
    starts: list[int]


def _encoded(threads: list[list[Turn]], tokenizer: TextTokenizer, most: int) -> list[list[_Line]]:
    """The turns of threads as lines. Each turn is encoded once, whatever the number of threads that have it.

    Args:
        most: the tokens at each end of a line whose places are kept.
    """
    last_ones = {(turns[-1].role, turns[-1].text, "") for turns in threads if turns}
    others = {(turn.role, turn.text, "\n") for turns in threads for turn in turns[:-1]}
    keys = sorted(last_ones | others)
    lines = {}
    encodings = tokenizer.encode([f"{role}: {text}{end}" for role, text, end in keys])
    for (role, text, end), encoding in zip(keys, encodings, strict=True):
        places, before = encoding.offsets, len(f"{role}: ")
        lines[role, text, end] = _Line(
            Turn(role, text),
            len(places),
            [max(0, stop - before) for _, stop in places[:most]],
            [max(0, start - before) for start, _ in places[-most:]],
        )
    return [
        [
            lines[turn.role, turn.text, "\n" if number < len(turns) else ""]
            for number, turn in enumerate(turns, 1)
        ]
        for turns in threads
    ]


def _without_middle(lines: list[_Line], tokens: int) -> str:
    """The lines with only `tokens` of their tokens, half from the head and half from the tail.

    Every remaining line keeps its speaker's role, also the one in which the tail begins.
    """
    turns = [line.turn for line in lines]
    first, number = _place((line.tokens for line in lines), (tokens + 1) // 2)
    head_end = lines[first].ends[number - 1]
    from_last, number = _place((line.tokens for line in reversed(lines)), tokens // 2)
    last = len(lines) - 1 - from_last
    tail_at = lines[last].starts[-number]
    head = turns[first].text[:head_end].rstrip()
    tail = turns[last].text[tail_at:].lstrip()
    shown = [str(turn) for turn in turns[:first]]
    shown += [f"{turns[first].role}: {head}"] if head else []
    if head and tail and first == last:
        shown[-1] += f" [...] {tail}"
    else:
        shown[-1:] = [f"{line} [...]" for line in shown[-1:]]
        uncut_tail = shown and tail == turns[last].text
        shown += (
            [str(turns[last]) if uncut_tail else f"{turns[last].role}: [...] {tail}"]
            if tail
            else []
        )
    return "".join(f"{line}\n" for line in [*shown, *turns[last + 1 :]])


def _place(counts: Iterable[int], number: int) -> tuple[int, int]:
    """In which of several lines, of these counts of tokens, the token of a number from 1 is, and its number there."""
    for place, count in enumerate(counts):
        if number <= count:
            return place, number
        number -= count
    raise ValueError("there are fewer tokens")


TURN = re.compile(r"^(Claim|Poster|Persuader|Persuadee|Other): ", re.MULTILINE)


def turns_of(context: str) -> list[Turn]:
    """The turns of a context, for people to read: every line that begins like a turn counts as one."""
    places = [match.start() for match in TURN.finditer(context)]
    if not places or places[0] > 0:
        return [Turn("", context)]
    parts = [context[a:b].rstrip("\n") for a, b in zip(places, [*places[1:], None], strict=True)]
    return [Turn(*part.split(": ", 1)) for part in parts]
