"""What stops a training: the error is one line that says what to do, and no file is half-written."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from persuasion_rl.files import UserError, file_digest, read_json, write_json
from persuasion_rl.models.loading import load_base
from persuasion_rl.training.checkpoints import whole_checkpoints
from persuasion_rl.training.tokenize import tokenize
from tiny_trainings import ADAPTER, run_training, train_sft, training_words

pytestmark = pytest.mark.slow


def assert_refused(match: str, function, *arguments, **named) -> None:
    with pytest.raises(UserError, match=match) as error:
        function(*arguments, **named)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_eos_is_refused(tiny_rows, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_rows.base, base)
    config = read_json(base / "tokenizer_config.json")
    write_json(base / "tokenizer_config.json", config | {"eos_token": None})
    assert_refused("no EOS token", tokenize, rows=tiny_rows.sft_train, base=base, output=tmp_path / "t.parquet")  # fmt: skip
    assert not (tmp_path / "t.parquet").exists()
    assert_refused("no EOS token", train_sft, tiny_rows, tmp_path / "sft", base=base)


def test_a_base_with_code_of_its_own_is_named(tiny_rows, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_rows.base, base)
    config = read_json(base / "config.json")
    code = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    write_json(base / "config.json", config | {"auto_map": code, "model_type": "their-own"})
    marker = tmp_path / "ran"
    (base / "modeling.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    assert_refused("trust_remote_code: true", load_base, base, "cpu")
    assert not marker.exists()


def test_a_module_that_is_not_there_is_named(tiny_rows, tmp_path):
    wrong = ["q_proj", "query_key_value"]
    assert_refused(
        "no module 'query_key_value'", train_sft, tiny_rows, tmp_path, lora_target_modules=wrong
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("wrong, match", [({"device": "cuda"}, "no CUDA device is here"), ({"use_4bit": True}, "use_4bit: true needs a CUDA")])  # fmt: skip
def test_what_needs_cuda_says_so(wrong, match, tiny_rows, tmp_path):
    assert_refused(match, train_sft, tiny_rows, tmp_path, **wrong)


# Failures on the way


def run_sft(tiny_rows, folder: Path, **changed) -> subprocess.CompletedProcess:
    """An SFT as the workflow runs it."""
    return run_training(training_words("sft", tiny_rows, folder, **changed))


def last_line(run: subprocess.CompletedProcess) -> str:
    assert run.returncode == 1, run.stderr[-3000:]
    assert "Traceback" not in run.stderr, run.stderr[-3000:]
    return run.stderr.strip().splitlines()[-1]


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tiny_rows, tmp_path):
    run = run_sft(
        tiny_rows, tmp_path, learning_rate=1e30, max_grad_norm=1e30, max_steps=8, eval_steps=1, save_steps=1
    )  # fmt: skip
    assert "is not a number after step" in last_line(run)
    assert not (tmp_path / ADAPTER).exists()
    from safetensors.torch import load_file

    (checkpoints,) = (path for path in (tmp_path / "state").iterdir() if path.is_dir())
    for checkpoint in whole_checkpoints(checkpoints):
        for tensor in load_file(checkpoint / ADAPTER).values():
            assert torch.isfinite(tensor).all()


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tiny_rows, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        run = run_sft(tiny_rows, small, max_steps=4, eval_steps=1, save_steps=1)
        assert "most likely because the disk is full" in last_line(run)
        assert not (small / ADAPTER).exists()
        for checkpoints in (small / "state").iterdir():
            for checkpoint in whole_checkpoints(checkpoints):
                assert json.loads((checkpoint / "trainer_state.json").read_text())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_batch_that_fits_is_found_and_the_update_stays_as_it_is(tiny_rows, tmp_path):
    """The recipe leaves the batch size open."""
    free = run_sft(tiny_rows, tmp_path / "free", per_device_train_batch_size=None)
    assert free.returncode == 0, free.stderr[-3000:]
    assert "8 rows, 8 at once x 1 x 1 process(es)" in free.stderr
    recipe = read_json(tmp_path / "free" / "recipe.json")
    assert recipe["batches"]["rows"] == 8
    assert recipe["adapter_digest"] == file_digest(tmp_path / "free" / ADAPTER)


def test_memory_that_ends_in_a_training_says_what_to_set(tmp_path):
    from types import SimpleNamespace

    from persuasion_rl.training.trainer import train_or_say_why

    def train(resume_from_checkpoint):
        torch.empty(2**50)  # torch's own refusal

    trainer = SimpleNamespace(train=train, args=SimpleNamespace(per_device_train_batch_size=8))
    assert_refused("set per_device_train_batch_size to 4", train_or_say_why, trainer, None)
