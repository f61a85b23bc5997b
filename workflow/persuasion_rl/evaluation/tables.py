"""Compares the players on the held-out prompts: pairwise verdicts, win rates, the demo's truth."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from persuasion_rl.data.synthetic import grammar as world
from persuasion_rl.evaluation.players import read_players
from persuasion_rl.files import read_jsonl, write_csv, write_jsonl
from persuasion_rl.judges.base import POINTS, Comparison, judge_both_orders
from persuasion_rl.judges.make import JudgeSettings, make_judge
from persuasion_rl.runtime.command import note, stage

COUNTED = {"wins": 1.0, "losses": 0.0, "ties": 0.5}
DIFFERENCES = (0.02, 0.05, 0.1, 0.15, 0.2)
"""Differences from one half in the table of power."""


def judge_players(
    *,
    responses: dict[str, Path],
    judge: str,
    verdicts: Path,
    settings: JudgeSettings,
) -> int:
    """Let a judge compare every two players on every prompt, in both orders.

    One row: {"prompt_id", "conversation_id", "player_1", "player_2"} with "verdict" and "answers", or with
    "excluded", the name of what kept the judge from answering.
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
    rows = []
    for (one, other, (reply, _)), found in zip(games, judged, strict=True):
        said = {"verdict": found.verdict, "answers": [o.verdict for o in found.judgments]}
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


def tabulate_win_rates(
    *,
    verdicts: dict[str, Path],
    responses: dict[str, Path],
    output: Path,
    draws: int,
    seed: int,
) -> None:
    """Write the win rate of every two players under every judge; a tie is half a win.

    Columns: judge, player, against, wins, losses, ties, undecided (abstentions and what could not be judged;
    they are in no rate), win_rate, low, high, and length_controlled, the win rate at equal length, with its
    interval. Two players without any verdict have no row. Length is in words, as the judge length has it: players
    have tokenizers of their own.
    """
    lengths = {
        name: {row["metadata"]["prompt_id"]: len(row["response"].split()) for row in rows}
        for name, rows in read_players(responses).items()
    }
    table = []
    for judge, path in verdicts.items():
        games = Games(list(read_jsonl(path)), draws, seed)
        table += [{"judge": judge, **row} for row in games.win_rates(lengths)]
    write_csv(output, table, WIN_RATES)


def rank_players(
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
    """Write who is how strong, whether the declared comparisons show a difference, and what could be shown.

    ranking: judge, player, against (the first player that has a verdict), strength (Bradley-Terry, log-odds against
    that player), low, high, rank, rank_low, rank_high.
    declared: judge, player, against, prompts, win_rate, low, high, effect (Cohen's h), p, p_holm (corrected for all
    comparisons under that judge), seeds, fixed. Models that differ in nothing but their seed are pooled where there are
    several; such a row has no p-value, and fixed names the side of it that is the same model under every seed.
    power: judge, difference from one half, prompts that show it with 80% probability, comparisons (for how many p is
    corrected). Rows with a judge are about this study: the conversations that its declared comparisons have at least.

    Args:
        comparisons: "model:against". groups: model -> the first of those that differ from it in the seed only.
    """
    ranks_found, tests, reach = [], [], []
    for judge, path in verdicts.items():
        games = Games(list(read_jsonl(path)), draws, seed)
        found = games.declared(comparisons, groups)
        ranks_found += [{"judge": judge, **row} for row in games.ranking(players)]
        tests += [{"judge": judge, **row} for row in found]
        corrected = sum(row["seeds"] == 1 for row in found)
        reach += [{"judge": judge, **row} for row in games.reach(comparisons, corrected)]
    write_csv(ranking, ranks_found, RANKING)
    write_csv(declared, tests, DECLARED)
    write_csv(power, power_table() + reach, POWER)


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
RANKING = ["judge", "player", "against", "strength", "low", "high", "rank", "rank_low", "rank_high"]
POWER = ["judge", "difference", "prompts", "comparisons"]
DECLARED = [
    *("judge", "player", "against", "prompts", "win_rate", "low", "high", "effect", "p", "p_holm"),
    *("seeds", "fixed"),
]


class Games:
    """The verdicts of one judge, and draws of their conversations that all of its tables share."""

    def __init__(self, rows: list[dict], draws: int, seed: int):
        from persuasion_rl.statistics.intervals import Resamples

        self.draws, self.seed = draws, seed
        self.conversation = {row["prompt_id"]: row["conversation_id"] for row in rows}
        self.played: dict[tuple[str, str], dict[str, dict]] = {}
        for row in rows:
            pair = row["player_1"], row["player_2"]
            self.played.setdefault(pair, {})[row["prompt_id"]] = row
        self.resamples = Resamples(list(self.conversation.values()), draws, seed)

    def points(self, player: str, against: str) -> dict[str, float]:
        """The player's points by prompt id, where there is a verdict."""
        forward = self.played.get((player, against), {})
        backward = self.played.get((against, player), {})
        return {
            p: POINTS[r["verdict"]] for p, r in forward.items() if r.get("verdict") in POINTS
        } | {p: 1 - POINTS[r["verdict"]] for p, r in backward.items() if r.get("verdict") in POINTS}

    def win_rates(self, lengths: dict[str, dict[str, int]]) -> Iterator[dict]:
        """Rows of every two players; two without any verdict have none."""
        from persuasion_rl.statistics.intervals import Resamples, bootstrap_rate
        from persuasion_rl.statistics.pairwise import length_controlled

        for (one, other), games in self.played.items():
            points = self.points(one, other)
            if not points:
                note(f"no verdict on {one} against {other}")
                continue
            prompts, values = list(points), list(points.values())
            conversations = [self.conversation[prompt] for prompt in prompts]
            rate = bootstrap_rate(values, conversations, self.draws, self.seed)
            longer = [lengths[one][prompt] - lengths[other][prompt] for prompt in prompts]
            resamples = Resamples(conversations, self.draws, self.seed)
            equal = length_controlled(values, longer, resamples)
            yield {
                "player": one,
                "against": other,
                **{name: values.count(worth) for name, worth in COUNTED.items()},
                "undecided": len(games) - len(points),
                **rate.columns("win_rate"),
                "length_controlled": equal.value,
                "length_controlled_low": equal.low,
                "length_controlled_high": equal.high,
            }

    def ranking(self, players: list[str]) -> Iterator[dict]:
        """Rows of every player that has a verdict, the strongest first."""
        import numpy as np

        from persuasion_rl.statistics.pairwise import standings

        judged = {name for pair in self.played if self.points(*pair) for name in pair}
        players = [name for name in players if name in judged]
        if not players:
            return
        place = {prompt: number for number, prompt in enumerate(self.conversation)}
        points = np.zeros((len(place), len(players), len(players)))
        for row, one in enumerate(players):
            for column, other in enumerate(players):
                for prompt, value in self.points(one, other).items() if row != column else ():
                    points[place[prompt], row, column] = value
        found = zip(players, standings(points, self.resamples), strict=True)
        for player, (strength, rank) in sorted(found, key=lambda row: row[1][1].value):
            yield {
                "player": player,
                "against": players[0],
                **strength.columns("strength"),
                "rank": int(rank.value),
                "rank_low": int(np.floor(rank.low)),
                "rank_high": int(np.ceil(rank.high)),
            }

    def declared(self, comparisons: list[str], groups: dict[str, str]) -> list[dict]:
        """Rows of the comparisons, with p-values corrected for their number, then those of pooled seeds."""
        from persuasion_rl.statistics.intervals import Resamples, bootstrap_rate
        from persuasion_rl.statistics.pairwise import effect, holm, sign_flip

        rows, seeds = [], {}
        for comparison in comparisons:
            player, against = comparison.split(":")
            points = self.points(player, against)
            if not points:
                continue
            values = list(points.values())
            conversations = [self.conversation[prompt] for prompt in points]
            rate = bootstrap_rate(values, conversations, self.draws, self.seed)
            p = sign_flip(values, Resamples(conversations, self.draws, self.seed))
            told = {"player": player, "against": against, "prompts": len(values)}
            found = {**rate.columns("win_rate"), "effect": effect(rate.value), "p": p, "seeds": 1}
            rows.append(told | found)
            group = groups.get(player, player), groups.get(against, against)
            seeds.setdefault(group, {})[player, against] = points
        for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row["p_holm"] = corrected
        return rows + [row for group, found in seeds.items() for row in self._pooled(group, found)]

    def reach(self, comparisons: list[str], corrected: int) -> list[dict]:
        """What the declared comparisons could show, with the fewest conversations that one of them has: one by itself,
        and corrected for their number."""
        from persuasion_rl.statistics.pairwise import detectable

        pairs = [comparison.split(":") for comparison in comparisons]
        prompts = [found for pair in pairs if (found := self.points(*pair))]
        least = min((len({self.conversation[p] for p in found}) for found in prompts), default=0)
        return [
            {"difference": detectable(least, count), "prompts": least, "comparisons": count}
            for count in sorted({1, corrected})
            if least
        ]

    def _pooled(
        self, group: tuple[str, str], found: dict[tuple[str, str], dict[str, float]]
    ) -> Iterator[dict]:
        from persuasion_rl.statistics.pairwise import effect, over_seeds

        shared = sorted(set.intersection(*map(set, found.values())))
        if len(found) < 2 or not shared:
            return
        values = [[points[prompt] for prompt in shared] for points in found.values()]
        sides = [set(side) for side in zip(*found, strict=True)]
        fixed = [group[place] for place, side in enumerate(sides) if len(side) == 1]
        conversations = [self.conversation[prompt] for prompt in shared]
        rate = over_seeds(values, conversations, self.draws, self.seed)
        yield {
            "player": group[0],
            "against": group[1],
            "prompts": len(shared),
            **rate.columns("win_rate"),
            "effect": effect(rate.value),
            "seeds": len(found),
            "fixed": " ".join(fixed),
        }


def power_table() -> list[dict]:
    """How many prompts show a difference in one comparison by itself."""
    from persuasion_rl.statistics.pairwise import prompts_needed

    return [
        {"judge": "", "difference": gap, "prompts": prompts_needed(gap), "comparisons": 1}
        for gap in DIFFERENCES
    ]


def measure_truth(
    *,
    responses: dict[str, Path],
    truth: Path,
    differences: Path,
    draws: int,
    seed: int,
    comparisons: list[str] = [],
) -> None:
    """Write the mean probability of a delta of each player's replies, and differences of players.

    Args:
        comparisons: "model:against" pairs; differences are of replies to the same prompt.
        truth: CSV with model, mean, low, high. differences: model, against, difference, low, high.
    """
    from persuasion_rl.statistics.intervals import bootstrap_mean

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
    stage(judge_players, tabulate_win_rates, rank_players, measure_truth)
