"""Decides which pairs annotators get, and what their answers mean.

A pair is a prompt with two responses. One person answers it, or `several` people if it is in the share `overlap` of the
pairs. A share `repeats` of an annotator's pairs comes back once, later and with swapped sides, to see how far the
annotator agrees with themselves. Practice pairs come first and never count.
"""

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from persuasion_rl.files import UserError, keyed_number, text_digest
from persuasion_rl.judges.base import NONE, TIE
from persuasion_rl.text import is_blank, readable

LEFT, RIGHT, BOTH_BAD, SKIP, FLAG = "left", "right", "both_bad", "skip", "flag"
ANSWERS = (LEFT, RIGHT, TIE, BOTH_BAD, SKIP, FLAG)
FIRST_TIME, REPEAT, PRACTICE = "first", "repeat", "practice"
REPEATED_AFTER = 10
"""The number of answers of the same annotator between a pair and its repeat."""
LONGEST_NAME = 60
"""The most characters of an annotator's name."""
LONGEST_REASON = 2000
"""The most characters of a reason."""


def pair_id(row: dict[str, Any]) -> str:
    """The digest of a pair: of its prompt and both responses, so that other responses make another pair."""
    return text_digest(row["prompt"], row["response_1"], row["response_2"])


@dataclass(frozen=True)
class Answer:
    """An annotator's answer to a pair, as the pair was shown.

    `seconds` is from showing to answer by the wall clock, since another process may have shown the pair; where the clock was set
    back in between, it is not known.
    """

    annotator: str
    pair: str
    kind: str
    left_response: int
    answer: str
    confidence: int | None = None
    reason: str | None = None
    seconds: float | None = None
    answered_at: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.seconds, float | int) and self.seconds < 0:
            object.__setattr__(self, "seconds", None)


@dataclass(frozen=True)
class Showing:
    """A pair as it is shown to an annotator.

    Attributes:
        left_response: the response on the left, 1 or 2.
        number: the number that an answer refers to.
        left_to_do: the number of answers still to give, with this one and repeats, without practice.
    """

    annotator: str
    pair: str
    kind: str
    left_response: int
    number: int = 0
    left_to_do: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Plan:
    """The plan of which annotators get the pairs of a pool.

    Args:
        pairs, practice: digests of pairs.
        overlap, repeats: shares in [0, 1].
        several: the number of people who answer a pair of the overlap.
    """

    pairs: list[str]
    seed: int
    overlap: float = 0.2
    several: int = 2
    repeats: float = 0.05
    practice: tuple[str, ...] = ()

    @cached_property
    def in_order(self) -> list[tuple[str, int]]:
        """The pairs in the order in which they are shown, each with the number of people who should answer it."""
        shuffled = sorted(self.pairs, key=lambda pair: keyed_number("order", self.seed, pair))
        by_chance = sorted(self.pairs, key=lambda pair: keyed_number("overlap", self.seed, pair))
        # Rounded first, since .07 * 100 is a little more than 7 in floats.
        shared = set(by_chance[: math.ceil(round(self.overlap * len(self.pairs), 6))])
        return [(pair, self.several if pair in shared else 1) for pair in shuffled]

    def left(self, annotator: str, pair: str) -> int:
        """The response on the left, 1 or 2: random for each annotator and pair."""
        return 1 if keyed_number("left", self.seed, annotator, pair) < 0.5 else 2

    @cached_property
    def _repeated(self) -> dict[str, set[str]]:
        return {}

    def repeated(self, annotator: str) -> set[str]:
        """The pairs that an annotator gets again as repeats."""
        if annotator not in self._repeated:
            self._repeated[annotator] = {
                pair
                for pair in self.pairs
                if keyed_number("repeat", self.seed, annotator, pair) < self.repeats
            }
        return self._repeated[annotator]


def with_due_repeat(pairs: list[str]) -> list[str]:
    """Those of an annotator's answered pairs, given in their order, that are so far back that a repeat is due."""
    return pairs[: max(0, len(pairs) - REPEATED_AFTER)]


def judgment_of(answer: Answer) -> str | None:
    """The judgment in terms of the pair's row: "1", "2", "tie" or "both_bad"; None for a skip or a flag."""
    if answer.answer in (LEFT, RIGHT):
        return str(answer.left_response if answer.answer == LEFT else 3 - answer.left_response)
    return answer.answer if answer.answer in (TIE, BOTH_BAD) else None


def verdict_of(answer: Answer) -> str:
    """The verdict in a label row: "1", "2" or "tie"; "none" for both_bad, skip and flag."""
    judgment = judgment_of(answer)
    return NONE if judgment in (None, BOTH_BAD) else judgment


def votes_of(answers: Iterable[Answer]) -> list[Answer]:
    """The answers that labels are made of: judgments and flags at the first showing of a pair."""
    return [a for a in answers if a.kind == FIRST_TIME and a.answer != SKIP]


@dataclass(frozen=True)
class Tally:
    """Numbers of different pairs in a pool: all, judged by somebody (`answered`), left out as unsafe (`flagged`), and only
    skipped so far (`skipped`)."""

    pairs: int
    answered: int
    flagged: int
    skipped: int

    def needed(self, min_labels: int) -> int:
        """The number of verdicts that is enough: `min_labels`, or all unflagged pairs if they are fewer."""
        return min(min_labels, self.pairs - self.flagged)


def tally(pairs: Iterable[str], answers: Iterable[Answer]) -> Tally:
    """Count the pairs of a pool by their answers; repeats, practice and answers to other pairs do not count."""
    pool = set(pairs)
    counted = [a for a in answers if a.kind == FIRST_TIME and a.pair in pool]
    flagged = {a.pair for a in counted if a.answer == FLAG}
    answered = {a.pair for a in counted if judgment_of(a)} - flagged
    skipped = {a.pair for a in counted} - answered - flagged
    return Tally(len(pool), len(answered), len(flagged), len(skipped))


def check_answer(answer: Answer) -> None:
    """Refuse an invalid answer.

    Raises:
        UserError: an unknown answer, kind, side or confidence, or too long a name or reason.
    """
    if answer.answer not in ANSWERS:
        raise UserError(f"answer {answer.answer!r}; allowed: {', '.join(ANSWERS)}")
    if answer.kind not in (FIRST_TIME, REPEAT, PRACTICE) or answer.left_response not in (1, 2):
        raise UserError(
            f"a showing of kind {answer.kind!r} with response {answer.left_response!r} left"
        )
    check_name(answer.annotator)
    if answer.reason is not None and len(answer.reason) > LONGEST_REASON:
        raise UserError(f"a reason has {LONGEST_REASON:,} characters at most")
    if answer.confidence not in (None, 1, 2, 3):
        raise UserError(f"confidence {answer.confidence!r}; allowed: 1, 2, 3")


def clean_name(text: str) -> str:
    """A name as it is kept: one line of composed characters (NFC), without spaces around it or several in a row."""
    return " ".join(unicodedata.normalize("NFC", readable(text)).split())


def known_as(name: str, names: list[str]) -> str:
    """The spelling of a name among those that are there, where case and forms of a character make no difference; the name
    as it is kept where it is new."""

    def folded(spelling: str) -> str:
        return unicodedata.normalize("NFKC", clean_name(spelling)).casefold()

    cleaned = clean_name(name)
    if cleaned in names:
        return cleaned
    return next((known for known in names if folded(known) == folded(cleaned)), cleaned)


def check_name(name: str) -> None:
    """Refuse an invalid annotator's name: it must be one line of printable characters without spaces around it.

    Raises:
        UserError: the name is invalid; the message says what a name is.
    """
    if is_blank(name) or len(name) > LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise UserError(f"a name has 1 to {LONGEST_NAME} printable characters")
