"""Compares two finished studies: settings, data, results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from persuasion_rl.files import as_made, file_digest, read_json
from persuasion_rl.report.judge_findings import interval_text
from persuasion_rl.report.plotting import number
from persuasion_rl.settings import flat
from persuasion_rl.statistics.intervals import Interval, difference
from persuasion_rl.study.recorded import recorded_settings, study_folder
from persuasion_rl.tables import read_table, rows_of

PLAYED = ("judge", "player", "against")
RESULTS = [
    ("judges/trust.csv", ("judge", "measure"), "value"),
    ("evaluation/comparisons.csv", (*PLAYED, "seeds"), "win_rate"),
    ("evaluation/win_rates.csv", PLAYED, "win_rate"),
    ("evaluation/win_rates.csv", PLAYED, "length_controlled"),
    ("evaluation/equal_honesty.csv", PLAYED, "win_rate"),
    ("evaluation/ranking.csv", PLAYED, "strength"),
    ("evaluation/truth.csv", ("model",), "mean"),
    ("evaluation/truth_differences.csv", ("model", "against"), "difference"),
    ("evaluation/behaviour.csv", ("player", "measure"), "value"),
    ("evaluation/honesty.csv", ("player", "measure"), "value"),
]
"""Tables of results, the columns that identify their rows, and the column of their numbers. A study without people's
labels has them in the folder unattended."""
FACTS: dict[str, Callable[[str, Any], dict]] = {
    "processed/*_counts.json": lambda name, counts: {
        f"{name}.{key}": count for key, count in flat({**counts}) if count != {}
    },
    "splits/summary.json": lambda _, summary: {
        f"splits.{name}": part["used"] for name, part in summary["parts"].items()
    },
    "preferences/*_pairs.json": lambda name, report: {
        f"{name}.{key}": count for key, count in report["pairs"].items()
    },
}
"""Files with sizes -> a function from a file's name and content to its sizes."""
WIDTH = 60
"""The most characters of a cell."""


def compare_studies(one: str, other: str) -> str:
    """The differences between two studies, as text.

    A difference of results is `one` minus `other`, as of independent studies; if both answer the same prompts, its interval
    is wider than necessary. Results whose interval contains zero, and rows of only one study, are counted but not shown.
    Numbers without an interval (loss, perplexity) are shown if they differ.

    Args:
        one, other: names of studies under results/, or their folders.

    Raises:
        UserError: a study does not exist.
    """
    folders = [study_folder(name) for name in (one, other)]
    names = [one, other] if folders[0].name == folders[1].name else [f.name for f in folders]
    parts = [
        f"{names[0]} and {names[1]}",
        _section("Settings", ["setting", *names], _settings(*folders)),
        _section("Data", ["what", *names], _data(*folders)),
    ]
    for table, keys, value in RESULTS:
        files = [_table(folder, table) for folder in folders]
        missing = [name for name, file in zip(names, files, strict=True) if file is None]
        if missing:
            parts.append(f"{table}: not compared, not in {' nor in '.join(missing)}")
        else:
            parts.append(_compared(table, keys, value, names, files))
    return "\n\n".join(parts) + "\n"


def _table(folder: Path, table: str) -> Path | None:
    """A table of a study, or its version without people's labels; None without either."""
    places = (folder / table, folder / "unattended" / Path(table).name)
    return next((place for place in places if place.is_file()), None)


def _settings(one: Path, other: Path) -> list[list[str]]:
    """Rows of the settings that differ between two studies."""
    recorded = [dict(flat(recorded_settings(folder))) for folder in (one, other)]
    keys = list(dict.fromkeys([*recorded[0], *recorded[1]]))
    absent = "(none)"
    return [
        [key, *(str(settings.get(key, absent)) for settings in recorded)]
        for key in keys
        if recorded[0].get(key, absent) != recorded[1].get(key, absent)
    ]


def _data(one: Path, other: Path) -> list[list[str]]:
    """Rows of the differences between the data of two studies."""
    facts = [_data_facts(folder) for folder in (one, other)]
    return [
        [what, *(number(values.get(what, "(none)")) for values in facts)]
        for what in dict.fromkeys([*facts[0], *facts[1]])
        if facts[0].get(what) != facts[1].get(what)
    ]


def _data_facts(folder: Path) -> dict[str, int | str]:
    """Sizes of the data, and digests of the training rows and of the prompts that all models answer."""
    facts: dict[str, int | str] = {}
    for pattern, facts_in in FACTS.items():
        for path in sorted(folder.glob(pattern)):
            with as_made(path):
                facts |= facts_in(path.stem, read_json(path))
    for name in ("splits/sft_train.jsonl", "preferences/final_eval_prompts.jsonl"):
        if (folder / name).is_file():
            facts[name] = f"SHA-256 {file_digest(folder / name)[:12]}"
    return facts


def _compared(
    table: str, keys: tuple[str, ...], value: str, names: list[str], files: list[Path]
) -> str:
    """The rows of a table with a difference whose interval does not contain zero, and the number of others."""
    one, other = (_estimates(file, keys, value) for file in files)
    if {"player", "against"} <= {*keys} and value != "strength":
        other = dict(_swapped(key, row, one) for key, row in other.items())
    rows, alike = [], 0
    for key in one.keys() & other.keys():
        gap = _difference(one[key], other[key])
        if gap is None:
            alike += 1
        else:
            rows.append([*key, _as_text(one[key]), _as_text(other[key]), gap])
    remarks = [f"{alike} more with zero in the interval"]
    for name, rows_of_study, others in ((names[0], one, other), (names[1], other, one)):
        if alone := [key for key in rows_of_study if key not in others]:
            remarks.append(f"{len(alone)} in {name} only")
    if "unattended" in {file.parent.name for file in files}:
        remarks.append("of what needs no person")
    order = list(one)
    rows.sort(key=lambda row: order.index(tuple(row[: len(keys)])))
    title = f"{table}, length_controlled" if value == "length_controlled" else table
    return _section(title, [*keys, *names, "difference"], rows, ", ".join(remarks))


Estimate = Interval | float


def _swapped(key: tuple, rate: Interval, rows: dict) -> tuple[tuple, Interval]:
    """The key and win rate of a row, swapped if the other study lists the two players in the other order.

    Args:
        rows: the rows of the other study.
    """
    judge, player, against, *more = key
    back = (judge, against, player, *more)
    if key in rows or back not in rows:
        return key, rate
    return back, Interval(1 - rate.value, 1 - rate.high, 1 - rate.low)


def _difference(one: Estimate, other: Estimate) -> str | None:
    """The difference as text; None if its interval contains zero, or there is no difference."""
    if isinstance(one, Interval) and isinstance(other, Interval):
        gap = difference(one, other)
        return None if gap.low <= 0 <= gap.high else _as_text(gap, "+.3f")
    values = [e.value if isinstance(e, Interval) else e for e in (one, other)]
    change = values[0] - values[1]
    return f"{change:+.3g} (no interval)" if change else None


def _estimates(path: Path, keys: tuple[str, ...], value: str) -> dict[tuple, Estimate]:
    """The numbers of a table by the keys of their rows, with their intervals, if any."""
    prefix = f"{value}_" if value == "length_controlled" else ""
    estimates: dict[tuple, Estimate] = {}
    for row in rows_of(read_table(path)):
        number, low, high = (row.get(name, "") for name in (value, f"{prefix}low", f"{prefix}high"))
        if isinstance(number, float | int):
            key = tuple(str(row.get(name, "")) for name in keys)
            estimates[key] = Interval(number, low, high) if isinstance(low, float | int) else number
    return estimates


def _as_text(estimate: Estimate, form: str = ".3f") -> str:
    """A number as text, with its interval if it has one."""
    if not isinstance(estimate, Interval):
        return f"{estimate:.4g}"
    return interval_text(vars(estimate), form=form)


def _section(title: str, header: list[str], rows: list[list[str]], remarks: str = "") -> str:
    """A titled table in columns, or a line that says that there is no difference."""
    lines = [title + (f" ({remarks})" if remarks else "")]
    if not rows:
        return lines[0] + ": no difference"
    rows = [[*row[:1], *_shortened(row[1:])] for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def _shortened(cells: list[str]) -> list[str]:
    """Cells of at most WIDTH characters. A common beginning is cut first, so that differences stay visible."""
    if max(map(len, cells)) <= WIDTH:
        return cells
    places = enumerate(zip(*cells, strict=False))
    shared = next((place for place, letters in places if len(set(letters)) > 1), 0)
    start = max(0, shared - WIDTH // 4)
    cut = [f"…{cell[start:]}" if start else cell for cell in cells]
    return [cell if len(cell) <= WIDTH else f"{cell[: WIDTH - 1]}…" for cell in cut]
