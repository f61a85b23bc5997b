"""Judges: given a prompt and two responses, which is more persuasive?

A judge has an opinion of each comparison as shown: a verdict, an abstention, or the name of what kept it from
answering. A label asks in both orders: where the two verdicts disagree, it is a tie. Ties stay ties.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from persuasion_rl import world
from persuasion_rl.devices import pick_device, prepare_torch
from persuasion_rl.files import UserError

FIRST, SECOND, TIE = "1", "2", "tie"
NONE = "none"
"""The verdict of who abstains."""


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


class TruthJudge(ScoringJudge):
    """The demo's own delta function: the difference of the two probabilities of a delta."""

    name = "truth"
    tie_margin = 0.02

    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        return [
            world.truth(c.prompt, c.first) - world.truth(c.prompt, c.second) for c in comparisons
        ]


class LengthJudge(ScoringJudge):
    """The baseline that real judges must beat: the response with more words wins."""

    name = "length"

    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        lengths = [(len(c.first.split()), len(c.second.split())) for c in comparisons]
        return [(first - second) / max(1, first + second) for first, second in lengths]


class DeltaJudge(ScoringJudge):
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


def make_judge(
    name: str,
    *,
    base: Path | None = None,
    delta_adapter: Path | None = None,
    device: str = "auto",
    threads: int = 1,
    seed: int = 0,
    delta_pairs: Path | None = None,
    sides: Path | None = None,
    llm: str | None = None,
    asking: str | None = None,
) -> Judge:
    """A judge by its name in the config.

    Args:
        base, delta_adapter, device, threads, seed: for the judge delta.
        delta_pairs, sides: for the judge interplay, which learns from those of the train side.
        llm, asking: for the judge llm, as JSON: what is asked, and how. Together they are `llm.Settings`, of which all
            but the model has a default.
    """
    if name == "truth":
        return TruthJudge()
    if name == "length":
        return LengthJudge()
    if name == "delta":
        if base is None or delta_adapter is None:
            raise UserError("judge delta needs --base and --delta_adapter")
        prepare_torch(threads, seed, device)
        return DeltaJudge(base, delta_adapter, pick_device(device))
    if name == "interplay":
        if delta_pairs is None or sides is None:
            raise UserError("judge interplay needs --delta_pairs and --sides")
        from persuasion_rl.interplay import InterplayJudge

        return InterplayJudge(delta_pairs, sides)
    if name == "llm":
        if llm is None:
            raise UserError('judge llm needs --llm, as \'{"model": "NAME"}\'')
        from persuasion_rl.llm import LlmJudge, Settings

        return LlmJudge(Settings.read(llm, asking or "{}"))
    raise UserError(f"unknown judge {name!r}; there are truth, delta, length, interplay and llm")
