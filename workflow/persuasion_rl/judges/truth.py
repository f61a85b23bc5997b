"""The judge `truth`: the delta function of the generated corpus."""

from persuasion_rl.data.synthetic import grammar
from persuasion_rl.judges.base import Comparison, ScoringJudge


class TruthJudge(ScoringJudge):
    """The demo's delta function; its preference is the difference of the two probabilities of a delta."""

    name = "truth"
    tie_margin = 0.02

    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        return [
            grammar.truth(c.prompt, c.first) - grammar.truth(c.prompt, c.second)
            for c in comparisons
        ]
