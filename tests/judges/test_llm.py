"""The judge llm, against a server on this machine that also fails in every way: see llm_server."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openai", reason="pip install -e '.[openai,anthropic]'")
pytest.importorskip("anthropic", reason="pip install -e '.[openai,anthropic]'")

import llm_server
from csv_files import read_csv
from llm_server import (
    MORE_WORDS_WIN,
    body,
    cut,
    drops,
    hangs,
    html,
    junk,
    no_header,
    refuses,
    says,
    status,
)
from persuasion_rl.evaluation.honesty import (
    READ,
    keep_equally_honest,
    read_replies,
    tabulate_honesty,
)
from persuasion_rl.files import UserError, file_digest, read_jsonl, write_jsonl
from persuasion_rl.judges.base import Comparison, judge_both_orders
from persuasion_rl.judges.length import LengthJudge
from persuasion_rl.judges.llm import judge as llm
from persuasion_rl.judges.llm.cache import ADDED, AnswerCache, Batch
from persuasion_rl.judges.llm.judge import TASK, VERDICT_SCHEMA, LlmJudge, Settings, read_answer
from persuasion_rl.judges.llm.provider import Anthropic, OpenAI, Request, retry_after
from persuasion_rl.judges.make import make_judge
from persuasion_rl.preferences.label_ai import label_ai
from persuasion_rl.report.costs import api_cost
from persuasion_rl.runtime.keys import key_for
from persuasion_rl.study.config import load_study
from running import copy_project, snakemake, succeed

ROOT = Path(__file__).parents[2]
RUBRIC = ROOT / "resources/rubrics/persuasiveness.md"
KEY = "sk-planted-0123456789abcdef"
PROVIDERS = ("openai", "anthropic")
CLIENTS = {"openai": OpenAI, "anthropic": Anthropic}
PAIRS = [
    Comparison("Poster: cars", "one two three", "one"),
    Comparison("Poster: cars", "one", "one two"),
    Comparison("Poster: tea", "one two", "two one"),
]


@pytest.fixture
def server():
    with llm_server.serving() as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(llm, "_exponential", lambda state: 0.02)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def settings_of(server, folder: Path, provider: str = "openai", **changes) -> Settings:
    given = dict(
        provider=provider,
        model="tiny",
        rubric=str(RUBRIC),
        max_tokens=200,
        temperature=0,
        base_url=server.url(provider),
        timeout_s=5,
        retries=3,
        concurrency=4,
        requests_per_minute=None,
        max_requests=None,
        max_cost_usd=None,
        prices=None,
        batch=False,
        cache=str(folder / "state/llm.sqlite"),
    )
    return Settings(**given | changes)


@pytest.fixture
def judge(server, tmp_path):
    """A function that makes a judge of the server, whose answers lie in one place."""
    return lambda provider="openai", **changes: LlmJudge(
        settings_of(server, tmp_path, provider, **changes)
    )


def cached(folder: Path, what: str = "body") -> list:
    with sqlite3.connect(folder / "state/llm.sqlite") as file:
        return [value for (value,) in file.execute(f"SELECT {what} FROM answers ORDER BY rowid")]


def pairs(count: int) -> list[Comparison]:
    """Pairs that differ, and whose lengths do."""
    return [
        Comparison(f"Poster: view {i}", "word " * (1 + i % 7), "word " * 4) for i in range(count)
    ]


# What is asked, and how an answer is read


@given(st.text(max_size=60), st.sampled_from(list(llm.VERDICTS)), st.text(" \n\t", max_size=3))
def test_a_verdict_is_read_whatever_its_reason_says(reason, verdict, space):
    text = space + json.dumps({"verdict": verdict, "reason": reason}) + space
    assert read_answer(text, VERDICT_SCHEMA) == {"verdict": verdict, "reason": reason}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(st.one_of(VALUES.map(json.dumps), st.text(max_size=40)))
def test_whatever_else_is_no_verdict(text):
    with pytest.raises(ValueError):
        read_answer(text, VERDICT_SCHEMA)


GOOD = '{"reason": "r", "verdict": "1"}'


@pytest.mark.parametrize(
    "text",
    [
        "", "1", '"1"', f"Sure! {GOOD}", f"{GOOD}{GOOD}", GOOD[:-1], f"[{GOOD}]", "[" * 100_000,
        f"Sure!\n```json\n{GOOD}\n```", f"```json\n{GOOD}\n```\nSo be it.", f"```json\n{GOOD[:-1]}\n```",
        f"```json\n{GOOD}\n```\n```json\n{GOOD}\n```", f"```json {GOOD} ```", f"```json\n{GOOD}", f"`{GOOD}`",
        '{"verdict": "1"}', '{"reason": "r"}', '{"reason": "r", "verdict": 1}',
        '{"reason": "r", "verdict": "3"}', '{"reason": "r", "verdict": "TIE"}',
        '{"reason": null, "verdict": "1"}', '{"reason": "r", "verdict": "1", "sure": true}',
        '{"reason": "r", "verdict": "1", "verdict": "2"}', '{"reason": "r", "verdict": ["1"]}',
    ],
)  # fmt: skip
def test_a_verdict_is_one_object_of_the_schema_and_nothing_else(text):
    assert read_answer(GOOD, VERDICT_SCHEMA)["verdict"] == "1"
    with pytest.raises(ValueError):
        read_answer(text, VERDICT_SCHEMA)


@pytest.mark.parametrize("text", [f"```json\n{GOOD}\n```", f"\n```\n {GOOD}\n ```\n"])
def test_a_fence_around_the_object_is_markup_and_nothing_else(text):
    assert read_answer(text, VERDICT_SCHEMA) == json.loads(GOOD)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return settings_of(type("Nowhere", (), {"url": lambda *_: None}), tmp_path_factory.mktemp("x"))


def word(settings: Settings, rubric: str, comparison: Comparison) -> Request:
    judge = LlmJudge(settings)
    judge._rubric = rubric + TASK
    return judge.request(comparison)


@given(prompt=st.text(), first=st.text(), second=st.text())
def test_texts_stay_inside_their_strings(plain, prompt, first, second):
    """Whatever they say: the task is the same, and the data reads back as it was."""
    asked = word(plain, "Judge.", Comparison(prompt, first, second))
    data = json.loads(asked.user)
    assert data == {"conversation": prompt, "response_1": first, "response_2": second}
    assert asked.system == word(plain, "Judge.", Comparison("", "", "")).system


def test_half_a_surrogate_pair_does_not_stop_a_job(judge, server):
    broken = Comparison("Poster: \ud83d cars", "one \udc00 two", "one")
    assert judge_both_orders(judge(), [broken])[0].verdict == "1"
    assert server.requests[0].data["conversation"] == "Poster: ? cars"


def test_a_request_is_keyed_by_all_that_matters_and_nothing_else(plain):
    from dataclasses import replace

    def key(settings=plain, rubric="Judge.", comparison=PAIRS[0]):
        return word(settings, rubric, comparison).key

    same = dict(retries=9, concurrency=1, base_url="http://localhost/v1", batch=True, timeout_s=1)
    assert key() == key(replace(plain, **same))
    others = [
        key(replace(plain, model="other")),
        key(replace(plain, provider="anthropic")),
        key(replace(plain, max_tokens=100)),
        key(replace(plain, temperature=None)),
        key(rubric="Judge!"),
        key(comparison=PAIRS[0].swapped()),
        key(comparison=PAIRS[1]),
    ]
    assert len({key(), *others}) == 1 + len(others)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_both_providers_are_asked_in_both_orders(judge, server, provider):
    found = judge_both_orders(judge(provider), PAIRS)
    assert [v for v, _ in found] == [v for v, _ in judge_both_orders(LengthJudge(), PAIRS)]
    assert {o.reason for _, both in found for o in both} == {"It answers the poster's reason."}
    shown = Counter((a.data["response_1"], a.data["response_2"]) for a in server.requests)
    assert set(shown.values()) == {1} and len(shown) == 6
    body = server.requests[0].body
    assert body["temperature"] == 0 and body["max_tokens"] == 200 and body["model"] == "tiny"
    system = body.get("system") or body["messages"][0]["content"]
    assert system.startswith(RUBRIC.read_text().rstrip()) and "Poster" not in system
    assert not {"response_format", "output_config"} & body.keys()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_provider_itself_is_asked_for_the_schema(judge, server, provider, monkeypatch, capfd):
    """Where there is no base_url. The clients' own variables lead nowhere."""
    monkeypatch.setenv(f"{provider.upper()}_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setattr(CLIENTS[provider], "address", server.url(provider))
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
    judge_both_orders(judge(provider, base_url=None, temperature=None), PAIRS)
    assert f"{provider.upper()}_BASE_URL is not looked at" in capfd.readouterr().err
    body = server.requests[0].body
    assert "temperature" not in body
    form = body["response_format" if provider == "openai" else "output_config"]
    assert '"abstain"' in json.dumps(form)
    assert body["max_completion_tokens" if provider == "openai" else "max_tokens"] == 200


@pytest.mark.parametrize(
    ("said", "verdict"),
    [("1", "tie"), ("tie", "tie"), ("abstain", "none"), (MORE_WORDS_WIN, "1")],
)
def test_verdicts_of_both_orders_make_one(judge, server, said, verdict):
    server.behave = lambda asked, times: said
    assert judge_both_orders(judge(), PAIRS[:1])[0].verdict == verdict


def test_an_abstention_in_one_order_is_enough(judge, server):
    server.behave = lambda asked, times: "abstain" if asked.data["response_1"] == "one" else "1"
    assert judge_both_orders(judge(), PAIRS[:1])[0].verdict == "none"


# What goes wrong


def only(action):
    """That for the pairs about cars, and verdicts for the others."""
    return lambda asked, times: action if "cars" in asked.data["conversation"] else says()


LIMITED = status(429, "rate_limit_error", Retry_After="0.05")
PASSING = {
    "rate_limited": [LIMITED, status(429, "rate_limit_error")],
    "server_error": [status(500), status(503, Retry_After="0"), status(529, "overloaded_error")],
    "timeout": [hangs, status(408)],
    "connection": [drops, cut(length=True)],
    "broken_body": [cut(length=False), html],
    "unparsable": [junk("I prefer the first."), junk("")],
}
FAULTS = [(name, action) for name, actions in PASSING.items() for action in actions]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("name", "action"), FAULTS)
def test_what_passes_is_asked_again(judge, server, provider, name, action):
    server.behave = lambda asked, times: action if times == 1 else says()
    found = judge_both_orders(judge(provider, timeout_s=0.4), PAIRS[:1])
    assert found[0].verdict == "1" and len(server.requests) == 4


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("name", "action"), FAULTS)
def test_what_does_not_pass_is_named_after_bounded_attempts(
    judge, server, provider, name, action, tmp_path, capfd
):
    server.behave = only(action)
    found, other = judge_both_orders(judge(provider, timeout_s=0.2, retries=2), PAIRS[1:])
    assert (found.verdict, found.failure) == (None, name) and other.verdict == "tie"
    assert len(server.requests) == 2 * 3 + 2
    assert len(cached(tmp_path)) == 2 + (6 if name == "unparsable" else 0), "raw answers are kept"
    assert f"no answer, for instance: {name}" in capfd.readouterr().err


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("name", "action"), [("refused", refuses), ("rejected", status(400, "invalid_request_error"))]
)
def test_what_would_not_pass_is_not_asked_again(judge, server, provider, name, action):
    server.behave = only(action)
    found, _ = judge_both_orders(judge(provider), PAIRS[1:])
    assert found.failure == name and len(server.requests) == 4


def test_a_refusal_and_what_stays_unparsable_are_answers_that_are_not_paid_twice(judge, server):
    server.behave = lambda asked, times: refuses if "tea" in str(asked.data) else junk("no")
    first = judge_both_orders(judge(retries=1), PAIRS)
    count = len(server.requests)
    assert [f.failure for f in first] == ["unparsable", "unparsable", "refused"]
    assert judge_both_orders(judge(retries=1), PAIRS) == first
    assert len(server.requests) == count
    server.behave = lambda asked, times: says()
    more = judge_both_orders(judge(retries=2), PAIRS)
    assert [f.failure for f in more] == [None, None, "refused"], "one attempt more was allowed"


def test_a_failure_that_passed_is_asked_again_by_a_rerun_and_nothing_else_is(judge, server):
    server.behave = lambda asked, times: status(500) if "tea" in str(asked.data) else says()
    first = judge_both_orders(judge(retries=0), PAIRS)
    assert [f.failure for f in first] == [None, None, "server_error"]
    server.behave = lambda asked, times: says()
    del server.requests[:]
    assert judge_both_orders(judge(), PAIRS)[2].verdict == "tie"
    assert all("tea" in asked.data["conversation"] for asked in server.requests)
    assert len(server.requests) == 2


def test_no_request_is_sent_while_the_server_asks_to_wait(judge, server):
    server.behave = lambda asked, times: (
        status(429, Retry_After="0.6") if len(server.requests) == 3 else says()
    )
    judge_both_orders(judge(concurrency=1), PAIRS)
    (refused,) = server.refused_at
    after = [asked.at for asked in server.requests if asked.at > refused]
    assert len(after) == 4 and min(after) - refused >= 0.59


def test_a_server_that_asks_to_wait_too_long_has_not_answered(judge, server):
    server.behave = only(status(429, Retry_After="7200"))
    started = time.monotonic()
    assert judge_both_orders(judge(), PAIRS[1:])[0].failure == "rate_limited"
    assert time.monotonic() - started < 5 and len(server.requests) == 4


def test_where_nothing_was_answered_there_are_no_labels(server, tmp_path):
    """However few the requests are; the line says why."""
    server.behave = lambda asked, times: drops
    job = Job(tmp_path, settings_of(server, tmp_path, retries=0), PAIRS)
    with job.start() as run:
        told = run.communicate(timeout=120)[1]
    assert run.returncode == 1 and not (tmp_path / "labels.jsonl").exists()
    assert "none of 6 requests had an answer, the last for connection: Server disconnected" in told
    assert "Traceback" not in told


def test_a_model_whose_answers_are_all_unparsable_is_not_paid_for_all(
    judge, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.behave = lambda asked, times: junk(f"As an AI model with {KEY}\nI like both. " * 20)
    with pytest.raises(UserError, match=r"the first 2\d answers of tiny are no JSON") as stop:
        judge_both_orders(judge(), pairs(100))
    assert "as 'As an AI model with [key] I like both." in str(stop.value)
    assert len(str(stop.value)) < 400 and "\n" not in str(stop.value)
    assert 20 <= len(cached(tmp_path)) <= 24
    server.behave = lambda asked, times: says() if len(server.requests) % 20 == 0 else junk("no")
    judge_both_orders(judge(model="clumsy", concurrency=1, retries=0), pairs(40))
    server.behave = lambda asked, times: junk("no")  # what is left may be what it cannot judge
    found = judge_both_orders(judge(model="clumsy", concurrency=1, retries=1), pairs(40))
    assert all(f.failure == "unparsable" for f in found[:10])


def test_a_batch_whose_answers_are_all_unparsable_is_not_sent_again(judge, server, monkeypatch):
    server.behave = lambda asked, times: MORE_WORDS_WIN
    monkeypatch.setattr(llm_server, "opinion", lambda asked, verdict: "I like both.")
    with pytest.raises(UserError, match="the first 28 answers of tiny .* 'I like both.'"):
        judge_both_orders(judge(batch=True), pairs(15))
    assert len(server.batches) == 1


# Odd answers

ODD_TEXT = st.text(st.characters(), max_size=6)  # with halves of surrogate pairs
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ODD_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)
TEXTS = st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "", "null"]) | st.builds(
    lambda reason: json.dumps({"reason": reason, "verdict": "1"}), ODD_TEXT
)
PLACES = {
    "openai": [
        (), ("choices",), ("choices", 0), ("choices", 0, "message"), ("choices", 0, "message", "refusal"),
        ("choices", 0, "finish_reason"), ("usage",), ("usage", "prompt_tokens"), ("usage", "completion_tokens"),
        ("choices", 0, "message", "content"),
    ],
    "anthropic": [
        (), ("content",), ("content", 0), ("content", 0, "type"), ("stop_reason",), ("usage",),
        ("usage", "input_tokens"), ("usage", "output_tokens"), ("content", 0, "text"),
    ],
}  # fmt: skip


def altered(value, place: tuple, by):
    """A JSON value with another one in that place."""
    if not place:
        return by
    step, *rest = place
    parts = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    made = {key: altered(part, tuple(rest), by) if key == step else part for key, part in parts}
    return made if isinstance(value, dict) else list(made.values())


@st.composite
def odd_bodies(draw, provider: str, server) -> str:
    """A body of the provider with anything at all in one of its places."""
    asked = {"openai": {"model": "m"}, "anthropic": {"model": "m", "system": "s"}}[provider]
    whole = llm_server.message(server, llm_server.Asked("k", {}, asked, {}, 0), draw(TEXTS))
    where = draw(st.sampled_from(PLACES[provider]))
    text = json.dumps(altered(whole, where, draw(ODD | TEXTS)))
    return draw(st.sampled_from([text, text, text, text[:-3], "[" * 100_000]))


NAMES = {
    "refused", "unparsable", "rejected", "rate_limited", "timeout", "server_error", "connection",
    "broken_body",
}  # fmt: skip


@pytest.fixture(scope="module")
def standing():
    with llm_server.serving() as server:
        yield server


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(max_examples=25)
@given(data=st.data())
def test_any_body_ends_as_a_label_or_a_named_exclusion(standing, provider, data, tmp_path_factory):
    """Also when it is read from the cache."""
    folder = tmp_path_factory.mktemp("odd")
    bodies = data.draw(st.lists(odd_bodies(provider, standing), min_size=3, max_size=3))

    def behave(asked, times):
        number = asked.data["conversation"].removeprefix("Poster: view ")
        return says() if number == "3" else body(bodies[int(number)])

    standing.behave = behave
    settings = settings_of(standing, folder, provider, retries=0)
    job = Job(folder, settings, pairs(4))
    for _ in range(2):
        counts = label_ai(
            responses=folder / "responses.jsonl", labels=folder / "labels.jsonl", judge="llm",
            noise=0, seed=1, threads=1, llm=json.dumps(vars(settings)),
        )  # fmt: skip
        assert sum(counts.values()) == 4 and counts.keys() <= {*NAMES, "1", "2", "tie", "none"}
        assert job.labels()[3]["verdict"] == "tie"


PARTS = [{"type": "text", "text": GOOD}]


@pytest.mark.parametrize(
    ("place", "by", "label"),
    [
        (("choices", 0, "message", "content"), PARTS, "unparsable"),
        (("choices", 0, "message", "content"), "[" * 100_000, "unparsable"),
        (("usage", "prompt_tokens"), "x", "1"),
        (("usage", "completion_tokens"), 10**30, "1"),
        (("usage",), ["x"], "1"),
    ],
)
def test_an_odd_answer_is_kept_and_counted(judge, server, tmp_path, place, by, label):
    asked = llm_server.Asked("k", {}, {"model": "m"}, {}, 0)
    said = altered(llm_server.message(server, asked, GOOD.replace("1", "tie")), place, by)
    server.behave = only(body(json.dumps(said)))
    for _ in range(2):
        found = judge_both_orders(judge(retries=0), PAIRS[1:])[0]
        assert (found.verdict or found.failure) == label.replace("1", "tie")
    assert len(server.requests) == len(cached(tmp_path)) == 4
    assert all(0 < tokens < 10_000 for tokens in cached(tmp_path, "input_tokens"))


def test_half_a_surrogate_pair_in_a_reason_is_written(server, tmp_path):
    server.behave = lambda asked, times: junk('{"reason": "so \\ud83d it is", "verdict": "1"}')
    job = Job(tmp_path, settings_of(server, tmp_path), PAIRS)
    job.run()
    assert job.labels()[0]["votes"][0]["reason"] == "so ? it is"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "-4"}, 0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(headers, seconds):
    assert retry_after(headers) == seconds


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("action", "line"),
    [
        (status(401, "authentication_error", f"bad key {KEY}"), "does not accept the key in"),
        (status(403, "permission_error"), "does not accept the key in"),
        (status(402, "billing_error"), "gives no more credit"),
        (status(404, "not_found_error", f"model not found, {KEY}"), "has no model 'tiny'"),
    ],
)
def test_what_would_fail_for_all_stops_in_one_line(
    judge, server, provider, action, line, monkeypatch
):
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
    server.behave = lambda asked, times: action
    with pytest.raises(UserError, match=line) as stop:
        judge_both_orders(judge(provider, concurrency=2), pairs(30))
    assert KEY not in str(stop.value) and "\n" not in str(stop.value)
    assert len(server.requests) <= 4


def test_openais_spent_quota_is_no_rate_limit(judge, server):
    server.behave = lambda asked, times: status(429, "insufficient_quota", "You exceeded it")
    with pytest.raises(UserError, match="gives no more credit"):
        judge_both_orders(judge(), PAIRS)


def test_a_server_that_is_out_of_order_is_not_asked_for_ever(judge, server):
    server.behave = lambda asked, times: says() if len(server.requests) < 5 else status(500)
    with pytest.raises(UserError, match="20 requests in a row had no answer, .*status 500"):
        judge_both_orders(judge(retries=1, concurrency=2), pairs(200))
    assert len(server.requests) < 80
    server.behave = lambda asked, times: says()
    assert all(f.failure is None for f in judge_both_orders(judge(), pairs(200)))
    assert max(server.answered.values()) == 1


def test_requests_go_at_the_pace_that_is_allowed(judge, server):
    started = time.monotonic()
    judge_both_orders(judge(requests_per_minute=600), pairs(5))
    # From before the first was sent, so that a slow one shortens nothing.
    last = max(asked.at for asked in server.requests)
    assert len(server.requests) > 7 and last - started >= 0.1 * (len(server.requests) - 1)


# Read for honesty

HONESTY = str(ROOT / "resources/rubrics/honesty.md")
NOTHING = dict.fromkeys(READ, False)


def reads(asked, times):
    """An answer by the reply's words."""
    reply = asked.data["reply"]
    if "refuse" in reply:
        return refuses
    if "odd" in reply:
        return junk(json.dumps({"reason": "r", "manipulation": True}))
    return junk(json.dumps({"reason": "r", **NOTHING, "manipulation": "fear" in reply}))


def test_replies_are_read_one_by_one_and_what_could_not_be_read_is_in_no_share(server, tmp_path):
    server.behave = reads
    settings = vars(settings_of(server, tmp_path, rubric=HONESTY, retries=1))
    replies = {
        "base": ["fear it", "plain", "refuse", "odd"],
        "sft": ["fear this", "fear", "so", "x"],
    }
    files = {"responses": {}, "readings": {}}
    for player, texts in replies.items():
        rows = [
            {"prompt": f"Poster: {i}", "response": text,
             "metadata": {"prompt_id": f"p{i}", "conversation_id": f"c{i}"}}
            for i, text in enumerate(texts)
        ]  # fmt: skip
        for kind in files:
            files[kind][player] = tmp_path / f"{kind}-{player}.jsonl"
        write_jsonl(files["responses"][player], rows)
        read_replies(
            responses=files["responses"][player],
            output=files["readings"][player],
            llm=json.dumps(settings),
            asking="{}",
        )
    rows = list(read_jsonl(files["readings"]["base"]))
    assert [row.get("excluded") for row in rows] == [None, None, "refused", "unparsable"]
    assert rows[0] == {
        "prompt_id": "p0",
        "conversation_id": "c0",
        "reason": "r",
        **NOTHING,
        "manipulation": True,
    }
    asked = server.requests[0]
    assert asked.data.keys() == {"conversation", "reply"} and "honest with the poster" in str(
        asked.body
    )

    markers = sorted((ROOT / "resources/markers").glob("*.txt"))
    table = tmp_path / "honesty.csv"
    tabulate_honesty(**files, markers=markers, output=table, draws=200, seed=1)
    found = {(row["player"], row["measure"]): row["value"] for row in read_csv(table)}
    assert float(found["base", "manipulation"]) == 0.5 == float(found["base", "unread"])
    assert float(found["sft", "manipulation"]) == 0.5 and float(found["sft", "disrespect"]) == 0

    verdicts, kept = tmp_path / "verdicts.jsonl", tmp_path / "kept.jsonl"
    games = [
        {"prompt_id": f"p{i}", "player_1": "base", "player_2": "sft", "verdict": "1"}
        for i in range(4)
    ]
    write_jsonl(verdicts, games)
    keep_equally_honest(**files, verdicts=verdicts, markers=markers, output=kept)
    assert [row["prompt_id"] for row in read_jsonl(kept)] == ["p0"]


def test_a_study_that_it_evaluates_has_every_player_read(tmp_path):
    study = {"extends": str(ROOT / "tests/small.yaml"), "evaluation": {"judges": ["llm", "delta", "length"]},
             "llm": {"model": "tiny", "base_url": "http://127.0.0.1:9/v1", "requests_per_minute": 5}}  # fmt: skip
    config = tmp_path / "read.yaml"
    config.write_text(yaml.safe_dump(study))
    plan = succeed("evaluation", "-n", "-p", "--configfile", config).replace("\\\n", " ")
    commands = [line for line in plan.splitlines() if "read_replies" in line]
    assert len(commands) == 7 and all("honesty.md" in line for line in commands)
    assert "requests_per_minute" in commands[0] and "honesty_rubric" not in commands[0]
    (tabulated,) = [line for line in plan.splitlines() if "honesty tabulate_honesty" in line]
    assert "rlaif=results/small/evaluation/readings/rlaif.jsonl" in tabulated


# What it costs

PRICES = {"input": 1000.0, "output": 10_000.0}  # USD a million: 0.1 and 0.2 an answer of the server


def test_the_estimate_comes_before_the_first_request_and_what_is_above_a_limit_is_not_begun(
    judge, server, capfd
):
    judge_both_orders(judge(prices=PRICES), PAIRS[:1])
    told = capfd.readouterr().err
    assert re.search(r"2 requests to ask, 0 answered before; about [\d,]+ tokens in", told)
    assert re.search(
        r"at most 400 out, at most about \d+\.\d+ USD an attempt; up to 4 attempts", told
    )
    assert "answered 2, 0.6000 USD" in told
    with pytest.raises(UserError) as stop:
        judge_both_orders(judge(max_requests=5), PAIRS)
    assert "4 requests to ask and 2 asked before are more than llm.max_requests 5" in str(
        stop.value
    )
    with pytest.raises(
        UserError, match=r"about [\d.]+ USD to spend and 0.6000 spent are more than"
    ):
        judge_both_orders(judge(prices=PRICES, max_cost_usd=9), PAIRS)
    assert len(server.requests) == 2
    # What is answered costs nothing, whatever the limits are.
    judge_both_orders(judge(prices=PRICES, max_cost_usd=0.01, max_requests=1), PAIRS[:1])


@pytest.mark.parametrize("batch", [False, True])
def test_what_came_before_prices_were_known_counts_at_todays(judge, server, batch):
    server.behave = lambda asked, times: MORE_WORDS_WIN
    judge_both_orders(judge(batch=batch), PAIRS[:1])
    spent = 0.3 if batch else 0.6
    with pytest.raises(UserError, match=f"USD to spend and {spent:.4f} spent are more than"):
        judge_both_orders(judge(prices=PRICES, max_cost_usd=spent), PAIRS)
    assert len(server.requests) == 2


@pytest.mark.parametrize("batch", [False, True])
def test_the_cost_that_a_report_tells_is_that_of_all_answers_with_a_known_price(
    judge, server, tmp_path, batch
):
    server.behave = lambda asked, times: MORE_WORDS_WIN
    assert api_cost(tmp_path / "state/llm.sqlite") is None, "nothing was asked"
    judge_both_orders(judge(batch=batch), PAIRS[:1])
    assert api_cost(tmp_path / "state/llm.sqlite") == (2, 2, 0.0), (
        "two answers, both without a price"
    )
    judge_both_orders(judge(batch=batch, prices=PRICES), PAIRS)
    assert api_cost(tmp_path / "state/llm.sqlite") == (6, 2, pytest.approx(0.6 if batch else 1.2))
    server.counted |= {"input": 3000, "output": 50}
    judge_both_orders(judge(model="other", batch=batch, prices=PRICES), PAIRS[:1])
    assert api_cost(tmp_path / "state/llm.sqlite") == (8, 2, pytest.approx(4.1 if batch else 8.2))


@pytest.mark.parametrize("limit", ["max_requests", "max_cost_usd"])
def test_asking_stops_where_a_limit_is_reached_and_keeps_the_answers(
    judge, server, tmp_path, limit
):
    """The server's answers are dearer than the estimate, and every third one is no verdict."""
    server.counted["input"] = 5000

    def behave(asked, times):
        return junk("no") if times == 1 and int(asked.key, 16) % 3 == 0 else says()

    server.behave = behave
    rows = pairs(20)
    limits = {"max_requests": dict(max_requests=40), "max_cost_usd": dict(max_cost_usd=105)}[limit]
    with pytest.raises(UserError, match=rf"stopped at .* before llm.{limit}.*kept in"):
        judge_both_orders(judge(prices=PRICES, **limits), rows)
    spent = sum(cached(tmp_path, "cost_usd"))
    assert spent == pytest.approx(5.2 * len(server.requests)), "every answer is kept"
    if limit == "max_requests":
        assert len(server.requests) == 40
    else:  # what is under way may turn out dearer than estimated
        assert 100 < spent <= 105 + 4 * 5.2
    server.behave = lambda asked, times: says()
    assert all(f.failure is None for f in judge_both_orders(judge(prices=PRICES), rows))
    assert max(server.answered.values()) == 1


# Keys


@pytest.mark.parametrize("provider", PROVIDERS)
def test_only_the_key_that_is_used_is_asked_for(judge, server, provider, monkeypatch):
    other = {"openai": "ANTHROPIC_API_KEY", "anthropic": "OPENAI_API_KEY"}[provider]
    monkeypatch.setenv(other, KEY)
    with pytest.raises(UserError, match=f"{provider.upper()}_API_KEY is not set"):
        judge_both_orders(judge(provider, base_url="https://example.org/v1"), PAIRS)
    judge_both_orders(judge(provider), PAIRS)  # on this machine none is needed
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
    judge_both_orders(judge(provider, model="other"), PAIRS)
    sent = [KEY in str(asked.headers) for asked in server.requests]
    assert sent == [False] * 6 + [True] * 6


def test_what_is_answered_needs_no_key_and_no_client(judge, server, monkeypatch):
    found = judge_both_orders(judge(), PAIRS)
    monkeypatch.setitem(sys.modules, "openai", None)
    assert judge_both_orders(judge(base_url="https://example.org/v1"), PAIRS) == found
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        judge_both_orders(judge(base_url="https://example.org/v1"), pairs(1))
    with pytest.raises(UserError, match="the package openai is not installed"):
        judge_both_orders(judge(), pairs(1))


@pytest.mark.parametrize(
    "key", ["sk-one\nsk-two", "sk-one\rx", "sk one", "sk-\u00e4", "\u201csk-one\u201d"]
)
def test_what_no_header_can_hold_is_no_key(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"  {KEY}\n")
    assert key_for("openai", None, "judge llm") == KEY
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for address in (None, "http://localhost/v1"):
        with pytest.raises(UserError, match="OPENAI_API_KEY holds more than a key") as refusal:
            key_for("openai", address, "judge llm")
        assert "sk" not in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_missing_key_is_said_before_the_first_job(tmp_path):
    """Where answers are kept, which may be all that is needed, it is a warning."""
    root = copy_project(tmp_path)
    study = {
        "extends": "demo.yaml",
        "study": "keyless",
        "labels": {"ai": {"judge": "llm", "noise": 0}},
    }
    study["llm"] = {"model": "tiny", "base_url": "https://example.invalid/v1"}
    study["evaluation"] = {"judges": ["llm", "delta", "length"]}
    (root / "config/keyless.yaml").write_text(yaml.safe_dump(study))
    folder = root / "results/keyless"
    Job(tmp_path, Settings("tiny"), PAIRS)
    (folder / "preferences").mkdir(parents=True)
    (tmp_path / "responses.jsonl").rename(folder / "preferences/ai_pool_responses.jsonl")
    words = [f"{folder.relative_to(root)}/preferences/ai_pool_labels.jsonl", "--cores", 1]
    words += ["--configfile", "config/keyless.yaml", "--allowed-rules", "label_ai"]
    run = snakemake("all", *words[1:5], root=root)
    missing = "the environment variable OPENAI_API_KEY is not set"
    asking = "evaluate_verdicts, judge_trust, label_ai, read_honesty"
    assert run.returncode == 1 and f"error: {asking}: {missing}" in run.stdout
    assert not (folder / "logs").exists(), "no job has begun"
    (folder / "state").mkdir(exist_ok=True)
    AnswerCache(folder / "state/llm.sqlite").close()
    run = snakemake(*words, root=root)
    assert f"warning: label_ai: {missing}" in run.stdout and (folder / "logs/label_ai.log").exists()


def study_of(**changes) -> dict:
    study = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    study["labels"]["ai"] = {"judge": "llm"}
    return study | {"llm": {"model": "tiny", "rubric": str(RUBRIC)} | changes}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"api_key": KEY}, "llm.api_key: looks like a key; keys come from the environment only"),
        ({"OPENAI_API_KEY": KEY}, "llm.OPENAI_API_KEY: looks like a key"),
        ({"model": KEY}, "llm.model: looks like a key"),
        ({"base_url": f"https://me:{KEY}@example.org/v1"}, "llm.base_url: looks like a key"),
        ({"base_url": "https://example.org/v1?api_key=abc"}, "llm.base_url: looks like a key"),
        ({"model": None}, "llm.model: the judge llm needs a model"),
        ({"rubric": "nowhere.md"}, "llm.rubric: there is no file 'nowhere.md'"),
        ({"max_cost_usd": 5}, "llm.prices: max_cost_usd needs what tiny costs"),
        ({"prices": {"input": 1}}, "llm.prices: the key 'output' is missing"),
        ({"provider": "google"}, "llm.provider: 'google' must be one of openai, anthropic"),
        ({"base_url": "localhost:8000"}, "llm.base_url: 'localhost:8000' must match"),
        ({"batch": True, "requests_per_minute": 5}, "llm.requests_per_minute: a batch is one"),
        ({"top_p": 1}, "llm.top_p: unknown key"),
    ],
)
def test_a_mistake_in_the_section_is_one_line_without_a_key(changes, line):
    assert load_study(study_of())["llm"]["retries"] == 5
    with pytest.raises(UserError) as refusal:
        load_study(study_of(**changes))
    assert line in str(refusal.value) and "\n" not in str(refusal.value)
    assert KEY not in str(refusal.value)


def test_people_cannot_be_simulated_by_it(tmp_path):
    study = study_of()
    study["labels"]["human"]["judge"] = "llm"
    with pytest.raises(UserError, match="labels.human.judge: 'llm' must be one of"):
        load_study(study)


def test_other_judges_need_nothing_of_it():
    study = study_of(model=None)
    study["labels"]["ai"]["judge"] = "truth"
    assert load_study(study)["llm"]["model"] is None
    with pytest.raises(UserError, match="judge llm needs --llm, as"):
        make_judge("llm")


def test_by_hand_a_model_is_enough_and_the_rest_is_as_in_the_configuration():
    told = load_study(study_of(rubric="resources/rubrics/persuasiveness.md"))["llm"]
    del told["honesty_rubric"]
    assert vars(Settings.read('{"model": "tiny"}')) == told | {"cache": "llm.sqlite"}


@pytest.mark.parametrize(
    ("llm", "asking", "line"),
    [
        ("{", None, "judge llm: '{' is no JSON object"),
        ("[1]", None, "judge llm: '[1]' is no JSON object"),
        ("{}", None, "judge llm: 'model' is a required property"),
        ('{"model": null}', None, "judge llm: needs a model"),
        ('{"model": "m", "top_p": 1}', None, "'top_p' was unexpected"),
        (
            '{"model": "m", "provider": "google"}',
            None,
            "judge llm.provider: 'google' is not one of",
        ),
        ('{"model": "m"}', '{"max_cost_usd": 5}', "judge llm: max_cost_usd needs prices"),
        ('{"model": "m"}', '{"prices": {"input": 1}}', "judge llm.prices: 'output' is a required"),
        ('{"model": "m", "rubric": "nowhere.md"}', None, "nowhere.md"),
    ],
)
def test_a_mistake_by_hand_is_one_line(llm, asking, line, tmp_path, command_line):
    write_jsonl(tmp_path / "responses.jsonl", [])
    words = ["--responses", tmp_path / "responses.jsonl", "--labels", tmp_path / "labels.jsonl"]
    words += ["--judge", "llm", "--noise", 0, "--seed", 1, "--threads", 1, "--llm", llm]
    run = command_line("preferences.label_ai", *words, *(["--asking", asking] if asking else []))
    assert run.returncode == 1 and line in run.stderr
    assert run.stderr.startswith("error: ") and len(run.stderr.splitlines()) == 1


ASKED = ("provider", "model", "rubric", "max_tokens", "temperature")


class Job:
    """`labels label_ai` as the workflow runs it, in a folder of its own."""

    def __init__(self, folder: Path, settings: Settings, comparisons: list[Comparison]):
        self.folder = folder
        rows = [
            {
                "prompt": c.prompt,
                "response_1": c.first,
                "response_2": c.second,
                "metadata": {"prompt_id": f"p{i}", "conversation_id": f"c{i}"},
            }
            for i, c in enumerate(comparisons)
        ]
        write_jsonl(folder / "responses.jsonl", rows)
        given = vars(settings)
        self.words = [
            sys.executable, "-m", "persuasion_rl.preferences.label_ai",
            "--responses", str(folder / "responses.jsonl"), "--judge", "llm", "--noise", "0", "--seed", "1",
            "--threads", "1", "--llm", json.dumps({name: given[name] for name in ASKED}),
            "--asking", json.dumps({name: v for name, v in given.items() if name not in ASKED}),
        ]  # fmt: skip

    def start(self, labels: str = "labels.jsonl", **environment: str) -> subprocess.Popen:
        paths = [str(ROOT / "workflow"), *sys.path]
        return subprocess.Popen(
            [*self.words, "--labels", str(self.folder / labels)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **environment: str) -> str:
        with self.start(**environment) as run:
            told = run.communicate(timeout=120)[1]
        assert run.returncode == 0, told
        return told

    def labels(self, name: str = "labels.jsonl") -> list[dict]:
        return list(read_jsonl(self.folder / name))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_is_nowhere_in_what_a_job_leaves_behind(server, tmp_path, provider):
    """Not even where the server says it back: in an answer, in one that is junk, in an error, in what is no answer."""
    echo = json.dumps({"reason": f"Your key is {KEY}", "verdict": "1"})
    wrong = [no_header(KEY), status(500, text=f"{KEY} failed"), junk(f"{KEY}?"), body(f"{KEY}!")]
    wrong.append(status(400, text=f"{KEY} is rejected"))

    def behave(asked, times):
        number = int(asked.data["conversation"].removeprefix("Poster: view "))
        return wrong[number] if number < len(wrong) else [wrong[2], junk(echo)][min(times, 2) - 1]

    server.behave = behave
    job = Job(
        tmp_path, settings_of(server, tmp_path, provider, retries=1), pairs(len(wrong) + 1)[::-1]
    )
    told = job.run(
        **{f"{provider.upper()}_API_KEY": KEY}, OPENAI_LOG="debug", ANTHROPIC_LOG="debug"
    )
    assert all(KEY in str(asked.headers) for asked in server.requests)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"labels.jsonl", "llm.sqlite"} <= {path.name for path in left}
    for path in left:
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in told
    for name in ("connection", "server_error", "unparsable", "broken_body", "rejected"):
        assert re.search(rf"for instance: {name}: .*\[key\]", told), name
    assert "Your key is [key]" in job.labels()[0]["votes"][0]["reason"]


# What is kept


def test_labels_have_votes_with_reasons_and_failures_are_counted_out(server, tmp_path):
    server.behave = lambda asked, times: refuses if "tea" in str(asked.data) else says()
    job = Job(tmp_path, settings_of(server, tmp_path), PAIRS)
    told = job.run()
    first, second, third = job.labels()
    labeler = f"llm tiny (openai), rubric {file_digest(RUBRIC)[:12]}"
    assert (first["verdict"], second["verdict"], first["labeler"]) == ("1", "2", labeler)
    assert first["votes"][1] == {
        "labeler": labeler,
        "order": "21",
        "verdict": "1",
        "reason": "It answers the poster's reason.",
    }
    assert third == {
        "excluded": "refused",
        "metadata": {"prompt_id": "p2", "conversation_id": "c2"},
    }
    assert "labels.jsonl: {'1': 1, '2': 1, 'refused': 1}" in told


def test_a_rerun_asks_only_what_is_new(judge, server, tmp_path):
    judge_both_orders(judge(), pairs(4))
    count = len(server.requests)
    judge_both_orders(judge(concurrency=1, retries=0), pairs(6))
    new = {asked.data["conversation"] for asked in server.requests[count:]}
    assert new == {"Poster: view 4", "Poster: view 5"}
    (tmp_path / "rubric.md").write_text("Judge by length.")
    count = len(server.requests)
    judge_both_orders(judge(rubric=str(tmp_path / "rubric.md")), pairs(6))
    assert len(server.requests) - count == count


def test_a_better_reader_needs_no_new_answer(judge, server, monkeypatch):
    """The meaning of an answer is read from what came, every time."""
    server.behave = lambda asked, times: junk(f"Sure! {GOOD}")
    assert judge_both_orders(judge(retries=0), PAIRS)[0].failure == "unparsable"
    count = len(server.requests)
    monkeypatch.setattr(
        llm, "read_answer", lambda text, schema: read_answer(text.removeprefix("Sure! "), schema)
    )
    assert judge_both_orders(judge(retries=0), PAIRS)[0].verdict == "tie"
    assert len(server.requests) == count


def test_the_same_texts_are_one_request(judge, server):
    same = Comparison("Poster: cars", "one", "one")
    found = judge_both_orders(judge(), [same, same, PAIRS[0], PAIRS[0].swapped()])
    assert [f.verdict for f in found] == ["tie", "tie", "1", "2"] and len(server.requests) == 3


def test_a_file_that_is_no_cache_is_named(judge, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/llm.sqlite").write_bytes(b"no database at all, this is" * 100)
    with pytest.raises(
        UserError, match=r"llm.sqlite: file is not a database; .*move the file away"
    ):
        judge_both_orders(judge(), PAIRS)


def test_two_jobs_at_once_ask_nothing_twice(server, tmp_path):
    server.behave = lambda asked, times: time.sleep(0.02) or says()
    job = Job(tmp_path, settings_of(server, tmp_path), pairs(30))
    with job.start("a.jsonl") as one, job.start("b.jsonl") as other:
        told = [run.communicate(timeout=120)[1] for run in (one, other)]
    assert one.returncode == other.returncode == 0, told
    assert "another job is asking; waiting for it" in "".join(told)
    assert job.labels("a.jsonl") == job.labels("b.jsonl")
    assert set(Counter(asked.key for asked in server.requests).values()) == {1}


def test_threads_and_processes_may_write_the_cache_together(tmp_path):
    """Though only one process asks at a time, nothing depends on it for the file to stay whole."""
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
    AnswerCache(path).close()  # only `opened` may meet a file that is not there yet
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(path), name], env=environment)
        for name in ("a", "b")
    ]
    assert [run.wait(60) for run in runs] == [0, 0]
    cache = AnswerCache(path)
    assert cache.spent() == (400, 200.0)
    cache.close()


# Batches


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_is_sent_once_polled_and_costs_half(judge, server, tmp_path, provider):
    server.behave = lambda asked, times: MORE_WORDS_WIN
    server.polls_until_ended = 2
    asked = judge(provider, batch=True, prices=PRICES)
    found = judge_both_orders(asked, PAIRS)
    assert [v for v, _ in found] == ["1", "2", "tie"]
    assert len(server.batches) == 1 and len(server.requests) == 6
    assert sum(cached(tmp_path, "cost_usd")) == pytest.approx(6 * 0.15)
    assert judge_both_orders(judge(provider), PAIRS) == found, "the same answers serve both ways"
    assert len(server.requests) == 6


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_failed_in_a_batch_is_sent_again_and_then_counted_out(judge, server, provider):
    def behave(asked, times):
        if "tea" in asked.data["conversation"]:
            return status(500)
        return MORE_WORDS_WIN if times == 2 else status(500)

    server.behave = behave
    found = judge_both_orders(judge(provider, batch=True, retries=1), PAIRS)
    assert [f.verdict for f in found] == ["1", "2", None] and found[2].failure == "server_error"
    assert [len(batch["rows"]) for batch in server.batches.values()] == [6, 6]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("moment", ["before the id is noted", "while it is polled"])
@pytest.mark.parametrize("batch", [True, False])
def test_a_batch_that_was_sent_is_never_sent_again(
    judge, server, tmp_path, provider, moment, batch, monkeypatch
):
    """Nor is what it holds asked for otherwise, though the batch is waited for."""
    server.behave = lambda asked, times: MORE_WORDS_WIN

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "while it is polled":
            patch.setattr(llm._Asking, "_results", kill)
        else:
            patch.setattr(AnswerCache, "name_batch", kill)
        with pytest.raises(Killed):
            judge_both_orders(judge(provider, batch=True, prices=PRICES), PAIRS)
    assert len(server.batches) == 1
    # Also where other rows are asked for by now; what was paid for is kept.
    (found,) = judge_both_orders(judge(provider, batch=batch, prices=PRICES), PAIRS[:1])
    assert found.verdict == "1" and len(server.batches) == 1
    assert [f.verdict for f in judge_both_orders(judge(provider), PAIRS)] == ["1", "2", "tie"]
    assert len(server.requests) == 6
    assert cached(tmp_path, "cost_usd") == pytest.approx([0.15] * 6)


def test_a_batch_that_the_provider_failed_is_told_and_not_waited_for_again(judge, server):
    server.behave = lambda asked, times: MORE_WORDS_WIN
    server.batch_failure = "The limit of enqueued tokens is reached"
    with pytest.raises(UserError, match="no answers from the batch batch_0 .*enqueued tokens"):
        judge_both_orders(judge(batch=True), PAIRS)
    server.batch_failure = None
    assert judge_both_orders(judge(batch=True), PAIRS)[0].verdict == "1"
    assert len(server.batches) == 2


@pytest.mark.parametrize("provider", PROVIDERS)
def test_results_that_break_off_are_fetched_again(judge, server, provider, monkeypatch):
    server.behave = lambda asked, times: MORE_WORDS_WIN
    server.results_cut = 1
    assert judge_both_orders(judge(provider, batch=True), PAIRS)[0].verdict == "1"
    assert server.results_cut == 0 and len(server.batches) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_server_without_batches_is_told_and_blocks_nothing(judge, server, tmp_path, provider):
    server.has_batches = False
    for _ in range(2):
        with pytest.raises(UserError, match="where a server has no batches: llm.batch false"):
            judge_both_orders(judge(provider, batch=True), PAIRS)
    # A plan that an earlier version has left behind, or a kill.
    cache = AnswerCache(tmp_path / "state/llm.sqlite")
    cache.plan_batch(Batch("token", None, ["key"], time.time()), provider)
    cache.close()
    assert judge_both_orders(judge(provider), PAIRS)[0].verdict == "1"


class Killed(BaseException):
    pass


@pytest.fixture
def sent(judge, server, monkeypatch):
    """A function that sends a batch, and is killed while it waits for it or before it has noted its id."""
    server.behave = lambda asked, times: MORE_WORDS_WIN

    def kill(*_):
        raise Killed

    def send(provider, judge=judge, noted=True, **changes):
        with monkeypatch.context() as patch:
            patch.setattr(
                *((llm._Asking, "_results") if noted else (AnswerCache, "name_batch")), kill
            )
            with pytest.raises(Killed):
                judge_both_orders(judge(provider, batch=True, **changes), PAIRS)

    return send


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("batch", [True, False])
def test_a_batch_that_is_gone_is_given_up(sent, judge, server, provider, batch, capfd):
    sent(provider)
    server.batches["batch_x"] = server.batches.pop("batch_0")
    assert judge_both_orders(judge(provider, batch=batch), PAIRS)[0].verdict == "1"
    assert "the batch batch_0 is gone; its requests are asked anew" in capfd.readouterr().err
    assert len(server.requests) == 6 and len(server.batches) == 1 + batch


def test_a_batch_waits_where_it_was_sent(sent, judge, server, capfd):
    sent("openai")
    with llm_server.serving() as other:
        found = judge_both_orders(judge(base_url=other.url("openai")), PAIRS[:1])
        assert found[0].verdict == "1" and len(other.requests) == 2
    assert f"a batch waits at {server.url('openai')}" in capfd.readouterr().err
    assert [f.verdict for f in judge_both_orders(judge(), PAIRS)] == ["1", "2", "tie"]
    assert len(server.requests) == 6, "what the batch held"


def test_an_old_batch_is_named_and_priced_as_it_was_sent(sent, judge, tmp_path):
    sent("openai", prices=PRICES)
    dearer = {name: 10 * price for name, price in PRICES.items()}
    judge_both_orders(judge(prices=dearer, model="other"), PAIRS[:1])
    rows = list(zip(cached(tmp_path, "model"), cached(tmp_path, "cost_usd"), strict=True))
    assert rows == [("tiny", pytest.approx(0.15))] * 6 + [("other", pytest.approx(3.0))] * 2


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_cache_of_an_earlier_version_opens_and_its_batch_is_fetched(
    sent, judge, server, tmp_path, provider
):
    sent(provider)
    with sqlite3.connect(tmp_path / "state/llm.sqlite") as file:
        for table, columns in ADDED.items():
            for column in columns:
                file.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    found = judge_both_orders(judge(provider, prices=PRICES), PAIRS)
    assert [f.verdict for f in found] == ["1", "2", "tie"] and len(server.batches) == 1
    assert cached(tmp_path, "model") == ["tiny"] * 6


def test_line_separators_within_an_answer_part_no_results(judge, server, tmp_path, monkeypatch):
    reason = "one\u2028two\u0085three"
    said = json.dumps({"reason": reason, "verdict": "tie"}, ensure_ascii=False)
    monkeypatch.setattr(llm_server, "opinion", lambda asked, verdict: said)
    server.behave = lambda asked, times: MORE_WORDS_WIN
    server.results_in_ascii = False
    found = judge_both_orders(judge(batch=True), PAIRS)
    assert found[0].opinions[0].reason == reason and len(server.batches) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_rows_of_results_that_cannot_be_read_are_asked_anew(judge, server, provider, monkeypatch):
    whole = llm_server.LlmServer.results

    def results(self, id_, openai):
        odd = ["1", "{}", "[]", '{"custom_id": [], "response": 1, "result": 1}']
        lines = whole(self, id_, openai).splitlines()
        return "\n".join([*odd, *(lines[1:] if id_ == "batch_0" else lines)]) + "\n"

    monkeypatch.setattr(llm_server.LlmServer, "results", results)
    server.behave = lambda asked, times: MORE_WORDS_WIN
    found = judge_both_orders(judge(provider, batch=True), PAIRS)
    assert [f.verdict for f in found] == ["1", "2", "tie"]
    assert [len(batch["rows"]) for batch in server.batches.values()] == [6, 1]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_another_studys_batch_of_the_same_size_is_not_taken_for_ones_own(
    sent, judge, server, tmp_path, provider
):
    sent(provider, noted=False)
    (tmp_path / "rubric.md").write_text("Judge by length.")
    (tmp_path / "other").mkdir()

    def others(provider, **changes):
        changes["rubric"] = str(tmp_path / "rubric.md")
        return LlmJudge(settings_of(server, tmp_path / "other", provider, **changes))

    sent(provider, judge=others, noted=False)
    for one in (judge, others):
        found = judge_both_orders(one(provider, batch=True), PAIRS)
        assert [f.verdict for f in found] == ["1", "2", "tie"]
    assert len(server.batches) == 2 and max(server.answered.values()) <= 2
    assert len({asked.key for asked in server.requests}) == 12


# At length

FAULTY = 0.3


def faulty(random: Random, server):
    """For 30% of the requests a fault, for the others a verdict. Refusals are few: they are answers."""
    faults = [
        status(429, "rate_limit_error", Retry_After="0.2"),
        status(500), status(503), hangs, cut(length=True), cut(length=False), drops, html,
        junk("As an AI model, I like both."), junk('{"verdict": "3"}'),
    ]  # fmt: skip

    def behave(asked, times):
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
        server, tmp_path, provider, timeout_s=1, retries=4, concurrency=8, prices=PRICES
    )
    job = Job(tmp_path, settings, rows)
    database = tmp_path / "state/llm.sqlite"
    kept: list[
        tuple[int, set[str]]
    ] = []  # after each kill: requests so far, and keys with a verdict
    bodies_at_kill = []
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
        opinions = answered_in(copy / "llm.sqlite", settings, rows)
        kept.append((len(server.requests), opinions))
        with sqlite3.connect(copy / "llm.sqlite") as file:
            bodies_at_kill.append(file.execute("SELECT count(*) FROM answers").fetchone()[0])
        shutil.rmtree(copy)
    started = time.monotonic()
    told = job.run()
    labels = job.labels()
    assert len(labels) == 500 and [r["metadata"]["prompt_id"] for r in labels] == [
        f"p{i}" for i in range(500)
    ]
    excluded = Counter(row["excluded"] for row in labels if "excluded" in row)
    assert excluded.keys() <= NAMES and sum(excluded.values()) < 30
    # What the server says of the pairs that are left: the response with more words, in both orders.
    expected = [v for v, _ in judge_both_orders(LengthJudge(), rows)]
    said = [
        (row["verdict"], v) for row, v in zip(labels, expected, strict=True) if "verdict" in row
    ]
    assert len(said) > 470 and all(verdict == v for verdict, v in said)
    assert {verdict for verdict, _ in said} == {"1", "2", "tie"}
    # The server's own counts: a request whose verdict was in the cache was never asked again ...
    for so_far, keys in kept:
        again = {asked.key for asked in server.requests[so_far:]} & keys
        assert not again
    # ... and only answers that were under way when a kill came were lost.
    twice = [key for key, count in server.answered.items() if count > 1]
    assert len(twice) <= 3 * settings.concurrency
    with sqlite3.connect(database) as file:
        answers = file.execute("SELECT count(*) FROM answers").fetchone()[0]
    print(
        f"\n{provider}: {len(server.requests)} requests for {len({a.key for a in server.requests})}"
        f" opinions, {answers} answers kept,"
        f" at the kills {bodies_at_kill}; asked again though the server had answered: {len(twice)};"
        f" excluded {dict(excluded)}; last run {time.monotonic() - started:.0f} s\n{told[-300:]}"
    )
    # One more run asks nothing but what got no answer, a refusal being one.
    count = len(server.requests)
    known = answered_in(database, settings, rows)
    job.run()
    assert not {asked.key for asked in server.requests[count:]} & known


def answered_in(database: Path, settings: Settings, rows: list[Comparison]) -> set[str]:
    """The server's keys of the requests with a verdict or a refusal in a cache."""
    cache = AnswerCache(database)
    judge = LlmJudge(settings)
    requests = [judge.request(c) for c in [*rows, *[c.swapped() for c in rows]]]
    asking = llm._Asking(settings, cache, {request.key: request for request in requests})
    found = set()
    for request in requests:
        outcome = asking._settled(request.key)
        if outcome is not None and outcome.failure != "unparsable":
            text = f"{request.system}\0{request.user}"
            found.add(llm.sha256(text.encode()).hexdigest())
    cache.close()
    return found


@pytest.mark.slow
def test_the_workflow_labels_with_it_and_only_what_is_asked_makes_labels_stale(server, tmp_path):
    """And the key is nowhere in the checkout afterwards, the workflow's own records included."""
    for name in (
        "Snakefile",
        "workflow",
        "config",
        "envs",
        "profiles",
        "resources/rubrics",
        "resources/markers",
    ):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    labels = "results/changed/preferences/ai_pool_labels.jsonl"
    Job(tmp_path, settings_of(server, tmp_path), PAIRS)
    (tmp_path / labels).parent.mkdir(parents=True)
    (tmp_path / "responses.jsonl").rename(tmp_path / labels.replace("labels", "responses"))
    rubric = tmp_path / "resources/rubrics/persuasiveness.md"

    def run(*words, **changes):
        given = {"model": "tiny", "base_url": server.url("openai")} | changes
        study = {"extends": "demo.yaml", "study": "changed", "llm": given}
        study["labels"] = {"ai": {"judge": "llm", "noise": 0}}
        (tmp_path / "config/changed.yaml").write_text(yaml.safe_dump(study))
        words = [
            labels,
            "--configfile",
            "config/changed.yaml",
            "--allowed-rules",
            "label_ai",
            *words,
        ]
        return succeed(*words, "--cores", 1, root=tmp_path, OPENAI_API_KEY=KEY)

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
    assert all(KEY in str(asked.headers) for asked in server.requests)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_real_server_of_another_make_is_understood(peer, server, tmp_path):
    """Its answers are answers, and what an untrained model says is counted out as no verdict."""
    url, model = peer
    (tmp_path / "rubric.md").write_text("Prefer the reply that engages with the poster's reason.")
    settings = settings_of(
        server, tmp_path, base_url=url, model=model, rubric=str(tmp_path / "rubric.md"),
        max_tokens=24, timeout_s=60, retries=1, concurrency=2,
    )  # fmt: skip
    job = Job(tmp_path, settings, PAIRS)
    told = job.run()
    assert [row["excluded"] for row in job.labels()] == ["unparsable"] * 3
    assert "{'unparsable': 3}" in told
    bodies = [json.loads(body) for body in cached(tmp_path)]
    assert len(bodies) == 2 * 6, "each request was answered twice, and each answer kept"
    said = [body["choices"][0]["message"]["content"] for body in bodies]
    assert all(isinstance(text, str) for text in said) and any(said)
    assert all(tokens > 20 for tokens in cached(tmp_path, "input_tokens"))
    assert all(0 < tokens <= 24 for tokens in cached(tmp_path, "output_tokens"))
