"""Notices for the top of a page: what is simulated, scaled down or pending, and whether any judge is evidence."""

from dataclasses import dataclass

from persuasion_rl.report.judge_findings import BASELINES, INTERPLAY, LENGTH, beats_length

PUBLISHED_BASE = "Qwen/Qwen2.5-0.5B-Instruct"
PUBLISHED = {
    "train": ("SFT rows", 40_000),
    "val": ("validation rows", 5_000),
    "test": ("test rows", 5_000),
    "ai": ("prompts of the AI pool", 8_000),
    "human": ("prompts of the human pool", 300),
    "final_eval": ("prompts of the evaluation", 1_700),
    "max_context_tokens": ("tokens of a prompt at most", 700),
    "max_new_tokens": ("tokens of a reply at most", 256),
}
"""Sizes of the published study, as in config/config.yaml."""


@dataclass(frozen=True)
class StudyFacts:
    """Facts about a study that every page about it must tell.

    Attributes:
        base_source: the source of the base model: a name on the Hub, a folder, or "standin".
        synthetic: whether posts, replies and deltas come from the grammar of the demo.
        ai_judge: the judge behind the AI labels, "none" without such labels. ai_noise: the share of its decided
            verdicts that are flipped.
        human_source: "people", "simulated", or "none" without such labels. human_judge: the judge behind simulated
            annotators.
        max_context_tokens, max_new_tokens: the limits of a prompt and of a reply.
    """

    base_source: str
    synthetic: bool
    ai_judge: str
    ai_noise: float
    human_source: str
    human_judge: str
    max_context_tokens: int
    max_new_tokens: int

    def labelled_by(self) -> dict[str, str]:
        """Judge -> its part in the labels, in words. Its verdicts are no evidence that models learning from them improved."""
        parts: dict[str, list[str]] = {}
        if self.ai_judge != "none":
            parts.setdefault(self.ai_judge, []).append("made the AI labels")
        if self.human_source == "simulated":
            parts.setdefault(self.human_judge, []).append(
                "tells simulated annotators what they see"
            )
        return {judge: " and ".join(done) for judge, done in parts.items()}

    def scaled_down(self, splits: dict) -> list[str]:
        """The sizes that are smaller than in the published study, with both numbers.

        Args:
            splits: the summary of `data.split`.
        """
        sizes = {part: counts["used"] for part, counts in splits["parts"].items()}
        sizes["max_context_tokens"] = self.max_context_tokens
        sizes["max_new_tokens"] = self.max_new_tokens
        return [
            f"{words} {sizes[name]:,} ({published:,})"
            for name, (words, published) in PUBLISHED.items()
            if sizes[name] < published
        ]


def notices(facts: StudyFacts, splits: dict, pending: list[str]) -> list[str]:
    """Notices of what is simulated, scaled down or pending.

    Args:
        splits: the summary of `data.split`. pending: the models that wait for people's labels.
    """
    return [
        *_of_data_and_base(facts, splits),
        *_of_ai_labels(facts.ai_judge, facts.ai_noise),
        *_of_human_labels(facts, pending),
    ]


def _of_data_and_base(facts: StudyFacts, splits: dict) -> list[str]:
    sentences = []
    if facts.synthetic:
        sentences.append(
            "Synthetic data: posts, replies and deltas come from a small grammar with a known delta function."
            " The numbers test this workflow; they say nothing about people."
        )
    if facts.base_source == "standin":
        replies = "its replies are grammar" if facts.synthetic else "its replies are hardly English"
        sentences.append(
            "Stand-in base model: a very small one, trained here on the train side only. It is not"
            f" Qwen2.5, and {replies}."
        )
    elif facts.base_source != PUBLISHED_BASE:
        sentences.append(
            f"Another base model: {facts.base_source}. The published study's is {PUBLISHED_BASE}."
        )
    if scaled := facts.scaled_down(splits):
        sentences.append(
            "Scaled down, with the published study's sizes in brackets: " + "; ".join(scaled) + "."
        )
    return sentences


def _of_ai_labels(judge: str, noise: float) -> list[str]:
    flipped = f"{noise:.0%} of its decided verdicts turned round"
    by_judge = {
        "truth": f"AI labels are simulated: the demo's own delta function, {flipped}."
        " The judge “truth” that evaluates is the same function without that noise.",
        LENGTH: "AI labels are those of the length baseline: more words win. What learns from them learns to write more.",
        INTERPLAY: "AI labels are those of a baseline, a linear model of word overlap and style. What learns from them"
        " learns such surfaces.",
        "llm": "AI labels are a language model's opinions by a rubric, in both orders; their reasons are beside them in"
        " preferences/ai_pool_labels.jsonl. How far they agree with deltas and people is below.",
    }
    sentences = [by_judge[judge]] if judge in by_judge else []
    if noise > 0 and judge not in ("truth", "none"):
        sentences.append(f"AI labels have noise on purpose: the judge {judge}'s, {flipped}.")
    return sentences


def _of_human_labels(facts: StudyFacts, pending: list[str]) -> list[str]:
    sentences = []
    if facts.human_source == "simulated":
        sentences.append(
            f"Human labels are simulated: noisy annotators who see what the judge “{facts.human_judge}” sees."
            " No person labelled anything."
        )
    if pending:
        sentences.append(
            f"Pending: {', '.join(pending)} wait for people's labels and are not in this report."
        )
    return sentences


def warnings(trust: list[dict], judges: list[str]) -> list[str]:
    """Warn if no reading judge beats the length baseline; a baseline that does so is no evidence.

    Args:
        trust: rows of the table of `judges.judge_trust`, their numbers as numbers. judges: those that evaluate.
    """
    if any(beats_length(trust, judge) for judge in judges if judge not in BASELINES):
        return []
    return [
        "No judge of this study that reads clearly beats the length baseline on held-out delta pairs: the win rates are"
        " no evidence of persuasiveness."
    ]
