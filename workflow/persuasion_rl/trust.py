"""How far each judge can be trusted: on held-out delta pairs, and against the labels of the study."""

from pathlib import Path

from persuasion_rl.command import note, stage
from persuasion_rl.devices import pick_device, prepare_torch
from persuasion_rl.files import read_jsonl, write_csv
from persuasion_rl.judges import FIRST, NONE, SECOND, TIE, Comparison, judge_both_orders, make_judge
from persuasion_rl.reward import pairs_on

LIKE_LENGTH = 0.1
"""Pairs whose lengths differ by at most this share of the longer one count as of like length."""


def judge_trust(
    *,
    judges: list[str],
    pairs: Path,
    sides: Path,
    labels: dict[str, Path],
    output: Path,
    draws: int,
    seed: int,
    threads: int,
    base: Path,
    delta_adapter: Path,
    device: str = "auto",
    llm: str | None = None,
    asking: str | None = None,
) -> None:
    """Write how often each judge is right; a tie or an abstention is half right, so that a coin scores .5.

    Pairs of which the judge gave no answer do not count.

    Columns: judge, measure, value, low, high, rows, conversations. Measures: delta_pairs (test-side pairs;
    right is the reply with the delta), like_length (of these, pairs of like length), and {pool}_labels
    (agreement with the pool's decided labels).

    Args:
        labels: pool -> label rows.
        llm, asking: for the judge llm (`judges.make_judge`).
    """
    from persuasion_rl.statistics import bootstrap_mean

    if "delta" in judges:
        prepare_torch(threads, seed)
        device = pick_device(device)
    held_out = pairs_on("test", pairs, sides)
    sets = {
        "delta_pairs": [_delta_case(row) for row in held_out],
        "like_length": [_delta_case(row) for row in held_out if _like_length(row)],
    }
    for pool, path in labels.items():
        sets[f"{pool}_labels"] = [
            (
                Comparison(row["prompt"], row["response_1"], row["response_2"]),
                row["verdict"],
                row["metadata"]["conversation_id"],
            )
            for row in read_jsonl(path)
            if row.get("verdict") in (FIRST, SECOND)
        ]
    table = []
    for name in judges:
        judge = make_judge(name, base, delta_adapter, device, llm, asking)
        comparisons = [comparison for cases in sets.values() for comparison, _, _ in cases]
        found = judge_both_orders(
            judge, comparisons
        )  # at once: a judge may tell what all will cost
        for measure, cases in sets.items():
            judged_cases, found = list(zip(found, cases, strict=False)), found[len(cases) :]
            answered = [
                (judged.verdict, expected, conversation)
                for judged, (_, expected, conversation) in judged_cases
                if judged.failure is None
            ]
            if not answered:
                note(f"{name}: no answer for {measure}")
                continue
            right = [
                0.5 if verdict in (TIE, NONE) else float(verdict == expected)
                for verdict, expected, _ in answered
            ]
            conversations = [conversation for _, _, conversation in answered]
            share = bootstrap_mean(right, conversations, draws, seed)
            table.append(
                {
                    "judge": name,
                    "measure": measure,
                    **share.columns("value"),
                    "rows": len(answered),
                    "conversations": len(set(conversations)),
                }
            )
            note("{judge:>8} {measure:<13} {value:.3f} [{low:.3f}, {high:.3f}]".format(**table[-1]))
    write_csv(output, table, ["judge", "measure", "value", "low", "high", "rows", "conversations"])


def _delta_case(row: dict) -> tuple[Comparison, str, str]:
    """A pair with the winner shown first; judges are asked in both orders, so the place tells nothing."""
    comparison = Comparison(row["prompt"], row["winner"], row["loser"])
    return comparison, FIRST, row["metadata"]["conversation_id"]


def _like_length(row: dict) -> bool:
    one, other = len(row["winner"].split()), len(row["loser"].split())
    return abs(one - other) <= LIKE_LENGTH * max(one, other)


if __name__ == "__main__":
    stage(judge_trust)
