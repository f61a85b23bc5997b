"""Judges: given a prompt and two responses, which is more persuasive?

A judge gives a judgment of each comparison as shown: a verdict, an abstention, or the name of a failure. For a label it
is asked in both orders: two verdicts that disagree make a tie, and ties stay ties.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

FIRST, SECOND, TIE = "1", "2", "tie"
NONE = "none"
"""The verdict of a judge that abstains."""
POINTS = {FIRST: 1.0, SECOND: 0.0, TIE: 0.5}
"""Points of the first response for each verdict."""
OPPOSITE = {FIRST: SECOND, SECOND: FIRST, TIE: TIE, NONE: NONE}
"""The verdict on a comparison after its two responses are swapped."""


@dataclass(frozen=True)
class Comparison:
    """A prompt and two responses to it, in the order in which a judge sees them."""

    prompt: str
    first: str
    second: str

    def swapped(self) -> "Comparison":
        """The comparison with its responses in the other order."""
        return Comparison(self.prompt, self.second, self.first)


@dataclass(frozen=True)
class Judgment:
    """A judge's answer to a comparison: "1", "2", "tie" or "none", with its reason if it gives one.

    Without a verdict, `failure` names the reason.
    """

    verdict: str | None
    reason: str | None = None
    failure: str | None = None

    def swapped(self) -> "Judgment":
        """This judgment in terms of the swapped comparison."""
        return replace(self, verdict=OPPOSITE.get(self.verdict))


class Judged(NamedTuple):
    """The verdict on a pair, and the two judgments behind it, both in terms of the pair as given.

    For the second judgment the judge saw the pair swapped, and its reason refers to that order.
    """

    verdict: str | None
    judgments: list[Judgment]

    @property
    def failure(self) -> str | None:
        """Why there is no verdict; None if there is one."""
        return next((j.failure for j in self.judgments if j.failure is not None), None)


class Judge(ABC):
    """A judge; labels carry its name."""

    name: str

    @abstractmethod
    def judge(self, comparisons: list[Comparison]) -> list[Judgment]:
        """A judgment of each comparison, in their order."""


class ScoringJudge(Judge):
    """A judge whose preferences are numbers; those within a margin are ties. It never abstains or fails."""

    tie_margin: float = 0.0

    @abstractmethod
    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        """How much the first response is preferred, in [-1, 1]; negative if the second one is."""

    def judge(self, comparisons: list[Comparison]) -> list[Judgment]:
        return [Judgment(self._verdict(preference)) for preference in self.prefer(comparisons)]

    def _verdict(self, preference: float) -> str:
        if abs(preference) <= self.tie_margin:
            return TIE
        return FIRST if preference > 0 else SECOND


def judge_both_orders(judge: Judge, comparisons: list[Comparison]) -> list[Judged]:
    """Ask a judge about each pair in both orders.

    Verdicts that disagree make a tie, an abstention in either order makes "none", and a failure leaves no verdict.
    """
    judgments = judge.judge(comparisons + [c.swapped() for c in comparisons])
    as_given, as_swapped = judgments[: len(comparisons)], judgments[len(comparisons) :]
    pairs = [[one, other.swapped()] for one, other in zip(as_given, as_swapped, strict=True)]
    return [Judged(_combined([j.verdict for j in pair]), pair) for pair in pairs]


def _combined(verdicts: list[str | None]) -> str | None:
    for stronger in (None, NONE):
        if stronger in verdicts:
            return stronger
    return verdicts[0] if len(set(verdicts)) == 1 else TIE
