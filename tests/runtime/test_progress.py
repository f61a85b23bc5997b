"""How far a job is: lines that come often enough, and say how fast it is and what is left."""

import re
from types import SimpleNamespace

import pytest

from persuasion_rl.models.following import follow
from persuasion_rl.runtime import progress
from persuasion_rl.runtime.progress import EVERY_S, Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.s)
    return now


def test_a_line_says_what_is_done_how_fast_and_what_is_left(clock, capsys):
    job = Progress("sampling", 50, "samples", total_tokens=4_000)
    job.add()
    for _ in range(40):  # no sample ends, and tokens come
        clock.s += 1
        job.add(tokens=25)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 40 // EVERY_S
    assert lines[-1] == "sampling: 0 of 50 samples, 1,000 tokens, 25 a second, about 2 min left"


def test_without_tokens_the_time_goes_by_units_and_without_a_total_it_is_not_guessed(clock, capsys):
    for total in (100, None):
        job = Progress("rows", total)
        job.add()
        clock.s += 10
        job.add(done=20)
    known, unknown = capsys.readouterr().err.splitlines()
    assert known == "rows: 20 of 100 rows, about 40 s left" and unknown == "rows: 20 rows"


def test_a_short_job_says_nothing(clock, capsys):
    job = Progress("rows", 3)
    for _ in range(3):
        clock.s += 1
        job.add(done=1)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_tokens_are_counted_layer_by_layer_once_forward_and_back(checkpointing):
    """And no gradient is another for it."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    config = Qwen2Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=100, use_cache=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.arange(24).view(2, 12)

    def gradients():
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    before = gradients()
    reading, training = Progress("reading"), Progress("training")
    seen = []
    training_add = training.add

    def add(**counts):
        training_add(**counts)
        seen.append(training.tokens)

    training.add = add
    follow(model, reading, training)
    assert all(map(torch.equal, before, gradients()))
    assert training.tokens == pytest.approx(24) and len(seen) >= 8
    assert reading.tokens == 0
    with torch.no_grad():
        model.eval()(input_ids=ids)
    assert reading.tokens == pytest.approx(24)


@pytest.mark.slow
def test_a_training_and_a_sampling_say_how_far_they_are(
    tiny_rows, tiny_sft, tmp_path, monkeypatch, capsys
):
    """With lines for every layer: the tokens of a training add up to those that it has."""
    from persuasion_rl.sampling.engine import SamplingSettings
    from persuasion_rl.sampling.responses import sample_responses
    from tiny_trainings import train_sft

    monkeypatch.setattr(progress, "EVERY_S", 0)
    train_sft(tiny_rows, tmp_path / "sft")
    lines = capsys.readouterr().err
    training = re.findall(r"training: ([\d,]+) tokens, [\d,]+ a second, about (\d+) s left", lines)
    assert len(training) > 20 and training[-1][1] in ("0", "1")
    assert re.search(r"reading: [\d,]+ tokens, [\d,]+ a second", lines)
    settings = SamplingSettings(
        model="sft", temperature=0.7, top_p=0.9, max_new_tokens=8, seed=1, base=tiny_rows.base,
        lineage=[tiny_sft], device="cpu",
    )  # fmt: skip
    sample_responses(settings, tmp_path / "state", {"p1": "Claim: one", "p2": "Claim: two"})
    lines = capsys.readouterr().err
    assert re.search(
        r"sampling: 0 of 2 samples, [\d,]+ tokens, [\d,]+ a second, about \d+ s left", lines
    )
