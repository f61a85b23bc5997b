"""Samples survive a killed job, and their name covers all that they depend on."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from forks import Fork
from persuasion_rl.files import write_jsonl
from persuasion_rl.sampling.engine import Engine
from persuasion_rl.sampling.request import STOPPED, Limits, Request, Sample
from persuasion_rl.sampling.store import SampleStore
from running import WORKFLOW
from tiny_models import SEED, engine_of, pool_rows, short_requests


class Counting(Engine):
    """Counts the requests to the engine that it wraps."""

    name = "transformers"

    def __init__(self, engine: Engine):
        super().__init__(engine.settings)
        self.engine, self.requested = engine, 0

    @property
    def reproducible(self):
        return self.engine.reproducible

    def sample(self, requests):
        self.requested += len(requests)
        return self.engine.sample(requests)


def test_only_what_is_missing_is_drawn(troubled_base, tmp_path, said):
    requests = short_requests(40)
    first = Counting(engine_of(troubled_base, batch_size=8))
    stopped = SampleStore(tmp_path, first).sample(requests)
    some = dict(next(stopped) for _ in range(20))
    stopped.close()  # as a job that ends in the middle of its shard
    again = Counting(engine_of(troubled_base, batch_size=8))
    del said[:]
    samples = dict(SampleStore(tmp_path, again).sample(requests))
    assert again.requested == 20
    assert any(line.startswith("sampling: 20 of 20 samples, ") for line in said)
    assert samples == dict(engine_of(troubled_base).sample(requests))
    assert all(samples[request] == sample for request, sample in some.items())
    complete = Counting(engine_of(troubled_base))
    assert dict(SampleStore(tmp_path, complete).sample(requests[5:15])) == {
        request: samples[request] for request in requests[5:15]
    }
    assert complete.requested == 0


@pytest.mark.parametrize("changed", ["seed", "limits", "prompt", "attempt"])
def test_what_a_sample_depends_on_is_part_of_its_name(changed, troubled_base, tmp_path):
    limits = Limits(1.0, 1.0, 4)
    list(SampleStore(tmp_path, engine_of(troubled_base, limits)).sample(short_requests(5)))
    seed = SEED + 1 if changed == "seed" else SEED
    limits = Limits(0.9, 1.0, 4) if changed == "limits" else limits
    engine = Counting(engine_of(troubled_base, limits, seed))
    requests = [
        Request(r.prompt_id, r.prompt + "?" * (changed == "prompt"), 1, int(changed == "attempt"))
        for r in short_requests(5)
    ]
    list(SampleStore(tmp_path, engine).sample(requests))
    assert engine.requested == 5


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)  # fmt: skip
def test_a_file_of_the_base_model_that_changed_is_another_model(name, troubled_base, tmp_path):
    base = Path(shutil.copytree(troubled_base, tmp_path / "base"))
    list(SampleStore(tmp_path / "state", engine_of(base)).sample(short_requests(5)))
    engine = Counting(engine_of(base))
    samples = dict(SampleStore(tmp_path / "state", engine).sample(short_requests(5)))
    assert engine.requested == 0
    with (base / name).open("a") as file:
        file.write("\n")
    engine = Counting(engine_of(base))
    assert dict(SampleStore(tmp_path / "state", engine).sample(short_requests(5))) == samples
    assert engine.requested == 5


def test_samples_of_half_precision_are_not_taken_for_reproducible_ones(
    troubled_base, tmp_path, monkeypatch
):
    """A study that began on a GPU goes on without one."""
    requests = short_requests(5)
    on_gpu = engine_of(troubled_base)
    with monkeypatch.context() as gpu:
        gpu.setattr("persuasion_rl.sampling.local.pick_device", lambda device: "cuda")
        assert not on_gpu.reproducible
        store = SampleStore(tmp_path, on_gpu)
    on_gpu.sample = lambda requests: ((r, Sample("of a GPU", 2, STOPPED)) for r in requests)
    list(store.sample(requests))
    on_cpu = Counting(engine_of(troubled_base))
    samples = dict(SampleStore(tmp_path, on_cpu).sample(requests))
    assert on_cpu.requested == 5
    assert samples == dict(engine_of(troubled_base).sample(requests))


def test_a_line_that_a_kill_cut_off_is_drawn_again(troubled_base, tmp_path):
    requests = short_requests(10)
    samples = dict(SampleStore(tmp_path, engine_of(troubled_base)).sample(requests))
    (file,) = tmp_path.rglob("*.jsonl")
    content = file.read_bytes()
    for cut in (1, 5, 30):
        file.write_bytes(content[:-cut])
        engine = Counting(engine_of(troubled_base))
        assert dict(SampleStore(tmp_path, engine).sample(requests)) == samples
        assert engine.requested == 1
        for other in set(tmp_path.rglob("*.jsonl")) - {file}:
            other.unlink()


@pytest.mark.parametrize(
    "broken", [b"\0" * 9, b"5", b"null", b"{}", b'["key"]', b'["key", "text", "1", "stop"]', b'[[], "text", 1, "stop"]', b'["\xff"]']
)  # fmt: skip
def test_a_broken_line_is_a_sample_that_was_not_kept(troubled_base, tmp_path, capsys, broken):
    requests = short_requests(10)
    samples = dict(SampleStore(tmp_path, engine_of(troubled_base)).sample(requests))
    (file,) = tmp_path.rglob("*.jsonl")
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"".join(line + b"\n" for line in [*lines[:3], broken, *lines[4:7], broken]))
    file.with_name("folder.jsonl").mkdir()
    engine = Counting(engine_of(troubled_base))
    assert dict(SampleStore(tmp_path, engine).sample(requests)) == samples
    assert engine.requested == 4
    warnings = [line for line in capsys.readouterr().err.splitlines() if "broken" in line]
    assert warnings == [f"{file}: 2 broken line(s), whose samples are drawn again"]


@pytest.mark.slow
def test_a_killed_shard_goes_on_where_it_was(tiny_base, requests, tmp_path):
    """SIGKILL three times; in the end the same file as without, and nothing kept was sampled again."""
    prompts = list(dict.fromkeys(request.prompt for request in requests))
    write_jsonl(tmp_path / "prompts.jsonl", pool_rows(prompts))
    limits = "--temperature 0.9 --top_p 0.95 --max_new_tokens 40 --batch_size 4 --device cpu"
    shard = "--model base --seed 1 --start 0 --rows 1000 --responses 2 --redraws 1"

    def run(name: str) -> Fork:
        words = [
            "persuasion_rl.sampling.generate_responses",
            *("--base", tiny_base, "--prompts", tmp_path / "prompts.jsonl"),
            *("--output", tmp_path / f"{name}.jsonl", "--state", tmp_path / name),
            *("--threads", 1, *limits.split(), *shard.split()),
        ]
        variables = os.environ | {"PYTHONPATH": str(WORKFLOW)}
        with (tmp_path / "log.txt").open("w") as log:
            return Fork([*map(str, words)], variables, log, log, tmp_path)

    def stored_lines() -> list[list]:
        files = sorted((tmp_path / "killed").rglob("*.jsonl"))
        texts = [file.read_text() for file in files]
        return [
            json.loads(line) for text in texts for line in text.splitlines(True) if "\n" in line
        ]

    assert run("undisturbed").wait(300) == 0
    for kill in range(1, 4):
        process, before = run("killed"), len(stored_lines())
        while len(stored_lines()) < before + 20 * kill:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert not (tmp_path / "killed.jsonl").exists()
    assert run("killed").wait(300) == 0
    assert (tmp_path / "killed.jsonl").read_text() == (tmp_path / "undisturbed.jsonl").read_text()
    keys = [line[0] for line in stored_lines()]
    assert len(keys) == len(set(keys)) >= 2 * len(prompts)
