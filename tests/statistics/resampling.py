"""Resamples for tests of intervals."""

from persuasion_rl.statistics.intervals import Resamples


def independent(count: int, draws: int = 500) -> Resamples:
    """Resamples of rows, each a conversation of its own."""
    return Resamples([f"c{i}" for i in range(count)], draws, 1)
