"""People's answers to pairs of responses, in one SQLite file that outlives every clean-up.

An answer belongs to an annotator and to a pair, which is the digest of a prompt and both responses: other responses
are another pair, so that no answer ever attaches to a text that nobody has read. Every answer is one committed
transaction (WAL, synchronous=FULL); the first answer to a showing stands. What is shown next is found from what is
missing.

A pair is wanted once, or by `several` people where it is among the share `overlap` of the pairs. Skips do not count, and
what somebody has flagged as unsafe is wanted no more. What is shown to somebody counts as taken for a while, so that two
people at once get different pairs. A share `repeats` of what an annotator has answered comes back once, later and with
its sides changed, to see how far the annotator agrees with themselves.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

from persuasion_rl.files import UserError, keyed_number, text_digest
from persuasion_rl.judges import NONE, TIE

LEFT, RIGHT, BOTH_BAD, SKIP, FLAG = "left", "right", "both_bad", "skip", "flag"
ANSWERS = (LEFT, RIGHT, TIE, BOTH_BAD, SKIP, FLAG)
FIRST_TIME, REPEAT, PRACTICE = "first", "repeat", "practice"
TAKEN_S = 30 * 60
"""Seconds for which a pair that is shown to somebody is not offered to others."""
REPEATED_AFTER = 10
"""Answers of the same annotator between a pair and its repeat."""
LONGEST_NAME = 60
"""Characters of an annotator's name."""
LONGEST_REASON = 2000
"""Characters of a reason."""
TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY,
    annotator TEXT NOT NULL,
    pair TEXT NOT NULL,             -- digest of the prompt and both responses
    kind TEXT NOT NULL,             -- first, repeat, practice
    left_response INTEGER NOT NULL, -- the response that stood on the left: 1 or 2
    answer TEXT NOT NULL,           -- left, right, tie, both_bad, skip, flag
    confidence INTEGER,             -- 1 (a guess) to 3 (sure)
    reason TEXT,
    seconds REAL,                   -- from showing to answer
    answered_at REAL,               -- seconds since 1970
    UNIQUE (annotator, pair, kind)
);
CREATE TABLE IF NOT EXISTS showings (
    annotator TEXT PRIMARY KEY,
    pair TEXT NOT NULL,
    kind TEXT NOT NULL,
    shown_at REAL NOT NULL
);
"""


@dataclass(frozen=True)
class Answer:
    """What an annotator said of a pair, as it was shown."""

    annotator: str
    pair: str
    kind: str
    left_response: int
    answer: str
    confidence: int | None = None
    reason: str | None = None
    seconds: float | None = None
    answered_at: float | None = None


@dataclass(frozen=True)
class Showing:
    """A pair that an annotator is to answer, which response stands on the left, and how many pairs are left to do, this
    one among them, as things stand, repeats and practice apart."""

    pair: str
    kind: str
    left_response: int
    left_to_do: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Plan:
    """Whom the pairs of a pool are given to. `pairs` and `practice` are digests; shares are in [0, 1]."""

    pairs: list[str]
    seed: int
    overlap: float = 0.2
    several: int = 2
    repeats: float = 0.05
    practice: tuple[str, ...] = ()

    @cached_property
    def in_order(self) -> list[tuple[str, int]]:
        """The pairs in the order in which they are given out, with how many people are to answer each."""
        drawn = sorted(self.pairs, key=lambda pair: keyed_number("order", self.seed, pair))
        shared = {pair for pair in drawn if keyed_number("overlap", self.seed, pair) < self.overlap}
        return [(pair, self.several if pair in shared else 1) for pair in drawn]

    def left(self, annotator: str, pair: str, kind: str) -> int:
        """The response on the left: drawn for each annotator and pair, and changed in a repeat."""
        first = keyed_number("left", self.seed, annotator, pair) < 0.5
        return 1 if first != (kind == REPEAT) else 2

    def repeated(self, annotator: str, pair: str) -> bool:
        return keyed_number("repeat", self.seed, annotator, pair) < self.repeats


def opinion_of(answer: Answer) -> str | None:
    """What an answer says of the pair as its row has it: "1", "2", "tie" or "both_bad"; a skip or a flag says nothing."""
    if answer.answer in (LEFT, RIGHT):
        return str(answer.left_response if answer.answer == LEFT else 3 - answer.left_response)
    return answer.answer if answer.answer in (TIE, BOTH_BAD) else None


def verdict_of(answer: Answer) -> str:
    """The same as a verdict of a label row: both bad, skipped and flagged are "none"."""
    opinion = opinion_of(answer)
    return NONE if opinion in (None, BOTH_BAD) else opinion


def pair_id(row: dict) -> str:
    """What identifies a pair: its prompt and both texts."""
    return text_digest(row["prompt"], row["response_1"], row["response_2"])


def open_store(path: Path, tables: str) -> sqlite3.Connection:
    """A database that is made where it is missing, and in which what is committed outlives a kill.

    Raises:
        UserError: the file is no such database.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    try:
        _write_ahead(file)
        file.execute("PRAGMA synchronous = FULL")
        file.executescript(tables)
    except sqlite3.DatabaseError as error:
        file.close()
        raise UserError(f"{path}: not a store of answers ({error})") from None
    return file


def _write_ahead(file: sqlite3.Connection, patience_s: float = 60) -> None:
    """Switch to WAL; this pragma alone waits for no lock, where two processes make a file at once."""
    ends = time.monotonic() + patience_s
    while True:
        try:
            file.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > ends:
                raise
            time.sleep(0.05)


class AnswerStore:
    """The answers of a study. Threads may share one; processes have one each."""

    def __init__(self, path: Path):
        self._lock = Lock()
        self._file = open_store(path, TABLES)

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and after every other writer."""
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield self._file
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    def next(self, annotator: str, plan: Plan, now: float | None = None) -> Showing | None:
        """What an annotator is to answer: what is shown already, else practice, a repeat that is due, a pair that is still
        wanted. None where nothing is left."""
        now = time.time() if now is None else now
        with self._transaction() as file:
            shown = file.execute(
                "SELECT pair, kind FROM showings WHERE annotator = ?", (annotator,)
            ).fetchone()
            could = list(self._open(file, annotator, plan, now))
            if shown not in could:
                if not could:
                    return None
                shown = could[0]
                file.execute(
                    "INSERT OR REPLACE INTO showings VALUES (?, ?, ?, ?)", (annotator, *shown, now)
                )
        left_to_do = sum(kind == FIRST_TIME for _, kind in could)
        return Showing(*shown, plan.left(annotator, *shown), left_to_do)

    def _open(self, file, annotator: str, plan: Plan, now: float) -> Iterator[tuple[str, str]]:
        """Pair and kind of all that an annotator could be shown, the next first."""
        own = file.execute(
            "SELECT pair, kind FROM answers WHERE annotator = ? ORDER BY number", (annotator,)
        ).fetchall()
        answered = set(own)
        for pair in plan.practice:
            if (pair, PRACTICE) not in answered:
                yield pair, PRACTICE
        pool, before = set(plan.pairs), [pair for pair, kind in own if kind == FIRST_TIME]
        for pair in before[: max(0, len(before) - REPEATED_AFTER)]:
            due = pair in pool and plan.repeated(annotator, pair)
            if due and (pair, REPEAT) not in answered and not _flagged(file, pair):
                yield pair, REPEAT
        taken = dict(
            file.execute(
                "SELECT pair, COUNT(*) FROM (SELECT annotator, pair FROM answers WHERE kind = ? AND answer != ?"
                " UNION SELECT annotator, pair FROM showings"
                " WHERE kind = ? AND shown_at > ? AND annotator != ?) GROUP BY pair",
                (FIRST_TIME, SKIP, FIRST_TIME, now - TAKEN_S, annotator),
            )
        )
        flagged = {
            pair for (pair,) in file.execute("SELECT pair FROM answers WHERE answer = ?", (FLAG,))
        }
        for pair, wanted in plan.in_order:
            fresh = (pair, FIRST_TIME) not in answered and pair not in flagged
            if fresh and taken.get(pair, 0) < wanted:
                yield pair, FIRST_TIME

    def add(self, answer: Answer) -> bool:
        """Keep an answer; False where that annotator had answered that showing before: the first answer stands.

        Raises:
            UserError: what is no answer, or too long a name or reason.
        """
        return bool(self.add_all([answer]))

    def add_all(self, answers: Sequence[Answer]) -> int:
        """Keep all answers or none, and tell how many were new."""
        for answer in answers:
            _check(answer)
        with self._transaction() as file:
            return sum(_keep(file, answer) for answer in answers)

    def undo(self, annotator: str, now: float | None = None) -> bool:
        """Take back an annotator's latest answer and show that pair again; False where there is none. Practice stays."""
        with self._transaction() as file:
            last = file.execute(
                "SELECT number, pair, kind FROM answers WHERE annotator = ? AND kind != ?"
                " ORDER BY number DESC LIMIT 1",
                (annotator, PRACTICE),
            ).fetchone()
            if last is None:
                return False
            file.execute("DELETE FROM answers WHERE number = ?", last[:1])
            file.execute(
                "INSERT OR REPLACE INTO showings VALUES (?, ?, ?, ?)",
                (annotator, *last[1:], time.time() if now is None else now),
            )
        return True

    def seconds(self, annotator: str) -> list[float | None]:
        """How long each answer of an annotator took, practice apart; None where that is not known."""
        with self._lock:
            found = self._file.execute(
                "SELECT seconds FROM answers WHERE annotator = ? AND kind != ?",
                (annotator, PRACTICE),
            ).fetchall()
        return [seconds for (seconds,) in found]

    def answers(self) -> list[Answer]:
        """All answers, in the order in which they were given."""
        names = ", ".join(Answer.__dataclass_fields__)
        with self._lock:
            rows = self._file.execute(f"SELECT {names} FROM answers ORDER BY number").fetchall()
        return [Answer(*row) for row in rows]


def _keep(file: sqlite3.Connection, answer: Answer) -> int:
    """Add an answer, 1 if it is new; its showing is over."""
    showing = (answer.annotator, answer.pair, answer.kind)
    where = "WHERE annotator = ? AND pair = ? AND kind = ?"
    shown = file.execute(f"SELECT shown_at FROM showings {where}", showing).fetchone()
    values = asdict(answer)
    if shown and answer.answered_at and answer.seconds is None:
        values["seconds"] = round(answer.answered_at - shown[0], 1)
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    added = file.execute(
        f"INSERT OR IGNORE INTO answers ({names}) VALUES ({marks})", tuple(values.values())
    ).rowcount
    file.execute(f"DELETE FROM showings {where}", showing)
    return added


def _flagged(file: sqlite3.Connection, pair: str) -> bool:
    return bool(
        file.execute("SELECT 1 FROM answers WHERE pair = ? AND answer = ?", (pair, FLAG)).fetchone()
    )


def _check(answer: Answer) -> None:
    if answer.answer not in ANSWERS:
        raise UserError(f"answer {answer.answer!r}; allowed: {', '.join(ANSWERS)}")
    if answer.kind not in (FIRST_TIME, REPEAT, PRACTICE) or answer.left_response not in (1, 2):
        raise UserError(
            f"a showing of kind {answer.kind!r} with response {answer.left_response!r} left"
        )
    check_name(answer.annotator)
    if answer.reason is not None and len(answer.reason) > LONGEST_REASON:
        raise UserError(f"a reason has {LONGEST_REASON:,} characters at most")
    if answer.confidence not in (None, 1, 2, 3):
        raise UserError(f"confidence {answer.confidence!r}; allowed: 1, 2, 3")


def check_name(name: str) -> None:
    """An annotator's name is a line of some characters."""
    if (
        not name.strip()
        or len(name) > LONGEST_NAME
        or not name.isprintable()
        or name != name.strip()
    ):
        raise UserError(f"a name has 1 to {LONGEST_NAME} printable characters")


def read_answers(path: Path) -> list[Answer]:
    """The answers in a store; none where there is no store yet."""
    if not path.is_file():
        return []
    with AnswerStore(path) as store:
        return store.answers()


def answers_digest(path: Path) -> str:
    """A digest of what was answered, whenever and in whichever order that was: what makes an export stale."""
    said = sorted(
        (a.annotator, a.pair, a.kind, a.left_response, a.answer, a.confidence or 0, a.reason or "")
        for a in read_answers(path)
        if a.kind != PRACTICE
    )
    return text_digest(*map(str, said)) if said else "none"
