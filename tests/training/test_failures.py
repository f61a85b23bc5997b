"""What stops a training, and what it says: one line that tells what to do, and nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_training import (
    ADAPTER,
    COMMON,
    SEED,
    SFT,
    dpo_trainer,
    files,  # noqa: F401
    sft,  # noqa: F401
    tiny_base,  # noqa: F401
    tokenizer,  # noqa: F401
    train_dpo,
    train_sft,
    with_adapter,
)

from persuasion_rl.files import UserError, file_digest, read_json, write_json
from persuasion_rl.models.loading import check_lineage, load_base, load_tokenizer
from persuasion_rl.study.config import flags
from persuasion_rl.training.checkpoints import whole_checkpoints
from persuasion_rl.training.tokenize import Tokens, tokenize
from running import ROOT

pytestmark = pytest.mark.slow


def refused(match: str, function, *arguments, **named) -> None:
    with pytest.raises(UserError, match=match) as refusal:
        function(*arguments, **named)
    assert "\n" not in str(refusal.value)


# What a batch teaches


def test_a_collator_that_rebuilds_labels_is_caught(files, tokenizer, tmp_path):  # noqa: F811
    """transformers' collator for language models makes labels of its own and throws a prompt mask away."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    from persuasion_rl.training.sft import assert_batch, labelled

    tokens = Tokens.read(files.tokens(files.sft_train))
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to=[], per_device_train_batch_size=4, seed=SEED
    )

    rows = labelled(tokens)

    def trainer(collator, rows):
        return Trainer(load_base(files.base, "cpu"), arguments, collator, train_dataset=rows)

    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as TrlCollator

    assert_batch(trainer(TrlCollator(tokenizer.pad_token_id), rows), tokenizer, tokens)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    rebuilt = trainer(collator, rows.remove_columns("labels"))
    with pytest.raises(AssertionError, match="does not supervise exactly a response"):
        assert_batch(rebuilt, tokenizer, tokens)


def test_a_tokenizer_without_eos_is_refused(files, tmp_path):  # noqa: F811
    base = tmp_path / "base"
    shutil.copytree(files.base, base)
    config = read_json(base / "tokenizer_config.json")
    write_json(base / "tokenizer_config.json", config | {"eos_token": None})
    refused("no EOS token", tokenize, rows=files.sft_train, base=base, output=tmp_path / "t.parquet")  # fmt: skip
    assert not (tmp_path / "t.parquet").exists()
    refused("no EOS token", train_sft, files, tmp_path / "sft", base=base)


def test_a_stranger_among_the_trainable_parameters_is_caught(files, sft):  # noqa: F811
    from persuasion_rl.training.trainer import assert_trainable

    model = with_adapter(files.base, sft, is_trainable=True)
    assert_trainable(model)
    norm = model.get_base_model().model.norm.weight
    norm.requires_grad = True
    with pytest.raises(AssertionError, match="norm.weight trains, and is not part of the adapter"):
        assert_trainable(model)
    norm.requires_grad = False
    frozen = next(p for name, p in model.named_parameters() if "lora_A" in name)
    frozen.requires_grad = False
    with pytest.raises(AssertionError, match="parameters train, and an adapter of rank 4"):
        assert_trainable(model)


def test_another_effective_batch_is_caught(files, sft, tokenizer, tmp_path):  # noqa: F811
    from persuasion_rl.training.trainer import assert_effective_batch

    trainer = dpo_trainer(
        files,
        sft,
        tokenizer,
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
    )
    assert_effective_batch(trainer, 6)
    with pytest.raises(AssertionError, match="an update would have 6 rows"):
        assert_effective_batch(trainer, 8)


# Lineage


def test_a_dpo_whose_parent_was_dropped_is_caught(files, sft, tokenizer, tmp_path):  # noqa: F811
    """As where a new adapter is put on a merged parent, and the base is taken for the reference."""
    from persuasion_rl.training.dpo import assert_start

    trainer = dpo_trainer(files, sft, tokenizer, tmp_path, per_device_train_batch_size=4)
    assert_start(trainer, 0.1)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if ".lora_B.ref." in name:
                parameter.zero_()
    with pytest.raises(AssertionError, match="does not start from its reference"):
        assert_start(trainer, 0.1)


def test_an_adapter_on_the_wrong_parent_is_refused(files, sft, tmp_path):  # noqa: F811
    train_dpo(files, tmp_path / "rlaif", sft)
    other = tmp_path / "other"
    train_sft(files, other, seed=2)
    chain = [other / ADAPTER, tmp_path / "rlaif" / ADAPTER]
    refused("its parent sft has changed", check_lineage, files.base, chain)
    refused("its parent sft has changed", train_dpo, files, tmp_path / "next", chain[1])
    # Trained again with another result, in its place.
    shutil.copytree(sft.parent, tmp_path / "sft", ignore=shutil.ignore_patterns("state"))
    for name in (ADAPTER, "recipe.json", "adapter_config.json"):
        shutil.copyfile(other / name, tmp_path / "sft" / name)
    chain[0] = tmp_path / "sft" / ADAPTER
    refused("trained from the parent that is there|has changed", check_lineage, files.base, chain)


# Models of other kinds


def changed_base(files, folder: Path, change) -> Path:  # noqa: F811
    """The base model, saved again after a change to its model and tokenizer."""
    model, tokens = load_base(files.base, "cpu"), load_tokenizer(files.base)
    model, tokens = change(model, tokens)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def test_a_base_without_a_pad_token_trains(files, tmp_path):  # noqa: F811
    def drop(model, tokens):
        tokens.pad_token = None
        model.config.pad_token_id = None
        model.generation_config.pad_token_id = None
        return model, tokens

    base = changed_base(files, tmp_path / "base", drop)
    assert read_json(base / "tokenizer_config.json").get("pad_token") is None
    metrics = train_sft(files, tmp_path / "sft", base=base)
    assert metrics["eval_loss"] < metrics["eval_loss_before"]
    check_lineage(base, [tmp_path / "sft" / ADAPTER])


@pytest.mark.parametrize("tied", [True, False])
def test_bases_with_tied_and_untied_heads_train_alike(tied, files, tmp_path):  # noqa: F811
    def untie(model, tokens):
        from transformers import Qwen2Config, Qwen2ForCausalLM

        config = Qwen2Config(**model.config.to_dict() | {"tie_word_embeddings": tied})
        other = Qwen2ForCausalLM(config)
        state = dict(model.state_dict())
        other.load_state_dict(
            state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}
        )
        return other, tokens

    base = changed_base(files, tmp_path / "base", untie)
    metrics = train_sft(files, tmp_path / "sft", base=base)
    expected = train_sft(files, tmp_path / "usual")
    assert metrics["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-4)


def test_a_base_with_code_of_its_own_is_named(files, tmp_path):  # noqa: F811
    base = tmp_path / "base"
    shutil.copytree(files.base, base)
    config = read_json(base / "config.json")
    code = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    write_json(base / "config.json", config | {"auto_map": code, "model_type": "their-own"})
    ran = tmp_path / "ran"
    (base / "modeling.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    refused("trust_remote_code: true", load_base, base, "cpu")
    assert not ran.exists()


def test_a_module_that_is_not_there_is_named(files, tmp_path):  # noqa: F811
    wrong = ["q_proj", "query_key_value"]
    refused("no module 'query_key_value'", train_sft, files, tmp_path, lora_target_modules=wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("wrong, match", [({"device": "cuda"}, "no CUDA device is here"), ({"use_4bit": True}, "use_4bit: true needs a CUDA")])  # fmt: skip
def test_what_needs_cuda_says_so(wrong, match, files, tmp_path):  # noqa: F811
    refused(match, train_sft, files, tmp_path, **wrong)


# Failures on the way


def start(files, folder: Path, *wrapper: str, **changed) -> subprocess.CompletedProcess:  # noqa: F811
    """An SFT as the workflow runs it."""
    words = ["--base", files.base, "--adapter", folder / ADAPTER, "--state", folder / "state"]
    for part in ("train", "val"):
        words += [f"--{part}", files.tokens(getattr(files, f"sft_{part}"))]
    recipe = {key: value for key, value in (SFT | changed).items() if value is not None}
    words += flags(COMMON | recipe).split()
    return subprocess.run(
        [*wrapper, sys.executable, "-m", "persuasion_rl.training.sft", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
        capture_output=True,
        text=True,
        timeout=200,
    )


def last_line(run: subprocess.CompletedProcess) -> str:
    assert run.returncode == 1, run.stderr[-3000:]
    assert "Traceback" not in run.stderr, run.stderr[-3000:]
    return run.stderr.strip().splitlines()[-1]


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(files, tmp_path):  # noqa: F811
    ran = start(
        files, tmp_path, learning_rate=1e30, max_grad_norm=1e30, max_steps=8, eval_steps=1, save_steps=1
    )  # fmt: skip
    assert "is not a number after step" in last_line(ran)
    assert not (tmp_path / ADAPTER).exists()
    (state,) = (tmp_path / "state").iterdir()
    from safetensors.torch import load_file

    for checkpoint in whole_checkpoints(state):
        for tensor in load_file(checkpoint / ADAPTER).values():
            assert torch.isfinite(tensor).all()


def test_a_full_disk_is_named_and_leaves_nothing_half_written(files, tmp_path):  # noqa: F811
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        ran = start(files, small, max_steps=4, eval_steps=1, save_steps=1)
        assert "most likely because the disk is full" in last_line(ran)
        assert not (small / ADAPTER).exists()
        for state in (small / "state").iterdir():
            for checkpoint in whole_checkpoints(state):
                assert json.loads((checkpoint / "trainer_state.json").read_text())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_batch_that_fits_is_found_and_the_update_stays_as_it_is(files, tmp_path):  # noqa: F811
    """With less memory than the batch takes that the recipe leaves open."""
    free = start(files, tmp_path / "free", per_device_train_batch_size=None)
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
    refused("set per_device_train_batch_size to 4", train_or_say_why, trainer, None)
