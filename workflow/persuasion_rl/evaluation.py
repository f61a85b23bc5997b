"""Compares the players on the held-out prompts: pairwise verdicts, win rates, the demo's truth."""

from itertools import combinations
from pathlib import Path

from persuasion_rl import world
from persuasion_rl.command import note, stage
from persuasion_rl.devices import pick_device, prepare_torch
from persuasion_rl.files import UserError, read_jsonl, write_csv, write_jsonl
from persuasion_rl.judges import FIRST, SECOND, TIE, Comparison, judge_both_orders, make_judge

POINTS = {FIRST: 1.0, SECOND: 0.0, TIE: 0.5}


def read_players(responses: dict[str, Path]) -> dict[str, list[dict]]:
    """The players' responses; all must answer the same prompts in the same order."""
    players = {name: list(read_jsonl(path)) for name, path in responses.items()}
    first, *others = players
    prompts = [row["prompt"] for row in players[first]]
    for name in others:
        if [row["prompt"] for row in players[name]] != prompts:
            raise UserError(f"{responses[name]}: does not answer the prompts of {responses[first]}")
    return players


def judge_players(
    *,
    responses: dict[str, Path],
    judge: str,
    verdicts: Path,
    seed: int,
    threads: int,
    base: Path | None = None,
    delta_adapter: Path | None = None,
    device: str = "auto",
    llm: str | None = None,
    asking: str | None = None,
) -> int:
    """Let a judge compare every two players on every prompt, in both orders.

    One row: {"prompt_id", "conversation_id", "player_1", "player_2"} with "verdict" and "answers", or with
    "excluded", the name of what kept the judge from answering. `llm` and `asking` are for the judge llm.
    """
    if judge == "delta":
        prepare_torch(threads, seed)
        device = pick_device(device)
    players = read_players(responses)
    chosen = make_judge(judge, base, delta_adapter, device, llm, asking)
    games = [
        (one, other, replies)
        for one, other in combinations(players, 2)
        for replies in zip(players[one], players[other], strict=True)
    ]
    judged = judge_both_orders(
        chosen, [Comparison(a["prompt"], a["response"], b["response"]) for _, _, (a, b) in games]
    )
    rows = []
    for (one, other, (reply, _)), found in zip(games, judged, strict=True):
        said = {"verdict": found.verdict, "answers": [o.verdict for o in found.opinions]}
        rows.append(
            {
                "prompt_id": reply["metadata"]["prompt_id"],
                "conversation_id": reply["metadata"]["conversation_id"],
                "player_1": one,
                "player_2": other,
                **({"excluded": found.failure} if found.failure is not None else said),
            }
        )
    note(f"{judge}: {len(rows):,} comparisons of {len(players)} players")
    return write_jsonl(verdicts, rows)


def tabulate_win_rates(*, verdicts: dict[str, Path], output: Path, draws: int, seed: int) -> None:
    """Write the win rate of every two players under every judge; a tie is half a win.

    Columns: judge, player, against, wins, losses, ties, undecided (abstentions and what could not be judged;
    they are in no rate), win_rate, low, high. Two players without any verdict have no row.
    """
    from persuasion_rl.statistics import bootstrap_mean

    table = []
    for judge, path in verdicts.items():
        games: dict[tuple[str, str], list[dict]] = {}
        for row in read_jsonl(path):
            games.setdefault((row["player_1"], row["player_2"]), []).append(row)
        for (one, other), played in games.items():
            rows = [row for row in played if row.get("verdict") in POINTS]
            if not rows:
                note(f"{judge}: no verdict on {one} against {other}")
                continue
            count = {v: sum(row["verdict"] == v for row in rows) for v in POINTS}
            rate = bootstrap_mean(
                [POINTS[row["verdict"]] for row in rows],
                [row["conversation_id"] for row in rows],
                draws,
                seed,
            )
            table.append(
                {
                    "judge": judge,
                    "player": one,
                    "against": other,
                    "wins": count[FIRST],
                    "losses": count[SECOND],
                    "ties": count[TIE],
                    "undecided": len(played) - len(rows),
                    **rate.columns("win_rate"),
                }
            )
    counts = ["wins", "losses", "ties", "undecided"]
    write_csv(output, table, ["judge", "player", "against", *counts, "win_rate", "low", "high"])


def measure_truth(
    *,
    responses: dict[str, Path],
    comparisons: list[str],
    truth: Path,
    differences: Path,
    draws: int,
    seed: int,
) -> None:
    """Write the mean probability of a delta of each player's replies, and differences of players.

    Args:
        comparisons: "model:against" pairs; differences are of replies to the same prompt.
        truth: CSV with model, mean, low, high. differences: model, against, difference, low, high.
    """
    from persuasion_rl.statistics import bootstrap_mean

    players = read_players(responses)
    scores = {
        name: [world.truth(row["prompt"], row["response"]) for row in rows]
        for name, rows in players.items()
    }
    conversations = [row["metadata"]["conversation_id"] for row in next(iter(players.values()))]
    means = [
        {"model": name, **bootstrap_mean(values, conversations, draws, seed).columns("mean")}
        for name, values in scores.items()
    ]
    gaps = []
    for comparison in comparisons:
        model, against = comparison.split(":")
        gap = [a - b for a, b in zip(scores[model], scores[against], strict=True)]
        interval = bootstrap_mean(gap, conversations, draws, seed)
        gaps.append({"model": model, "against": against, **interval.columns("difference")})
    write_csv(truth, means, ["model", "mean", "low", "high"])
    write_csv(differences, gaps, ["model", "against", "difference", "low", "high"])
    for row in gaps:
        note("{model} - {against}: {difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row))


if __name__ == "__main__":
    stage(judge_players, tabulate_win_rates, measure_truth)
