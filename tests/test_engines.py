"""What draws samples: the same text in every batch, shard and order, and nothing drawn twice after a kill."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from persuasion_rl.engines import ContinuousBatches, Engine, Settings, make_engine
from persuasion_rl.files import UserError, read_jsonl
from persuasion_rl.prompts import render
from persuasion_rl.responses import CUT, STOPPED
from persuasion_rl.sample_store import SampleStore
from persuasion_rl.sampling import Limits, Request, Sample
from persuasion_rl.standin import END_OF_TEXT
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

NEAR_TIES = 1 / 1000
"""The share of samples that batched logits may change in their last bits."""


def differing(found: dict, whole: dict) -> int:
    """How many texts differ; they are counted, and there may be as many as near-ties explain."""
    changed = [key for key in found if found[key] != whole[key]]
    print(f"{len(changed)} of {len(found)} samples differ: {changed[:3]}")
    return len(changed)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [7, 256])
def test_batch_size_leaves_the_text_as_it_is(batch_size, tiny_base, requests, whole):
    assert len(requests) >= 1000
    assert len(set(whole.values())) > 0.5 * len(whole)  # or there is nothing to tell apart
    found = texts(engine_of(tiny_base, batch_size=batch_size), requests)
    assert found.keys() == whole.keys()
    assert differing(found, whole) <= NEAR_TIES * len(whole)


@pytest.mark.slow
def test_order_and_shards_leave_the_text_as_it_is(tiny_base, requests, whole):
    shuffled = sorted(requests, key=lambda r: hash((r.prompt_id, r.sample, "shuffled")))
    found = {}
    for start in range(0, len(shuffled), 401):  # engines of their own, as jobs have
        found |= texts(engine_of(tiny_base), shuffled[start : start + 401])
    assert found.keys() == whole.keys()
    assert differing(found, whole) <= NEAR_TIES * len(whole)


@pytest.mark.slow
def test_a_sample_drawn_alone_has_the_same_text(tiny_base, requests, whole):
    found = texts(engine_of(tiny_base, batch_size=1), requests[::20])
    assert differing(found, whole) <= 1


@pytest.mark.slow
def test_continuous_batching_draws_the_same_texts(tiny_base, requests, whole):
    """What a GPU gets, here on the CPU: each place is taken by another request when its response ends."""
    some = requests[::3]
    settings = Settings(tiny_base, [], "base", LIMITS, SEED, batch_size=16, device="cpu")
    found = texts(ContinuousBatches(settings), some)
    assert found.keys() == {(r.prompt_id, r.sample) for r in some}
    assert differing(found, whole) <= max(1, NEAR_TIES * len(found))


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


# A server


def served(url: str, base: Path, requests: list[Request], **changed) -> dict[Request, Sample]:
    settings = {"model": "base", "limits": Limits(0.7, 0.9, 12), "batch_size": 2} | changed
    engine = make_engine("openai", Settings(base, [], seed=SEED, base_url=url, **settings))
    return dict(engine.draw(requests))


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
from persuasion_rl.generation import respond_to_pool
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
    assert counts[torch.float32] <= NEAR_TIES * len(some) < counts[torch.bfloat16]
