"""What differs between two studies that were made: settings, data, results."""

from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml

from persuasion_rl.figures import number, with_numbers
from persuasion_rl.files import UserError, file_digest, read_csv, read_json
from persuasion_rl.statistics import Interval, difference

RESULTS = {
    "judges/trust.csv": ("judge", "measure"),
    "evaluation/comparisons.csv": ("judge", "player", "against"),
    "evaluation/truth.csv": ("model",),
    "evaluation/behaviour.csv": ("player", "measure"),
    "evaluation/honesty.csv": ("player", "measure"),
}
"""Tables with intervals, and what names their rows."""
VALUES = ("win_rate", "mean", "value")
"""The column of a table that has an interval."""
WIDTH = 60
"""Characters of a cell at most."""


def compare_studies(one: str, other: str) -> str:
    """What differs between two studies, as text.

    A difference of results is `one` minus `other`, as of independent studies: where both answer the same prompts, its
    interval is wider than need be. Results whose interval holds zero are counted, not shown.

    Args:
        one, other: names of studies under results/, or their folders.

    Raises:
        UserError: a study that is not there.
    """
    folders = [study_folder(name) for name in (one, other)]
    names = [one, other] if folders[0].name == folders[1].name else [f.name for f in folders]
    parts = [
        f"{names[0]} and {names[1]}",
        _section("Settings", ["setting", *names], _settings(*folders)),
        _section("Data", ["what", *names], _data(*folders)),
    ]
    for table, keys in RESULTS.items():
        files = [folder / table for folder in folders]
        missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
        if missing:
            parts.append(f"{table}: not compared, not in {' nor in '.join(missing)}")
        else:
            rows, alike = _results(*files, keys)
            header = [*keys, *names, "difference"]
            parts.append(_section(table, header, rows, f"{alike} more with zero in the interval"))
    return "\n\n".join(parts) + "\n"


def study_folder(name: str) -> Path:
    """The folder of a study that was made, by its name or as a folder."""
    for folder in (Path(name), Path("results") / name):
        if (folder / "config.yaml").is_file():
            return folder.resolve()
    made = sorted(path.parent.name for path in Path("results").glob("*/config.yaml"))
    raise UserError(
        f"{name}: no study that was made (results/{name}/config.yaml is not there; `snakemake unattended` makes it);"
        f" there {'are ' + ', '.join(made) if made else 'is none'}"
    )


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The configuration that a study was made with."""
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def _settings(one: Path, other: Path) -> list[list[str]]:
    flat = [dict(_flat(recorded_settings(folder))) for folder in (one, other)]
    keys = list(dict.fromkeys([*flat[0], *flat[1]]))
    absent = "(none)"
    return [
        [key, *(str(settings.get(key, absent)) for settings in flat)]
        for key in keys
        if flat[0].get(key, absent) != flat[1].get(key, absent)
    ]


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and their values."""
    if not isinstance(value, dict) or not value:
        return [(name, value)]
    return [
        pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}".strip("."))
    ]


def _data(one: Path, other: Path) -> list[list[str]]:
    found = [_counted(folder) for folder in (one, other)]
    return [
        [what, *(number(counts.get(what, "(none)")) for counts in found)]
        for what in dict.fromkeys([*found[0], *found[1]])
        if found[0].get(what) != found[1].get(what)
    ]


def _counted(folder: Path) -> dict[str, int | str]:
    """Sizes of the data, and digests of what all models answer."""
    found: dict[str, int | str] = {}
    for path in sorted(folder.glob("processed/*_counts.json")):
        counts = _flat(read_json(path))
        found |= {f"{path.stem}.{key}": count for key, count in counts if count != {}}
    for path in sorted(folder.glob("splits/summary.json")):
        parts = read_json(path)["parts"]
        found |= {f"splits.{name}": part["used"] for name, part in parts.items()}
    for path in sorted(folder.glob("preferences/*_pairs.json")):
        pairs = read_json(path)["pairs"]
        found |= {f"{path.stem}.{name}": count for name, count in pairs.items()}
    for name in ("splits/sft_train.jsonl", "preferences/final_eval_prompts.jsonl"):
        if (folder / name).is_file():
            found[name] = f"SHA-256 {file_digest(folder / name)[:12]}"
    return found


def _results(one: Path, other: Path, keys: tuple[str, ...]) -> tuple[list[list[str]], int]:
    """Rows whose difference does not hold zero, and how many others there are."""
    tables = [_estimates(path, keys) for path in (one, other)]
    rows, alike = [], 0
    for key, estimate in tables[0].items():
        if key not in tables[1]:
            continue
        found = difference(estimate, tables[1][key])
        if found.low <= 0 <= found.high:
            alike += 1
        else:
            rows.append([*key, *map(_told, (estimate, tables[1][key])), _told(found, "+.3f")])
    return rows, alike


def _estimates(path: Path, keys: tuple[str, ...]) -> dict[tuple, Interval]:
    rows = with_numbers(read_csv(path))
    if not rows:
        return {}
    (column,) = (name for name in VALUES if name in rows[0])
    return {
        tuple(str(row[key]) for key in keys): Interval(row[column], row["low"], row["high"])
        for row in rows
        if isinstance(row["low"], float | int)
    }


def _told(interval: Interval, form: str = ".3f") -> str:
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _section(title: str, header: list[str], rows: list[list[str]], further: str = "") -> str:
    """A titled table in columns, or that there is none."""
    lines = [title + (f" ({further})" if further else "")]
    if not rows:
        return lines[0] + ": no difference"
    rows = [[shorten(cell, WIDTH, placeholder="…") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
