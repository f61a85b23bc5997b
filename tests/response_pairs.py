"""Response pairs like the demo's, and judges with known behaviour."""

from persuasion_rl.judges.base import Judge, Judgment, ScoringJudge
from persuasion_rl.judges.make import JudgeSettings

POST = "Poster: I grew up in Oslo, where everyone thinks so. Every year more money goes into bike lanes."
GOOD = "As for money, bike lanes replace services that cost more."
FAIR = "We do not close a bakery because one loaf was burnt."
BAD = "Only a fool could believe this."
SETTINGS = JudgeSettings(seed=1, threads=1)


def row(number: int, first: str, second: str) -> dict:
    metadata = {"prompt_id": f"p{number}", "conversation_id": f"c{number}"}
    return {"prompt": POST, "response_1": first, "response_2": second, "metadata": metadata}


def many(count: int) -> list[dict]:
    texts = (GOOD, FAIR, BAD, f"{GOOD} {BAD}", f"{GOOD} {FAIR}")
    return [row(i, texts[i % 5], texts[(i // 5) % 5]) for i in range(count)]


class PrefersTheFirst(ScoringJudge):
    """A judge with nothing but a position bias."""

    name = "biased"

    def prefer(self, comparisons):
        return [0.5 for _ in comparisons]


class LeansToTheFirst(ScoringJudge):
    """A judge that counts words and also has some position bias."""

    name = "leaning"

    def prefer(self, comparisons):
        return [len(c.first.split()) - len(c.second.split()) + 2 for c in comparisons]


class Scripted(Judge):
    """A judge that returns prepared judgments."""

    name = "scripted"

    def __init__(self, *judgments: Judgment):
        self.judgments = list(judgments)

    def judge(self, comparisons):
        assert len(comparisons) == len(self.judgments)
        return self.judgments
