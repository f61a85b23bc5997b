"""What the tests of intervals resample."""

from persuasion_rl.statistics.intervals import Resamples


def alone(count: int, draws: int = 500) -> Resamples:
    """Rows that are conversations of their own."""
    return Resamples([f"c{i}" for i in range(count)], draws, 1)
