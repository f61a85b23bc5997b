"""Lets a judge compare every two players on the held-out prompts."""

from itertools import combinations
from pathlib import Path

from persuasion_rl.evaluation.players import read_players
from persuasion_rl.files import write_jsonl
from persuasion_rl.judges.base import Comparison, judge_both_orders
from persuasion_rl.judges.make import JudgeSettings, make_judge
from persuasion_rl.records import VerdictRow
from persuasion_rl.runtime.command import note, stage


def evaluate_verdicts(
    *,
    responses: dict[str, Path],
    judge: str,
    verdicts: Path,
    settings: JudgeSettings,
) -> int:
    """Let a judge compare every two players on every prompt, in both orders; write a VerdictRow for each.

    Args:
        responses: player -> its ReplyRows.

    Returns:
        the number of rows.
    """
    players = read_players(responses)
    chosen = make_judge(judge, settings)
    games = [
        (one, other, replies)
        for one, other in combinations(players, 2)
        for replies in zip(players[one], players[other], strict=True)
    ]
    judged = judge_both_orders(
        chosen, [Comparison(a["prompt"], a["response"], b["response"]) for _, _, (a, b) in games]
    )
    rows: list[VerdictRow] = []
    for (one, other, (reply, _)), both_orders in zip(games, judged, strict=True):
        answers = [judgment.verdict for judgment in both_orders.judgments]
        verdict = {"verdict": both_orders.verdict, "answers": answers}
        rows.append(
            {
                "prompt_id": reply["metadata"]["prompt_id"],
                "conversation_id": reply["metadata"]["conversation_id"],
                "player_1": one,
                "player_2": other,
                **(
                    {"excluded": both_orders.failure}
                    if both_orders.failure is not None
                    else verdict
                ),
            }
        )
    note(f"{judge}: {len(rows):,} comparisons of {len(players)} players")
    return write_jsonl(verdicts, rows)


if __name__ == "__main__":
    stage(evaluate_verdicts)
