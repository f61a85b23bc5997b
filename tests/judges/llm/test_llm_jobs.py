"""Jobs of the judge llm: killed on the way, in the workflow, and with a real server of another make."""

import json
import shutil
import signal
import sqlite3
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
import yaml

from llm_jobs import (
    FAILURES,
    KEY,
    PAIRS,
    PRICES,
    PROVIDERS,
    Job,
    cached,
    pairs,
    settings_of,
    write_responses,
)
from llm_server import (
    cut,
    drops,
    hangs,
    html,
    junk,
    refuses,
    says,
    status,
)
from persuasion_rl.files import read_jsonl
from persuasion_rl.judges.base import Comparison, judge_both_orders
from persuasion_rl.judges.length import LengthJudge
from persuasion_rl.judges.llm.answers import Answers
from persuasion_rl.judges.llm.asking import provider_of
from persuasion_rl.judges.llm.cache import AnswerCache
from persuasion_rl.judges.llm.judge import LlmJudge
from persuasion_rl.judges.llm.settings import LlmSettings
from running import copy_project, succeed

FAULTY = 0.3


def faulty(random: Random, server):
    """Fail for 30% of the requests, and answer the others with a verdict. Refusals are few, as they are answers."""
    faults = [
        status(429, "rate_limit_error", Retry_After="0.2"),
        status(500), status(503), hangs, cut(length=True), cut(length=False), drops, html,
        junk("As an AI model, I like both."), junk('{"verdict": "3"}'),
    ]  # fmt: skip

    def behave(request, attempt):
        time.sleep(0.01)
        if random.random() >= FAULTY:
            return says()
        return refuses if random.random() < 0.02 else random.choice(faults)

    return behave


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_pair_ends_labelled_or_counted_out_and_no_answer_is_paid_twice(
    server, tmp_path, provider
):
    """500 pairs in both orders, a server that fails for 30% of the requests, and three kills on the way."""
    server.behave = faulty(Random(7), server)
    rows = pairs(500)
    settings = settings_of(
        server, tmp_path, provider, timeout_s=1, retries=4, concurrency=24, prices=PRICES
    )
    job = Job(tmp_path, settings, rows)
    database = tmp_path / "state/llm.sqlite"
    # After each kill: the number of requests so far, and the keys of those with a verdict.
    checkpoints: list[tuple[int, set[str]]] = []
    answers_at_kills = []
    for goal in (150, 400, 700):
        with job.start() as run:
            while len(server.requests) < goal:
                assert run.poll() is None, run.stderr.read()
                time.sleep(0.01)
            run.send_signal(signal.SIGKILL)
            run.communicate(timeout=30)
        assert not (tmp_path / "labels.jsonl").exists()
        copy = tmp_path / "copy"
        shutil.copytree(database.parent, copy)
        (copy / "llm.lock").unlink()
        keys = answered_in(copy / "llm.sqlite", settings, rows)
        checkpoints.append((len(server.requests), keys))
        with sqlite3.connect(copy / "llm.sqlite") as file:
            answers_at_kills.append(file.execute("SELECT count(*) FROM answers").fetchone()[0])
        shutil.rmtree(copy)
    started = time.monotonic()
    errors = job.run()
    labels = job.labels()
    assert len(labels) == 500 and [r["metadata"]["prompt_id"] for r in labels] == [
        f"p{i}" for i in range(500)
    ]
    excluded = Counter(row["excluded"] for row in labels if "excluded" in row)
    assert excluded.keys() <= FAILURES and sum(excluded.values()) < 30
    # The verdicts of the other pairs: the server prefers the response with more words, in both orders.
    expected = [v for v, _ in judge_both_orders(LengthJudge(), rows)]
    verdicts = [
        (row["verdict"], v) for row, v in zip(labels, expected, strict=True) if "verdict" in row
    ]
    assert len(verdicts) > 470 and all(verdict == v for verdict, v in verdicts)
    assert {verdict for verdict, _ in verdicts} == {"1", "2", "tie"}
    # By the counts of the server: a request whose verdict was in the cache was never sent again ...
    for so_far, keys in checkpoints:
        again = {request.key for request in server.requests[so_far:]} & keys
        assert not again
    # ... and only answers that were under way at a kill were lost.
    twice = [key for key, count in server.answer_counts.items() if count > 1]
    assert len(twice) <= 3 * settings.concurrency
    with sqlite3.connect(database) as file:
        answers = file.execute("SELECT count(*) FROM answers").fetchone()[0]
    print(
        f"\n{provider}: {len(server.requests)} requests for {len({a.key for a in server.requests})}"
        f" judgments, {answers} answers kept,"
        f" at the kills {answers_at_kills}; asked again though the server had answered: {len(twice)};"
        f" excluded {dict(excluded)}; last run {time.monotonic() - started:.0f} s\n{errors[-300:]}"
    )
    # One more run sends only requests without an answer; a refusal is an answer.
    count = len(server.requests)
    answered_keys = answered_in(database, settings, rows)
    job.run()
    assert not {request.key for request in server.requests[count:]} & answered_keys


def answered_in(database: Path, settings: LlmSettings, rows: list[Comparison]) -> set[str]:
    """The keys, as the server has them, of the requests with a verdict or a refusal in a cache."""
    cache = AnswerCache(database)
    judge = LlmJudge(settings)
    requests = [judge.request(c) for c in [*rows, *[c.swapped() for c in rows]]]
    answers = Answers(settings, cache, provider_of(settings), requests)
    keys = set()
    for request in requests:
        outcome = answers.settled(request.key)
        if outcome is not None and outcome.failure != "unparsable":
            text = f"{request.system}\0{request.user}"
            keys.add(sha256(text.encode()).hexdigest())
    cache.close()
    return keys


@pytest.mark.slow
def test_the_workflow_labels_with_it_and_only_changed_requests_make_labels_stale(server, tmp_path):
    """Afterwards no file of the checkout has the key, the workflow's records included."""
    copy_project(tmp_path)
    shutil.rmtree(tmp_path / "tests")  # the key is in them
    labels = "results/changed/preferences/ai_pool_labels.jsonl"
    write_responses(tmp_path / labels.replace("labels", "responses"), PAIRS)
    rubric = tmp_path / "resources/rubrics/persuasiveness.md"

    def run(*args, **changes):
        llm = {"model": "tiny", "base_url": server.url("openai")} | changes
        study = {"extends": "demo.yaml", "study": "changed", "llm": llm}
        study["labels"] = {"ai": {"judge": "llm", "noise": 0}}
        (tmp_path / "config/changed.yaml").write_text(yaml.safe_dump(study))
        args = [
            labels,
            "--configfile",
            "config/changed.yaml",
            "--allowed-rules",
            "label_ai",
            *args,
        ]
        return succeed(*args, "--cores", 1, root=tmp_path, OPENAI_API_KEY=KEY)

    run()
    assert [row["verdict"] for row in read_jsonl(tmp_path / labels)] == ["1", "2", "tie"]
    same = dict(
        base_url="http://localhost:1/v1", retries=1, timeout_s=9, max_requests=7, batch=True
    )
    assert "Nothing to be done" in run("-n", **same)
    assert "label_ai" in run("-n", model="other")
    rubric.write_text(rubric.read_text() + "\nBe kind.\n")
    run()
    assert len(server.requests) == 12, "both orders with each rubric"
    assert all(KEY in str(request.headers) for request in server.requests)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_real_server_of_another_make_is_understood(peer, server, tmp_path):
    """Its answers are read; what an untrained model writes is excluded as unparsable."""
    url, model = peer
    (tmp_path / "rubric.md").write_text("Prefer the reply that engages with the poster's reason.")
    settings = settings_of(
        server, tmp_path, base_url=url, model=model, rubric=tmp_path / "rubric.md",
        max_tokens=24, timeout_s=60, retries=1, concurrency=2,
    )  # fmt: skip
    job = Job(tmp_path, settings, PAIRS)
    errors = job.run()
    assert [row["excluded"] for row in job.labels()] == ["unparsable"] * 3
    assert "{'unparsable': 3}" in errors
    bodies = [json.loads(body) for body in cached(tmp_path)]
    assert len(bodies) == 2 * 6, "each request was answered twice, and each answer kept"
    texts = [body["choices"][0]["message"]["content"] for body in bodies]
    assert all(isinstance(text, str) for text in texts) and any(texts)
    assert all(tokens > 20 for tokens in cached(tmp_path, "input_tokens"))
    assert all(0 < tokens <= 24 for tokens in cached(tmp_path, "output_tokens"))
