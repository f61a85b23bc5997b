"""The costs of requests, and the limits on them."""

import re
import sqlite3
from contextlib import closing

import pytest

from llm_jobs import (
    PAIRS,
    PRICES,
    cached,
    pairs,
)
from llm_server import MORE_WORDS_WIN, junk, says
from persuasion_rl.files import UserError
from persuasion_rl.judges.base import judge_both_orders
from persuasion_rl.report.costs import api_cost


def test_the_estimate_comes_before_the_first_request_and_what_is_above_a_limit_is_not_begun(
    judge, server, capfd
):
    judge_both_orders(judge(prices=PRICES), PAIRS[:1])
    output = capfd.readouterr().err
    assert re.search(r"2 requests to ask, 0 answered before; about [\d,]+ tokens in", output)
    assert re.search(
        r"at most 400 out, at most about \d+\.\d+ USD an attempt; up to 4 attempts", output
    )
    assert "answered 2, 0.6000 USD" in output
    with pytest.raises(UserError) as error:
        judge_both_orders(judge(max_requests=5), PAIRS)
    assert "4 requests to ask and 2 asked before are more than llm.max_requests 5" in str(
        error.value
    )
    with pytest.raises(
        UserError, match=r"about [\d.]+ USD to spend and 0.6000 spent are more than"
    ):
        judge_both_orders(judge(prices=PRICES, max_cost_usd=9), PAIRS)
    assert len(server.requests) == 2
    # Cached answers cost nothing, whatever the limits are.
    judge_both_orders(judge(prices=PRICES, max_cost_usd=0.01, max_requests=1), PAIRS[:1])


@pytest.mark.parametrize("batch", [False, True])
def test_answers_from_before_prices_were_known_count_at_todays(judge, server, batch):
    server.behave = lambda request, attempt: MORE_WORDS_WIN
    judge_both_orders(judge(batch=batch), PAIRS[:1])
    spent = 0.3 if batch else 0.6
    with pytest.raises(UserError, match=f"USD to spend and {spent:.4f} spent are more than"):
        judge_both_orders(judge(prices=PRICES, max_cost_usd=spent), PAIRS)
    assert len(server.requests) == 2


@pytest.mark.parametrize("batch", [False, True])
def test_the_cost_in_a_report_is_that_of_all_answers_with_a_known_price(
    judge, server, tmp_path, batch
):
    server.behave = lambda request, attempt: MORE_WORDS_WIN
    answers = tmp_path / "state/llm.sqlite"
    assert api_cost(answers) is None, "nothing was asked"
    judge_both_orders(judge(batch=batch), PAIRS[:1])
    assert api_cost(answers) == (2, 2, 0.0), "two answers, both without a price"
    judge_both_orders(judge(batch=batch, prices=PRICES), PAIRS)
    assert api_cost(answers) == (6, 2, pytest.approx(0.6 if batch else 1.2))
    server.usage |= {"input": 3000, "output": 50}
    judge_both_orders(judge(model="other", batch=batch, prices=PRICES), PAIRS[:1])
    assert api_cost(answers) == (8, 2, pytest.approx(4.1 if batch else 8.2))


@pytest.mark.parametrize("limit", ["max_requests", "max_cost_usd"])
def test_asking_stops_where_a_limit_is_reached_and_keeps_the_answers(
    judge, server, tmp_path, limit
):
    """The server's answers are dearer than the estimate, and every third one is no verdict."""
    server.usage["input"] = 5000

    def behave(request, attempt):
        return junk("no") if attempt == 1 and int(request.key, 16) % 3 == 0 else says()

    server.behave = behave
    rows = pairs(20)
    limits = {"max_requests": dict(max_requests=40), "max_cost_usd": dict(max_cost_usd=105)}[limit]
    with pytest.raises(UserError, match=rf"stopped at .* before llm.{limit}.*kept in"):
        judge_both_orders(judge(prices=PRICES, **limits), rows)
    spent = sum(cached(tmp_path, "cost_usd"))
    assert spent == pytest.approx(5.2 * len(server.requests)), "every answer is kept"
    if limit == "max_requests":
        assert len(server.requests) == 40
    else:  # the requests under way may cost more than estimated
        assert 100 < spent <= 105 + 4 * 5.2
    server.behave = lambda request, attempt: says()
    assert all(f.failure is None for f in judge_both_orders(judge(prices=PRICES), rows))
    assert max(server.answer_counts.values()) == 1


@pytest.mark.parametrize("content", [b"", b"no database\n" * 100, "another database"])
def test_the_cost_of_a_store_is_read_or_is_an_error_of_one_line(tmp_path, content):
    """The report only reads: it makes no store and changes none."""
    path = tmp_path / "llm.sqlite"
    if content == "another database":
        with closing(sqlite3.connect(path)) as file:
            file.execute("CREATE TABLE cookies (x)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    if content:
        with pytest.raises(UserError) as error:
            api_cost(path)
        (line,) = str(error.value).splitlines()
        assert line.startswith(f"{path}: ") and "move the file away" in line
    else:
        assert api_cost(path) is None
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
