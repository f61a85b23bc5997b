"""Labels response pairs by a judge.

A label row is a response row with "verdict" ("1", "2", "tie", "none"), "labeler" and "votes", which have a "reason"
where one was given. A pair of which no answer could be had is {"excluded": reason, "metadata"}.
"""

from collections import Counter
from pathlib import Path

from persuasion_rl.files import keyed_number, read_jsonl, write_jsonl
from persuasion_rl.judges.base import (
    FIRST,
    NONE,
    SECOND,
    TIE,
    Comparison,
    Judged,
    judge_both_orders,
)
from persuasion_rl.judges.make import JudgeSettings, make_judge
from persuasion_rl.runtime.command import note, stage

OPPOSITE = {FIRST: SECOND, SECOND: FIRST, TIE: TIE, NONE: NONE}


def as_comparison(row: dict) -> Comparison:
    """A pair of a pool as judges take it."""
    return Comparison(row["prompt"], row["response_1"], row["response_2"])


def which_pair(row: dict) -> tuple:
    """A pair of a pool: its prompt, and the samples where a prompt has more than two."""
    return row["metadata"]["prompt_id"], *row["metadata"].get("samples", (1, 2))


def write_labels(labels: Path, rows: list[dict]) -> dict[str, int]:
    """Write label rows, and tell how many there are of each verdict or exclusion."""
    write_jsonl(labels, rows)
    counts = Counter(row.get("excluded") or row["verdict"] for row in rows)
    note(f"{labels.name}: {dict(sorted(counts.items()))}")
    return dict(counts)


def label_ai(
    *,
    responses: Path,
    labels: Path,
    judge: str,
    noise: float,
    settings: JudgeSettings,
) -> dict[str, int]:
    """Let a judge label a pool in both orders; a share `noise` of its decided verdicts is turned round.

    The noise makes the demo's `truth` judge as fallible as real ones; it is keyed by (seed, prompt id, samples).

    Args:
        base, delta_adapter: for the judge delta. delta_pairs, sides: for the judge interplay.
        llm: for the judge llm, JSON: {"model": NAME}, and what else of the section `llm` of the configuration is not as
            it is by default: provider, base_url, rubric, max_tokens, temperature, timeout_s, retries, concurrency,
            requests_per_minute, max_requests, max_cost_usd, prices, batch.
        asking: further keys of these, and "cache": the file that keeps the answers (llm.sqlite, in this folder).
    """
    rows = list(read_jsonl(responses))
    chosen = make_judge(judge, settings)
    judged = judge_both_orders(chosen, [as_comparison(row) for row in rows])
    name = chosen.name
    labeler = name if noise == 0 else f"{name}, {noise:.0%} of its verdicts turned round"
    labelled = []
    for row, found in zip(rows, judged, strict=True):
        if found.failure is not None:
            labelled.append({"excluded": found.failure, "metadata": row["metadata"]})
            continue
        turned = keyed_number("label noise", settings.seed, *which_pair(row)) < noise
        verdict = OPPOSITE[found.verdict] if turned else found.verdict
        votes = _votes(name, found)
        labelled.append({**row, "verdict": verdict, "labeler": labeler, "votes": votes})
    return write_labels(labels, labelled)


def _votes(name: str, judged: Judged) -> list[dict]:
    """The opinions in both orders; verdicts are told of the pair as given, reasons of the pair as shown."""
    return [
        {"labeler": name, "order": order, "verdict": opinion.verdict}
        | ({"reason": opinion.reason} if opinion.reason is not None else {})
        for order, opinion in zip(("12", "21"), judged.opinions, strict=True)
    ]


if __name__ == "__main__":
    stage(label_ai)
