"""A batch is sent once, waited for and fetched once, whatever interrupts the job."""

import json
import sqlite3
import time

import pytest

import llm_server
from llm_jobs import (
    PAIRS,
    PRICES,
    PROVIDERS,
    cached,
    pairs,
    settings_of,
)
from llm_server import (
    MORE_WORDS_WIN,
    status,
)
from persuasion_rl.files import UserError
from persuasion_rl.judges.base import judge_both_orders
from persuasion_rl.judges.llm.batches import Batches
from persuasion_rl.judges.llm.cache import ADDED, AnswerCache, Batch
from persuasion_rl.judges.llm.judge import LlmJudge
from persuasion_rl.text import readable


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_is_sent_once_polled_and_costs_half(judge, server, tmp_path, provider):
    server.behave = lambda request, attempt: MORE_WORDS_WIN
    server.polls_until_ended = 2
    batch_judge = judge(provider, batch=True, prices=PRICES)
    judged = judge_both_orders(batch_judge, PAIRS)
    assert [v for v, _ in judged] == ["1", "2", "tie"]
    assert len(server.batches) == 1 and len(server.requests) == 6
    assert sum(cached(tmp_path, "cost_usd")) == pytest.approx(6 * 0.15)
    assert judge_both_orders(judge(provider), PAIRS) == judged, "the same answers serve both ways"
    assert len(server.requests) == 6


@pytest.mark.parametrize("provider", PROVIDERS)
def test_failed_requests_of_a_batch_are_sent_again_and_then_excluded(judge, server, provider):
    def behave(request, attempt):
        if "tea" in request.data["conversation"]:
            return status(500)
        return MORE_WORDS_WIN if attempt == 2 else status(500)

    server.behave = behave
    judged = judge_both_orders(judge(provider, batch=True, retries=1), PAIRS)
    assert [f.verdict for f in judged] == ["1", "2", None] and judged[2].failure == "server_error"
    assert [len(batch["rows"]) for batch in server.batches.values()] == [6, 6]


def test_a_batch_whose_answers_are_all_unparsable_is_not_sent_again(judge, server, monkeypatch):
    server.behave = lambda request, attempt: MORE_WORDS_WIN
    monkeypatch.setattr(llm_server, "judgment", lambda request, verdict: "I like both.")
    with pytest.raises(UserError, match="the first 28 answers of tiny .* 'I like both.'"):
        judge_both_orders(judge(batch=True), pairs(15))
    assert len(server.batches) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("moment", ["before the id is noted", "while it is polled"])
@pytest.mark.parametrize("batch", [True, False])
def test_a_batch_that_was_sent_is_never_sent_again(
    judge, server, tmp_path, provider, moment, batch, monkeypatch
):
    """Its requests are not sent one by one either, while the batch is pending."""
    server.behave = lambda request, attempt: MORE_WORDS_WIN

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "while it is polled":
            patch.setattr(Batches, "_results", kill)
        else:
            patch.setattr(AnswerCache, "name_batch", kill)
        with pytest.raises(Killed):
            judge_both_orders(judge(provider, batch=True, prices=PRICES), PAIRS)
    assert len(server.batches) == 1
    # The same holds for other rows than before, and answers that were paid for are kept.
    (judged,) = judge_both_orders(judge(provider, batch=batch, prices=PRICES), PAIRS[:1])
    assert judged.verdict == "1" and len(server.batches) == 1
    assert [f.verdict for f in judge_both_orders(judge(provider), PAIRS)] == ["1", "2", "tie"]
    assert len(server.requests) == 6
    assert cached(tmp_path, "cost_usd") == pytest.approx([0.15] * 6)


def test_a_batch_that_failed_at_the_provider_is_reported_and_not_waited_for_again(judge, server):
    server.behave = lambda request, attempt: MORE_WORDS_WIN
    server.batch_failure = "The limit of enqueued tokens is reached"
    with pytest.raises(UserError, match="no answers from the batch batch_0 .*enqueued tokens"):
        judge_both_orders(judge(batch=True), PAIRS)
    server.batch_failure = None
    assert judge_both_orders(judge(batch=True), PAIRS)[0].verdict == "1"
    assert len(server.batches) == 2


@pytest.mark.parametrize("provider", PROVIDERS)
def test_results_that_break_off_are_fetched_again(judge, server, provider, monkeypatch):
    server.behave = lambda request, attempt: MORE_WORDS_WIN
    server.results_cut = 1
    assert judge_both_orders(judge(provider, batch=True), PAIRS)[0].verdict == "1"
    assert server.results_cut == 0 and len(server.batches) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_server_without_batches_is_reported_and_blocks_nothing(judge, server, tmp_path, provider):
    server.has_batches = False
    for _ in range(2):
        with pytest.raises(UserError, match="where a server has no batches: llm.batch false"):
            judge_both_orders(judge(provider, batch=True), PAIRS)
    # An earlier version, or a kill, has left the plan of a batch behind.
    cache = AnswerCache(tmp_path / "state/llm.sqlite")
    cache.plan_batch(Batch("token", None, ["key"], time.time()), provider)
    cache.close()
    assert judge_both_orders(judge(provider), PAIRS)[0].verdict == "1"


class Killed(BaseException):
    pass


@pytest.fixture
def send_batch(judge, server, monkeypatch):
    """A function that sends a batch, and is killed before it saves the id of the batch, or while it polls."""
    server.behave = lambda request, attempt: MORE_WORDS_WIN

    def kill(*_):
        raise Killed

    def send_and_kill(provider, judge=judge, id_saved=True, **changes):
        with monkeypatch.context() as patch:
            patch.setattr(
                *((Batches, "_results") if id_saved else (AnswerCache, "name_batch")), kill
            )
            with pytest.raises(Killed):
                judge_both_orders(judge(provider, batch=True, **changes), PAIRS)

    return send_and_kill


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("batch", [True, False])
def test_a_batch_that_is_gone_is_given_up(send_batch, judge, server, provider, batch, capfd):
    send_batch(provider)
    server.batches["batch_x"] = server.batches.pop("batch_0")
    assert judge_both_orders(judge(provider, batch=batch), PAIRS)[0].verdict == "1"
    assert "the batch batch_0 is gone; its requests are asked anew" in capfd.readouterr().err
    assert len(server.requests) == 6 and len(server.batches) == 1 + batch


def test_a_batch_waits_where_it_was_sent(send_batch, judge, server, capfd):
    send_batch("openai")
    with llm_server.serving() as other:
        judged = judge_both_orders(judge(base_url=other.url("openai")), PAIRS[:1])
        assert judged[0].verdict == "1" and len(other.requests) == 2
    assert f"a batch waits at {server.url('openai')}" in capfd.readouterr().err
    assert [f.verdict for f in judge_both_orders(judge(), PAIRS)] == ["1", "2", "tie"]
    assert len(server.requests) == 6, "the requests of the batch"


def test_an_old_batch_is_named_and_priced_as_it_was_sent(send_batch, judge, tmp_path):
    send_batch("openai", prices=PRICES)
    dearer = {name: 10 * price for name, price in PRICES.items()}
    judge_both_orders(judge(prices=dearer, model="other"), PAIRS[:1])
    rows = list(zip(cached(tmp_path, "model"), cached(tmp_path, "cost_usd"), strict=True))
    assert rows == [("tiny", pytest.approx(0.15))] * 6 + [("other", pytest.approx(3.0))] * 2


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_cache_of_an_earlier_version_opens_and_its_batch_is_fetched(
    send_batch, judge, server, tmp_path, provider
):
    send_batch(provider)
    with sqlite3.connect(tmp_path / "state/llm.sqlite") as file:
        for table, columns in ADDED.items():
            for column in columns:
                file.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    judged = judge_both_orders(judge(provider, prices=PRICES), PAIRS)
    assert [f.verdict for f in judged] == ["1", "2", "tie"] and len(server.batches) == 1
    assert cached(tmp_path, "model") == ["tiny"] * 6


def test_line_separators_within_an_answer_do_not_split_results(
    judge, server, tmp_path, monkeypatch
):
    reason = "one\u2028two\u0085three"
    answer = json.dumps({"reason": reason, "verdict": "tie"}, ensure_ascii=False)
    monkeypatch.setattr(llm_server, "judgment", lambda request, verdict: answer)
    server.behave = lambda request, attempt: MORE_WORDS_WIN
    server.results_in_ascii = False
    judged = judge_both_orders(judge(batch=True), PAIRS)
    assert judged[0].judgments[0].reason == readable(reason) and len(server.batches) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_rows_of_results_that_cannot_be_read_are_asked_anew(judge, server, provider, monkeypatch):
    original_results = llm_server.LlmServer.results

    def results(self, id_, openai):
        odd = ["1", "{}", "[]", '{"custom_id": [], "response": 1, "result": 1}']
        lines = original_results(self, id_, openai).splitlines()
        return "\n".join([*odd, *(lines[1:] if id_ == "batch_0" else lines)]) + "\n"

    monkeypatch.setattr(llm_server.LlmServer, "results", results)
    server.behave = lambda request, attempt: MORE_WORDS_WIN
    judged = judge_both_orders(judge(provider, batch=True), PAIRS)
    assert [f.verdict for f in judged] == ["1", "2", "tie"]
    assert [len(batch["rows"]) for batch in server.batches.values()] == [6, 1]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_another_studys_batch_of_the_same_size_is_not_taken_for_ones_own(
    send_batch, judge, server, tmp_path, provider
):
    send_batch(provider, id_saved=False)
    (tmp_path / "rubric.md").write_text("Judge by length.")
    (tmp_path / "other").mkdir()

    def other_judge(provider, **changes):
        changes["rubric"] = tmp_path / "rubric.md"
        return LlmJudge(settings_of(server, tmp_path / "other", provider, **changes))

    send_batch(provider, judge=other_judge, id_saved=False)
    for make_judge in (judge, other_judge):
        judged = judge_both_orders(make_judge(provider, batch=True), PAIRS)
        assert [f.verdict for f in judged] == ["1", "2", "tie"]
    assert len(server.batches) == 2 and max(server.answer_counts.values()) <= 2
    assert len({request.key for request in server.requests}) == 12
