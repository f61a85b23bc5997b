"""Blind battles of two models in the arena, and people's votes on them, in a table beside the answers.

A battle is kept before it is shown, with digests of both models. Its vote counts once, for the models that wrote the
replies (`evaluation.arena` ranks them).
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time

from persuasion_rl.annotation.database import Store, read_table
from persuasion_rl.annotation.plan import BOTH_BAD, FLAG, LEFT, RIGHT, check_name
from persuasion_rl.files import UserError, text_digest
from persuasion_rl.judges.base import FIRST, SECOND, TIE

VOTES = {LEFT: FIRST, RIGHT: SECOND, TIE: TIE, BOTH_BAD: TIE}
"""Answer -> verdict on the left model against the right one."""
LEAVE = "leave"
"""The answer that ends a battle without a vote, as a flag does."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS battles (
    number INTEGER PRIMARY KEY,
    voter TEXT NOT NULL,
    context TEXT NOT NULL,
    left_model TEXT NOT NULL,
    right_model TEXT NOT NULL,
    left_reply TEXT NOT NULL,
    right_reply TEXT NOT NULL,
    answer TEXT,                    -- left, right, tie, both_bad, or leave, flag; NULL until then
    answered_at REAL,               -- seconds since 1970
    left_digest TEXT,               -- of the models
    right_digest TEXT
);
"""


@dataclass(frozen=True)
class Battle:
    """Two replies to a context, by models with these digests.

    Attributes:
        answer: None until the battle has ended.
        left_digest, right_digest: None in stores of earlier versions, which did not record the weights.
    """

    number: int
    voter: str
    context: str
    left_model: str
    right_model: str
    left_reply: str
    right_reply: str
    answer: str | None = None
    left_digest: str | None = None
    right_digest: str | None = None


COLUMNS = ", ".join(Battle.__dataclass_fields__)


class BattleStore(Store):
    """The battles of a study, in the file of its answers. Threads may share one."""

    SCHEMA, TABLE, ROW = SCHEMA, "battles", Battle

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        with self._lock:
            return self._file.execute(statement, values)

    def add(
        self,
        voter: str,
        context: str,
        models: Sequence[str],
        replies: Sequence[str],
        digests: Sequence[str],
    ) -> None:
        """Keep a battle before it is shown; models, replies and digests are from left to right."""
        check_name(voter)
        self._run(
            "INSERT INTO battles (voter, context, left_model, right_model, left_reply, right_reply,"
            " left_digest, right_digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            voter, context, *models, *replies, *digests,
        )  # fmt: skip

    def latest(self, voter: str) -> Battle | None:
        """A voter's latest battle."""
        row = self._run(
            f"SELECT {COLUMNS} FROM battles WHERE voter = ? ORDER BY number DESC LIMIT 1", voter
        ).fetchone()
        return Battle(*row) if row else None

    def vote(self, voter: str, number: int, answer: str) -> bool:
        """End a battle with a vote, or without one (`LEAVE`, `FLAG`); False if it has ended or is another voter's.

        Raises:
            UserError: the answer is unknown.
        """
        if answer not in (*VOTES, LEAVE, FLAG):
            raise UserError(f"vote {answer!r}; allowed: {', '.join([*VOTES, LEAVE, FLAG])}")
        return bool(
            self._run(
                "UPDATE battles SET answer = ?, answered_at = ?"
                " WHERE number = ? AND voter = ? AND answer IS NULL",
                answer, round(time(), 3), number, voter,
            ).rowcount
        )  # fmt: skip


def read_votes(path: Path) -> list[Battle]:
    """The battles in a store that have a vote, in their order; none without a store. Nothing is written.

    Raises:
        UserError: the file is no store of answers, is damaged, or cannot be read.
    """
    return [battle for battle in read_table(path, "battles", Battle) if battle.answer in VOTES]


def votes_digest(path: Path) -> str:
    """A digest of the votes; "none" without votes. When it changes, their ranking is stale."""
    votes = read_votes(path)
    return text_digest(*map(str, votes)) if votes else "none"
