"""What goes wrong is asked again as often as allowed, and then counted out by its name."""

import time

import pytest

from llm_jobs import KEY, PAIRS, PROVIDERS, Job, cached, pairs, settings_of
from llm_server import cut, drops, hangs, html, junk, refuses, says, status
from persuasion_rl.files import UserError
from persuasion_rl.judges.base import judge_both_orders
from persuasion_rl.judges.llm.provider import retry_after


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
    judged = judge_both_orders(judge(provider, timeout_s=0.4), PAIRS[:1])
    assert judged[0].verdict == "1" and len(server.requests) == 4


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("name", "action"), FAULTS)
def test_what_does_not_pass_is_named_after_bounded_attempts(
    judge, server, provider, name, action, tmp_path, capfd
):
    server.behave = only(action)
    judged, other = judge_both_orders(judge(provider, timeout_s=1, retries=2), PAIRS[1:])
    assert (judged.verdict, judged.failure) == (None, name) and other.verdict == "tie"
    assert len(server.requests) == 2 * 3 + 2
    assert len(cached(tmp_path)) == 2 + (6 if name == "unparsable" else 0), "raw answers are kept"
    assert f"no answer, for instance: {name}" in capfd.readouterr().err


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("name", "action"), [("refused", refuses), ("rejected", status(400, "invalid_request_error"))]
)
def test_what_would_not_pass_is_not_asked_again(judge, server, provider, name, action):
    server.behave = only(action)
    judged, _ = judge_both_orders(judge(provider), PAIRS[1:])
    assert judged.failure == name and len(server.requests) == 4


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
    server.behave = lambda asked, times: junk(f"As an AI model with {KEY}\nI like both. " * 20)
    with pytest.raises(UserError, match=r"the first 2\d answers of tiny are no JSON") as stop:
        judge_both_orders(judge(), pairs(100))
    assert "as 'As an AI model with [key] I like both." in str(stop.value)
    assert len(str(stop.value)) < 400 and "\n" not in str(stop.value)
    assert 20 <= len(cached(tmp_path)) <= 24
    server.behave = lambda asked, times: says() if len(server.requests) % 20 == 0 else junk("no")
    judge_both_orders(judge(model="clumsy", concurrency=1, retries=0), pairs(40))
    server.behave = lambda asked, times: junk("no")  # what is left may be what it cannot judge
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
