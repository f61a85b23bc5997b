"""Blind battles of two models and people's votes on them, in a table of their own beside the answers, and their ranking.

A battle is kept before it is shown, with digests of both models, and its vote counts once: for the models that wrote the
replies. Where a model was trained anew since, the vote stays in the store and out of the ranking.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import time

from persuasion_rl.annotation.store import BOTH_BAD, FLAG, LEFT, RIGHT, check_name, open_store
from persuasion_rl.files import UserError, read_json, text_digest
from persuasion_rl.judges.base import FIRST, SECOND, TIE
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.study.names import BASE
from persuasion_rl.tables import write_table

VOTES = {LEFT: FIRST, RIGHT: SECOND, TIE: TIE, BOTH_BAD: TIE}
"""Answer -> verdict on the left model against the right one."""
LEAVE = "leave"
"""Ends a battle without a vote, as a flag does."""
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
    answer TEXT,                    -- left, right, tie, both_bad, or leave, flag; NULL until then
    answered_at REAL,               -- seconds since 1970
    left_digest TEXT,               -- of the models; NULL in battles of before they were kept
    right_digest TEXT
);
"""


@dataclass(frozen=True)
class Battle:
    """Two replies to a context, by models with these digests; `answer` is None until somebody has voted."""

    number: int
    voter: str
    context: str
    left_model: str
    right_model: str
    left_reply: str
    right_reply: str
    answer: str | None
    left_digest: str | None
    right_digest: str | None


COLUMNS = ", ".join(Battle.__dataclass_fields__)


class BattleStore:
    """The battles of a study, in the file of its answers. Threads may share one."""

    def __init__(self, path: Path):
        self._lock = Lock()
        self._file = open_store(path, TABLE)
        self._add_digests()

    def __enter__(self) -> "BattleStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _add_digests(self) -> None:
        """Columns that stores of earlier versions lack."""
        names = {row[1] for row in self._run("PRAGMA table_info(battles)")}
        for name in sorted({"left_digest", "right_digest"} - names):
            try:
                self._run(f"ALTER TABLE battles ADD COLUMN {name} TEXT")
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):  # another process was first
                    raise

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
        """Keep a battle that is about to be shown; models, replies and the models' digests from left to right."""
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
        """Keep a vote, or that there is none; False where the battle has ended, or is not that voter's."""
        if answer not in (*VOTES, LEAVE, FLAG):
            raise UserError(f"vote {answer!r}; allowed: {', '.join([*VOTES, LEAVE, FLAG])}")
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
        return [battle for row in rows if (battle := Battle(*row)).answer in VOTES]


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


def present_models(recipes: Sequence[Path]) -> dict[str, str]:
    """The digests of the models that are there, by name, as a battle has them, from their recipe.json."""
    told = {path.parent.name: read_json(path) for path in recipes}
    found = {name: recipe["adapter_digest"] for name, recipe in told.items()}
    for recipe in told.values():
        found[BASE] = recipe["base_digest"]
    # As `engines.Settings` tells a model's.
    return {name: text_digest(digest) for name, digest in found.items()}


def rank_arena(
    *,
    answers: Path,
    players: list[str],
    recipes: list[Path],
    output: Path,
    draws: int,
    seed: int,
) -> int:
    """Write the ranking by people's votes: columns as those of `evaluation.rank_players`, with the judge PEOPLE.

    Intervals are over claims; several votes on a claim stand or fall together.

    Args:
        recipes: recipe.json of each trained model. Votes on other weights than theirs are counted, not ranked.
    """
    from persuasion_rl.evaluation.tables import RANKING, Games

    there, all_votes = present_models(recipes), read_votes(answers)
    votes = [
        vote
        for vote in all_votes
        if there.get(vote.left_model) == vote.left_digest
        and there.get(vote.right_model) == vote.right_digest
        and None not in (vote.left_digest, vote.right_digest)
    ]
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
    write_table(output, found, RANKING)
    older = len(all_votes) - len(votes)
    note(
        f"arena: {len(votes):,} votes of {len({vote.voter for vote in votes})} people;"
        f" {older:,} more are on models that have changed since, or on unknown ones"
    )
    return len(votes)


if __name__ == "__main__":
    stage(rank_arena)
