"""Judges: given a prompt and two responses, which is more persuasive?

A judge says by how much it prefers the first response as shown (`prefer`). A verdict asks in both orders:
where the two answers disagree, it is a tie. Ties stay ties.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from persuasion_rl import world
from persuasion_rl.files import UserError

FIRST, SECOND, TIE = "1", "2", "tie"


@dataclass(frozen=True)
class Comparison:
    prompt: str
    first: str
    second: str

    def swapped(self) -> "Comparison":
        return Comparison(self.prompt, self.second, self.first)


class Judge(ABC):
    """A judge with a name and a margin below which a preference is a tie."""

    name: str
    tie_margin: float = 0.0

    @abstractmethod
    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        """How much the first response is preferred, in [-1, 1]; negative where the second one is."""


class TruthJudge(Judge):
    """The demo's own delta function: the difference of the two probabilities of a delta."""

    name = "truth"
    tie_margin = 0.02

    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        return [
            world.truth(c.prompt, c.first) - world.truth(c.prompt, c.second) for c in comparisons
        ]


class LengthJudge(Judge):
    """The baseline that real judges must beat: the response with more words wins."""

    name = "length"

    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        lengths = [(len(c.first.split()), len(c.second.split())) for c in comparisons]
        return [(first - second) / max(1, first + second) for first, second in lengths]


class DeltaJudge(Judge):
    """The workflow's reward model, trained on replies that won a delta and replies that did not.

    Its preference is 2 P(first wins) - 1 under the Bradley-Terry model of its two rewards.
    """

    name = "delta"
    tie_margin = 0.05

    def __init__(self, base: Path, adapter: Path, device: str, batch_size: int = 64):
        from persuasion_rl.reward import load_scorer

        self._score = load_scorer(base, adapter, device, batch_size)
        self._rewards: dict[tuple[str, str], float] = {}

    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        texts = {(c.prompt, response) for c in comparisons for response in (c.first, c.second)}
        new = sorted(texts - self._rewards.keys())
        self._rewards.update(zip(new, self._score(new), strict=True))
        return [
            math.tanh((self._rewards[c.prompt, c.first] - self._rewards[c.prompt, c.second]) / 2)
            for c in comparisons
        ]


def verdict(judge: Judge, preference: float) -> str:
    if abs(preference) <= judge.tie_margin:
        return TIE
    return FIRST if preference > 0 else SECOND


def judge_both_orders(judge: Judge, comparisons: list[Comparison]) -> list[tuple[str, list[str]]]:
    """Verdicts "1", "2" or "tie", each with the two answers it comes from.

    The second answer is given for the swapped pair and told in terms of the pair as given.
    """
    back = {FIRST: SECOND, SECOND: FIRST, TIE: TIE}
    answers = judge.prefer(comparisons + [c.swapped() for c in comparisons])
    outcome = []
    for forward, backward in zip(
        answers[: len(comparisons)], answers[len(comparisons) :], strict=True
    ):
        one, other = verdict(judge, forward), back[verdict(judge, backward)]
        outcome.append((one if one == other else TIE, [one, other]))
    return outcome


def make_judge(name: str, base: Path | None, delta_adapter: Path | None, device: str) -> Judge:
    """A judge by its name in the config; `base` and `delta_adapter` are for the delta judge."""
    if name == "truth":
        return TruthJudge()
    if name == "length":
        return LengthJudge()
    if name == "delta":
        if base is None or delta_adapter is None:
            raise UserError("judge delta needs --base and --delta_adapter")
        return DeltaJudge(base, delta_adapter, device)
    raise UserError(f"unknown judge {name!r}; there are truth, delta and length")
