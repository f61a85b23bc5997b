"""The cache of answers: no request is sent twice, whatever ends a job and whichever job runs beside it."""

import os
import subprocess
import sys
import time
from collections import Counter

import pytest

from llm_jobs import (
    PAIRS,
    Job,
    pairs,
    settings_of,
)
from llm_server import says
from persuasion_rl.files import UserError
from persuasion_rl.judges.base import judge_both_orders
from persuasion_rl.judges.llm.cache import AnswerCache
from running import ROOT


def test_a_rerun_asks_only_what_is_new(judge, server, tmp_path):
    judge_both_orders(judge(), pairs(4))
    count = len(server.requests)
    judge_both_orders(judge(concurrency=1, retries=0), pairs(6))
    new = {request.data["conversation"] for request in server.requests[count:]}
    assert new == {"Poster: view 4", "Poster: view 5"}
    (tmp_path / "rubric.md").write_text("Judge by length.")
    count = len(server.requests)
    judge_both_orders(judge(rubric=tmp_path / "rubric.md"), pairs(6))
    assert len(server.requests) - count == count


def test_a_file_that_is_no_cache_is_named(judge, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/llm.sqlite").write_bytes(b"no database at all, this is" * 100)
    with pytest.raises(
        UserError, match=r"llm.sqlite: file is not a database; .*move the file away"
    ):
        judge_both_orders(judge(), PAIRS)


@pytest.mark.parametrize("obstacle", ["folder", "link", "file for its folder"])
def test_a_lock_that_cannot_be_had_is_one_line(judge, server, tmp_path, obstacle):
    state = tmp_path / "state"
    if obstacle == "file for its folder":
        state.write_text("")
    else:
        state.mkdir()
        lock = state / "llm.lock"
        lock.mkdir() if obstacle == "folder" else lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"llm.lock: cannot be locked \(.+\); it must be a plain"):
        judge_both_orders(judge(), PAIRS)
    assert not server.requests


def test_two_jobs_at_once_ask_nothing_twice(server, tmp_path):
    server.behave = lambda request, attempt: time.sleep(0.02) or says()
    job = Job(tmp_path, settings_of(server, tmp_path), pairs(30))
    with job.start("a.jsonl") as one, job.start("b.jsonl") as other:
        errors = [run.communicate(timeout=120)[1] for run in (one, other)]
    assert one.returncode == other.returncode == 0, errors
    assert "another job is asking; waiting for it" in "".join(errors)
    assert job.labels("a.jsonl") == job.labels("b.jsonl")
    assert set(Counter(request.key for request in server.requests).values()) == {1}


def test_threads_and_processes_may_write_the_cache_together(tmp_path):
    """Only one process sends requests at a time, but the file is safe without that."""
    script = (
        "import sys; from pathlib import Path; from threading import Thread\n"
        "from persuasion_rl.judges.llm.cache import Answer, AnswerCache\n"
        "cache = AnswerCache(Path(sys.argv[1]))\n"
        "def add(n):\n"
        "    for i in range(50): cache.add(Answer(f'{sys.argv[2]}-{n}-{i}', 'b', 'm', 1, 1, 0.5))\n"
        "threads = [Thread(target=add, args=(n,)) for n in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    path = tmp_path / "llm.sqlite"
    AnswerCache(path).close()  # made before, as only `opened` creates one safely
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(path), name], env=environment)
        for name in ("a", "b")
    ]
    assert [run.wait(60) for run in runs] == [0, 0]
    cache = AnswerCache(path)
    assert cache.spent() == (400, 200.0)
    cache.close()
