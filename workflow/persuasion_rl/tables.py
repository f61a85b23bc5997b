"""Reading and writing tables: the study's CSV files, by pandas.

pandas is imported where a table is read or written, so that importing this module costs nothing.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persuasion_rl.files import MADE_AGAIN, UserError, check, written_whole

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

    Raises:
        UserError: as of `read_texts`.
    """
    table = read_texts(path, MADE_AGAIN, separator)
    for name in table.columns.difference(TEXT_COLUMNS, sort=False):
        table[name] = _with_numbers(table[name])
    return table


def read_texts(path: Path, todo: str, separator: str = ",", blank_lines: bool = False) -> DataFrame:
    """Read a table whose cells are all text, "" where one is empty. A mark of spreadsheets before the text is no text.

    Args:
        blank_lines: whether a blank line is a row, of empty cells; else there is none of it.

    Raises:
        UserError: there is no such file, or it is no table: one line that names it and says what `todo`.
    """
    import pandas

    try:
        with warnings.catch_warnings():
            # Of a row with more cells than columns pandas cuts the last ones off, with a warning alone.
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            table = pandas.read_csv(
                path,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                index_col=False,
                skip_blank_lines=not blank_lines,
            )
        if (problem := _repeated_column(path, separator)) is None:
            return table
    except pandas.errors.ParserWarning:
        problem = _too_many_cells(path, separator)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except pandas.errors.EmptyDataError:
        problem = "empty, where a table is expected"
    except pandas.errors.ParserError as error:
        problem = f"not a table ({' '.join(str(error).split())})"
    raise UserError(f"{path}: {problem}: {todo}")


def _repeated_column(path: Path, separator: str) -> str | None:
    """What is wrong with the names of a table's columns: pandas makes two that are the same different.

    Columns without a name are no mistake: spreadsheets add them.
    """
    number, names = next(_rows_with_lines(path, separator))
    again = next((name for place, name in enumerate(names) if name and name in names[:place]), None)
    return None if again is None else f"line {number}: two columns are named {again!r}"


def _too_many_cells(path: Path, separator: str) -> str:
    """The first row of a table that has more cells than there are columns."""
    rows = _rows_with_lines(path, separator)
    _, names = next(rows)
    for number, row in rows:
        if len(row) > len(names):
            return f"line {number} has {len(row)} cells, and the table has {len(names)} columns"
    return f"a row has more cells than the table's {len(names)} columns"


def _rows_with_lines(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that are not blank, each with the line in which it ends."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=separator)
        for row in reader:
            if row:
                yield reader.line_num, row


def write_table(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Write a table whole or not at all.

    Floats are rounded to six digits, so that tables read well, and none is -0.0. What a row lacks is an empty cell.
    """
    import pandas

    further = {name for row in rows for name in row}.difference(columns)
    check(not further, f"{path}: columns {sorted(further)} are not among {columns}")
    cells = {name: [_written(row.get(name)) for row in rows] for name in columns}
    # Left to itself, Python's csv module writes a bare \r without quotes, where readers end the row.
    ends_a_row = any("\r" in str(cell) for column in cells.values() for cell in column)
    quoting = csv.QUOTE_ALL if ends_a_row else csv.QUOTE_MINIMAL
    with written_whole(path) as part:
        pandas.DataFrame(cells, dtype=object).to_csv(
            part, index=False, lineterminator="\n", quoting=quoting
        )


def made_rows(
    path: Path, columns: Sequence[str], numbers: Sequence[str] = (), words: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of a table that the workflow has written, as of `rows_of`.

    Args:
        columns: those that it must have. All but TEXT_COLUMNS hold numbers, and may be empty but for `numbers`.
        words: what may stand in place of a number.

    Raises:
        UserError: a column is missing, or a cell is no number.
    """
    table = read_table(path)
    if missing := [name for name in columns if name not in table.columns]:
        raise UserError(f"{path}: no column {missing[0]!r}: {MADE_AGAIN}")
    rows = rows_of(table)
    for name in columns:
        for place, cell in enumerate(row[name] for row in rows if name not in TEXT_COLUMNS):
            if isinstance(cell, str) and cell not in (words if name in numbers else ("", *words)):
                raise UserError(
                    f"{path}, row {place + 2}: {name} {cell!r} is no number: {MADE_AGAIN}"
                )
    return rows


def rows_of(table: DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dicts of Python's own values, "" where a cell is empty."""
    return table.astype(object).where(table.notna(), "").to_dict("records")


def _written(value: Any) -> Any:
    """A cell; a float as the shortest text that reads as its six digits, empty if it is not a number.

    Rounded by Python, which is exact: pandas makes 2e-06 of 2.5e-06, Python 3e-06, and a table is to keep its bytes.
    """
    if not isinstance(value, float):
        return value
    return "" if value != value else repr(round(float(value), 6) + 0.0)


def _with_numbers(cells: Series) -> Series:
    """The cells of a column, numbers as numbers.

    Cell by cell: `pandas.to_numeric` makes one type of a column, so that 3 becomes 3.0 beside 0.25 or an empty cell, and
    refuses one in which a text stands, or makes it missing.
    """
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
    """A cell as a whole number where it is all digits, else as a float, else as the text that it is."""
    try:
        # A number of more digits fits no column of whole numbers.
        return int(cell) if cell.isdigit() and len(cell) < 19 else float(cell)
    except ValueError:
        return cell
