"""The requests of the judge llm to both providers, and when two of them are the same."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jobs import (
    KEY,
    PAIRS,
    PROVIDERS,
    RUBRIC,
    Job,
    settings_of,
)
from llm_server import (
    MORE_WORDS_WIN,
    refuses,
    says,
)
from persuasion_rl.files import file_digest
from persuasion_rl.judges.base import Comparison, judge_both_orders
from persuasion_rl.judges.length import LengthJudge
from persuasion_rl.judges.llm.anthropic import Anthropic
from persuasion_rl.judges.llm.judge import TASK, LlmJudge
from persuasion_rl.judges.llm.openai import OpenAI
from persuasion_rl.judges.llm.provider import Request
from persuasion_rl.judges.llm.settings import LlmSettings
from persuasion_rl.text import readable

CLIENTS = {"openai": OpenAI, "anthropic": Anthropic}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return settings_of(type("Nowhere", (), {"url": lambda *_: None}), tmp_path_factory.mktemp("x"))


def request_of(settings: LlmSettings, rubric: str, comparison: Comparison) -> Request:
    judge = LlmJudge(settings)
    judge._rubric = rubric + TASK
    return judge.request(comparison)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_requests_and_the_tokens_of_their_answers_are_counted(provider, judge, server, said):
    server.behave = lambda request, attempt: MORE_WORDS_WIN
    judge(provider).judge([pair.swapped() for pair in PAIRS])
    assert re.fullmatch(
        r"judge llm: 3 of 3 requests, [1-9][\d,]* tokens, [\d,]+ a second, about 0 s left", said[-1]
    )


@given(prompt=st.text(), first=st.text(), second=st.text())
def test_texts_stay_inside_their_strings(settings, prompt, first, second):
    """Whatever they say, the task is the same, and the data parses to the same texts."""
    request = request_of(settings, "Judge.", Comparison(prompt, first, second))
    data = json.loads(request.user)
    texts = {"conversation": prompt, "response_1": first, "response_2": second}
    assert data == {name: readable(text) for name, text in texts.items()}
    assert request.system == request_of(settings, "Judge.", Comparison("", "", "")).system


def test_half_a_surrogate_pair_does_not_stop_a_job(judge, server):
    broken = Comparison("Poster: \ud83d cars", "one \udc00 two", "one")
    assert judge_both_orders(judge(), [broken])[0].verdict == "1"
    assert server.requests[0].data["conversation"] == "Poster: \ufffd cars"


def test_a_request_is_keyed_by_all_that_matters_and_nothing_else(settings):
    def key(settings=settings, rubric="Judge.", comparison=PAIRS[0]):
        return request_of(settings, rubric, comparison).key

    same = dict(retries=9, concurrency=1, base_url="http://localhost/v1", batch=True, timeout_s=1)
    assert key() == key(replace(settings, **same))
    others = [
        key(replace(settings, model="other")),
        key(replace(settings, provider="anthropic")),
        key(replace(settings, max_tokens=100)),
        key(replace(settings, temperature=None)),
        key(rubric="Judge!"),
        key(comparison=PAIRS[0].swapped()),
        key(comparison=PAIRS[1]),
    ]
    assert len({key(), *others}) == 1 + len(others)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_both_providers_are_asked_in_both_orders(judge, server, provider):
    judged = judge_both_orders(judge(provider), PAIRS)
    assert [v for v, _ in judged] == [v for v, _ in judge_both_orders(LengthJudge(), PAIRS)]
    assert {o.reason for _, both in judged for o in both} == {"It answers the poster's reason."}
    response_orders = Counter((a.data["response_1"], a.data["response_2"]) for a in server.requests)
    assert set(response_orders.values()) == {1} and len(response_orders) == 6
    body = server.requests[0].body
    assert body["temperature"] == 0 and body["max_tokens"] == 200 and body["model"] == "tiny"
    system = body.get("system") or body["messages"][0]["content"]
    assert system.startswith(RUBRIC.read_text().rstrip()) and "Poster" not in system
    assert not {"response_format", "output_config"} & body.keys()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_provider_itself_is_asked_for_the_schema(judge, server, provider, monkeypatch, capfd):
    """This holds without a base_url; the variables of the clients are ignored."""
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
    ("answer", "verdict"),
    [("1", "tie"), ("tie", "tie"), ("abstain", "none"), (MORE_WORDS_WIN, "1")],
)
def test_verdicts_of_both_orders_make_one(judge, server, answer, verdict):
    server.behave = lambda request, attempt: answer
    assert judge_both_orders(judge(), PAIRS[:1])[0].verdict == verdict


def test_the_same_texts_are_one_request(judge, server):
    same = Comparison("Poster: cars", "one", "one")
    judged = judge_both_orders(judge(), [same, same, PAIRS[0], PAIRS[0].swapped()])
    assert [f.verdict for f in judged] == ["tie", "tie", "1", "2"] and len(server.requests) == 3


def test_labels_have_votes_with_reasons_and_failures_are_counted_out(server, tmp_path):
    server.behave = lambda request, attempt: refuses if "tea" in str(request.data) else says()
    job = Job(tmp_path, settings_of(server, tmp_path), PAIRS)
    errors = job.run()
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
    assert "labels.jsonl: {'1': 1, '2': 1, 'refused': 1}" in errors
