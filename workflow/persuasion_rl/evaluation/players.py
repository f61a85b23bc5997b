"""The players of the evaluation and their replies."""

from pathlib import Path

from persuasion_rl.files import UserError, read_jsonl


def read_players(responses: dict[str, Path]) -> dict[str, list[dict]]:
    """The players' responses; all must answer the same prompts in the same order."""
    players = {name: list(read_jsonl(path)) for name, path in responses.items()}
    first, *others = players
    prompts = [row["prompt"] for row in players[first]]
    for name in others:
        if [row["prompt"] for row in players[name]] != prompts:
            raise UserError(f"{responses[name]}: does not answer the prompts of {responses[first]}")
    return players
