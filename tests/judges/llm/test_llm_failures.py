"""A request that fails is retried as often as allowed; then its pair is excluded, with the name of the failure."""

import time

import pytest

from llm_jobs import KEY, PAIRS, PROVIDERS, Job, cached, pairs, settings_of
from llm_server import (
    MORE_WORDS_WIN,
    cut,
    drips,
    drops,
    hangs,
    html,
    judgment,
    junk,
    refuses,
    says,
    status,
)
from persuasion_rl.files import UserError
from persuasion_rl.judges.base import judge_both_orders
from persuasion_rl.judges.llm.provider import retry_after


def for_cars(action):
    """Take `action` for the pairs about cars, and answer the others with verdicts."""
    return lambda request, attempt: action if "cars" in request.data["conversation"] else says()


LIMITED = status(429, "rate_limit_error", Retry_After="0.05")


TRANSIENT = {
    "rate_limited": [LIMITED, status(429, "rate_limit_error")],
    "server_error": [status(500), status(503, Retry_After="0"), status(529, "overloaded_error")],
    "timeout": [hangs, drips, status(408)],
    "connection": [drops, cut(length=True)],
    "broken_body": [cut(length=False), html],
    "unparsable": [junk("I prefer the first."), junk("")],
}


FAULTS = [(name, action) for name, actions in TRANSIENT.items() for action in actions]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("name", "action"), FAULTS)
def test_a_transient_failure_is_retried(judge, server, provider, name, action):
    server.behave = lambda request, attempt: action if attempt == 1 else says()
    judged = judge_both_orders(judge(provider, timeout_s=0.4), PAIRS[:1])
    assert judged[0].verdict == "1" and len(server.requests) == 4


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("name", "action"), FAULTS)
def test_a_lasting_failure_is_named_after_bounded_attempts(
    judge, server, provider, name, action, tmp_path, capfd
):
    server.behave = for_cars(action)
    judged, other = judge_both_orders(judge(provider, timeout_s=1, retries=2), PAIRS[1:])
    assert (judged.verdict, judged.failure) == (None, name) and other.verdict == "tie"
    assert len(server.requests) == 2 * 3 + 2
    assert len(cached(tmp_path)) == 2 + (6 if name == "unparsable" else 0), "raw answers are kept"
    assert f"no answer, for instance: {name}" in capfd.readouterr().err


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("name", "action"), [("refused", refuses), ("rejected", status(400, "invalid_request_error"))]
)
def test_a_permanent_failure_is_not_retried(judge, server, provider, name, action):
    server.behave = for_cars(action)
    judged, _ = judge_both_orders(judge(provider), PAIRS[1:])
    assert judged.failure == name and len(server.requests) == 4


def unsupported(name: str):
    text = f"Unsupported parameter: '{name}' is not supported with this model."
    return status(400, "invalid_request_error", text)


def test_a_server_that_wants_the_newer_name_of_the_limit_gets_it(judge, server):
    server.behave = lambda request, attempt: (
        unsupported("max_tokens") if "max_tokens" in request.body else says()
    )
    judged = judge_both_orders(judge(concurrency=1), PAIRS)
    assert [one.verdict for one in judged] == ["1", "2", "tie"]
    bodies = [request.body for request in server.requests]
    assert [body.get("max_tokens") for body in bodies] == [200] + [None] * 6
    assert [body.get("max_completion_tokens") for body in bodies] == [None] + [200] * 6


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_model_with_one_temperature_only_is_one_line(judge, server, provider):
    server.behave = lambda request, attempt: unsupported("temperature")
    with pytest.raises(UserError, match=r"takes no temperature of 0.*: set llm.temperature: null$"):
        judge_both_orders(judge(provider, concurrency=1), PAIRS)
    assert len(server.requests) == 1
    server.behave = lambda request, attempt: says()
    assert judge_both_orders(judge(provider, temperature=None), PAIRS)[0].verdict == "1"
    assert "temperature" not in server.requests[-1].body


def test_a_verdict_after_reasoning_is_a_verdict(judge, server):
    reasoning = '<think>Is it {"reason": "", "verdict": "2"}? No.</think>\n\n'
    server.behave = lambda request, attempt: junk(reasoning + judgment(request, MORE_WORDS_WIN))
    judged = judge_both_orders(judge(), PAIRS)
    assert [one.verdict for one in judged] == ["1", "2", "tie"] and len(server.requests) == 6


def test_a_refusal_and_what_stays_unparsable_are_answers_that_are_not_paid_twice(judge, server):
    server.behave = lambda request, attempt: refuses if "tea" in str(request.data) else junk("no")
    first = judge_both_orders(judge(retries=1), PAIRS)
    count = len(server.requests)
    assert [f.failure for f in first] == ["unparsable", "unparsable", "refused"]
    assert judge_both_orders(judge(retries=1), PAIRS) == first
    assert len(server.requests) == count
    server.behave = lambda request, attempt: says()
    more = judge_both_orders(judge(retries=2), PAIRS)
    assert [f.failure for f in more] == [None, None, "refused"], "one attempt more was allowed"


def test_a_rerun_retries_only_the_failed_requests(judge, server):
    server.behave = lambda request, attempt: status(500) if "tea" in str(request.data) else says()
    first = judge_both_orders(judge(retries=0), PAIRS)
    assert [f.failure for f in first] == [None, None, "server_error"]
    server.behave = lambda request, attempt: says()
    del server.requests[:]
    assert judge_both_orders(judge(), PAIRS)[2].verdict == "tie"
    assert all("tea" in request.data["conversation"] for request in server.requests)
    assert len(server.requests) == 2


def test_no_request_is_sent_while_the_server_asks_to_wait(judge, server):
    server.behave = lambda request, attempt: (
        status(429, Retry_After="0.6") if len(server.requests) == 3 else says()
    )
    judge_both_orders(judge(concurrency=1), PAIRS)
    (error_time,) = server.error_times
    after = [request.received_at for request in server.requests if request.received_at > error_time]
    assert len(after) == 4 and min(after) - error_time >= 0.59


def test_a_server_that_asks_to_wait_too_long_has_not_answered(judge, server):
    server.behave = for_cars(status(429, Retry_After="7200"))
    started = time.monotonic()
    assert judge_both_orders(judge(), PAIRS[1:])[0].failure == "rate_limited"
    assert time.monotonic() - started < 5 and len(server.requests) == 4


def test_where_nothing_was_answered_there_are_no_labels(server, tmp_path):
    """This holds for a few requests as well; the error says why they failed."""
    server.behave = lambda request, attempt: drops
    job = Job(tmp_path, settings_of(server, tmp_path, retries=0), PAIRS)
    with job.start() as run:
        errors = run.communicate(timeout=120)[1]
    assert run.returncode == 1 and not (tmp_path / "labels.jsonl").exists()
    assert (
        "none of 6 requests had an answer, the last for connection: Server disconnected" in errors
    )
    assert "Traceback" not in errors


def test_a_model_whose_answers_are_all_unparsable_is_not_paid_for_all(
    judge, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.behave = lambda request, attempt: junk(f"As an AI model with {KEY}\nI like both. " * 20)
    with pytest.raises(UserError, match=r"the first 2\d answers of tiny are no JSON") as error:
        judge_both_orders(judge(), pairs(100))
    assert "as 'As an AI model with [key] I like both." in str(error.value)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)
    assert 20 <= len(cached(tmp_path)) <= 24
    server.behave = lambda request, attempt: (
        says() if len(server.requests) % 20 == 0 else junk("no")
    )
    judge_both_orders(judge(model="clumsy", concurrency=1, retries=0), pairs(40))
    # The pairs without a verdict may be those that it cannot judge.
    server.behave = lambda request, attempt: junk("no")
    judged = judge_both_orders(judge(model="clumsy", concurrency=1, retries=1), pairs(40))
    assert all(f.failure == "unparsable" for f in judged[:10])


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
    ("action", "message"),
    [
        (status(401, "authentication_error", f"bad key {KEY}"), "does not accept the key in"),
        (status(403, "permission_error"), "does not accept the key in"),
        (status(402, "billing_error"), "gives no more credit"),
        (status(404, "not_found_error", f"model not found, {KEY}"), "has no model 'tiny'"),
    ],
)
def test_a_failure_of_all_requests_stops_in_one_line(
    judge, server, provider, action, message, monkeypatch
):
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
    server.behave = lambda request, attempt: action
    with pytest.raises(UserError, match=message) as error:
        judge_both_orders(judge(provider, concurrency=2), pairs(30))
    assert KEY not in str(error.value) and "\n" not in str(error.value)
    assert len(server.requests) <= 4


def test_openais_spent_quota_is_no_rate_limit(judge, server):
    server.behave = lambda request, attempt: status(429, "insufficient_quota", "You exceeded it")
    with pytest.raises(UserError, match="gives no more credit"):
        judge_both_orders(judge(), PAIRS)


def test_a_server_that_is_out_of_order_is_not_asked_for_ever(judge, server):
    server.behave = lambda request, attempt: says() if len(server.requests) < 5 else status(500)
    with pytest.raises(UserError, match="20 requests in a row had no answer, .*status 500"):
        judge_both_orders(judge(retries=1, concurrency=2), pairs(200))
    assert len(server.requests) < 80
    server.behave = lambda request, attempt: says()
    assert all(f.failure is None for f in judge_both_orders(judge(), pairs(200)))
    assert max(server.answer_counts.values()) == 1


def test_requests_go_at_the_pace_that_is_allowed(judge, server):
    started = time.monotonic()
    judge_both_orders(judge(requests_per_minute=600), pairs(5))
    # Measured from before the first request, so that a slow one does not shorten the time.
    last = max(request.received_at for request in server.requests)
    assert len(server.requests) > 7 and last - started >= 0.1 * (len(server.requests) - 1)
