"""Stores people's answers to pairs of responses, in one SQLite file that outlives every clean-up.

The store decides what to show an annotator next, from the answers that are missing. There are no sessions, so a reload,
another tab or a restart needs no code of its own.

- An answer belongs to an annotator and to a pair, by the pair's digest, so that it never attaches to other texts.
- An answer is one committed transaction. The first answer to a showing stands.
- A skip does not count: somebody else gets the pair. A pair that somebody flagged as unsafe is shown to nobody.
- A pair that is shown to somebody is reserved for a while, so that two people at once get different pairs.
- A showing is recorded with its side before it is sent, under a number that is never reused. An answer or an undo names
  that number and refers to that page, whoever has signed in since and whatever was answered elsewhere.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from persuasion_rl.annotation.database import INSTEAD, Store, read_table
from persuasion_rl.annotation.plan import (
    FIRST_TIME,
    FLAG,
    PRACTICE,
    REPEAT,
    SKIP,
    Answer,
    Plan,
    Showing,
    check_answer,
    votes_of,
    with_due_repeat,
)
from persuasion_rl.files import UserError, text_digest

TAKEN_S = 30 * 60
"""Seconds for which a pair that is shown to somebody is not shown to others."""
SCHEMA = """
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
CREATE TABLE IF NOT EXISTS shown (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    annotator TEXT NOT NULL,
    pair TEXT NOT NULL,
    kind TEXT NOT NULL,
    left_response INTEGER NOT NULL,
    shown_at REAL NOT NULL,
    open INTEGER NOT NULL,          -- 1 until there is an answer
    undone INTEGER NOT NULL,        -- 1 where an answer was taken back: the pair is shown again, whoever answered it since
    UNIQUE (annotator, pair, kind)
);
CREATE INDEX IF NOT EXISTS open_showings ON shown (annotator) WHERE open;
"""
OF_A_SHOWING = "annotator = ? AND pair = ? AND kind = ?"


class AnswerStore(Store):
    """The answers of a study. Threads may share one; processes have one each."""

    SCHEMA, TABLE, ROW = SCHEMA, "answers", Answer

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all or nothing, and one writer at a time."""
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
        """Record and return the next showing for an annotator; None if nothing is left.

        An open showing comes first, then practice, pairs whose answer was undone, a repeat that is due, and a pair that
        still needs answers.

        Args:
            now: seconds since 1970; the current time if None.
        """
        with self._transaction() as file:
            # Not before: what another one was shown while this one waited would lie in the future.
            now = time.time() if now is None else now
            candidates, repeats_to_come = self._candidates(file, annotator, plan, now)
            if not candidates:
                return None
            open_showings = file.execute(
                "SELECT pair, kind FROM shown WHERE open AND annotator = ? ORDER BY number DESC",
                (annotator,),
            ).fetchall()
            pair, kind = next((one for one in open_showings if one in candidates), candidates[0])
            left_response = plan.left(annotator, pair)
            if kind == REPEAT:
                (first,) = file.execute(
                    f"SELECT left_response FROM answers WHERE {OF_A_SHOWING}",
                    (annotator, pair, FIRST_TIME),
                ).fetchone()
                left_response = 3 - first
            file.execute(
                "INSERT OR IGNORE INTO shown (annotator, pair, kind, left_response, shown_at, open, undone)"
                " VALUES (?, ?, ?, ?, ?, 1, 0)",
                (annotator, pair, kind, left_response, now),
            )
            number, left_response = file.execute(
                f"SELECT number, left_response FROM shown WHERE {OF_A_SHOWING}",
                (annotator, pair, kind),
            ).fetchone()
        left_to_do = sum(kind == FIRST_TIME for _, kind in candidates) + repeats_to_come
        return Showing(annotator, pair, kind, left_response, number, left_to_do)

    def _candidates(
        self, file: sqlite3.Connection, annotator: str, plan: Plan, now: float
    ) -> tuple[list[tuple[str, str]], int]:
        """Pair and kind of all possible showings for an annotator, the next first; and the number of repeats to come."""
        own_answers = file.execute(
            "SELECT pair, kind, answer FROM answers WHERE annotator = ? ORDER BY number",
            (annotator,),
        ).fetchall()
        pool, answered = set(plan.pairs), {(pair, kind) for pair, kind, _ in own_answers}
        flagged = {
            pair for (pair,) in file.execute("SELECT pair FROM answers WHERE answer = ?", (FLAG,))
        }
        undone = file.execute(
            "SELECT pair, kind FROM shown WHERE open AND annotator = ? AND undone",
            (annotator,),
        )
        candidates = [
            (pair, PRACTICE) for pair in plan.practice if (pair, PRACTICE) not in answered
        ]
        candidates += [(pair, kind) for pair, kind in undone if pair in pool - flagged]
        people_on = dict(
            file.execute(
                "SELECT pair, COUNT(*) FROM (SELECT annotator, pair FROM answers WHERE kind = ? AND answer != ?"
                " UNION SELECT annotator, pair FROM shown"
                " WHERE open AND kind = ? AND shown_at > ? AND shown_at <= ? AND annotator != ?) GROUP BY pair",
                (FIRST_TIME, SKIP, FIRST_TIME, now - TAKEN_S, now + TAKEN_S, annotator),
            )
        )
        missing_pairs = [
            (pair, FIRST_TIME)
            for pair, people in plan.in_order
            if (pair, FIRST_TIME) not in answered and pair not in flagged
            if people_on.get(pair, 0) < people
        ]
        first = {
            pair: answer
            for pair, kind, answer in own_answers
            if kind == FIRST_TIME and pair in pool
        }
        repeated = {
            pair
            for pair in plan.repeated(annotator) - flagged
            if (pair, REPEAT) not in answered and first.get(pair) != SKIP
        }
        before = list(first)
        after = [pair for pair, _ in [*candidates, *missing_pairs] if pair not in first]
        candidates += [(pair, REPEAT) for pair in with_due_repeat(before) if pair in repeated]
        candidates = list(dict.fromkeys([*candidates, *missing_pairs]))
        order = dict.fromkeys(pair for pair in [*before, *after] if pair in pool)
        return candidates, sum(pair in repeated for pair in with_due_repeat(list(order)))

    def showing(self, number: int) -> Showing | None:
        """The showing with a number; None if there is none, or its answer was taken back."""
        with self._lock:
            row = self._file.execute(
                "SELECT annotator, pair, kind, left_response, number FROM shown WHERE number = ?",
                (number,),
            ).fetchone()
        return Showing(*row) if row else None

    def add(self, answer: Answer) -> bool:
        """Keep an answer; False if the annotator had answered that showing before: the first answer stands.

        Raises:
            UserError: the answer is invalid, or has too long a name or reason.
        """
        return bool(self.add_all([answer]))

    def add_all(self, answers: Sequence[Answer]) -> int:
        """Keep all answers or none; return the number of new ones.

        Raises:
            UserError: an answer is invalid, or has too long a name or reason.
        """
        for answer in answers:
            check_answer(answer)
        with self._transaction() as file:
            return sum(_keep(file, answer) for answer in answers)

    def undo(self, showing: Showing, now: float | None = None) -> bool:
        """Take back the answer to a showing, and show that pair again under a new number.

        Returns:
            False if the showing has no answer, the answer was taken back already, or it is practice, which stays.
        """
        key = (showing.annotator, showing.pair, showing.kind)
        with self._transaction() as file:
            taken_back = file.execute(
                "DELETE FROM shown WHERE number = ? AND NOT open AND kind != ?",
                (showing.number, PRACTICE),
            ).rowcount
            if not taken_back:
                return False
            file.execute(f"DELETE FROM answers WHERE {OF_A_SHOWING}", key)
            file.execute(
                "INSERT INTO shown (annotator, pair, kind, left_response, shown_at, open, undone)"
                " VALUES (?, ?, ?, ?, ?, 1, 1)",
                (*key, showing.left_response, time.time() if now is None else now),
            )
        return True

    def own_answers(self, annotator: str, plan: Plan) -> list[tuple[int | None, float | None]]:
        """An annotator's answers to a pool in their order, without practice.

        Returns:
            For each answer the number of its showing, None if the answer came from a file; and the seconds that it took, if
            they are known.
        """
        with self._lock:
            rows = self._file.execute(
                "SELECT pair, s.number, iif(seconds >= 0, seconds, NULL) FROM answers LEFT JOIN shown AS s USING (annotator, pair, kind)"
                " WHERE annotator = ? AND kind != ? ORDER BY answers.number",
                (annotator, PRACTICE),
            ).fetchall()
        pool = set(plan.pairs)
        return [(number, seconds) for pair, number, seconds in rows if pair in pool]

    def answers(self) -> list[Answer]:
        """All answers in their order."""
        names = ", ".join(Answer.__dataclass_fields__)
        with self._lock:
            rows = self._file.execute(f"SELECT {names} FROM answers ORDER BY number").fetchall()
        return [Answer(*row) for row in rows]


def _keep(file: sqlite3.Connection, answer: Answer) -> int:
    """Add an answer and close its showing; return 1 if the answer is new, else 0."""
    key = (answer.annotator, answer.pair, answer.kind)
    shown_row = file.execute(f"SELECT shown_at FROM shown WHERE {OF_A_SHOWING}", key).fetchone()
    values = asdict(answer)
    if shown_row and answer.answered_at and answer.seconds is None:
        seconds = round(answer.answered_at - shown_row[0], 1)
        values["seconds"] = seconds if seconds >= 0 else None  # the clock was set back
    file.execute(f"UPDATE shown SET open = 0 WHERE {OF_A_SHOWING}", key)
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    return file.execute(
        f"INSERT OR IGNORE INTO answers ({names}) VALUES ({marks})", tuple(values.values())
    ).rowcount


def read_answers(path: Path) -> list[Answer]:
    """The answers in a store in their order; none if there is no store yet. Nothing is written.

    Raises:
        UserError: the file is no store of answers, is damaged, or cannot be read.
    """
    answers = read_table(path, "answers", Answer)
    for number, answer in enumerate(answers, 1):
        try:
            check_answer(answer)
        except UserError as error:
            raise UserError(f"{path}: answer {number}: {error}: {INSTEAD}") from None
    return answers


def answers_digest(path: Path) -> str:
    """A digest of all answers except practice, without times and order; "none" without answers.

    When it changes, reports of the answers are stale.
    """
    return _digest(read_answers(path))


def labels_digest(path: Path) -> str:
    """A digest of the answers that labels are made of; "none" without such answers. When it changes, labels are stale."""
    return _digest(votes_of(read_answers(path)))


def _digest(answers: Iterable[Answer]) -> str:
    rows = sorted(
        (a.annotator, a.pair, a.kind, a.left_response, a.answer, a.confidence or 0, a.reason or "")
        for a in answers
        if a.kind != PRACTICE
    )
    return text_digest(*map(str, rows)) if rows else "none"
