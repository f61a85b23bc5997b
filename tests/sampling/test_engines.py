"""What draws samples: the same text in every batch, shard and order, and nothing drawn twice after a kill."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace

import pytest
import torch
from test_sampling import (
    LIMITS,
    SEED,
    TROUBLE,
    engine_of,
    make_tiny_base,
    short_requests,
    texts,
    write_scripted_base,
)

from persuasion_rl.data.prompts import render
from persuasion_rl.files import UserError, read_json, read_jsonl, write_jsonl
from persuasion_rl.models.loading import load_tokenizer
from persuasion_rl.sampling.engine import ContinuousBatches, Engine, Settings, make_engine
from persuasion_rl.sampling.generate import respond_to_evaluation, respond_to_pool
from persuasion_rl.sampling.noise import Limits, Request, Sample
from persuasion_rl.sampling.responses import (
    CUT,
    FILTERED,
    REFUSED,
    REJECTED,
    STOPPED,
    UNTOLD,
    gather_pool,
)
from persuasion_rl.sampling.store import SampleStore
from persuasion_rl.training.standin import END_OF_TEXT


@pytest.fixture(scope="module")
def troubled_base(tmp_path_factory) -> Path:
    return write_scripted_base(tmp_path_factory.mktemp("troubled"), TROUBLE)


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory) -> Path:
    return make_tiny_base(tmp_path_factory.getbasetemp() / "tiny_base") / "base"


@pytest.fixture(scope="module")
def requests(tiny_base) -> list[Request]:
    """More than a thousand samples of prompts of very different lengths."""
    rows = [row["input_text"] for row in read_jsonl(tiny_base.parent / "examples.jsonl")]
    prompts = list(dict.fromkeys(rows))[:80]
    prompts += [render(f"Claim: CMV: {'no ' * i}cars", "cmv", "plain") for i in range(25)]
    return [Request(f"p{i}", text, n) for i, text in enumerate(prompts) for n in range(1, 16)]


@pytest.fixture(scope="module")
def whole(tiny_base, requests) -> dict[tuple[str, int], str]:
    return texts(engine_of(tiny_base), requests)


# What a sample is like


def samples(base: Path, limits: Limits, count: int) -> list[Sample]:
    return [found for _, found in engine_of(base, limits).draw(short_requests(count))]


def test_responses_have_the_models_distribution(troubled_base):
    count = 1500
    found = Counter(one.text for one in samples(troubled_base, Limits(1.0, 1.0, 2), count))
    for text, probability in {"A": 0.35, "B": 0.25, "CC": 0.2, "": 0.2}.items():
        deviation = math.sqrt(probability * (1 - probability) / count)
        assert abs(found[text] / count - probability) < 4 * deviation, found
    assert sum(found.values()) == count


def test_a_cut_response_says_length_and_an_ended_one_stop(troubled_base):
    found = {
        (one.text, one.finish_reason, one.tokens)
        for one in samples(troubled_base, Limits(1.0, 1.0, 5), 80)
    }
    assert found == {("A", STOPPED, 2), ("B", STOPPED, 2), ("CCCCC", CUT, 5), ("", STOPPED, 1)}


def test_a_response_that_ends_at_the_limit_is_whole(troubled_base):
    for limit, reasons in ((2, {STOPPED}), (1, {CUT})):
        found = samples(troubled_base, Limits(1.0, 1.0, limit), 60)
        assert {one.finish_reason for one in found if one.text in ("A", "B")} == reasons


def test_a_base_models_own_generation_settings_do_not_change_the_samples(tmp_path):
    """Qwen2.5's generation_config.json asks for a repetition penalty, top_k and another temperature.

    The study's limits alone shape its samples; a penalty would also see the padding of a batch.
    """
    go_on = {token: {token: 0.7, END_OF_TEXT: 0.3} for token in "AB"}
    steady = {"": {"A": 0.5, "B": 0.5}} | go_on
    plain = write_scripted_base(tmp_path / "plain", steady)
    own = write_scripted_base(tmp_path / "own", steady)
    (own / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "repetition_penalty": 1.5, "top_k": 1, "temperature": 0.1})
    )
    one, other = (samples(base, Limits(1.0, 1.0, 6), 100) for base in (plain, own))
    assert one == other


# A sample is the same wherever it is drawn


def differing(found: dict, whole: dict) -> int:
    """How many texts differ: near-ties that the last bits of batched logits decided. They are counted."""
    changed = [key for key in found if found[key] != whole[key]]
    print(f"{len(changed)} of {len(found)} samples differ: {changed[:3]}")
    return len(changed)


def near_ties(samples: int) -> int:
    """How many there may be: 1 in 1,000, and none of fewer."""
    return samples // 1000


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [7, 256])
def test_batch_size_leaves_the_text_as_it_is(batch_size, tiny_base, requests, whole):
    assert len(set(whole.values())) > 0.5 * len(whole)  # or there is nothing to tell apart
    found = texts(engine_of(tiny_base, batch_size=batch_size), requests)
    assert found.keys() == whole.keys()
    assert differing(found, whole) <= near_ties(len(found))


@pytest.mark.slow
def test_order_and_shards_leave_the_text_as_it_is(tiny_base, requests, whole):
    shuffled = random.Random(SEED).sample(requests, len(requests))
    found = {}
    for start in range(0, len(shuffled), 401):  # engines of their own, as jobs have
        found |= texts(engine_of(tiny_base), shuffled[start : start + 401])
    assert found.keys() == whole.keys()
    assert differing(found, whole) <= near_ties(len(found))


@pytest.mark.slow
def test_a_sample_drawn_alone_has_the_same_text(tiny_base, requests, whole):
    some = random.Random(SEED).sample(requests, 1000)
    found = texts(engine_of(tiny_base, batch_size=1), some)
    assert differing(found, whole) <= near_ties(len(found))


@pytest.mark.slow
def test_continuous_batching_draws_the_same_texts(tiny_base, requests, whole):
    """What a GPU gets, here on the CPU: each place is taken by another request when its response ends."""
    some = random.Random(SEED).sample(requests, 1000)
    settings = Settings(tiny_base, [], "base", LIMITS, SEED, batch_size=16, device="cpu")
    found = texts(ContinuousBatches(settings), some)
    assert found.keys() == {(r.prompt_id, r.sample) for r in some}
    assert differing(found, whole) <= near_ties(len(found))


@pytest.mark.slow
def test_another_seed_sample_or_draw_gives_another_text(tiny_base, requests, whole):
    some = [r for r in requests if r.sample == 1][:40]
    redrawn = [Request(r.prompt_id, r.prompt, 1, draw=1) for r in some]
    for found in (
        texts(engine_of(tiny_base, seed=SEED + 1), some),
        texts(engine_of(tiny_base), redrawn),
        {(r.prompt_id, 1): whole[r.prompt_id, 2] for r in some},
    ):
        assert sum(found[key] == whole[key] for key in found) <= 8


def test_only_float32_on_a_cpu_promises_it(tiny_base):
    settings = Settings(tiny_base, [], "base", LIMITS, SEED, device="cpu", base_url="http://x/v1")
    promises = {name: make_engine(name, settings).reproducible for name in ("vllm", "openai")}
    assert promises == {"vllm": False, "openai": False}
    assert make_engine("transformers", settings).reproducible


def test_an_engine_that_is_not_installed_is_named(tiny_base):
    settings = Settings(tiny_base, [], "base", LIMITS, SEED, device="cpu")
    with pytest.raises(UserError, match="vllm is not installed; snakemake --sdm conda"):
        list(make_engine("vllm", settings).draw(short_requests(1)))


# vLLM


class StandInForVllm(ModuleType):
    """Stands in for the package vllm, which needs a GPU: of the interface that the documentation of 0.30 describes,
    what we use. It answers every prompt with its token ids, backwards, as far as `max_tokens` lets it."""

    def __init__(self):
        super().__init__("vllm")
        self.made: list[tuple] = []
        self.asked: list[tuple] = []
        stand_in = self

        class LLM:
            def __init__(self, model, **settings):
                stand_in.made.append((model, settings))
                self.tokenizer = load_tokenizer(Path(model))

            def generate(self, prompts, sampling_params, *, use_tqdm=True, lora_request=None):
                stand_in.asked.append((prompts, sampling_params, lora_request))
                return [self.answer(*pair) for pair in zip(prompts, sampling_params, strict=True)]

            def answer(self, prompt, limits):
                ids = prompt["prompt_token_ids"][::-1]
                cut = len(ids) >= limits.max_tokens
                ids = ids[: limits.max_tokens] if cut else [*ids, limits.stop_token_ids[0]]
                text = self.tokenizer.decode(ids, skip_special_tokens=True)
                reason = "length" if cut else "stop"
                said = SimpleNamespace(text=f" {text}\n", token_ids=ids, finish_reason=reason)
                return SimpleNamespace(outputs=[said])

        self.LLM = LLM
        self.SamplingParams = SimpleNamespace
        self.lora = ModuleType("vllm.lora")
        self.lora.request = ModuleType("vllm.lora.request")
        self.lora.request.LoRARequest = lambda name, number, path: (name, number, path)


@pytest.fixture
def vllm(monkeypatch) -> StandInForVllm:
    stand_in = StandInForVllm()
    modules = {"vllm": stand_in, "vllm.lora": stand_in.lora}
    for name, module in (modules | {"vllm.lora.request": stand_in.lora.request}).items():
        monkeypatch.setitem(sys.modules, name, module)
    return stand_in


def test_what_vllm_is_asked_and_what_becomes_of_its_answers(vllm, troubled_base, monkeypatch):
    monkeypatch.setattr("persuasion_rl.sampling.engine.AT_ONCE", 3)
    settings = Settings(troubled_base, [], "base", Limits(0.7, 0.9, 8), SEED, batch_size=5)
    wanted = [Request(f"p{i}", "Hello" + "!" * i, n) for i in range(4) for n in (1, 2)]
    drawn = list(make_engine("vllm", settings).draw(wanted))
    assert [request for request, _ in drawn] == wanted
    assert [len(prompts) for prompts, _, _ in vllm.asked] == [3, 3, 2]
    ((model, made),) = vllm.made  # loaded once
    assert model == str(troubled_base)
    assert made["max_num_seqs"] == 5 and made["generation_config"] == "vllm"
    assert "enable_lora" not in made and {adapter for *_, adapter in vllm.asked} == {None}
    tokenizer = load_tokenizer(troubled_base)
    prompts = [prompt["prompt_token_ids"] for prompts, _, _ in vllm.asked for prompt in prompts]
    assert prompts == [tokenizer(request.prompt)["input_ids"] for request in wanted]
    told = [limits for _, some, _ in vllm.asked for limits in some]
    for limits in told:
        assert (limits.temperature, limits.top_p, limits.max_tokens) == (0.7, 0.9, 8)
        assert limits.stop_token_ids == [tokenizer.eos_token_id]
    assert len({limits.seed for limits in told}) == len(wanted)
    again = make_engine("vllm", settings)
    list(again.draw(wanted[::-1]))
    assert [limits.seed for _, some, _ in vllm.asked[3:] for limits in some] == [
        limits.seed for limits in told[::-1]
    ]
    reasons = set()
    for (_, sample), ids in zip(drawn, prompts, strict=True):
        cut = len(ids) >= 8
        assert sample.text == tokenizer.decode(ids[::-1][:8]).strip()
        assert sample.tokens == (8 if cut else len(ids) + 1)
        assert sample.finish_reason == (CUT if cut else STOPPED)
        reasons.add(sample.finish_reason)
    assert reasons == {CUT, STOPPED}


def test_vllm_stops_at_every_end_that_the_base_model_has(vllm, tmp_path):
    """As transformers does: Qwen2.5's instruction models end a turn with a token that is not the tokenizer's EOS."""
    base = write_scripted_base(tmp_path, TROUBLE)
    (eos,) = {load_tokenizer(base).eos_token_id}
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, eos]}))
    settings = Settings(base, [], "base", LIMITS, SEED, device="cpu")
    list(make_engine("vllm", settings).draw(short_requests(1)))
    ((_, (limits,), _),) = vllm.asked
    assert limits.stop_token_ids == sorted([7, eos])
    model, _ = make_engine("transformers", settings)._load()
    assert limits.stop_token_ids == model.generation_config.eos_token_id


def test_vllm_gets_the_models_own_adapter(vllm, troubled_base, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "persuasion_rl.sampling.engine.check_lineage", lambda base, lineage: "digest"
    )
    lineage = [tmp_path / name / "adapter_model.safetensors" for name in ("sft", "dpo")]
    for adapter, rank in zip(lineage, (4, 12), strict=True):
        adapter.parent.mkdir()
        (adapter.parent / "adapter_config.json").write_text(json.dumps({"r": rank}))
    settings = Settings(troubled_base, lineage, "dpo", LIMITS, SEED)
    list(make_engine("vllm", settings).draw(short_requests(2)))
    ((_, made),) = vllm.made
    assert made["enable_lora"] and made["max_lora_rank"] == 16  # the next that vLLM has
    ((_, _, adapter),) = vllm.asked
    assert adapter == ("dpo", 1, str(tmp_path / "dpo"))


# A server

KEY = "sk-planted-0123456789abcdef"


class CompletionServer(ThreadingHTTPServer):
    """A server on this machine. `answer(body, times)` is what it says to a request that comes for the `times`-th time:
    the JSON of an answer with status 200, or status and body; a body that is text is sent as it is, and without its
    length."""

    daemon_threads = True

    def __init__(self, answer: Callable):
        self.answer, self.bodies, self.keys = answer, [], []
        super().__init__(("127.0.0.1", 0), _Answering)
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Answering(BaseHTTPRequestHandler):
    server: CompletionServer

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers["Authorization"].removeprefix("Bearer "))
        said = self.server.answer(body, self.server.bodies.count(body))
        status, said = said if isinstance(said, tuple) else (200, said)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if not isinstance(said, str):
            said = json.dumps(said)
            self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def start(monkeypatch):
    """A function that starts a server with its answers, which nobody waits long for."""
    pytest.importorskip("openai")
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    monkeypatch.setattr("persuasion_rl.sampling.engine.BODY_WAITS_S", (0.01,) * 3)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    running = []

    def start_one(answer: Callable) -> CompletionServer:
        running.append(CompletionServer(answer))
        return running[-1]

    yield start_one
    for server in running:
        server.shutdown()
        server.server_close()


def said(text: str | None, reason: str | None = "stop", tokens: int | None = 5, **message) -> dict:
    """A completion and a chat completion at once."""
    told = {"content": text, **message}
    choice = {"text": text, "message": told, "finish_reason": reason}
    usage = {} if tokens is None else {"usage": {"completion_tokens": tokens}}
    return {"choices": [choice], **usage}


def error(status: int, message: str = "no", code: str | None = None) -> tuple[int, dict]:
    return status, {"error": {"message": message, "code": code}}


def asked_for(body: dict) -> str:
    """The prompt of a request, or the last message's text."""
    return body.get("prompt") or body["messages"][-1]["content"]


def chats(*texts: str) -> list[Request]:
    """Requests of an endpoint."""
    rows = [json.dumps([{"role": "user", "content": text}]) for text in texts]
    return [Request(f"p{i}", row, 1) for i, row in enumerate(rows)]


def endpoint(url: str, **changed) -> Engine:
    settings = {"model": "big", "limits": Limits(0.7, 0.9, 12), "batch_size": 2} | changed
    return make_engine("endpoint", Settings(None, [], seed=SEED, base_url=url, **settings))


def drawn_from(url: str, *texts: str, **changed) -> dict[str, Sample]:
    """An endpoint's samples by what it was asked."""
    found = endpoint(url, **changed).draw(chats(*texts))
    return {json.loads(request.prompt)[0]["content"]: sample for request, sample in found}


def served(url: str, base: Path, requests: list[Request], **changed) -> dict[Request, Sample]:
    settings = {"model": "base", "limits": Limits(0.7, 0.9, 12), "batch_size": 2} | changed
    engine = make_engine("openai", Settings(base, [], seed=SEED, base_url=url, **settings))
    return dict(engine.draw(requests))


def test_an_answer_is_read_and_its_request_tells_the_limits(start):
    server = start(lambda body, times: said(f" {asked_for(body)}\n"))
    found = drawn_from(server.url, "a", "b")
    assert found == {"a": Sample("a", 5, STOPPED), "b": Sample("b", 5, STOPPED)}
    for body in server.bodies:
        limits = {"model": "big", "temperature": 0.7, "top_p": 0.9, "max_tokens": 12}
        assert body.items() >= limits.items()
    assert len({body["seed"] for body in server.bodies}) == 2


def test_tokens_that_a_server_does_not_count_are_counted_here(start, tiny_base):
    server = start(lambda body, times: said("It's a bus, no?", tokens=None))
    assert drawn_from(server.url, "a")["a"].tokens == 8 + 1  # It ' s a bus , no ? and the end
    (sample,) = served(server.url, tiny_base, short_requests(1)).values()
    ids = load_tokenizer(tiny_base)("It's a bus, no?")["input_ids"]
    assert sample.tokens == len(ids) + 1


@pytest.mark.parametrize(
    "bad", ["<html>a proxy's page</html>", '{"choices": [{"fin', "[]", '{"choices": []}', "null"]
)
def test_a_body_that_is_no_completion_is_asked_for_again(bad, start, tiny_base):
    server = start(lambda body, times: said("fine") if times > 2 else (200, bad))
    assert drawn_from(server.url, "a")["a"].text == "fine"
    assert [one.text for one in served(server.url, tiny_base, short_requests(1)).values()] == [
        "fine"
    ]
    assert len(server.bodies) == 6


def test_a_server_without_end_of_such_bodies_is_one_line_and_what_was_drawn_is_kept(
    start, tmp_path
):
    server = start(
        lambda body, times: said("fine") if asked_for(body) != "e" else (200, "<html>\nbusy</html>")
    )
    store = SampleStore(tmp_path, endpoint(server.url))
    with pytest.raises(UserError, match="answers what is no completion .'<html> busy") as refused:
        list(store.draw(chats(*"abcdefgh")))
    assert "\n" not in str(refused.value)
    assert [asked_for(body) for body in server.bodies].count("e") == 4
    before = len(server.bodies)
    server.answer = lambda body, times: said("fine")
    found = list(SampleStore(tmp_path, endpoint(server.url)).draw(chats(*"abcdefgh")))
    assert len(found) == 8 and "e" in map(asked_for, server.bodies[before:])
    asked = Counter(map(asked_for, server.bodies))
    assert all(asked[text] == 1 for text in "abcdfgh")  # what was under way was kept, too


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again_and_not_for_ever(status, start):
    server = start(lambda body, times: said("fine") if times > 3 else error(status))
    assert drawn_from(server.url, "a")["a"].text == "fine"
    server.answer = lambda body, times: error(status, "busy\nbusy")
    with pytest.raises(UserError, match="busy.*; what was drawn is kept$") as refused:
        drawn_from(server.url, "b")
    assert "\n" not in str(refused.value)
    assert [asked_for(body) for body in server.bodies].count("b") == 6


def test_a_request_that_is_refused_is_an_empty_response_with_its_reason(start, capsys):
    answers = {
        "rejected": error(400, "too long a prompt"),
        "filtered": error(400, "policy", code="content_filter"),
        "cut off": said("Some of it", "content_filter"),
        "refused": said(None, refusal="I will not."),
        "long": said("Some words", "length"),
        "called": said(None, "tool_calls"),
        "untold": said("words", None),
        "fine": said("words"),
    }
    server = start(lambda body, times: answers[asked_for(body)])
    found = drawn_from(server.url, *answers)
    assert {name: (one.text, one.finish_reason) for name, one in found.items()} == {
        "rejected": ("", REJECTED),
        "filtered": ("", FILTERED),
        "cut off": ("", FILTERED),
        "refused": ("", REFUSED),
        "long": ("Some words", CUT),
        "called": ("", "tool_calls"),
        "untold": ("words", UNTOLD),
        "fine": ("words", STOPPED),
    }
    assert len(server.bodies) == len(answers)
    assert "rejected 2 of the requests, the first: " in capsys.readouterr().err


def evaluation_of(url: str, folder: Path, texts: list[str], served_model: str = "big"):
    """The rows of an endpoint as a player."""
    write_jsonl(
        folder / "prompts.jsonl",
        [
            {
                "prompt": text,
                "asked": json.dumps([{"role": "user", "content": text}]),
                "metadata": {"prompt_id": text, "conversation_id": text},
            }
            for text in texts
        ],
    )
    respond_to_evaluation(
        prompts=folder / "prompts.jsonl", output=folder / "responses.jsonl", state=folder / "state",
        seed=SEED, threads=1, temperature=0.7, top_p=0.9, max_new_tokens=12, batch_size=4,
        model=served_model, engine="endpoint", base_url=url,
    )  # fmt: skip
    return list(read_jsonl(folder / "responses.jsonl"))


def test_a_rejected_prompt_does_not_stop_a_player_and_is_asked_again_by_the_next_run(
    start, tmp_path
):
    server = start(lambda body, times: error(400) if asked_for(body) == "b" else said("fine"))
    for run in (1, 2):
        rows = evaluation_of(server.url, tmp_path, ["a", "b", "c"])
        assert [row["response"] for row in rows] == ["fine", "", "fine"]
        reasons = [row["metadata"]["finish_reason"] for row in rows]
        assert reasons == [STOPPED, REJECTED, STOPPED]
        assert Counter(map(asked_for, server.bodies)) == {"a": 1, "b": run, "c": 1}


def test_a_server_that_rejects_everything_is_an_error_with_its_words(start, tmp_path, capsys):
    server = start(lambda body, times: error(400, "no parameter max_tokens"))
    with pytest.raises(UserError, match="rejected every request"):
        evaluation_of(server.url, tmp_path, ["a", "b"])
    assert "no parameter max_tokens" in capsys.readouterr().err
    assert not (tmp_path / "responses.jsonl").exists()
    server.answer = lambda body, times: said("fine")  # mended
    assert len(evaluation_of(server.url, tmp_path, ["a", "b"])) == 2


def test_a_pool_counts_out_what_a_server_refused_by_its_name(start, tiny_base, tmp_path):
    def answer(body, times):
        if asked_for(body) in ("b", "c"):
            return error(400) if asked_for(body) == "b" else said("Some", "content_filter")
        return said(f"{body['seed']}")

    server = start(answer)
    rows = [{"prompt": text, "metadata": {"prompt_id": text}} for text in "abcd"]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    respond_to_pool(
        base=tiny_base, prompts=tmp_path / "prompts.jsonl", output=tmp_path / "shard.jsonl",
        state=tmp_path / "state", start=0, rows=4, responses=2, redraws=2, seed=SEED, threads=1,
        temperature=0.7, top_p=0.9, max_new_tokens=12, batch_size=4, model="base", engine="openai",
        base_url=server.url,
    )  # fmt: skip
    counts = tmp_path / "counts.json"
    gather_pool(shards=[tmp_path / "shard.jsonl"], output=tmp_path / "pool.jsonl", counts=counts)
    assert read_json(counts) == {"made": 2, "rejected": 1, "content_filter": 1}
    # Another draw may pass a filter; what is no request will be none.
    assert Counter(map(asked_for, server.bodies)) == {"a": 2, "b": 2, "c": 6, "d": 2}


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "does not accept the key in OPENAI_API_KEY"),
        (404, "knows no model 'big'"),
        (402, "kept"),
    ],
)
def test_what_concerns_every_request_ends_in_one_line(status, says, start):
    server = start(lambda body, times: error(status, "no\nno"))
    with pytest.raises(UserError, match=says) as refused:
        drawn_from(server.url, *"abcdefgh")
    assert "\n" not in str(refused.value)
    assert len(server.bodies) <= 4  # those under way


def test_a_server_that_says_the_key_leaves_it_nowhere(start, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")

    def answer(body, times):
        if asked_for(body) == "c":
            return error(400, f"you sent Bearer {server.keys[-1]}")
        return said(f"Your key is {server.keys[-1]}, thank you", f"stop {server.keys[-1]}")

    server = start(answer)
    rows = evaluation_of(server.url, tmp_path, ["a", "b", "c"])
    assert set(server.keys) == {KEY}
    assert rows[0]["response"] == "Your key is [key], thank you"
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) == 3
    assert not any(KEY in path.read_text() for path in left)
    told = capsys.readouterr()
    assert "you sent Bearer [key]" in told.err and KEY not in told.err + told.out
    for status in (401, 500):
        server.answer = lambda body, times, status=status: error(status, f"bad key {KEY}")
        with pytest.raises(UserError, match="bad key .key.") as refused:
            drawn_from(server.url, "d")
        assert KEY not in str(refused.value)
    server.answer = lambda body, times: (200, f"<html>{KEY}</html>")
    with pytest.raises(UserError, match="no completion .'<html>.key.</html>'") as refused:
        drawn_from(server.url, "d")
    assert KEY not in str(refused.value)


def test_an_endpoint_elsewhere_needs_a_key(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(
        UserError, match="engine endpoint, http://192.0.2.1/v1: .*OPENAI_API_KEY is not set"
    ):
        drawn_from("http://192.0.2.1/v1", "a")


def test_another_address_is_another_endpoint_and_a_server_may_move(start, tiny_base, tmp_path):
    one, other = (start(lambda body, times, who=who: said(who)) for who in ("one", "other"))
    for server in (one, other):
        store = SampleStore(tmp_path, endpoint(server.url))
        (sample,) = dict(store.draw(chats("a"))).values()
        assert sample.text == ("one" if server is one else "other")
    for server in (one, other):
        settings = Settings(tiny_base, [], "base", LIMITS, SEED, base_url=server.url)
        store = SampleStore(tmp_path, make_engine("openai", settings))
        (sample,) = dict(store.draw(short_requests(1))).values()
        assert sample.text == "one"
    assert (len(one.bodies), len(other.bodies)) == (2, 1)


@pytest.mark.slow
def test_a_real_server_draws_samples(peer):
    """`transformers serve`, which speaks OpenAI's completions."""
    url, base = peer
    wanted = [Request(f"p{i}", "The reason that " + "you " * i, 1) for i in range(6)]
    found = served(url, Path(base), wanted)
    assert found.keys() == set(wanted)
    assert any(one.text for one in found.values())
    for one in found.values():
        assert 0 < one.tokens <= 12
        assert one.finish_reason == (CUT if one.tokens == 12 else STOPPED)
    with pytest.raises(UserError, match="engine openai, http://127.0.0.1") as refused:
        served(url, Path(base), wanted[:1], model="sft")
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_real_endpoint_is_asked_in_conversations(peer):
    url, base = peer
    conversation = json.dumps([{"role": "user", "content": "Change my mind."}])
    limits = Limits(0.7, 0.9, 12)
    settings = Settings(None, [], base, limits, SEED, batch_size=2, base_url=url)
    wanted = [Request(f"p{i}", conversation, 1) for i in range(3)]
    found = dict(make_engine("endpoint", settings).draw(wanted))
    assert found.keys() == set(wanted)
    assert all(0 < one.tokens <= 12 for one in found.values())


def test_a_server_that_is_not_there_is_named(tiny_base, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setattr("openai._constants.MAX_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    with pytest.raises(
        UserError, match="127.0.0.1:9/v1: Connection error.; what was drawn is kept"
    ):
        served("http://127.0.0.1:9/v1", tiny_base, short_requests(1))


# Samples outlive a killed job


class Counting(Engine):
    """Counts what the engine below it is asked for."""

    name = "transformers"

    def __init__(self, engine: Engine):
        super().__init__(engine.settings)
        self.engine, self.asked = engine, 0

    @property
    def reproducible(self):
        return self.engine.reproducible

    def draw(self, requests):
        self.asked += len(requests)
        return self.engine.draw(requests)


def test_only_what_is_missing_is_drawn(troubled_base, tmp_path):
    wanted = short_requests(40)
    first = Counting(engine_of(troubled_base, batch_size=8))
    stopped = SampleStore(tmp_path, first).draw(wanted)
    some = dict(next(stopped) for _ in range(20))
    stopped.close()  # as a job that ends in the middle of its shard
    again = Counting(engine_of(troubled_base, batch_size=8))
    found = dict(SampleStore(tmp_path, again).draw(wanted))
    assert again.asked == 20
    assert found == dict(engine_of(troubled_base).draw(wanted))
    assert all(found[request] == sample for request, sample in some.items())
    complete = Counting(engine_of(troubled_base))
    assert dict(SampleStore(tmp_path, complete).draw(wanted[5:15])) == {
        request: found[request] for request in wanted[5:15]
    }
    assert complete.asked == 0


@pytest.mark.parametrize("changed", ["seed", "limits", "prompt", "draw"])
def test_what_a_sample_depends_on_is_part_of_its_name(changed, troubled_base, tmp_path):
    limits = Limits(1.0, 1.0, 4)
    list(SampleStore(tmp_path, engine_of(troubled_base, limits)).draw(short_requests(5)))
    seed = SEED + 1 if changed == "seed" else SEED
    limits = Limits(0.9, 1.0, 4) if changed == "limits" else limits
    engine = Counting(engine_of(troubled_base, limits, seed))
    wanted = [
        Request(r.prompt_id, r.prompt + "?" * (changed == "prompt"), 1, draw=int(changed == "draw"))
        for r in short_requests(5)
    ]
    list(SampleStore(tmp_path, engine).draw(wanted))
    assert engine.asked == 5


def test_samples_of_half_precision_are_not_taken_for_reproducible_ones(
    troubled_base, tmp_path, monkeypatch
):
    """A study that began on a GPU goes on without one."""
    wanted = short_requests(5)
    there = engine_of(troubled_base)
    with monkeypatch.context() as gpu:
        gpu.setattr("persuasion_rl.sampling.engine.pick_device", lambda device: "cuda")
        assert not there.reproducible
        store = SampleStore(tmp_path, there)
    there.draw = lambda requests: ((r, Sample("of a GPU", 2, STOPPED)) for r in requests)
    list(store.draw(wanted))
    here = Counting(engine_of(troubled_base))
    found = dict(SampleStore(tmp_path, here).draw(wanted))
    assert here.asked == 5
    assert found == dict(engine_of(troubled_base).draw(wanted))


def test_a_line_that_a_kill_cut_off_is_drawn_again(troubled_base, tmp_path):
    wanted = short_requests(10)
    found = dict(SampleStore(tmp_path, engine_of(troubled_base)).draw(wanted))
    (file,) = tmp_path.rglob("*.jsonl")
    whole_text = file.read_bytes()
    for cut in (1, 5, 30):
        file.write_bytes(whole_text[:-cut])
        engine = Counting(engine_of(troubled_base))
        assert dict(SampleStore(tmp_path, engine).draw(wanted)) == found
        assert engine.asked == 1
        for other in set(tmp_path.rglob("*.jsonl")) - {file}:
            other.unlink()


POOL = """
from pathlib import Path
from persuasion_rl.sampling.generate import respond_to_pool
import sys
respond_to_pool(
    base=Path(sys.argv[1]), prompts=Path(sys.argv[2]), output=Path(sys.argv[3]),
    state=Path(sys.argv[4]), start=0, rows=1000, responses=2, redraws=1, seed=1, threads=1,
    temperature=0.9, top_p=0.95, max_new_tokens=40, batch_size=4, model="base", device="cpu",
)
"""


@pytest.mark.slow
def test_a_killed_shard_goes_on_where_it_was(tiny_base, requests, tmp_path):
    """SIGKILL three times; in the end the same file as without, and nothing kept was drawn again."""
    prompts = tmp_path / "prompts.jsonl"
    rows = {r.prompt_id: r.prompt for r in requests}
    prompts.write_text(
        "".join(
            json.dumps({"prompt": text, "metadata": {"prompt_id": id_}}) + "\n"
            for id_, text in rows.items()
        )
    )

    def run(name: str) -> subprocess.Popen:
        command = [sys.executable, "-c", POOL, tiny_base, prompts, tmp_path / f"{name}.jsonl"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*map(str, command), str(tmp_path / name)], env=environment)

    def kept() -> list[list]:
        files = sorted((tmp_path / "killed").rglob("*.jsonl"))
        texts = [file.read_text() for file in files]
        return [
            json.loads(line) for text in texts for line in text.splitlines(True) if "\n" in line
        ]

    assert run("undisturbed").wait(300) == 0
    for kill in range(1, 4):
        process, before = run("killed"), len(kept())
        while len(kept()) < before + 20 * kill:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert not (tmp_path / "killed.jsonl").exists()
    assert run("killed").wait(300) == 0
    assert (tmp_path / "killed.jsonl").read_text() == (tmp_path / "undisturbed.jsonl").read_text()
    keys = [line[0] for line in kept()]
    assert len(keys) == len(set(keys)) >= 2 * len(rows)


@pytest.mark.slow
def test_half_precision_is_what_makes_batches_matter(tiny_base, requests):
    """Why a GPU's rows say that they are not reproducible: bfloat16 draws other texts in other batches."""
    some = requests[:400]
    counts = {}
    for dtype in (torch.float32, torch.bfloat16):
        found = []
        for size in (10, 200):
            engine = engine_of(tiny_base, batch_size=size)
            engine._load()[0].to(dtype)
            found.append(texts(engine, some))
        counts[dtype] = differing(*found)
    assert counts[torch.float32] == 0 < counts[torch.bfloat16]
