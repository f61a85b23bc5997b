"""The results of a study as data frames, for a notebook or a script of one's own.

from persuasion_rl import load_study

study = load_study("demo")                # or a folder, results/demo
study.tables["ranking"]                   # every CSV file by name; also study.ranking
study.rows["responses"]                   # rows of JSON lines: replies, verdicts, labels; also study.responses
study.config["seed"]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persuasion_rl.files import UserError, read_jsonl
from persuasion_rl.study.parsing import shortened
from persuasion_rl.study.recorded import recorded_settings
from persuasion_rl.tables import read_table

if TYPE_CHECKING:
    from pandas import DataFrame

NAMED_BY_FILE = (".", "evaluation", "judges", "splits")
"""Folders of a study whose tables have the names of their files."""
NAMED_BY_PATH = ("unattended", "exploration")
"""Folders whose tables have the folder in their name: "unattended/ranking"."""
ROWS = {
    "responses": ("evaluation/responses/*.jsonl", "player"),
    "verdicts": ("evaluation/verdicts/*.jsonl", "judge"),
    "unattended/verdicts": ("unattended/verdicts/*.jsonl", "judge"),
    "labels": ("preferences/*_pool_labels.jsonl", "pool"),
    "pairs": ("preferences/*_train.jsonl", "pool"),
    "examples": ("splits/sft_*.jsonl", "side"),
    "delta_pairs": ("processed/delta_pairs.jsonl", None),
    "history": ("models/*/history.jsonl", "model"),
}
"""Name -> a pattern of files with such rows, and the column for the part of a path that matches the *."""


class MissingFrame(UserError, AttributeError, KeyError):
    """A study has no table or no rows of this name (yet)."""

    __str__ = Exception.__str__  # that of KeyError adds quotes


class Frames(Mapping[str, "DataFrame"]):
    """Data frames by name, each read at its first use."""

    def __init__(self, folder: Path, kind: str, readers: dict[str, Callable[[], DataFrame]]):
        self._folder, self._kind, self._readers = folder, kind, readers
        self._frames: dict[str, DataFrame] = {}

    def __getitem__(self, name: str) -> DataFrame:
        if name not in self._readers:
            names = ", ".join(self) or "none"
            raise MissingFrame(f"{self._folder}: no {self._kind} {name!r}; there are: {names}")
        if name not in self._frames:
            self._frames[name] = self._readers[name]()
        return self._frames[name]

    def __contains__(self, name: object) -> bool:
        return name in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __repr__(self) -> str:
        return f"{self._kind}: {', '.join(self) or 'none'}"


class StudyResults:
    """The results of a study so far.

    Attributes:
        folder: results/{study}.
        tables: its CSV files, by name.
        rows: its rows of JSON lines, by name (ROWS); the keys of `metadata` are columns.

    Tables and rows are also attributes: `.ranking` is `.tables["ranking"]`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.tables = Frames(folder, "table", _tables(folder))
        self.rows = Frames(folder, "rows", {n: partial(self.read_rows, n) for n in _rows(folder)})

    @cached_property
    def config(self) -> dict[str, Any]:
        """The recorded configuration of the study.

        Raises:
            UserError: it is not recorded yet, or is broken.
        """
        path = self.folder / "config.yaml"
        if not path.is_file():
            raise UserError(f"{path} is not there: the study's report makes it")
        return recorded_settings(self.folder)

    def read_rows(self, name: str, without: tuple[str, ...] = ()) -> DataFrame:
        """The rows of `rows[name]`, optionally without some columns.

        Args:
            without: columns to leave out, so that long texts take no memory.
        """
        import pandas

        files = _rows(self.folder).get(name)
        if not files:
            return self.rows[name]  # raises an error with the names that exist
        column = ROWS[name][1]
        return pandas.DataFrame(
            {key: value for key, value in row.items() if key not in without}
            for value, path in files.items()
            for row in _flat(path, {column: value} if column else {})
        )

    def __getattr__(self, name: str) -> DataFrame:
        if name.startswith("_") or name in ("tables", "rows"):
            raise AttributeError(name)
        return self.rows[name] if name in self.rows else self.tables[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.tables, *self.rows]

    def __repr__(self) -> str:
        return f"{self.folder}\n{self.tables!r}\n{self.rows!r}"


def load_study(study: str | Path) -> StudyResults:
    """The results of a study, finished or not.

    Args:
        study: its name, or its folder.

    Raises:
        UserError: there is no such study; the message names those that exist.
    """
    for folder in (Path("results") / study, Path(study)):
        # Of a name that is too long os.path says that it is not there; pathlib raises.
        if str(study) and os.path.isdir(folder) and (_tables(folder) or _rows(folder)):
            return StudyResults(folder)
    names = sorted(path.name for path in Path("results").glob("*") if path.is_dir())
    named = (
        str(study) if str(study).isprintable() and 0 < len(str(study)) <= 200 else shortened(study)
    )
    raise UserError(f"{named}: no study with results; under results/: {', '.join(names) or 'none'}")


def _tables(folder: Path) -> dict[str, Callable[[], DataFrame]]:
    """Name -> a function that reads the table."""
    files = {
        path.stem if inner in NAMED_BY_FILE else f"{inner}/{path.stem}": path
        for inner in (*NAMED_BY_FILE, *NAMED_BY_PATH)
        for path in sorted((folder / inner).glob("*.csv"))
    }
    return {name: partial(read_table, path) for name, path in files.items()}


def _rows(folder: Path) -> dict[str, dict[str, Path]]:
    """Name -> part of the path that matches the * -> file, for names with files."""
    files_of = {}
    for name, (pattern, _) in ROWS.items():
        before, _, after = pattern.partition("*")
        files = {
            path.relative_to(folder).as_posix().removeprefix(before).removesuffix(after): path
            for path in sorted(folder.glob(pattern))
        }
        if files:
            files_of[name] = files
    return files_of


def _flat(path: Path, first: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of a file with `metadata` spread out; keys of the row itself override those of its metadata."""
    try:
        for row in read_jsonl(path):
            metadata = row.pop("metadata", {})
            yield (
                first | row | {key: metadata[key] for key in metadata if key not in {*first, *row}}
            )
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
