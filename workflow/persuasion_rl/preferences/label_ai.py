"""Labels the AI pool by a judge. Votes have a "reason" where the judge gives one."""

from pathlib import Path

from persuasion_rl.files import keyed_number
from persuasion_rl.judges.base import OPPOSITE, Judged, judge_both_orders
from persuasion_rl.judges.make import JudgeSettings, make_judge
from persuasion_rl.preferences.labels import as_comparison, pair_key, write_labels
from persuasion_rl.records import ResponsePair, read_rows
from persuasion_rl.runtime.command import stage


def label_ai(
    *,
    responses: Path,
    labels: Path,
    judge: str,
    noise: float,
    settings: JudgeSettings,
) -> dict[str, int]:
    """Let a judge label response pairs in both orders. Returns the number of each verdict or exclusion.

    A share `noise` of its decided verdicts is flipped, which makes the demo's judge `truth` as fallible as real ones.
    Which ones is a function of (seed, prompt id, samples).
    """
    pairs = list(read_rows(responses, ResponsePair))
    chosen = make_judge(judge, settings)
    name = chosen.name
    labeler = name if noise == 0 else f"{name}, {noise:.0%} of its verdicts turned round"
    rows = []
    judged = judge_both_orders(chosen, [as_comparison(pair) for pair in pairs])
    for pair, both in zip(pairs, judged, strict=True):
        if both.failure is not None:
            rows.append({"excluded": both.failure, "metadata": pair["metadata"]})
            continue
        flipped = keyed_number("label noise", settings.seed, *pair_key(pair)) < noise
        verdict = OPPOSITE[both.verdict] if flipped else both.verdict
        votes = _votes(name, both)
        rows.append({**pair, "verdict": verdict, "labeler": labeler, "votes": votes})
    return write_labels(labels, rows)


def _votes(name: str, judged: Judged) -> list[dict]:
    """The judgments in both orders. Verdicts refer to the pair as given, reasons to the pair as shown."""
    return [
        {"labeler": name, "order": order, "verdict": judgment.verdict}
        | ({"reason": judgment.reason} if judgment.reason is not None else {})
        for order, judgment in zip(("12", "21"), judged.judgments, strict=True)
    ]


if __name__ == "__main__":
    stage(label_ai)
