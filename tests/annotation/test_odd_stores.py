"""Stores in rollback mode whose writer was killed, and odd databases that are no store."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from persuasion_rl.annotation.battles import read_votes
from persuasion_rl.annotation.plan import Answer
from persuasion_rl.annotation.store import AnswerStore, labels_digest, read_answers
from persuasion_rl.files import UserError
from store_writers import start_writer

ANSWERS = [Answer("anna", f"pair {i}", "first", 1, "left", reason="x" * 500) for i in range(200)]
OVERWRITER = """
import os, sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
for word in ("PRAGMA cache_size = 1", "BEGIN", "UPDATE answers SET answer = 'right'"):
    file.execute(word)
if sys.argv[2] == "stay":
    print("ready", flush=True)
    sys.stdin.read()
os._exit(0)  # as a kill: nothing is rolled back
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "human_answers.sqlite"


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        for statement in statements:
            file.execute(statement)


def fill(path: Path) -> None:
    """A closed store in rollback mode."""
    with AnswerStore(path) as store:
        store.add_all(ANSWERS)
    execute(path, "PRAGMA journal_mode = DELETE")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("then", ["die", "stay"])
def test_what_a_transaction_wrote_that_did_not_end_is_not_read(path, then):
    fill(path)
    digest, content = labels_digest(path), path.read_bytes()
    with start_writer(OVERWRITER, path, then) as process:
        before = contents(path.parent)
        assert set(before) == {path.name, f"{path.name}-journal"} and path.read_bytes() != content
        assert read_answers(path) == ANSWERS
        assert labels_digest(path) == digest
        assert contents(path.parent) == before
        process.stdin.close()


def test_an_invalidated_journal_is_ignored(path):
    fill(path)
    execute(path, "PRAGMA journal_mode = PERSIST", "UPDATE answers SET answer = 'right'")
    before = contents(path.parent)
    assert len(before) == 2
    assert {answer.answer for answer in read_answers(path)} == {"right"}
    assert contents(path.parent) == before


@pytest.mark.parametrize("store", [None, b""])
def test_what_a_journal_would_undo_is_not_lost_with_its_store(path, store):
    fill(path)
    start_writer(OVERWRITER, path, "die")
    path.unlink()
    if store is not None:
        path.write_bytes(store)
    before = contents(path.parent)
    for open_store in (read_answers, AnswerStore):
        with pytest.raises(UserError, match="-journal beside it holds answers: put the file back"):
            open_store(path)
    assert contents(path.parent) == before


def test_a_store_whose_first_transaction_was_killed_is_empty(path):
    path.touch()
    header = bytes.fromhex("d9d505f920a163d7") + bytes(504)
    path.with_name(f"{path.name}-journal").write_bytes(header)
    assert read_answers(path) == []
    with AnswerStore(path) as store:
        store.add_all(ANSWERS)
    assert read_answers(path) == ANSWERS


@pytest.mark.parametrize("link", ["human_answers.sqlite", "state", "results"])
def test_a_link_that_leads_nowhere_is_no_store_without_answers(tmp_path, link):
    """While its disk is not mounted, an empty store would replace the labels by new ones."""
    path = tmp_path / "results/state/human_answers.sqlite"
    place = next(parent for parent in (path, *path.parents) if parent.name == link)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to("/not/mounted")
    for open_store in (read_answers, read_votes, labels_digest, AnswerStore):
        with pytest.raises(UserError, match=f"^{place}: a link to /not/mounted, .* mount or make"):
            open_store(path)
    place.unlink()
    assert read_answers(path) == []


def test_a_file_where_the_folder_of_a_store_belongs_is_one_line(tmp_path):
    (tmp_path / "state").touch()
    for open_store in (read_answers, AnswerStore):
        with pytest.raises(UserError, match=f"^{tmp_path}/state: a file, and a folder .* move it"):
            open_store(tmp_path / "state/human_answers.sqlite")


SCHEMA = "PRAGMA writable_schema = ON"
FOREIGN = {
    "a blob as a name": ["CREATE TABLE a (x)", SCHEMA, "UPDATE sqlite_master SET name = x'ff00'"],
    "a name that is no text": ["CREATE TABLE a (x)", SCHEMA, "UPDATE sqlite_master SET name = CAST(x'fffe' AS TEXT)"],
    "no name": ["CREATE TABLE a (x)", SCHEMA, "UPDATE sqlite_master SET name = NULL"],
    "a name of two lines": ['CREATE TABLE "a\nb" (x)'],
    "a long name": [f'CREATE TABLE "{"long" * 1000}" (x)'],
    "no SQL": ["CREATE TABLE answers (x)", SCHEMA, "UPDATE sqlite_master SET sql = 'CREATE\n\nthis'"],
    "a view alone": ["CREATE VIEW cookies AS SELECT 1 AS x"],
    "views of a store's names": [
        "CREATE VIEW answers AS WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n",
        "CREATE VIEW battles AS SELECT * FROM answers",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_an_odd_database_that_is_no_store_is_one_line(path, kind):
    execute(path, *FOREIGN[kind])
    before = contents(path.parent)
    for open_store in (read_answers, read_votes, AnswerStore):
        with pytest.raises(UserError, match=f"^{path}: not a store of .* move it away") as error:
            open_store(path)
        assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 400
    assert contents(path.parent) == before
