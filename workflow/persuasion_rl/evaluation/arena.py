"""The ranking of the models by people's votes in the arena.

A vote counts for the models that wrote the replies. After a model is trained anew, earlier votes stay in the store but not
in the ranking.
"""

from collections.abc import Mapping
from pathlib import Path

from persuasion_rl.annotation.battles import VOTES, read_votes
from persuasion_rl.evaluation.games import RANKING, Games
from persuasion_rl.files import read_json, text_digest
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.study.names import BASE
from persuasion_rl.tables import write_table

PEOPLE = "people (arena)"
"""The name of people's votes among the judges."""


def present_models(recipes: Mapping[str, Path]) -> dict[str, str]:
    """The digests that battles have of the base model and of each model with a recipe.json, by name.

    Args:
        recipes: model -> its recipe.json.
    """
    recipe_of = {name: read_json(path) for name, path in recipes.items()}
    digests = {name: recipe["adapter_digest"] for name, recipe in recipe_of.items()}
    for recipe in recipe_of.values():
        digests[BASE] = recipe["base_digest"]
    # The same digest as `sampling.engine.Engine` computes.
    return {name: text_digest(digest) for name, digest in digests.items()}


def rank_arena(
    *,
    answers: Path,
    players: list[str],
    output: Path,
    draws: int,
    seed: int,
    recipes: dict[str, Path] = {},
) -> int:
    """Write the ranking by people's votes, with the columns of the judges' ranking and the judge PEOPLE.

    Intervals are over claims, since votes on the same claim are not independent.

    Args:
        answers: the store.
        recipes: trained model -> its recipe.json. Votes on other weights are counted, but not ranked.

    Returns:
        The number of votes that are ranked.
    """
    digests, all_votes = present_models(recipes), read_votes(answers)
    votes = [
        vote
        for vote in all_votes
        if digests.get(vote.left_model) == vote.left_digest
        and digests.get(vote.right_model) == vote.right_digest
        and None not in (vote.left_digest, vote.right_digest)
    ]
    rows = [
        {
            "prompt_id": f"battle {vote.number}",
            "conversation_id": text_digest(vote.context),
            "player_1": vote.left_model,
            "player_2": vote.right_model,
            "verdict": VOTES[vote.answer],
        }
        for vote in votes
    ]
    ranking = [{"judge": PEOPLE, **row} for row in Games(rows, draws, seed).ranking(players)]
    write_table(output, ranking, RANKING)
    older = len(all_votes) - len(votes)
    note(
        f"arena: {len(votes):,} votes of {len({vote.voter for vote in votes})} people;"
        f" {older:,} more are on models that have changed since, or on unknown ones"
    )
    return len(votes)


if __name__ == "__main__":
    stage(rank_arena)
