"""Opens a store of people's answers, a SQLite file, for writing, or for reading without any change.

For writing (`Store`), the file is opened in WAL mode with synchronous=FULL: commits outlive a kill and a power cut, and
readers need not wait for writers.

Reading (`read_table`) changes neither the store nor its folder. That matters because every start of Snakemake reads the
store, also dry runs. SQLite alone does not ensure it: even with `mode=ro` it makes the files -wal and -shm beside a
closed store and leaves them there, and it cannot read such a store in a read-only folder. So:

- A store that somebody has open (-wal and -shm exist) is read with `mode=ro`, under SQLite's locks.
- A closed store (no -wal, and no -journal of an unended transaction) is read as `immutable`, without locks.
- A copy of a store with its -wal, without the -shm, is copied once more and read there. So is a store in rollback mode
  with the -journal of an unended transaction, which is rolled back in the copy.

The last two check that the file did not change meanwhile, and else start again.

A store of an earlier version may lack tables, and columns that may be empty; the rest is read. A table that lacks
columns is not written to.
"""

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory
from threading import Lock
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from persuasion_rl.files import UserError

PATIENCE_S = 60
"""Seconds to wait for another writer."""
TABLES = {"answers", "shown", "battles"}
"""Tables of a store. A database with only other tables is no store."""
PEOPLE = {"answers": "annotator", "shown": "annotator", "battles": "voter"}
"""Table -> the column with the name of a person."""
JOURNAL_BEGINS = bytes.fromhex("d9d505f920a163d7")
"""The first bytes of a -journal whose transaction has not ended."""
BROKEN = (sqlite3.Error, OSError, UnicodeDecodeError)
"""Errors of reading a broken store; the last one if SQLite's message quotes bytes that are no text."""
INSTEAD = "put a whole copy of the file back, or move it away to begin without what is in it"

Row = TypeVar("Row")


class Store:
    """A SQLite file open for writing, created if it is missing. Threads may share a Store; processes have one each.

    Attributes:
        SCHEMA: statements that make the tables.
        TABLE, ROW: the table whose rows are read as this dataclass. Its fields are the columns.

    Raises:
        UserError: the file is no store, is of an earlier version, or cannot be written now.
    """

    SCHEMA: ClassVar[str]
    TABLE: ClassVar[str]
    ROW: ClassVar[type]

    def __init__(self, path: Path):
        self._lock = Lock()
        if path.is_dir():
            raise UserError(f"{path}: a folder, where people's answers are kept: move it away")
        try:
            _refuse_lost_answers(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(
                path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(path)
            except BaseException:
                self._file.close()
                raise
        except (sqlite3.OperationalError, OSError) as error:
            reason = "somebody else is writing, the disk is full, or it may not be written"
            raise UserError(f"{path}: the store cannot be opened ({error}): {reason}") from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: not a store of answers ({_one_line(error)}): {INSTEAD}"
            ) from None

    def _prepare(self, path: Path) -> None:
        """Create missing tables after checking that the file is a store of this version."""
        _refuse_other_databases(self._file, path)
        present = _columns(self._file, self.TABLE)
        missing = {field.name for field in fields(self.ROW)} - present
        if present and missing:
            raise UserError(
                f"{path}: a store of an earlier version (its table {self.TABLE} has no column {min(missing)}), which is"
                " read but not written: `persuasion-rl export-answers`, move the file away, and"
                " `persuasion-rl import-answers`"
            )
        _write_ahead(self._file)
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.executescript(self.SCHEMA)

    def names(self) -> list[str]:
        """The names of all annotators and voters, the oldest first."""
        with self._lock:
            return [
                name
                for table, column in PEOPLE.items()
                if column in _columns(self._file, table)
                for (name,) in self._file.execute(
                    f"SELECT {column} FROM {table} GROUP BY {column} ORDER BY MIN(number)"
                )
            ]

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()


def _write_ahead(file: sqlite3.Connection) -> None:
    """Switch to WAL, with retries: this pragma does not wait for locks if two processes create a file at once."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        try:
            file.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > ends:
                raise
            time.sleep(0.05)


def read_table(path: Path, table: str, kind: type[Row]) -> list[Row]:
    """Read a table of a store in the order in which its rows were added. Nothing is written.

    Args:
        kind: a dataclass whose fields are columns. Those with a default may be missing from the table.

    Returns:
        The rows; none if there is no such file or table yet.

    Raises:
        UserError: the file is no store, is damaged, or cannot be read; one line with the file and what to do.
    """
    ends = time.monotonic() + PATIENCE_S
    while True:
        try:
            files = _Files(path)
            if not files.exist():
                return []
            before = files.state()
            try:
                with files.opened() as file:
                    rows = _rows(file, path, table, kind)
            except (*BROKEN, UserError):
                if files.state() == before:
                    raise
            else:
                if files.state() == before:
                    return rows
        except BROKEN as error:
            raise UserError(_unreadable(path, error)) from None
        if time.monotonic() > ends:
            raise UserError(f"{path}: changes faster than it can be read: end what writes it")
        time.sleep(0.05)


def _unreadable(path: Path, error: Exception) -> str:
    """The message for a store that cannot be read, in one line."""
    reason = _one_line(error)
    if not os.access(path, os.R_OK):
        todo = "give yourself the right to read the file, and to enter its folder"
        return f"{path}: people's answers may not be read: {todo}"
    if isinstance(error, OSError) or "locked" in reason:
        todo = "end the program that holds the file, or look what is wrong with the disk"
        return f"{path}: people's answers cannot be read now ({reason}): {todo}"
    return f"{path}: not a store of people's answers, or a damaged one ({reason}): {INSTEAD}"


def _one_line(error: Exception) -> str:
    """SQLite's message about a broken file, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return "its tables have names that are no text"
    return " ".join(str(error).split())


def _refuse_lost_answers(path: Path) -> None:
    """UserError if a store seems to be missing or empty, but its answers are elsewhere.

    They may be behind a link to a disk that is not mounted. Or some of them are in the -wal or -journal beside it: SQLite
    takes such a file for a leftover and deletes it, even if it only reads.
    """
    for place in (path, *path.parents):
        if os.path.islink(place) and not os.path.exists(place):
            raise UserError(
                f"{place}: a link to {os.readlink(place)}, which is not there, and people's answers are kept behind it:"
                " mount or make that, or move the link away"
            )
        if place != path and os.path.exists(place) and not os.path.isdir(place):
            raise UserError(
                f"{place}: a file, and a folder with people's answers belongs there: move it away"
            )
    store = os.path.realpath(path)
    if os.path.isfile(store) and os.path.getsize(store):
        return
    for suffix, holds_answers in (("wal", _state), ("journal", _undoes_pages)):
        if holds_answers(f"{store}-{suffix}"):
            raise UserError(
                f"{path}: missing or empty, while {path.name}-{suffix} beside it holds answers: put the file back that"
                f" it belongs to, or move the -{suffix} away"
            )


def _undoes_pages(journal: str) -> bool:
    """Whether a -journal belongs to an unended transaction in a store that had pages before it."""
    return _begins(journal) == JOURNAL_BEGINS and any(_begins(journal, 20)[16:])


def _begins(file: str, length: int = len(JOURNAL_BEGINS)) -> bytes:
    """The first bytes of a file; empty if there is no such file.

    Raises:
        OSError: the file cannot be read.
    """
    if not os.path.isfile(file):
        return b""
    with open(file, "rb") as content:
        return content.read(length)


class _Files:
    """The files of a store: the database, and the files of SQLite beside it."""

    def __init__(self, path: Path):
        # SQLite keeps the other files beside the target of a link.
        self.store = os.path.realpath(path)
        self.wal, self.shm = f"{self.store}-wal", f"{self.store}-shm"
        self.journal = f"{self.store}-journal"
        self.path = path

    def exist(self) -> bool:
        """Whether there is a store.

        Raises:
            UserError: a folder or another non-file has its name, or a part of the store is missing.
        """
        _refuse_lost_answers(self.path)
        try:
            mode = os.stat(self.store).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not S_ISREG(mode):
            raise UserError(
                f"{self.path}: not a file, but people's answers are kept there: move it away"
            )
        return True

    def state(self) -> Any:
        """A value that changes when a closed store is written to. For an open store it is constant, since locks guard it."""
        return (
            "open" if self._are_open() else tuple(map(_state, (self.store, self.wal, self.journal)))
        )

    def _are_open(self) -> bool:
        both = os.path.exists(self.wal) and os.path.exists(self.shm)
        return both and not self._have_unended_transaction()

    def _have_unended_transaction(self) -> bool:
        """Whether a transaction in rollback mode has not ended: its writer was killed, or is still writing."""
        return _begins(self.journal) == JOURNAL_BEGINS

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """Open the store for reading, as of its last commit."""
        if self._are_open():
            with _connected(self.store, "mode=ro") as file:
                yield file
        elif beside := self._not_yet_in_the_store():
            with TemporaryDirectory() as folder:
                copy = f"{folder}/copy"
                shutil.copyfile(self.store, copy)
                for name in beside:
                    shutil.copyfile(name, f"{copy}{name.removeprefix(self.store)}")
                with _connected(copy, "mode=rw") as file:
                    yield file
        else:
            with _connected(self.store, "mode=ro&immutable=1") as file:
                self._refuse_cut_off(file)
                yield file

    def _not_yet_in_the_store(self) -> list[str]:
        """The files beside a closed store that hold parts of its last commit."""
        journal = [self.journal] if self._have_unended_transaction() else []
        return journal + ([self.wal] if _state(self.wal) else [])

    def _refuse_cut_off(self, file: sqlite3.Connection) -> None:
        """DatabaseError if the last page is not whole; SQLite would fill it with zeros."""
        (page_size,) = file.execute("PRAGMA page_size").fetchone()
        if os.stat(self.store).st_size % page_size:
            raise sqlite3.DatabaseError("its last page is cut off")


def _connected(file: str, how: str):
    return closing(sqlite3.connect(f"{Path(file).as_uri()}?{how}", PATIENCE_S, uri=True))


def _state(file: str) -> tuple[int, ...] | None:
    """A value that changes when a file is written to; None for a missing or empty file."""
    try:
        stat = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat.st_size else None


def _rows(file: sqlite3.Connection, path: Path, table: str, kind: type[Row]) -> list[Row]:
    """The rows of a table as objects of a dataclass."""
    _refuse_other_databases(file, path)
    present = _columns(file, table)
    if not present:
        return []
    needed = {f.name for f in fields(kind) if f.default is MISSING}
    if missing := needed - present:
        raise UserError(
            f"{path}: not a store of people's answers (its table {table} has no column {min(missing)}): {INSTEAD}"
        )
    types = {name: _stored(hint) for name, hint in get_type_hints(kind).items() if name in present}
    rows = []
    for number, *values in file.execute(
        f"SELECT rowid, {', '.join(types)} FROM {table} ORDER BY 1"
    ):
        for (name, type_), value in zip(types.items(), values, strict=True):
            if not isinstance(value, type_):
                raise UserError(
                    f"{path}: row {number} of its table {table} has {name} {value!r:.40}: {INSTEAD}"
                )
        rows.append(kind(**dict(zip(types, values, strict=True))))
    return rows


def _stored(hint: Any) -> tuple[type, ...]:
    """The types of a field's values from SQLite."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return (*parts, int) if float in parts else parts


def _refuse_other_databases(file: sqlite3.Connection, path: Path) -> None:
    """UserError if a database has tables but none of a store's, or views, which a store does not have."""
    kinds = list(
        file.execute("SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view')")
    )
    views = [(kind, name) for kind, name in kinds if kind == "view"]
    if views or (kinds and not {name for _, name in kinds} & TABLES):
        kind, name = min(views or kinds, key=repr)
        raise UserError(
            f"{path}: not a store of people's answers (it has the {kind} {name!r:.40}): {INSTEAD}"
        )


def _columns(file: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in file.execute(f"PRAGMA table_info({table})")}
