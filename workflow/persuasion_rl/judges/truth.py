"""The judge `truth`: what a synthetic world itself says."""

from persuasion_rl.data.synthetic import grammar as world
from persuasion_rl.judges.base import Comparison, ScoringJudge


class TruthJudge(ScoringJudge):
    """The demo's own delta function: the difference of the two probabilities of a delta."""

    name = "truth"
    tie_margin = 0.02

    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        return [
            world.truth(c.prompt, c.first) - world.truth(c.prompt, c.second) for c in comparisons
        ]
