"""Blind battles of two models and people's votes on them, in a table of their own beside the answers, and their ranking.

A battle is kept before it is shown, and its vote counts once.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import time

from persuasion_rl.answers import BOTH_BAD, LEFT, RIGHT, check_name, open_store
from persuasion_rl.command import note, stage
from persuasion_rl.files import UserError, text_digest, write_csv
from persuasion_rl.judges import FIRST, SECOND, TIE

VOTES = {LEFT: FIRST, RIGHT: SECOND, TIE: TIE, BOTH_BAD: TIE}
"""Answer -> verdict on the left model against the right one."""
PEOPLE = "people (arena)"
"""What their votes are called among the judges."""
TABLE = """
CREATE TABLE IF NOT EXISTS battles (
    number INTEGER PRIMARY KEY,
    voter TEXT NOT NULL,
    context TEXT NOT NULL,
    left_model TEXT NOT NULL,
    right_model TEXT NOT NULL,
    left_reply TEXT NOT NULL,
    right_reply TEXT NOT NULL,
    answer TEXT,                    -- left, right, tie, both_bad; NULL until the vote
    answered_at REAL                -- seconds since 1970
);
"""


@dataclass(frozen=True)
class Battle:
    """Two replies to a context; `answer` is None until somebody has voted."""

    number: int
    voter: str
    context: str
    left_model: str
    right_model: str
    left_reply: str
    right_reply: str
    answer: str | None


COLUMNS = ", ".join(Battle.__dataclass_fields__)


class BattleStore:
    """The battles of a study, in the file of its answers. Threads may share one."""

    def __init__(self, path: Path):
        self._lock = Lock()
        self._file = open_store(path, TABLE)

    def __enter__(self) -> "BattleStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        with self._lock:
            return self._file.execute(statement, values)

    def add(self, voter: str, context: str, models: Sequence[str], replies: Sequence[str]) -> None:
        """Keep a battle that is about to be shown; models and replies from left to right."""
        check_name(voter)
        self._run(
            "INSERT INTO battles (voter, context, left_model, right_model, left_reply, right_reply)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            voter, context, *models, *replies,
        )  # fmt: skip

    def latest(self, voter: str) -> Battle | None:
        """A voter's latest battle."""
        row = self._run(
            f"SELECT {COLUMNS} FROM battles WHERE voter = ? ORDER BY number DESC LIMIT 1", voter
        ).fetchone()
        return Battle(*row) if row else None

    def vote(self, voter: str, number: int, answer: str) -> bool:
        """Keep a vote; False where the battle has one, or is not that voter's."""
        if answer not in VOTES:
            raise UserError(f"vote {answer!r}; allowed: {', '.join(VOTES)}")
        return bool(
            self._run(
                "UPDATE battles SET answer = ?, answered_at = ?"
                " WHERE number = ? AND voter = ? AND answer IS NULL",
                answer, round(time(), 3), number, voter,
            ).rowcount
        )  # fmt: skip

    def votes(self) -> list[Battle]:
        """The battles that have a vote, in their order."""
        rows = self._run(
            f"SELECT {COLUMNS} FROM battles WHERE answer IS NOT NULL ORDER BY number"
        ).fetchall()
        return [Battle(*row) for row in rows]


def read_votes(path: Path) -> list[Battle]:
    """The battles in a store that have a vote; none where there is no store yet."""
    if not path.is_file():
        return []
    with BattleStore(path) as store:
        return store.votes()


def votes_digest(path: Path) -> str:
    """A digest of the votes: what makes their ranking stale; "none" where there are none."""
    votes = read_votes(path)
    return text_digest(*(f"{vote}" for vote in votes)) if votes else "none"


def rank_arena(*, answers: Path, players: list[str], output: Path, draws: int, seed: int) -> int:
    """Write the ranking by people's votes: columns as those of `evaluation.rank_players`, with the judge PEOPLE.

    Intervals are over claims; several votes on a claim stand or fall together.
    """
    from persuasion_rl.evaluation import RANKING, Games

    votes = read_votes(answers)
    rows = [
        {
            "prompt_id": f"battle {vote.number}",
            "conversation_id": text_digest(vote.context),
            "player_1": vote.left_model,
            "player_2": vote.right_model,
            "verdict": VOTES[vote.answer],
        }
        for vote in votes
    ]
    found = [{"judge": PEOPLE, **row} for row in Games(rows, draws, seed).ranking(players)]
    write_csv(output, found, RANKING)
    note(f"arena: {len(votes):,} votes of {len({vote.voter for vote in votes})} people")
    return len(votes)


if __name__ == "__main__":
    stage(rank_arena)
