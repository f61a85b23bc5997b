"""The engines openai and endpoint: servers that are busy, broken, refuse, or repeat secrets."""

import json
from collections import Counter
from pathlib import Path

import pytest

from completions_server import asked_for, completion, error
from persuasion_rl.files import UserError, read_json, read_jsonl, write_jsonl
from persuasion_rl.models.loading import load_tokenizer
from persuasion_rl.sampling.engine import Engine
from persuasion_rl.sampling.evaluate_model import evaluate_model
from persuasion_rl.sampling.gather_responses import gather_responses
from persuasion_rl.sampling.generate_responses import generate_responses
from persuasion_rl.sampling.request import (
    CUT,
    FILTERED,
    NO_REASON_GIVEN,
    REFUSED,
    REJECTED,
    STOPPED,
    Limits,
    Request,
    Sample,
)
from persuasion_rl.sampling.store import SampleStore
from tiny_models import engine_of, pool_rows, sampling_settings, short_requests

KEY = "sk-planted-0123456789abcdef"
LIMITS = Limits(0.7, 0.9, 12)


def chats(*texts: str) -> list[Request]:
    """Requests of an endpoint."""
    rows = [json.dumps([{"role": "user", "content": text}]) for text in texts]
    return [Request(f"p{i}", row, 1) for i, row in enumerate(rows)]


def endpoint(url: str, model: str = "big") -> Engine:
    return engine_of(None, LIMITS, engine="endpoint", model=model, base_url=url, batch_size=2)


def samples_of_endpoint(url: str, *texts: str) -> dict[str, Sample]:
    """An endpoint's samples by prompt."""
    samples = endpoint(url).sample(chats(*texts))
    return {json.loads(request.prompt)[0]["content"]: sample for request, sample in samples}


def samples_of_server(
    url: str, base: Path, requests: list[Request], model: str = "base"
) -> dict[Request, Sample]:
    engine = engine_of(base, LIMITS, engine="openai", model=model, base_url=url, batch_size=2)
    return dict(engine.sample(requests))


def test_an_answer_is_read_and_its_request_tells_the_limits(start_server):
    server = start_server(lambda body, times: completion(f" {asked_for(body)}\n"))
    samples = samples_of_endpoint(server.url, "a", "b")
    assert samples == {"a": Sample("a", 5, STOPPED), "b": Sample("b", 5, STOPPED)}
    for body in server.bodies:
        limits = {"model": "big", "temperature": 0.7, "top_p": 0.9, "max_tokens": 12}
        assert body.items() >= limits.items()
    assert len({body["seed"] for body in server.bodies}) == 2


def test_tokens_that_a_server_does_not_count_are_counted_here(start_server, tiny_base, said):
    server = start_server(lambda body, times: completion("It's a bus, no?", tokens=None))
    assert (
        samples_of_endpoint(server.url, "a")["a"].tokens == 8 + 1
    )  # It ' s a bus , no ? and the end
    assert said[-1].startswith("sampling: 9 tokens, ")
    (sample,) = samples_of_server(server.url, tiny_base, short_requests(1)).values()
    ids = load_tokenizer(tiny_base)("It's a bus, no?")["input_ids"]
    assert sample.tokens == len(ids) + 1


@pytest.mark.parametrize(
    "bad",
    [
        "<html>a proxy's page</html>",
        '{"choices": [{"fin',
        "[]",
        '{"choices": []}',
        "null",
        "[" * 100_000,
    ],
)
def test_a_body_that_is_no_completion_is_asked_for_again(bad, start_server, tiny_base):
    server = start_server(lambda body, times: completion("fine") if times > 2 else (200, bad))
    assert samples_of_endpoint(server.url, "a")["a"].text == "fine"
    (sample,) = samples_of_server(server.url, tiny_base, short_requests(1)).values()
    assert sample.text == "fine"
    assert len(server.bodies) == 6


@pytest.mark.parametrize(
    ("reason", "usage", "sample"),
    [
        ("stop", {"completion_tokens": -5}, (2, STOPPED)),
        ("stop", {"completion_tokens": True}, (2, STOPPED)),
        ("stop", {"completion_tokens": 10**30}, (2, STOPPED)),
        ("stop", [7], (2, STOPPED)),
        (["stop"], {"completion_tokens": 7}, (7, NO_REASON_GIVEN)),
        (5, None, (1, NO_REASON_GIVEN)),
        (" a\nb\ud83d\x00", None, (1, "a b\ufffd")),
    ],
)
def test_counts_and_reasons_that_are_none_are_not_taken(start_server, reason, usage, sample):
    body = "\ufeff" + json.dumps(completion("fine", reason) | {"usage": usage})
    server = start_server(lambda *_: (200, body))
    taken = samples_of_endpoint(server.url, "a")["a"]
    assert (taken.text, taken.tokens, taken.finish_reason) == ("fine", *sample)


def test_a_server_without_end_of_such_bodies_is_one_line_and_what_was_drawn_is_kept(
    start_server, tmp_path
):
    server = start_server(
        lambda body, times: (
            completion("fine") if asked_for(body) != "e" else (200, "<html>\nbusy</html>")
        )
    )
    store = SampleStore(tmp_path, endpoint(server.url))
    with pytest.raises(UserError, match="answers what is no completion .'<html> busy") as raised:
        list(store.sample(chats(*"abcdefgh")))
    assert "\n" not in str(raised.value)
    assert [asked_for(body) for body in server.bodies].count("e") == 4
    before = len(server.bodies)
    server.answer = lambda body, times: completion("fine")
    samples = list(SampleStore(tmp_path, endpoint(server.url)).sample(chats(*"abcdefgh")))
    assert len(samples) == 8 and "e" in map(asked_for, server.bodies[before:])
    times_asked = Counter(map(asked_for, server.bodies))
    assert all(times_asked[text] == 1 for text in "abcdfgh")  # requests under way were kept too


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again_and_not_for_ever(status, start_server):
    server = start_server(lambda body, times: completion("fine") if times > 3 else error(status))
    assert samples_of_endpoint(server.url, "a")["a"].text == "fine"
    server.answer = lambda body, times: error(status, "busy\nbusy")
    with pytest.raises(UserError, match="busy.*; samples drawn so far are kept$") as raised:
        samples_of_endpoint(server.url, "b")
    assert "\n" not in str(raised.value)
    assert [asked_for(body) for body in server.bodies].count("b") == 6


def test_a_request_that_is_refused_is_an_empty_response_with_its_reason(start_server, capsys):
    answers = {
        "rejected": error(400, "too long a prompt"),
        "filtered": error(400, "policy", code="content_filter"),
        "cut off": completion("Some of it", "content_filter"),
        "refused": completion(None, refusal="I will not."),
        "long": completion("Some words", "length"),
        "called": completion(None, "tool_calls"),
        "untold": completion("words", None),
        "fine": completion("words"),
    }
    server = start_server(lambda body, times: answers[asked_for(body)])
    samples = samples_of_endpoint(server.url, *answers)
    assert {name: (one.text, one.finish_reason) for name, one in samples.items()} == {
        "rejected": ("", REJECTED),
        "filtered": ("", FILTERED),
        "cut off": ("", FILTERED),
        "refused": ("", REFUSED),
        "long": ("Some words", CUT),
        "called": ("", "tool_calls"),
        "untold": ("words", NO_REASON_GIVEN),
        "fine": ("words", STOPPED),
    }
    assert len(server.bodies) == len(answers)
    assert "rejected 2 of the requests, the first: " in capsys.readouterr().err


def replies_of_endpoint(url: str, folder: Path, texts: list[str]) -> list[dict]:
    """The rows of an endpoint as a player."""
    pool = pool_rows(texts)
    for row in pool:
        row["asked"] = json.dumps([{"role": "user", "content": row["prompt"]}])
    write_jsonl(folder / "prompts.jsonl", pool)
    evaluate_model(
        sampling=sampling_settings(
            None, LIMITS, engine="endpoint", model="big", base_url=url, batch_size=4
        ),
        prompts=folder / "prompts.jsonl",
        output=folder / "responses.jsonl",
        state=folder / "state",
    )
    return list(read_jsonl(folder / "responses.jsonl"))


def test_a_players_reasoning_is_left_out_and_counted(start_server, tmp_path, capsys):
    answers = {
        "tags": completion("<think>They are stubborn.</think>\n\nFair enough."),
        "opened by the template": completion("They are stubborn.\n</think>\nFair enough."),
        "cut": completion("<think>They are", "length"),
        "a field": completion("Fair enough.", reasoning_content="They are stubborn."),
        "parts": completion([{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "Fair\x00 enough.\r\n\ud800"}]),
        "tools": completion(None, "tool_calls", tool_calls=[{"id": "1"}]),
    }  # fmt: skip
    server = start_server(lambda body, times: answers[asked_for(body)])
    rows = dict(zip(answers, replies_of_endpoint(server.url, tmp_path, [*answers]), strict=True))
    said = {name: row["response"] for name, row in rows.items()}
    assert said == dict.fromkeys(answers, "Fair enough.") | {
        "cut": "", "tools": "", "parts": "Fair enough.\n\ufffd"
    }  # fmt: skip
    reasoning = {name: row["metadata"].get("reasoning") for name, row in rows.items()}
    assert reasoning == dict.fromkeys(answers) | {
        "tags": len("<think>They are stubborn.</think>\n\n"),
        "opened by the template": len("They are stubborn.\n</think>\n"),
        "cut": len("<think>They are"),
    }
    assert rows["cut"]["metadata"]["finish_reason"] == CUT
    assert "cut the model's reasoning off 3 of 6 responses" in capsys.readouterr().err
    # The kept samples have it still, so that it can be cut otherwise without asking again.
    kept = "".join(path.read_text() for path in (tmp_path / "state").rglob("*.jsonl"))
    assert "They are stubborn.</think>" in kept


UNSUPPORTED = "Unsupported {}: '{}' is not supported with this model."


@pytest.mark.parametrize("named", ["param", "message"])
def test_a_server_that_takes_no_parameter_of_a_name_gets_none(named, start_server, capsys):
    """As some models of OpenAI: a limit by its newer name, and one temperature only."""

    def answer(body, times):
        for name in ("max_tokens", "temperature", "top_p"):
            if name in body:
                more = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                said = UNSUPPORTED.format("parameter", name) if named == "message" else "no"
                return 400, {
                    "error": {"message": said + more, "param": name if named == "param" else None}
                }
        return completion("fine")

    server = start_server(answer)
    samples = samples_of_endpoint(server.url, *"abcdefgh")
    assert {sample.text for sample in samples.values()} == {"fine"}
    accepted = [body for body in server.bodies if "max_tokens" not in body and "top_p" not in body]
    assert len(accepted) == 8
    assert all(body["max_completion_tokens"] == LIMITS.max_new_tokens for body in accepted)
    assert len(server.bodies) <= 8 + 2 * 3  # each of two threads learns it once
    told = capsys.readouterr().err
    assert told.count("takes no max_tokens, and gets none; it gets max_completion_tokens") == 1
    assert told.count("takes no temperature, and gets none") == told.count("takes no top_p") == 1


def test_a_server_that_refuses_a_parameter_again_is_asked_no_more(start_server):
    server = start_server(lambda body, times: error(400, "Unknown parameter 'seed'"))
    assert samples_of_endpoint(server.url, "a")["a"].finish_reason == REJECTED
    assert [("seed" in body) for body in server.bodies] == [True, False]


def test_a_prompt_that_speaks_of_a_temperature_changes_no_request(start_server):
    server = start_server(
        lambda body, times: error(400, "unsupported words: the temperature of Mars")
    )
    assert samples_of_endpoint(server.url, "a")["a"].finish_reason == REJECTED
    assert len(server.bodies) == 1


def test_a_rejected_prompt_does_not_stop_a_player_and_is_asked_again_by_the_next_run(
    start_server, tmp_path
):
    server = start_server(
        lambda body, times: error(400) if asked_for(body) == "b" else completion("fine")
    )
    for run in (1, 2):
        rows = replies_of_endpoint(server.url, tmp_path, ["a", "b", "c"])
        assert [row["response"] for row in rows] == ["fine", "", "fine"]
        reasons = [row["metadata"]["finish_reason"] for row in rows]
        assert reasons == [STOPPED, REJECTED, STOPPED]
        assert Counter(map(asked_for, server.bodies)) == {"a": 1, "b": run, "c": 1}


def test_a_server_that_rejects_everything_is_an_error_with_its_words(
    start_server, tmp_path, capsys
):
    server = start_server(lambda body, times: error(400, "no parameter max_tokens"))
    with pytest.raises(UserError, match="rejected every request"):
        replies_of_endpoint(server.url, tmp_path, ["a", "b"])
    assert "no parameter max_tokens" in capsys.readouterr().err
    assert not (tmp_path / "responses.jsonl").exists()
    server.answer = lambda body, times: completion("fine")  # mended
    assert len(replies_of_endpoint(server.url, tmp_path, ["a", "b"])) == 2


def test_a_pool_counts_out_what_a_server_refused_by_its_name(start_server, tiny_base, tmp_path):
    def answer(body, times):
        if asked_for(body) in ("b", "c"):
            return error(400) if asked_for(body) == "b" else completion("Some", "content_filter")
        return completion(f"{body['seed']}")

    server = start_server(answer)
    write_jsonl(tmp_path / "prompts.jsonl", pool_rows([*"abcd"]))
    generate_responses(
        sampling=sampling_settings(
            tiny_base, LIMITS, engine="openai", base_url=server.url, batch_size=4
        ),
        prompts=tmp_path / "prompts.jsonl",
        output=tmp_path / "shard.jsonl",
        state=tmp_path / "state",
        start=0,
        rows=4,
        responses=2,
        redraws=2,
    )
    counts = tmp_path / "counts.json"
    gather_responses(
        shards=[tmp_path / "shard.jsonl"], output=tmp_path / "pool.jsonl", counts=counts
    )
    assert read_json(counts) == {"made": 2, "rejected": 1, "content_filter": 1}
    # Another attempt may pass a filter; a rejected request would be rejected again.
    assert Counter(map(asked_for, server.bodies)) == {"a": 2, "b": 2, "c": 6, "d": 2}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "does not accept the key in OPENAI_API_KEY"),
        (404, "knows no model 'big'"),
        (402, "kept"),
    ],
)
def test_what_concerns_every_request_ends_in_one_line(status, message, start_server):
    server = start_server(lambda body, times: error(status, "no\nno"))
    with pytest.raises(UserError, match=message) as raised:
        samples_of_endpoint(server.url, *"abcdefgh")
    assert "\n" not in str(raised.value)
    assert len(server.bodies) <= 4  # the requests under way


def test_a_server_that_says_the_key_leaves_it_nowhere(start_server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")

    def answer(body, times):
        if asked_for(body) == "c":
            return error(400, f"you sent Bearer {server.keys[-1]}")
        return completion(f"Your key is {server.keys[-1]}, thank you", f"stop {server.keys[-1]}")

    server = start_server(answer)
    rows = replies_of_endpoint(server.url, tmp_path, ["a", "b", "c"])
    assert set(server.keys) == {KEY}
    assert rows[0]["response"] == "Your key is [key], thank you"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not any(KEY in path.read_text() for path in files)
    printed = capsys.readouterr()
    assert "you sent Bearer [key]" in printed.err and KEY not in printed.err + printed.out
    for status in (401, 500):
        server.answer = lambda body, times, status=status: error(status, f"bad key {KEY}")
        with pytest.raises(UserError, match="bad key .key.") as raised:
            samples_of_endpoint(server.url, "d")
        assert KEY not in str(raised.value)
    server.answer = lambda body, times: (200, f"<html>{KEY}</html>")
    with pytest.raises(UserError, match="no completion .'<html>.key.</html>'") as raised:
        samples_of_endpoint(server.url, "d")
    assert KEY not in str(raised.value)


def test_an_endpoint_elsewhere_needs_a_key(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(
        UserError, match="engine endpoint, http://192.0.2.1/v1: .*OPENAI_API_KEY is not set"
    ):
        samples_of_endpoint("http://192.0.2.1/v1", "a")


def test_another_address_is_another_endpoint_and_a_server_may_move(
    start_server, tiny_base, tmp_path
):
    one, other = (
        start_server(lambda body, times, who=who: completion(who)) for who in ("one", "other")
    )
    for server in (one, other):
        store = SampleStore(tmp_path, endpoint(server.url))
        (sample,) = dict(store.sample(chats("a"))).values()
        assert sample.text == ("one" if server is one else "other")
    for server in (one, other):
        engine = engine_of(tiny_base, LIMITS, engine="openai", base_url=server.url)
        store = SampleStore(tmp_path, engine)
        (sample,) = dict(store.sample(short_requests(1))).values()
        assert sample.text == "one"
    assert (len(one.bodies), len(other.bodies)) == (2, 1)


@pytest.mark.slow
def test_a_real_server_samples(peer):
    """`transformers serve`, which speaks OpenAI's completions."""
    url, base = peer
    requests = [Request(f"p{i}", "The reason that " + "you " * i, 1) for i in range(6)]
    samples = samples_of_server(url, Path(base), requests)
    assert samples.keys() == set(requests)
    assert any(sample.text for sample in samples.values())
    for sample in samples.values():
        assert 0 < sample.tokens <= 12
        assert sample.finish_reason == (CUT if sample.tokens == 12 else STOPPED)
    with pytest.raises(UserError, match="engine openai, http://127.0.0.1") as raised:
        samples_of_server(url, Path(base), requests[:1], model="sft")
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_real_endpoint_is_asked_in_conversations(peer):
    url, base = peer
    conversation = json.dumps([{"role": "user", "content": "Change my mind."}])
    requests = [Request(f"p{i}", conversation, 1) for i in range(3)]
    samples = dict(endpoint(url, model=base).sample(requests))
    assert samples.keys() == set(requests)
    assert all(0 < sample.tokens <= 12 for sample in samples.values())


def test_a_server_that_is_not_there_is_named(tiny_base, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setattr("openai._constants.MAX_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    with pytest.raises(
        UserError, match="127.0.0.1:9/v1: Connection error.; samples drawn so far are kept"
    ):
        samples_of_server("http://127.0.0.1:9/v1", tiny_base, short_requests(1))
