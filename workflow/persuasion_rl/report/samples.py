"""Replies side by side, to the first prompts and to those on which a model loses to its parent."""

from pathlib import Path

from persuasion_rl.judges.base import POINTS
from persuasion_rl.records import ReplyRow, VerdictRow, read_rows
from persuasion_rl.report.judge_findings import BASELINES

Points = dict[tuple[str, str, str], float]
"""Prompt, player and other player -> 1 (won), 0 (lost) or .5 (a tie), for decided games."""


def samples(
    responses: dict[str, Path],
    verdicts: dict[str, Path],
    players: list[str],
    models: list[dict],
    count: int,
) -> list[dict]:
    """The first `count` prompts, and for each model the first `count` on which it loses, in order of appearance, with every
    player's reply and the games that it won.

    A model loses if every judge other than the baselines finds its reply worse than its parent's.

    Args:
        responses: player -> its replies, all to the same prompts in the same order. verdicts: judge -> its verdicts.
        models: rows of models.csv.

    Returns:
        A prompt each: `context`, `lost` (sentences of who loses to whom), and `replies` (player, text, won).
    """
    replies = {player: list(read_rows(responses[player], ReplyRow)) for player in players}
    prompts = [row["metadata"]["prompt_id"] for row in replies[players[0]]]
    points = {judge: _points(path) for judge, path in verdicts.items()}
    losses = _losses(prompts, points, models, count)
    return [
        {
            "context": replies[players[0]][place]["prompt"],
            "lost": losses.get(place, []),
            "replies": [
                {
                    "player": player,
                    "text": replies[player][place]["response"],
                    "won": ", ".join(
                        f"{judge} {_games_won(decided, prompts[place], player, players)}"
                        for judge, decided in points.items()
                    ),
                }
                for player in players
            ],
        }
        for place in dict.fromkeys([*range(min(count, len(prompts))), *losses])
    ]


def _losses(
    prompts: list[str], points: dict[str, Points], models: list[dict], count: int
) -> dict[int, list[str]]:
    """Index of a prompt -> sentences of who loses to whom there, for the first `count` losses of each model."""
    readers = [judge for judge in points if judge not in BASELINES]
    losses: dict[int, list[str]] = {}
    for model in models:
        name, parent = model["model"], model["parent"]
        lost_prompts = [
            place
            for place, prompt in enumerate(prompts)
            if readers and all(points[judge].get((prompt, name, parent)) == 0 for judge in readers)
        ]
        for place in lost_prompts[:count]:
            losses.setdefault(place, []).append(f"{name} loses to {parent}")
    return losses


def _points(verdicts: Path) -> Points:
    """The points of one judge's games, seen from both players."""
    points: Points = {}
    for row in read_rows(verdicts, VerdictRow):
        point = POINTS.get(row.get("verdict"))
        if point is not None:
            one, other = row["player_1"], row["player_2"]
            points[row["prompt_id"], one, other] = point
            points[row["prompt_id"], other, one] = 1 - point
    return points


def _games_won(points: Points, prompt: str, player: str, players: list[str]) -> str:
    """The points of a player in its decided games on a prompt, as in "2.5 of 4"."""
    games = [points[prompt, player, o] for o in players if (prompt, player, o) in points]
    return f"{sum(games):g} of {len(games)}"
