"""One judge's verdicts as games between players, and the rows of the tables that are made of them."""

from collections.abc import Callable, Iterator, Sequence

from persuasion_rl.judges.base import POINTS
from persuasion_rl.records import VerdictRow
from persuasion_rl.runtime.command import note

COUNTED = {"wins": 1.0, "losses": 0.0, "ties": 0.5}
RANKING = ["judge", "player", "against", "strength", "low", "high", "rank", "rank_low", "rank_high"]


def _whole(number: float, rounded: Callable[[float], float]) -> int | None:
    """A rank, rounded; None if it is not known."""
    return None if number != number else int(rounded(number))


class Games:
    """The verdicts of one judge, and resamples of their conversations that all of its tables share.

    Args:
        rows: VerdictRow. draws, seed: of the bootstrap over conversations.
    """

    def __init__(self, rows: Sequence[VerdictRow], draws: int, seed: int):
        from persuasion_rl.statistics.intervals import Resamples

        self.draws, self.seed = draws, seed
        self.conversation = {row["prompt_id"]: row["conversation_id"] for row in rows}
        self.played: dict[tuple[str, str], dict[str, VerdictRow]] = {}
        for row in rows:
            pair = row["player_1"], row["player_2"]
            self.played.setdefault(pair, {})[row["prompt_id"]] = row
        self.resamples = Resamples(list(self.conversation.values()), draws, seed)

    def points(self, player: str, against: str) -> dict[str, float]:
        """Prompt id -> the player's points, for prompts with a verdict."""
        forward = self.played.get((player, against), {})
        backward = self.played.get((against, player), {})
        return {
            p: POINTS[r["verdict"]] for p, r in forward.items() if r.get("verdict") in POINTS
        } | {p: 1 - POINTS[r["verdict"]] for p, r in backward.items() if r.get("verdict") in POINTS}

    def win_rates(self, lengths: dict[str, dict[str, int]]) -> Iterator[dict]:
        """Rows of every two players that have a verdict, without the column judge.

        Args:
            lengths: player -> prompt id -> words of its reply.
        """
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
        """Rows of every player that has a verdict, the strongest first, those of whom nothing is known last."""
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
        rows = [
            {
                "player": player,
                "against": players[0],
                **strength.columns("strength"),
                "rank": _whole(rank.value, np.rint),
                "rank_low": _whole(rank.low, np.floor),
                "rank_high": _whole(rank.high, np.ceil),
            }
            for player, (strength, rank) in zip(
                players, standings(points, self.resamples), strict=True
            )
        ]
        yield from sorted(rows, key=lambda row: row["rank"] or len(rows) + 1)

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
            row = {"player": player, "against": against, "prompts": len(values)}
            row |= rate.columns("win_rate") | {"effect": effect(rate.value), "p": p, "seeds": 1}
            rows.append(row)
            group = groups.get(player, player), groups.get(against, against)
            seeds.setdefault(group, {})[player, against] = points
        for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row["p_holm"] = corrected
        return rows + [row for group, games in seeds.items() for row in self._pooled(group, games)]

    def reach(self, comparisons: list[str], corrected: int) -> list[dict]:
        """Rows of the table of power: the difference that a declared comparison could show, uncorrected and corrected for
        their number, at the fewest conversations of any of them."""
        from persuasion_rl.statistics.pairwise import detectable

        pairs = [comparison.split(":") for comparison in comparisons]
        played = [points for pair in pairs if (points := self.points(*pair))]
        least = min((len({self.conversation[p] for p in points}) for points in played), default=0)
        return [
            {"difference": detectable(least, count), "prompts": least, "comparisons": count}
            for count in sorted({1, corrected})
            if least
        ]

    def _pooled(
        self, group: tuple[str, str], by_seed: dict[tuple[str, str], dict[str, float]]
    ) -> Iterator[dict]:
        """The pooled row of comparisons that differ in the seed only; none for a single seed.

        Args:
            group: the first model of each side. by_seed: the pair of models -> points by prompt id.
        """
        from persuasion_rl.statistics.pairwise import effect, over_seeds

        shared = sorted(set.intersection(*map(set, by_seed.values())))
        if len(by_seed) < 2 or not shared:
            return
        values = [[points[prompt] for prompt in shared] for points in by_seed.values()]
        sides = [set(side) for side in zip(*by_seed, strict=True)]
        fixed = [group[place] for place, side in enumerate(sides) if len(side) == 1]
        conversations = [self.conversation[prompt] for prompt in shared]
        rate = over_seeds(values, conversations, self.draws, self.seed)
        yield {
            "player": group[0],
            "against": group[1],
            "prompts": len(shared),
            **rate.columns("win_rate"),
            "effect": effect(rate.value),
            "seeds": len(by_seed),
            "fixed": " ".join(fixed),
        }
