"""Judges: given a prompt and two responses, which is more persuasive?

A judge has an opinion of each comparison as shown: a verdict, an abstention, or the name of what kept it from
answering. A label asks in both orders: where the two verdicts disagree, it is a tie. Ties stay ties.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

FIRST, SECOND, TIE = "1", "2", "tie"
NONE = "none"
"""The verdict of who abstains."""
POINTS = {FIRST: 1.0, SECOND: 0.0, TIE: 0.5}
"""What a verdict is worth to the first of two."""


@dataclass(frozen=True)
class Comparison:
    prompt: str
    first: str
    second: str

    def swapped(self) -> "Comparison":
        return Comparison(self.prompt, self.second, self.first)


@dataclass(frozen=True)
class Opinion:
    """What a judge says of a comparison: "1", "2", "tie" or "none", with its reason where it gives one.

    Without a verdict, `failure` names what kept it from answering.
    """

    verdict: str | None
    reason: str | None = None
    failure: str | None = None

    def turned_round(self) -> "Opinion":
        """The same, told of the swapped comparison."""
        return replace(self, verdict={FIRST: SECOND, SECOND: FIRST}.get(self.verdict, self.verdict))


class Judged(NamedTuple):
    """A verdict and the two opinions that it comes from, told of the pair as given.

    The second one was formed of the swapped pair, and its reason speaks of that.
    """

    verdict: str | None
    opinions: list[Opinion]

    @property
    def failure(self) -> str | None:
        """Why there is no verdict, or None where there is one."""
        return next((o.failure for o in self.opinions if o.failure is not None), None)


class Judge(ABC):
    """A judge with a name, which labels carry."""

    name: str

    @abstractmethod
    def opinions(self, comparisons: list[Comparison]) -> list[Opinion]:
        """An opinion of each comparison, in their order."""


class ScoringJudge(Judge):
    """A judge of numbers, with a margin below which a preference is a tie. It never abstains or fails."""

    tie_margin: float = 0.0

    @abstractmethod
    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        """How much the first response is preferred, in [-1, 1]; negative where the second one is."""

    def opinions(self, comparisons: list[Comparison]) -> list[Opinion]:
        return [Opinion(self._verdict(preference)) for preference in self.prefer(comparisons)]

    def _verdict(self, preference: float) -> str:
        if abs(preference) <= self.tie_margin:
            return TIE
        return FIRST if preference > 0 else SECOND


def judge_both_orders(judge: Judge, comparisons: list[Comparison]) -> list[Judged]:
    """What a judge says of each pair, asked in both orders.

    Verdicts that disagree make a tie; an abstention in either order makes "none", and a failure no verdict.
    """
    found = judge.opinions(comparisons + [c.swapped() for c in comparisons])
    forward, backward = found[: len(comparisons)], found[len(comparisons) :]
    pairs = [[one, other.turned_round()] for one, other in zip(forward, backward, strict=True)]
    return [Judged(_agreed([o.verdict for o in opinions]), opinions) for opinions in pairs]


def _agreed(verdicts: list[str | None]) -> str | None:
    for stronger in (None, NONE):
        if stronger in verdicts:
            return stronger
    return verdicts[0] if len(set(verdicts)) == 1 else TIE
