"""An update has as many rows as the recipe says, whatever a device takes at once."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.files import UserError, read_json
from persuasion_rl.training import batches as batching
from persuasion_rl.training.batches import candidate_rows, fitting_batches
from running import ROOT
from tiny_trainings import ADAPTER, train_sft, weights

CHILD = """
import resource, sys
import torch
from pathlib import Path
from transformers import Qwen2Config, Qwen2ForCausalLM
from persuasion_rl.training import trainer as training
from persuasion_rl.training.batches import fitting_batches
from persuasion_rl.training.unpadding import compute_without_padding

torch.set_num_threads(1)
model = Qwen2ForCausalLM(Qwen2Config(
    vocab_size=500, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=1024,
))
compute_without_padding(model)
lora = {"lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": ["q_proj"], "use_4bit": False}
model = training.add_lora(model, lora, task_type="CAUSAL_LM")
rows = lambda n: [[1 + i % 400 for i in range(512)]] * n
training.try_step(model, rows(1), "cpu", False)
resident = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
room = int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (resident + room, resource.RLIM_INFINITY))
batches = fitting_batches(
    lambda n, checkpointing: training.try_step(model, rows(n), "cpu", checkpointing),
    effective=24, per_device_rows=None, gradient_checkpointing=False, device="cpu", remembered=Path(sys.argv[2]),
)
print(batches.rows, batches.accumulation, batches.gradient_checkpointing)
"""


@given(st.integers(1, 256), st.integers(1, 8), st.integers(1, 64))
def test_an_updates_share_divides_by_what_a_device_takes(effective, processes, at_most):
    if effective % processes:
        with pytest.raises(UserError, match=f"{effective} is not a multiple of the {processes}"):
            candidate_rows(effective, processes, at_most)
        return
    candidates = candidate_rows(effective, processes, at_most)
    assert candidates == sorted(candidates, reverse=True) and candidates[-1] == 1
    for rows in range(1, effective + 1):
        fits = rows <= at_most and (effective // processes) % rows == 0
        assert (rows in candidates) == fits


def batches(tmp_path, attempt=None, **changed):
    defaults = dict(
        effective=64,
        per_device_rows=None,
        gradient_checkpointing=False,
        device="cpu",
        remembered=tmp_path / "batches.json",
    )
    return fitting_batches(attempt or fails_above(10**9), **(defaults | changed))


def fails_above(limit: int, checkpointed: int = 10**9):
    """A step that runs out of memory above a number of rows."""

    def attempt(rows: int, checkpointing: bool) -> None:
        if rows > (checkpointed if checkpointing else limit):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    return attempt


@pytest.mark.slow
def test_what_the_recipe_says_is_the_most_and_less_where_it_does_not_fit(tmp_path, capsys):
    of_recipe = batches(tmp_path, per_device_rows=12)
    assert (of_recipe.rows, of_recipe.accumulation) == (8, 8)
    assert "do not fit" not in capsys.readouterr().err
    reduced = batches(
        tmp_path, fails_above(3), per_device_rows=12, remembered=tmp_path / "other.json"
    )
    assert (reduced.rows, reduced.accumulation) == (2, 32)
    assert "per_device_train_batch_size: 12 do not fit, 2 are taken" in capsys.readouterr().err


@pytest.mark.slow
def test_what_was_found_is_kept_for_a_training_that_goes_on(tmp_path):
    assert batches(tmp_path, fails_above(5)).rows == 4
    assert batches(tmp_path, fails_above(0)).rows == 4  # tries nothing
    assert read_json(tmp_path / "batches.json")["rows"] == 4


@pytest.mark.slow
def test_gradients_are_checkpointed_only_where_not_one_row_fits(tmp_path):
    assert batches(tmp_path, fails_above(1)).gradient_checkpointing is False
    checkpointed = batches(tmp_path, fails_above(0, 2), remembered=tmp_path / "other.json")
    assert (checkpointed.rows, checkpointed.gradient_checkpointing) == (2, True)
    with pytest.raises(UserError, match="not one row fits, even .*, or end other programs"):
        batches(tmp_path, fails_above(0, 0), remembered=tmp_path / "third.json")


@pytest.mark.slow
def test_another_error_is_not_taken_for_want_of_memory(tmp_path):
    def broken(rows, checkpointing):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        batches(tmp_path, broken)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_a_real_memory_limit_is_found(tmp_path):
    """The same step, in a process with a limit on its memory."""

    def with_room(megabytes: int) -> list[str]:
        words = [sys.executable, "-c", CHILD, megabytes, tmp_path / f"{megabytes}.json"]
        run = subprocess.run(
            list(map(str, words)),
            env={"PYTHONPATH": str(ROOT / "workflow"), "MALLOC_ARENA_MAX": "1"},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        return run.stdout.split()

    assert with_room(4000) == ["8", "3", "False"]
    rows, accumulation, _ = with_room(250)
    assert int(rows) < 8 and int(rows) * int(accumulation) == 24


@pytest.mark.slow
def test_a_training_on_a_machine_with_little_memory_takes_fewer_rows_and_learns_the_same(
    tiny_rows, tmp_path, monkeypatch, capsys
):
    """The effective batch stays, so that weights differ by the order of sums alone; what was found is recorded."""
    adapters = {}
    for room in (10_000, 7):
        monkeypatch.setattr(batching, "free_memory", lambda room=room: room * 1e6)
        folder = tmp_path / str(room)
        train_sft(tiny_rows, folder, lora_dropout=0.0)
        adapters[room] = weights(folder / ADAPTER)
    assert "per_device_train_batch_size: 4 do not fit" in capsys.readouterr().err
    found = [read_json(tmp_path / str(room) / "recipe.json")["batches"] for room in adapters]
    assert found[0]["rows"] == 4 and found[0]["accumulation"] == 2
    assert found[1]["rows"] < 4 and found[1]["rows"] * found[1]["accumulation"] == 8
    for name, tensor in adapters[10_000].items():
        torch.testing.assert_close(adapters[7][name], tensor, rtol=1e-2, atol=1e-4)
