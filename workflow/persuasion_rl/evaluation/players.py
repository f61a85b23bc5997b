"""The players of the evaluation and their replies."""

from pathlib import Path

from persuasion_rl.files import UserError
from persuasion_rl.records import ReplyRow, read_rows


def read_players(responses: dict[str, Path]) -> dict[str, list[ReplyRow]]:
    """The rows of each player's replies.

    Raises:
        UserError: a player's replies are not to the prompts of the first player, in the same order.
    """
    players = {name: list(read_rows(path, ReplyRow)) for name, path in responses.items()}
    first, *others = players
    prompts = [row["prompt"] for row in players[first]]
    for name in others:
        if [row["prompt"] for row in players[name]] != prompts:
            raise UserError(f"{responses[name]}: does not answer the prompts of {responses[first]}")
    return players
