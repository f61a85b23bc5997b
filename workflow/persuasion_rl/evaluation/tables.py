"""Tables of the judges' verdicts: win rates, the ranking, the declared comparisons, and their power."""

import math
from pathlib import Path

from persuasion_rl.evaluation.games import RANKING, Games
from persuasion_rl.evaluation.players import read_players
from persuasion_rl.records import VerdictRow, read_rows
from persuasion_rl.runtime.command import stage
from persuasion_rl.runtime.progress import Progress
from persuasion_rl.tables import write_table

DIFFERENCES = (0.02, 0.05, 0.1, 0.15, 0.2)
"""Differences from one half for the table of power."""
WIN_RATES = [
    *(
        "judge",
        "player",
        "against",
        "wins",
        "losses",
        "ties",
        "undecided",
        "win_rate",
        "low",
        "high",
    ),
    *("length_controlled", "length_controlled_low", "length_controlled_high"),
]
POWER = ["judge", "difference", "prompts", "comparisons"]
DECLARED = [
    *("judge", "player", "against", "prompts", "win_rate", "low", "high", "effect", "p", "p_holm"),
    *("seeds", "fixed"),
]


def evaluate_win_rates(
    *,
    verdicts: dict[str, Path],
    responses: dict[str, Path],
    output: Path,
    draws: int,
    seed: int,
) -> None:
    """Write the win rate of every two players under every judge; a tie is half a win.

    Columns: judge, player, against, wins, losses, ties, undecided (abstentions and failures, which are in no
    rate), win_rate, low, high, and length_controlled, the win rate at equal length, with its interval. Two players
    without any verdict have no row. Length is in words, as for the judge length, since players have their own
    tokenizers.
    """
    lengths = {
        name: {row["metadata"]["prompt_id"]: len(row["response"].split()) for row in rows}
        for name, rows in read_players(responses).items()
    }
    table = []
    pairs = len(verdicts) * math.comb(len(responses), 2)
    progress = Progress("win rates", pairs, "pairs of players")
    for judge, path in verdicts.items():
        games = Games(list(read_rows(path, VerdictRow)), draws, seed)
        rows = progress.over(games.win_rates(lengths))
        table += [{"judge": judge, **row} for row in rows]
    write_table(output, table, WIN_RATES)


def evaluate_ranking(
    *,
    verdicts: dict[str, Path],
    players: list[str],
    ranking: Path,
    declared: Path,
    power: Path,
    draws: int,
    seed: int,
    comparisons: list[str] = [],
    groups: dict[str, str] = {},
) -> None:
    """Write the ranking of the players, the results of the declared comparisons, and their power.

    ranking: judge, player, against (the first player that has a verdict), strength (Bradley-Terry, log-odds against
    that player), low, high, rank, rank_low, rank_high.
    declared: judge, player, against, prompts, win_rate, low, high, effect (Cohen's h), p, p_holm (corrected for all
    comparisons under that judge), seeds, fixed. Comparisons of models that differ in nothing but their seed are pooled in
    a further row; it has no p-value, and fixed names the side that is the same model under every seed.
    power: judge, difference from one half, prompts that show it with 80% probability, comparisons (for how many p is
    corrected). Rows with a judge are about this study, with the fewest conversations of a declared comparison.

    Args:
        comparisons: "model:against". groups: model -> the first of the models that differ in the seed only.
    """
    ranks, tests, reach = [], [], []
    progress = Progress("ranking", len(verdicts), "judges")
    for judge, path in progress.over(verdicts.items()):
        games = Games(list(read_rows(path, VerdictRow)), draws, seed)
        compared = games.declared(comparisons, groups)
        ranks += [{"judge": judge, **row} for row in games.ranking(players)]
        tests += [{"judge": judge, **row} for row in compared]
        corrected = sum(row["seeds"] == 1 for row in compared)
        reach += [{"judge": judge, **row} for row in games.reach(comparisons, corrected)]
    write_table(ranking, ranks, RANKING)
    write_table(declared, tests, DECLARED)
    write_table(power, power_table() + reach, POWER)


def power_table() -> list[dict]:
    """Rows of the table of power that hold for every study: prompts that show a difference in one comparison."""
    from persuasion_rl.statistics.pairwise import prompts_needed

    return [
        {"judge": "", "difference": gap, "prompts": prompts_needed(gap), "comparisons": 1}
        for gap in DIFFERENCES
    ]


if __name__ == "__main__":
    stage(evaluate_win_rates, evaluate_ranking)
