"""Reading people's answers changes neither the store nor its folder, whatever is in them. Planning reads them too."""

import os
import shutil
import sqlite3
from contextlib import closing
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.annotation.battles import BattleStore, read_votes, votes_digest
from persuasion_rl.annotation.plan import Answer
from persuasion_rl.annotation.store import (
    AnswerStore,
    answers_digest,
    labels_digest,
    read_answers,
)
from persuasion_rl.files import UserError
from running import copy_project, snakemake
from store_writers import start_writer

NOBODY = 65534
ANSWERS = [Answer(name, f"pair {i}", "first", 1, "left") for name in ("anna", "ben") for i in range(30)]  # fmt: skip


def fill(path):
    """A store of answers and votes, closed."""
    with AnswerStore(path) as store:
        store.add_all(ANSWERS)
    with BattleStore(path) as battles:
        for number in range(3):
            battles.add(
                "anna", f"Claim: {number}", ("sft", "base"), ("Yes.", "No."), ("one", "two")
            )
            battles.vote("anna", battles.latest("anna").number, "left")


def execute(path, *statements):
    with closing(sqlite3.connect(path)) as file:
        file.executescript(";".join(statements))


WRITER = """
import os, sys
from pathlib import Path
from tempfile import TemporaryDirectory
from persuasion_rl.annotation.battles import BattleStore
from persuasion_rl.annotation.plan import Answer
from persuasion_rl.annotation.store import AnswerStore
path = Path(sys.argv[1])
store, battles = AnswerStore(path), BattleStore(path)
store.add(Answer("carl", "pair 0", "first", 1, "right"))
battles.add("carl", "Claim: 9", ("sft", "base"), ("Yes.", "No."), ("one", "two"))
battles.vote("carl", battles.latest("carl").number, "right")
if sys.argv[2] == "stay":
    print("ready", flush=True)
    sys.stdin.read()
os._exit(0)  # as a kill: nothing is closed
"""


def files(folder):
    """The files of a folder: name -> digest, or None for a folder and for the shared memory of an open store."""
    return {
        path.name: sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.name.endswith("-shm") else None
        for path in sorted(folder.iterdir())
    }  # fmt: skip


def read_all(path):
    """The digests that planning reads."""
    return votes_digest(path), labels_digest(path), answers_digest(path)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "state").mkdir()
    return tmp_path / "state/human_answers.sqlite"


# Intact stores


def test_a_closed_store_is_read_without_a_file_beside_it(path):
    fill(path)
    before = files(path.parent)
    assert list(before) == [path.name]
    assert read_answers(path) == ANSWERS and len(read_votes(path)) == 3
    assert files(path.parent) == before


def test_a_store_that_others_have_open_is_read_with_its_last_commit(path):
    fill(path)
    digests = read_all(path)
    with start_writer(WRITER, path, "stay") as process:
        before = files(path.parent)
        assert [a.annotator for a in read_answers(path)][-1:] == ["carl"]
        assert read_votes(path)[-1].voter == "carl"
        assert files(path.parent) == before
        assert not {*digests} & {*read_all(path)}
        process.stdin.close()


def test_a_store_whose_writer_was_killed_is_read_with_its_last_commit(path):
    fill(path)
    start_writer(WRITER, path, "die")
    before = files(path.parent)
    assert len(before) == 3, "a -wal and a -shm are left"
    assert read_answers(path)[-1].annotator == read_votes(path)[-1].voter == "carl"
    assert files(path.parent) == before


def test_a_copy_without_its_shared_memory_is_read_with_its_last_commit(path):
    fill(path)
    start_writer(WRITER, path, "die")
    Path(f"{path}-shm").unlink()
    before = files(path.parent)
    assert read_answers(path)[-1].annotator == read_votes(path)[-1].voter == "carl"
    assert files(path.parent) == before


def test_a_store_with_a_leftover_shared_memory_is_read(path):
    fill(path)
    Path(f"{path}-shm").write_bytes(b"")
    before = files(path.parent)
    assert read_answers(path) == ANSWERS
    assert files(path.parent) == before


def test_a_store_behind_a_link_and_a_name_like_an_address_is_read(path):
    odd = path.with_name("a ?mode=rwc#%20 b.sqlite")
    fill(odd)
    start_writer(WRITER, odd, "die")
    path.symlink_to(odd.name)
    before = files(path.parent)
    assert read_answers(path) == read_answers(odd) != ANSWERS
    assert files(path.parent) == before


def test_what_is_written_while_a_closed_store_is_read_is_read_too(path, monkeypatch):
    """A server starts, writes and ends between two reads of the files."""
    from persuasion_rl.annotation import database

    fill(path)
    original_rows, writers = database._rows, []

    def slow_rows(*arguments):
        rows = original_rows(*arguments)
        if not writers:
            writers.append(start_writer(WRITER, path, "die"))
        return rows

    monkeypatch.setattr(database, "_rows", slow_rows)
    assert read_answers(path)[-1].annotator == "carl"


def test_a_store_that_is_missing_has_no_answers(path):
    assert read_answers(path) == read_votes(path) == []
    assert read_all(path) == ("none",) * 3
    assert read_answers(path.parent / "nothing/of/it") == []
    assert os.listdir(path.parent) == []


OLD = {
    "an empty file": [],
    "no tables yet": ["PRAGMA journal_mode = WAL"],
    "the arena alone": ["DROP TABLE answers", "DROP TABLE shown"],
    "no battles": ["DROP TABLE battles"],
    "no showings": ["DROP TABLE shown"],
    "no digests": [
        "ALTER TABLE battles DROP COLUMN left_digest",
        "ALTER TABLE battles DROP COLUMN right_digest",
    ],
    "no times": ["ALTER TABLE answers DROP COLUMN seconds", "ALTER TABLE answers DROP COLUMN answered_at"],
    "a rollback journal": ["PRAGMA journal_mode = DELETE"],
}  # fmt: skip


@pytest.mark.parametrize("kind", OLD)
def test_what_a_store_of_an_earlier_version_has_is_read(path, kind):
    if kind in ("an empty file", "no tables yet"):
        path.touch()
    else:
        fill(path)
    if OLD[kind]:
        execute(path, *OLD[kind])
    before = files(path.parent)
    assert len(read_answers(path)) == (60 if path.stat().st_size > 4096 and kind != "the arena alone" else 0)  # fmt: skip
    votes = read_votes(path)
    assert len(votes) == (3 if kind in ("the arena alone", "no showings", "no digests", "no times", "a rollback journal") else 0)  # fmt: skip
    assert {vote.left_digest for vote in votes} <= ({None} if kind == "no digests" else {"one"})
    assert files(path.parent) == before


# Broken stores


def junk(path):
    path.write_text("no database at all, but text" * 100)


def encrypted(path):
    path.write_bytes(b"".join(sha256(bytes([i])).digest() for i in range(256)))


def truncated(path):
    fill(path)
    os.truncate(path, path.stat().st_size // 2)


def another_database(path):
    execute(path, "CREATE TABLE cookies (name TEXT, value TEXT)")


def other_columns(path):
    execute(path, "CREATE TABLE answers (question TEXT)", "CREATE TABLE battles (winner TEXT)")


def numbers_for_names(path):
    fill(path)
    execute(path, "UPDATE answers SET annotator = x'00ff' WHERE number = 3", "UPDATE battles SET voter = x'00'")  # fmt: skip


def sides_that_are_none(path):
    fill(path)
    execute(path, "UPDATE answers SET left_response = 'one'", "UPDATE battles SET context = x'01'")  # fmt: skip


def answers_that_are_none(path):
    fill(path)
    execute(path, "UPDATE answers SET answer = 'first' WHERE number = 3", "UPDATE battles SET voter = x'01'")  # fmt: skip


def text_that_is_none(path):
    fill(path)
    execute(path, "UPDATE answers SET reason = CAST(x'ff' AS TEXT)", "UPDATE battles SET context = CAST(x'ff' AS TEXT)")  # fmt: skip


def a_folder(path):
    path.mkdir()


def a_pipe(path):
    os.mkfifo(path)


BROKEN = (
    junk, encrypted, truncated, another_database, other_columns, numbers_for_names, sides_that_are_none,
    answers_that_are_none, text_that_is_none, a_folder, a_pipe,
)  # fmt: skip


@pytest.mark.parametrize("break_it", BROKEN)
def test_a_broken_store_is_named_in_one_line_and_stays_as_it_is(path, break_it):
    break_it(path)
    before = files(path.parent)
    for digest in (votes_digest, labels_digest, answers_digest):
        with pytest.raises(UserError, match="human_answers.sqlite: .*(move it away)") as error:
            digest(path)
        assert "\n" not in str(error.value)
    if break_it in (junk, encrypted, another_database, other_columns, a_folder):
        for store in (AnswerStore, BattleStore):
            with pytest.raises(UserError, match="human_answers.sqlite"):
                store(path)
    assert files(path.parent) == before


@cache
def store_bytes():
    """The bytes of a store."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "answers.sqlite"
        fill(path)
        return path.read_bytes()


def read_or_refused(path):
    """Return the answers and votes of a store, or None if it is refused with an error of one line."""
    try:
        return read_answers(path), read_votes(path)
    except UserError as error:
        assert "\n" not in str(error) and path.name in str(error)
        return None


@given(length=st.one_of(st.integers(1), st.integers(1).map(lambda pages: 4096 * pages)))
def test_a_store_that_was_cut_off_anywhere_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut") / "answers.sqlite"
    path.write_bytes(store_bytes()[: length % len(store_bytes()) or 1])
    before = files(path.parent)
    assert read_or_refused(path) is None
    assert files(path.parent) == before


@given(places=st.lists(st.tuples(st.floats(0, 0.9999), st.binary(min_size=1, max_size=40)), min_size=1, max_size=4))  # fmt: skip
def test_whatever_bytes_are_in_a_store_it_is_read_or_refused_in_one_line(tmp_path_factory, places):
    path = tmp_path_factory.mktemp("bytes") / "answers.sqlite"
    content = bytearray(store_bytes())
    for place, piece in places:
        start = int(place * len(store_bytes()))
        content[start : start + len(piece)] = piece
    path.write_bytes(content)
    before = files(path.parent)
    read_or_refused(path)
    assert files(path.parent) == before


def as_nobody(path):
    """Read a store as a user without rights; return the numbers of answers and votes, or the error."""
    if os.geteuid():
        pytest.skip("only root may become somebody else")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            text = f"{len(read_answers(path))} {len(read_votes(path))}"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def public_path():
    """The path of a store in a folder that everybody may read; the folders of pytest are private."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        state = Path(folder, "state")
        state.mkdir(0o755)
        yield state / "human_answers.sqlite"
        state.chmod(0o755)


@pytest.mark.parametrize("state", ["closed", "open", "killed", "copied"])
def test_a_store_in_a_folder_that_may_not_be_written_is_read(public_path, state):
    path = public_path
    fill(path)
    process = None
    if state != "closed":
        process = start_writer(WRITER, path, "stay" if state == "open" else "die")
    if state == "copied":
        Path(f"{path}-shm").unlink()
    before = files(path.parent)
    for file in path.parent.iterdir():
        file.chmod(0o444)
    numbers = as_nobody(path)
    if process:
        process.communicate()
    assert numbers == ("60 3" if state == "closed" else "61 4")
    if state != "open":
        assert files(path.parent) == before


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_store_that_may_not_be_read_is_named(public_path, what):
    path = public_path
    fill(path)
    (path if what == "file" else path.parent).chmod(0o000)
    line = as_nobody(path)
    assert line.startswith(f"UserError: {path}: people's answers may not be read: ")
    assert "\n" not in line


# Planning


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A checkout whose study has people who label."""
    root = copy_project(tmp_path_factory.mktemp("checkout") / "checkout")
    (root / "tests/people.yaml").write_text(
        "extends: tiny.yaml\nstudy: people\nlabels: {human: {source: people, min_labels: 20}}\n"
    )
    return root


@pytest.fixture
def store_of_study(root):
    state = root / "results/people/state"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    yield state / "human_answers.sqlite"
    shutil.rmtree(state)


def plan(root):
    return snakemake("all", "-n", "--configfile", "tests/people.yaml", root=root)


def killed(path):
    fill(path)
    start_writer(WRITER, path, "die")


def old(path):
    fill(path)
    execute(path, "DROP TABLE shown", *OLD["no digests"])


@pytest.mark.parametrize("make", [None, fill, killed, old, Path.touch])
def test_a_dry_run_plans_and_leaves_the_store_as_it_is(root, store_of_study, make):
    if make:
        make(store_of_study)
    before = files(store_of_study.parent)
    run = plan(root)
    assert run.returncode == 0 and "Traceback" not in run.stdout, run.stdout[-2000:]
    assert ("rank_arena" in run.stdout) is (make in (fill, killed, old))
    assert files(store_of_study.parent) == before


@pytest.mark.parametrize("make", [junk, truncated, another_database, sides_that_are_none, a_folder])
def test_a_dry_run_names_a_store_that_is_broken_in_one_line(root, store_of_study, make):
    make(store_of_study)
    before = files(store_of_study.parent)
    run = plan(root)
    _, line = run.stdout.splitlines()  # the first one names the profile
    assert run.returncode == 1
    assert line.startswith("error: results/people/state/human_answers.sqlite: ")
    assert "move it away" in line
    assert files(store_of_study.parent) == before


@pytest.mark.parametrize("store", [None, b""])
@pytest.mark.parametrize("shm", [True, False])
def test_answers_in_a_wal_without_their_store_are_not_lost(tmp_path, store, shm):
    """SQLite would delete such a file as a leftover, even on a read."""
    path = tmp_path / "human_answers.sqlite"
    beside = {f"{path}-wal": b"commits" * 1000} | ({f"{path}-shm": b"\0" * 32768} if shm else {})
    for name, content in beside.items():
        Path(name).write_bytes(content)
    if store is not None:
        path.write_bytes(store)
    for open_store in (read_answers, AnswerStore):
        with pytest.raises(UserError, match="-wal beside it holds answers"):
            open_store(path)
    assert {name: Path(name).read_bytes() for name in beside} == beside
