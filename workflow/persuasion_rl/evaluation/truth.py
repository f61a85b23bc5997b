"""The demo's truth: the probability of a delta that its grammar gives each player's replies.

It is for studies with a synthetic world, and the only module of the evaluation that imports the grammar.
"""

from pathlib import Path

from persuasion_rl.data.synthetic import grammar
from persuasion_rl.evaluation.players import read_players
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.tables import write_table


def evaluate_truth(
    *,
    responses: dict[str, Path],
    truth: Path,
    differences: Path,
    draws: int,
    seed: int,
    comparisons: list[str] = [],
) -> None:
    """Write the mean probability of a delta for each player's replies, and differences between players.

    Args:
        comparisons: "model:against" pairs; differences are of replies to the same prompt.
        truth: CSV with model, mean, low, high. differences: model, against, difference, low, high.
    """
    from persuasion_rl.statistics.intervals import bootstrap_mean

    players = read_players(responses)
    scores = {
        name: [grammar.truth(row["prompt"], row["response"]) for row in rows]
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
        note(f"{model} - {against}: {interval.text('+.3f')}")
    write_table(truth, means, ["model", "mean", "low", "high"])
    write_table(differences, gaps, ["model", "against", "difference", "low", "high"])


if __name__ == "__main__":
    stage(evaluate_truth)
