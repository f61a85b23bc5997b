"""The judge `length`: a baseline."""

from persuasion_rl.judges.base import Comparison, ScoringJudge


class LengthJudge(ScoringJudge):
    """The baseline that real judges must beat: the response with more words wins."""

    name = "length"

    def prefer(self, comparisons: list[Comparison]) -> list[float]:
        lengths = [(len(c.first.split()), len(c.second.split())) for c in comparisons]
        return [(first - second) / max(1, first + second) for first, second in lengths]
