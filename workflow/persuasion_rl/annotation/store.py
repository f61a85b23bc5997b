"""People's answers to pairs of responses, in one SQLite file that outlives every clean-up.

An answer belongs to an annotator and to a pair, which is the digest of a prompt and both responses: other responses
are another pair, so that no answer ever attaches to a text that nobody has read. Every answer is one committed
transaction (WAL, synchronous=FULL); the first answer to a showing stands. What is shown next is found from what is
missing.

A pair is wanted once, or by `several` people where it is among the share `overlap` of the pairs. Skips do not count, and
what somebody has flagged as unsafe is wanted no more. What is shown to somebody counts as taken for a while, so that two
people at once get different pairs. A share `repeats` of what an annotator has answered comes back once, later and with
its sides changed, to see how far the annotator agrees with themselves.

What is shown is recorded with its side before it is sent, under a number that is never given twice: an answer or an undo
that names it means what that page showed, whoever has signed in since and whatever was answered elsewhere.
"""

import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

from persuasion_rl.files import UserError, keyed_number, text_digest
from persuasion_rl.judges.base import NONE, TIE

LEFT, RIGHT, BOTH_BAD, SKIP, FLAG = "left", "right", "both_bad", "skip", "flag"
ANSWERS = (LEFT, RIGHT, TIE, BOTH_BAD, SKIP, FLAG)
FIRST_TIME, REPEAT, PRACTICE = "first", "repeat", "practice"
TAKEN_S = 30 * 60
"""Seconds for which a pair that is shown to somebody is not offered to others."""
REPEATED_AFTER = 10
"""Answers of the same annotator between a pair and its repeat."""
PATIENCE_S = 60
"""Seconds to wait for another writer."""
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
    """A pair as it stands before an annotator, which response stands on the left, the number that an answer names, and how
    many answers are left to give, this one and repeats among them, as things stand, practice apart."""

    annotator: str
    pair: str
    kind: str
    left_response: int
    number: int = 0
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
        by_chance = sorted(self.pairs, key=lambda pair: keyed_number("overlap", self.seed, pair))
        # Rounded first: .07 of 100 is a little more than 7.
        shared = set(by_chance[: math.ceil(round(self.overlap * len(self.pairs), 6))])
        return [(pair, self.several if pair in shared else 1) for pair in drawn]

    def left(self, annotator: str, pair: str) -> int:
        """The response on the left, drawn for each annotator and pair."""
        return 1 if keyed_number("left", self.seed, annotator, pair) < 0.5 else 2

    @cached_property
    def _repeated(self) -> dict[str, set[str]]:
        return {}

    def repeated(self, annotator: str) -> set[str]:
        """The pairs that come back to an annotator, once they were answered."""
        if annotator not in self._repeated:
            self._repeated[annotator] = {
                pair
                for pair in self.pairs
                if keyed_number("repeat", self.seed, annotator, pair) < self.repeats
            }
        return self._repeated[annotator]


def opinion_of(answer: Answer) -> str | None:
    """What an answer says of the pair as its row has it: "1", "2", "tie" or "both_bad"; a skip or a flag says nothing."""
    if answer.answer in (LEFT, RIGHT):
        return str(answer.left_response if answer.answer == LEFT else 3 - answer.left_response)
    return answer.answer if answer.answer in (TIE, BOTH_BAD) else None


def verdict_of(answer: Answer) -> str:
    """The same as a verdict of a label row: both bad, skipped and flagged are "none"."""
    opinion = opinion_of(answer)
    return NONE if opinion in (None, BOTH_BAD) else opinion


@dataclass(frozen=True)
class Tally:
    """What has come of a pool. pairs: different ones. answered: those that somebody has judged. flagged: left out as unsafe.
    skipped: only skipped so far."""

    pairs: int
    answered: int
    flagged: int
    skipped: int

    def needed(self, min_labels: int) -> int:
        """How many pairs with a verdict are enough: all that can have one, if they are fewer."""
        return min(min_labels, self.pairs - self.flagged)


def tally(pairs: Iterable[str], answers: Iterable[Answer]) -> Tally:
    """What the answers make of a pool's pairs."""
    pool = set(pairs)
    given = [a for a in answers if a.kind == FIRST_TIME and a.pair in pool]
    flagged = {a.pair for a in given if a.answer == FLAG}
    answered = {a.pair for a in given if opinion_of(a)} - flagged
    skipped = {a.pair for a in given} - answered - flagged
    return Tally(len(pool), len(answered), len(flagged), len(skipped))


def pair_id(row: dict) -> str:
    """What identifies a pair: its prompt and both texts."""
    return text_digest(row["prompt"], row["response_1"], row["response_2"])


def open_store(path: Path, tables: str) -> sqlite3.Connection:
    """A database that is made where it is missing, and in which what is committed outlives a kill.

    Raises:
        UserError: the file is no such database, or cannot be written now.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
    try:
        _write_ahead(file)
        file.execute("PRAGMA synchronous = FULL")
        file.executescript(tables)
    except sqlite3.DatabaseError as error:
        file.close()
        if isinstance(error, sqlite3.OperationalError):
            reason = "somebody else is writing, the disk is full, or it may not be written"
            raise UserError(f"{path}: the store cannot be opened ({error}): {reason}") from None
        raise UserError(f"{path}: not a store of answers ({error})") from None
    return file


def _write_ahead(file: sqlite3.Connection) -> None:
    """Switch to WAL; this pragma alone waits for no lock, where two processes make a file at once."""
    ends = time.monotonic() + PATIENCE_S
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
            could, to_come = self._open(file, annotator, plan, now)
            if not could:
                return None
            before = file.execute(
                "SELECT pair, kind FROM shown WHERE open AND annotator = ?"
                " ORDER BY shown_at DESC, number DESC",
                (annotator,),
            ).fetchall()
            pair, kind = next((shown for shown in before if shown in could), could[0])
            left = plan.left(annotator, pair)
            if kind == REPEAT:
                (first,) = file.execute(
                    f"SELECT left_response FROM answers WHERE {OF_A_SHOWING}",
                    (annotator, pair, FIRST_TIME),
                ).fetchone()
                left = 3 - first
            file.execute(
                "INSERT OR IGNORE INTO shown (annotator, pair, kind, left_response, shown_at, open, undone)"
                " VALUES (?, ?, ?, ?, ?, 1, 0)",
                (annotator, pair, kind, left, now),
            )
            number, left = file.execute(
                f"SELECT number, left_response FROM shown WHERE {OF_A_SHOWING}",
                (annotator, pair, kind),
            ).fetchone()
        left_to_do = sum(kind == FIRST_TIME for _, kind in could) + to_come
        return Showing(annotator, pair, kind, left, number, left_to_do)

    def _open(self, file, annotator: str, plan: Plan, now: float) -> tuple[list[tuple], int]:
        """Pair and kind of all that an annotator could be shown, the next first; and how many repeats there will be."""
        own = file.execute(
            "SELECT pair, kind, answer FROM answers WHERE annotator = ? ORDER BY number",
            (annotator,),
        ).fetchall()
        pool, answered = set(plan.pairs), {(pair, kind) for pair, kind, _ in own}
        flagged = {
            pair for (pair,) in file.execute("SELECT pair FROM answers WHERE answer = ?", (FLAG,))
        }
        undone = file.execute(
            "SELECT pair, kind FROM shown WHERE open AND annotator = ? AND undone",
            (annotator,),
        )
        could = [(pair, PRACTICE) for pair in plan.practice if (pair, PRACTICE) not in answered]
        could += [shown for shown in undone if shown[0] in pool - flagged]
        taken = dict(
            file.execute(
                "SELECT pair, COUNT(*) FROM (SELECT annotator, pair FROM answers WHERE kind = ? AND answer != ?"
                " UNION SELECT annotator, pair FROM shown"
                " WHERE open AND kind = ? AND shown_at > ? AND annotator != ?) GROUP BY pair",
                (FIRST_TIME, SKIP, FIRST_TIME, now - TAKEN_S, annotator),
            )
        )
        wanted = [
            (pair, FIRST_TIME)
            for pair, people in plan.in_order
            if (pair, FIRST_TIME) not in answered and pair not in flagged
            if taken.get(pair, 0) < people
        ]
        said = {pair: answer for pair, kind, answer in own if kind == FIRST_TIME and pair in pool}
        again = {
            pair
            for pair in plan.repeated(annotator) - flagged
            if (pair, REPEAT) not in answered and said.get(pair) != SKIP
        }
        before, after = list(said), [pair for pair, _ in [*could, *wanted] if pair not in said]
        could += [(p, REPEAT) for p in _with_some_after(before) if p in again]
        could = list(dict.fromkeys([*could, *wanted]))
        order = dict.fromkeys(pair for pair in [*before, *after] if pair in pool)
        return could, sum(pair in again for pair in _with_some_after(list(order)))

    def showing(self, number: int) -> Showing | None:
        """What was shown under a number; None where there is none, or where its answer was taken back."""
        with self._lock:
            row = self._file.execute(
                "SELECT annotator, pair, kind, left_response, number FROM shown WHERE number = ?",
                (number,),
            ).fetchone()
        return Showing(*row) if row else None

    def add(self, answer: Answer) -> bool:
        """Keep an answer; False where that annotator had answered that showing before: the first answer stands.

        Raises:
            UserError: what is no answer, or too long a name or reason.
        """
        return bool(self.add_all([answer]))

    def add_all(self, answers: Sequence[Answer]) -> int:
        """Keep all answers or none, and tell how many were new."""
        for answer in answers:
            check_answer(answer)
        with self._transaction() as file:
            return sum(_keep(file, answer) for answer in answers)

    def undo(self, showing: Showing, now: float | None = None) -> bool:
        """Take back the answer to a showing and show that pair again, under a new number; False where it has none, or was
        taken back already. Practice stays."""
        asked = (showing.annotator, showing.pair, showing.kind)
        with self._transaction() as file:
            known = file.execute(
                "DELETE FROM shown WHERE number = ? AND NOT open AND kind != ?",
                (showing.number, PRACTICE),
            ).rowcount
            if not known:
                return False
            file.execute(f"DELETE FROM answers WHERE {OF_A_SHOWING}", asked)
            file.execute(
                "INSERT INTO shown (annotator, pair, kind, left_response, shown_at, open, undone)"
                " VALUES (?, ?, ?, ?, ?, 1, 1)",
                (*asked, showing.left_response, time.time() if now is None else now),
            )
        return True

    def given(self, annotator: str, plan: Plan) -> list[tuple[int | None, float | None]]:
        """An annotator's answers to a pool in their order, practice apart: the number of the showing (None where the answer
        came from a file), and the seconds that it took where they are known."""
        with self._lock:
            found = self._file.execute(
                "SELECT pair, s.number, seconds FROM answers LEFT JOIN shown AS s USING (annotator, pair, kind)"
                " WHERE annotator = ? AND kind != ? ORDER BY answers.number",
                (annotator, PRACTICE),
            ).fetchall()
        pool = set(plan.pairs)
        return [(number, seconds) for pair, number, seconds in found if pair in pool]

    def answers(self) -> list[Answer]:
        """All answers, in the order in which they were given."""
        names = ", ".join(Answer.__dataclass_fields__)
        with self._lock:
            rows = self._file.execute(f"SELECT {names} FROM answers ORDER BY number").fetchall()
        return [Answer(*row) for row in rows]


def _with_some_after(pairs: list[str]) -> list[str]:
    """The pairs that are so far back that their repeat is due."""
    return pairs[: max(0, len(pairs) - REPEATED_AFTER)]


def _keep(file: sqlite3.Connection, answer: Answer) -> int:
    """Add an answer, 1 if it is new."""
    showing = (answer.annotator, answer.pair, answer.kind)
    shown = file.execute(f"SELECT shown_at FROM shown WHERE {OF_A_SHOWING}", showing).fetchone()
    values = asdict(answer)
    if shown and answer.answered_at and answer.seconds is None:
        values["seconds"] = round(answer.answered_at - shown[0], 1)
    file.execute(f"UPDATE shown SET open = 0 WHERE {OF_A_SHOWING}", showing)
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    return file.execute(
        f"INSERT OR IGNORE INTO answers ({names}) VALUES ({marks})", tuple(values.values())
    ).rowcount


def check_answer(answer: Answer) -> None:
    """Raises UserError where something is no answer, or has too long a name or reason."""
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
    """A digest of all that was answered, whenever and in whichever order that was: what makes a report of it stale."""
    return _digest(read_answers(path))


def votes_of(answers: Iterable[Answer]) -> list[Answer]:
    """The answers that labels are made of: opinions and flags on what was seen for the first time."""
    return [a for a in answers if a.kind == FIRST_TIME and a.answer != SKIP]


def labels_digest(path: Path) -> str:
    """The same of the answers that labels are made of: what makes labels stale."""
    return _digest(votes_of(read_answers(path)))


def _digest(answers: Iterable[Answer]) -> str:
    said = sorted(
        (a.annotator, a.pair, a.kind, a.left_response, a.answer, a.confidence or 0, a.reason or "")
        for a in answers
        if a.kind != PRACTICE
    )
    return text_digest(*map(str, said)) if said else "none"
