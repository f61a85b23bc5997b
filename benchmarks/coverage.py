"""Counts how often 95% intervals hold the truth, over simulated studies, and prints a Markdown table.

python benchmarks/coverage.py --studies 2000

A study has four players of known strength and a judge who also likes length. Its conversations have one to three
prompts, which have something in common: a shift of the judge's liking for each player. The truth of each number is its
value in a study of a million prompts, whose replies come from as many trainings.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
from machine import commit

from persuasion_rl.runtime.command import note, stage
from persuasion_rl.statistics.agreement import kappa, krippendorffs_alpha
from persuasion_rl.statistics.intervals import Resamples, bootstrap_rate
from persuasion_rl.statistics.pairwise import (
    length_controlled,
    logistic,
    over_seeds,
    standings,
)

STRENGTHS = np.array([0.0, 0.3, 0.9, 1.4])
LENGTHS = np.array([60.0, 80.0, 90.0, 120.0])
SHARED = 0.6
"""Standard deviation of what the prompts of a conversation have in common."""
SEEDS, BETWEEN_SEEDS = 3, 0.1
"""Training seeds of a model, and the standard deviation of their strengths."""
LIKES_LENGTH = 0.4
TIES = 0.15
RARE = 1 / 60
"""Share of replies with what few have, such as a marker, or a span that was learned by heart."""


@dataclass
class Study:
    """Simulated verdicts.

    Attributes:
        conversations: (prompts,). games: (prompts, players, players), points. longer: (prompts,), tokens of player 1 less
            those of player 0. votes: (prompts, 2), two labellers' verdicts on these two. seeds: (SEEDS, prompts),
            points of player 1 against 0, each trained again. marked: (prompts,), 1 where a reply has what few have. copied:
            (prompts,), how much of the reply that is, as a share.
    """

    conversations: np.ndarray
    games: np.ndarray
    longer: np.ndarray
    votes: np.ndarray
    seeds: np.ndarray
    marked: np.ndarray
    copied: np.ndarray


def simulate(prompts: int, generator: np.random.Generator, trainings: int = 1) -> Study:
    """Args:
    trainings: of each seed; there are as many as prompts where the truth over all seeds is looked for.
    """
    sizes = generator.integers(1, 4, prompts)
    conversations = np.repeat(np.arange(prompts), sizes)[:prompts]
    count = len(STRENGTHS)
    shift = generator.normal(0, SHARED, (prompts, count))[conversations]
    tokens = np.maximum(5, generator.normal(LENGTHS, 30, (prompts, count)))
    liking = STRENGTHS + shift + LIKES_LENGTH * tokens / 40
    games = np.zeros((prompts, count, count))
    for one in range(count):
        for other in range(one + 1, count):
            points = played(liking[:, one] - liking[:, other], generator)
            games[:, one, other], games[:, other, one] = points, 1 - points
    gap = liking[:, 1] - liking[:, 0]
    again = generator.normal(0, BETWEEN_SEEDS, (SEEDS, trainings))
    odds = np.log(RARE / (1 - RARE)) + shift[:, 1]
    marked = (generator.random(prompts) < logistic(odds)).astype(float)
    return Study(
        conversations=conversations,
        games=games,
        longer=tokens[:, 1] - tokens[:, 0],
        votes=np.stack([played(gap, generator) for _ in range(2)], axis=1),
        seeds=np.stack([played(gap + offset, generator) for offset in again]),
        marked=marked,
        copied=marked * generator.beta(2, 5, prompts),
    )


def played(gap: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Points of games in which the first player is liked more by `gap`."""
    wins = generator.random(len(gap)) < logistic(gap)
    return np.where(generator.random(len(gap)) < TIES, 0.5, wins)


def estimates(study: Study, draws: int, seed: int) -> dict[str, tuple]:
    """Each number with its interval, as (value, low, high)."""
    resamples = Resamples(study.conversations, draws, seed)
    points = study.games[:, 1, 0]
    strengths = [strength for strength, _ in standings(study.games, resamples)]
    verdicts = study.votes.astype(str)
    intervals = {
        "win rate": bootstrap_rate(points, study.conversations, draws, seed),
        "win rate, a strong player": bootstrap_rate(
            study.games[:, 3, 0], study.conversations, draws, seed
        ),
        "rare share, about 1 in 60": bootstrap_rate(study.marked, study.conversations, draws, seed),
        "mean of a share that few replies have": bootstrap_rate(
            study.copied, study.conversations, draws, seed
        ),
        "strength (Bradley-Terry)": strengths[1],
        "strength of the strongest": strengths[3],
        "win rate at equal length": length_controlled(points, study.longer, resamples),
        "Cohen's kappa": kappa(*verdicts.T, resamples),
        "Krippendorff's alpha": krippendorffs_alpha(verdicts.tolist(), resamples),
        f"win rate over {SEEDS} seeds": over_seeds(
            study.seeds, study.conversations, min(draws, 200), seed
        ),
    }
    return {name: (one.value, one.low, one.high) for name, one in intervals.items()}


def measure(
    *, studies: int = 2000, prompts: list[int] = [60, 300, 1700], draws: int = 1000, seed: int = 1
) -> None:
    """Simulate `studies` studies of each size and print how many intervals hold the truth.

    Args:
        draws: bootstrap draws an interval; the workflow's default is 2,000.
    """
    from tqdm import tqdm

    whole = simulate(10**6, np.random.default_rng(seed), trainings=10**6)
    truths = {name: value for name, (value, _, _) in estimates(whole, 2, seed).items()}
    note(f"truths: { {name: round(float(value), 4) for name, value in truths.items()} }")
    shares: dict[str, list[str]] = {name: [] for name in truths}
    for size in prompts:
        held = dict.fromkeys(truths, 0)
        for number in tqdm(range(studies), desc=f"{size} prompts", unit="study"):
            generator = np.random.default_rng((seed, size, number))
            for name, (_, low, high) in estimates(simulate(size, generator), draws, number).items():
                held[name] += low <= truths[name] <= high
        for name, count in held.items():
            shares[name].append(f"{count / studies:.1%}")
    print(f"{date.today()}, commit {commit()}; {studies:,} studies of each size, {draws:,} draws\n")
    print(f"| 95% interval of | {' | '.join(f'{size:,} prompts' for size in prompts)} |")
    print(f"|---|{'---:|' * len(prompts)}")
    for name, cells in shares.items():
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    stage(measure)
