"""Reading and writing tables: the study's CSV files, by pandas.

pandas is imported where a table is read or written, so that importing this module costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from persuasion_rl.files import check, written_whole

if TYPE_CHECKING:
    from pandas import DataFrame, Series

TEXT_COLUMNS = frozenset(
    (
        *("corpus", "conversation_id", "cluster", "side"),
        *("judge", "player", "against", "measure", "unit", "fixed", "shares_weights"),
        *("model", "models", "parent", "method", "pool", "differs", "group"),
    )
)
"""Columns of ids, names and texts: "17", "nan" and "NA" are possible names, and stay text."""


def read_table(path: Path, separator: str = ",") -> DataFrame:
    """Read a table.

    TEXT_COLUMNS hold text, "" where a cell is empty. A column of numbers is one of int64 or float64; with empty cells,
    which are missing values, of Int64 or float64. Where numbers of both kinds or texts ("not measured") stand in one
    column, each cell is what it is: int, float or str.
    """
    import pandas

    table = pandas.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8")
    for name in table.columns.difference(TEXT_COLUMNS, sort=False):
        table[name] = _with_numbers(table[name])
    return table


def write_table(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Write a table whole or not at all.

    Floats are rounded to six digits, so that tables read well, and none is -0.0. What a row lacks is an empty cell.
    """
    import pandas

    further = {name for row in rows for name in row}.difference(columns)
    check(not further, f"{path}: columns {sorted(further)} are not among {columns}")
    cells = {name: [_written(row.get(name)) for row in rows] for name in columns}
    with written_whole(path) as part:
        pandas.DataFrame(cells, dtype=object).to_csv(part, index=False, lineterminator="\n")


def rows_of(table: DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dicts of Python's own values, "" where a cell is empty."""
    return table.astype(object).where(table.notna(), "").to_dict("records")


def _written(value: Any) -> Any:
    """A cell; a float as the shortest text that reads as its six digits."""
    return repr(round(float(value), 6) + 0.0) if isinstance(value, float) else value


def _with_numbers(cells: Series) -> Series:
    """The cells of a column, numbers as numbers."""
    import pandas

    values = [_number(cell) for cell in cells]
    kinds = {type(value) for value in values if value != ""}
    if kinds == {float}:
        values, kind = [float("nan") if value == "" else value for value in values], "float64"
    elif kinds == {int}:
        kind = "Int64" if "" in values else "int64"
        values = [pandas.NA if value == "" else value for value in values]
    else:
        kind = object
    return pandas.Series(values, cells.index, dtype=kind)


def _number(cell: str) -> int | float | str:
    try:
        return int(cell) if cell.isdigit() else float(cell)
    except ValueError:
        return cell
