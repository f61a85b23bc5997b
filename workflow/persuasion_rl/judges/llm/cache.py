"""The answers of language models, in one SQLite file: an answer that was paid for is never lost or asked for again.

An answer is kept under the digest of its request, as the server sent it, and committed before it is used. It is parsed
anew every time, so that a better parser needs no new answer.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from threading import Lock

from filelock import FileLock, Timeout

from persuasion_rl.files import UserError
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.lock import cannot_be_locked

TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT NOT NULL,         -- the digest of the request
    body TEXT NOT NULL,        -- the answer as the server sent it
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_usd REAL,             -- NULL where no price was known
    answered_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS answers_by_key ON answers (key);
CREATE TABLE IF NOT EXISTS batches (
    token TEXT PRIMARY KEY,    -- ours, from before the batch is created
    id TEXT,                   -- the provider's; NULL until it has answered
    provider TEXT NOT NULL,
    keys TEXT NOT NULL,        -- JSON list
    created_at REAL NOT NULL,  -- seconds since 1970
    fetched INTEGER NOT NULL DEFAULT 0
);
"""
ADDED = {
    "answers": {"batch": "INTEGER NOT NULL DEFAULT 0"},  # whether it came in a batch
    "batches": {
        "address": "TEXT",  # where it was sent; empty for the provider's own
        "model": "TEXT",
        "prices": "TEXT",  # JSON
    },
}
"""Columns that files of earlier versions lack: where these have rows, the batches' are NULL."""


@dataclass(frozen=True)
class Answer:
    """A server's answer to the request of that key, and what it cost (None where no price is known)."""

    key: str
    body: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    batch: bool = False


@dataclass(frozen=True)
class Batch:
    """A batch that was created, or is about to be (`id` is None), and not fetched yet.

    Where it was sent ("" is the provider's own address), the model and its prices are those of when it was created, or
    None where an earlier version has noted it, or no price was known.
    """

    token: str
    id: str | None
    keys: list[str]
    created_at: float
    address: str | None = None
    model: str | None = None
    prices: dict[str, float] | None = None


class AnswerCache:
    """The answers of a study. Threads may share one; processes take turns through `opened`."""

    def __init__(self, path: Path):
        self._lock = Lock()
        self._file = sqlite3.connect(
            path, timeout=60, isolation_level=None, check_same_thread=False
        )
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.executescript(TABLES)
        for table, columns in ADDED.items():
            existing = {row[1] for row in self._file.execute(f"PRAGMA table_info({table})")}
            for column in columns.keys() - existing:
                self._file.execute(f"ALTER TABLE {table} ADD COLUMN {column} {columns[column]}")

    def close(self) -> None:
        self._file.close()

    def _run(self, statement: str, *values: object) -> list[tuple]:
        with self._lock:
            return self._file.execute(statement, values).fetchall()

    def bodies(self, key: str) -> list[str]:
        """All answers to a request, oldest first."""
        rows = self._run("SELECT body FROM answers WHERE key = ? ORDER BY rowid", key)
        return [body for (body,) in rows]

    def add(self, *answers: Answer, batch: Batch | None = None) -> None:
        """Commit answers in one transaction; with `batch`, that it has been fetched too."""
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                self._file.executemany(
                    "INSERT INTO answers (key, body, model, input_tokens, output_tokens, cost_usd, batch)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    map(astuple, answers),
                )
                if batch is not None:
                    self._file.execute(
                        "UPDATE batches SET fetched = 1 WHERE token = ?", (batch.token,)
                    )
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    def spent(self) -> tuple[int, float]:
        """How many answers there are, and what they cost in USD as far as prices were known."""
        return self._run("SELECT count(*), coalesce(sum(cost_usd), 0.0) FROM answers")[0]

    def unpriced(self) -> list[tuple[int, int, bool]]:
        """Tokens in, tokens out, and whether in a batch, of the answers that came when no price was known."""
        rows = self._run(
            "SELECT sum(input_tokens), sum(output_tokens), batch FROM answers"
            " WHERE cost_usd IS NULL GROUP BY batch"
        )
        return [(tokens_in, tokens_out, bool(batch)) for tokens_in, tokens_out, batch in rows]

    def waiting_batches(self, provider: str) -> list[Batch]:
        """The provider's batches that have not been fetched, oldest first."""
        rows = self._run(
            "SELECT token, id, keys, created_at, address, model, prices FROM batches"
            " WHERE provider = ? AND NOT fetched ORDER BY created_at",
            provider,
        )
        return [
            Batch(token, id_, json.loads(keys), *more, prices and json.loads(prices))
            for token, id_, keys, *more, prices in rows
        ]

    def batch_ids(self) -> set[str]:
        """The providers' ids of all batches of the study."""
        return {id_ for (id_,) in self._run("SELECT id FROM batches WHERE id IS NOT NULL")}

    def plan_batch(self, batch: Batch, provider: str) -> None:
        """Note a batch before it is created, so that a kill in between cannot lose it."""
        self._run(
            "INSERT INTO batches (token, keys, created_at, address, model, prices, provider)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(batch.token, json.dumps(batch.keys), batch.created_at, batch.address, batch.model),
            *(batch.prices and json.dumps(batch.prices), provider),
        )

    def name_batch(self, batch: Batch, id_: str | None) -> Batch:
        """Note the provider's id of a batch, or that another one was taken for it."""
        self._run("UPDATE batches SET id = ? WHERE token = ?", id_, batch.token)
        return replace(batch, id=id_)

    def drop_batch(self, batch: Batch) -> None:
        """Forget a batch that was never created."""
        self._run("DELETE FROM batches WHERE token = ?", batch.token)


@contextmanager
def opened(path: Path) -> Iterator[AnswerCache]:
    """Open the cache for this process alone: only one process asks at a time.

    So two jobs never ask for the same answer, and limits hold for the study. The lock is one of the kernel on a file beside
    the cache. It goes with its process, also when that is killed.

    Raises:
        UserError: the file is no SQLite file, or it or its lock cannot be written.
    """
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            acquired = lock.acquire(blocking=False)
        except Timeout:
            note(f"judge llm: another job is asking; waiting for it ({path})")
            acquired = lock.acquire()
    except OSError as error:
        raise UserError(cannot_be_locked(Path(lock.lock_file), error)) from None
    with acquired:
        try:
            cache = AnswerCache(path)
            try:
                yield cache
            finally:
                cache.close()
        except sqlite3.Error as error:
            raise UserError(
                f"{path}: {error}; make room, or move the file away (its answers are then asked again)"
            ) from None
