"""A long table of measures: one row a player and measure, with its unit and, where it has one, its 95% interval."""

from collections.abc import Callable, Iterable
from pathlib import Path

from persuasion_rl.statistics.intervals import Interval, bootstrap_mean
from persuasion_rl.tables import write_table

NOT_MEASURED = "not measured"
COLUMNS = ["player", "measure", "value", "low", "high", "unit"]


class Measures:
    """Collects rows and writes them.

    Args:
        draws, seed: of the bootstrap over conversations.
    """

    def __init__(self, draws: int, seed: int):
        self._draws, self._seed = draws, seed
        self.rows: list[dict] = []

    def mean(
        self,
        player: str,
        measure: str,
        values: Iterable[float],
        conversations: list[str],
        unit: str,
        estimate: Callable[..., Interval] = bootstrap_mean,
    ) -> None:
        """Add the mean of one number a reply, with its interval over conversations.

        Args:
            estimate: `statistics.intervals.bootstrap_rate` for a share of replies.
        """
        interval = estimate(list(map(float, values)), conversations, self._draws, self._seed)
        self.value(player, measure, unit=unit, **interval.columns("value"))

    def value(
        self,
        player: str,
        measure: str,
        value: float | str | None,
        unit: str,
        low: float | str | None = "",
        high: float | str | None = "",
    ) -> None:
        """Add a number, or NOT_MEASURED; without an interval the cells of its ends are empty."""
        self.rows.append(dict(zip(COLUMNS, (player, measure, value, low, high, unit), strict=True)))

    def write(self, path: Path) -> None:
        write_table(path, self.rows, COLUMNS)
