"""Supervised fine-tuning with the real libraries, on a tiny stand-in model."""

import importlib.metadata
from pathlib import Path

import pytest
import torch

from persuasion_rl.files import UserError, file_digest, read_json, read_jsonl, write_jsonl
from persuasion_rl.models.lineage import base_digest, check_lineage
from persuasion_rl.models.loading import load_base, load_tokenizer
from persuasion_rl.records import HistoryRow, read_rows
from persuasion_rl.runtime.lock import LOCK
from tiny_trainings import (
    ADAPTER,
    SEED,
    SFT,
    SFT_STEPS,
    log_probability,
    state_files,
    train_sft,
    weights,
    with_adapter,
)


@pytest.mark.slow
def test_sft_writes_its_files_with_the_right_digests(tiny_sft, tiny_rows):
    folder = tiny_sft.parent
    recipe = read_json(folder / "recipe.json")
    assert recipe["parent"] == "base"
    assert recipe["parent_digest"] == recipe["base_digest"] == base_digest(tiny_rows.base)
    assert (
        recipe["adapter_digest"]
        == file_digest(tiny_sft)
        == check_lineage(tiny_rows.base, [tiny_sft])
    )
    assert recipe["data"] == {
        "train": file_digest(tiny_rows.sft_train),
        "val": file_digest(tiny_rows.sft_val),
    }
    assert recipe["recipe"] == SFT
    assert (
        recipe["resolved"]["weight_decay"] == 0.0
    )  # trl's default, which the recipe does not name
    assert recipe["resolved"]["lr_scheduler_type"] == "constant"
    assert recipe["precision"] == "float32" and recipe["batches"]["processes"] == 1
    assert recipe["seed"] == SEED
    assert recipe["packages"]["torch"] == importlib.metadata.version("torch")
    config = read_json(folder / "adapter_config.json")
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 16, 0.1)
    history = list(read_rows(folder / "history.jsonl", HistoryRow))
    assert [row["step"] for row in history if "loss" in row] == list(range(1, SFT_STEPS + 1))


@pytest.mark.slow
def test_sft_lowers_the_validation_loss(tiny_sft):
    metrics = read_json(tiny_sft.parent / "metrics.json")
    assert metrics["method"] == "sft"
    assert metrics["steps"] == SFT_STEPS
    assert metrics["eval_loss"] < metrics["eval_loss_before"] - 0.02
    assert metrics["train_rows"] == 24


@pytest.mark.slow
def test_the_recorded_losses_are_those_of_base_and_saved_adapter(
    tiny_sft, tiny_rows, tiny_tokenizer
):
    metrics = read_json(tiny_sft.parent / "metrics.json")
    rows = list(read_jsonl(tiny_rows.sft_val))
    assert metrics["val_rows"] == len(rows) <= 64  # one batch: its mean is a mean over tokens
    tokens = sum(
        len(ids) + 1 for ids in tiny_tokenizer([row["response"] for row in rows])["input_ids"]
    )
    for name, model in (
        ("eval_loss_before", load_base(tiny_rows.base, "cpu").eval()),
        ("eval_loss", with_adapter(tiny_rows.base, tiny_sft).eval()),
    ):
        total = sum(
            log_probability(model, tiny_tokenizer, row["input_text"], row["response"])
            for row in rows
        )
        assert abs(metrics[name] - -total / tokens) < 1e-4, name


@pytest.mark.slow
def test_sft_saves_lora_parameters_only(tiny_sft):
    saved = weights(tiny_sft)
    assert saved and all(".lora_A." in name or ".lora_B." in name for name in saved)
    count = sum(tensor.numel() for tensor in saved.values())
    assert count == read_json(tiny_sft.parent / "metrics.json")["trainable_parameters"]
    assert any(tensor.any() for name, tensor in saved.items() if ".lora_B." in name)


@pytest.mark.slow
def test_no_checkpoint_is_left_after_a_training(tiny_sft):
    assert state_files(tiny_sft.parent) == [LOCK]
    files = {path.name for path in tiny_sft.parent.iterdir()} - {"state"}
    records = {"metrics.json", "history.jsonl", "recipe.json"}
    assert files == {ADAPTER, "adapter_config.json"} | records


@pytest.mark.slow
def test_the_same_seed_gives_the_same_adapter_to_the_byte(tiny_sft, tiny_rows, tmp_path):
    train_sft(tiny_rows, tmp_path)
    assert (tmp_path / ADAPTER).read_bytes() == tiny_sft.read_bytes()
    assert (tmp_path / "recipe.json").read_bytes() == (tiny_sft.parent / "recipe.json").read_bytes()


@pytest.mark.slow
def test_an_empty_response_is_named_by_file_and_line(tiny_rows, tmp_path):
    rows = list(read_jsonl(tiny_rows.sft_train))
    rows[2]["response"] = " \n"
    train = tmp_path / "train.jsonl"
    write_jsonl(train, rows)
    with pytest.raises(UserError, match=r"train\.jsonl, line 3: .*empty") as error:
        train_sft(tiny_rows, tmp_path, train=train)
    assert "\n" not in str(error.value)
    assert not (tmp_path / ADAPTER).exists()


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["part of the prompt", "half of the response"])
def test_responses_cut_by_max_length_stop_the_training(keep, tiny_rows, tiny_tokenizer, tmp_path):
    row = next(iter(read_jsonl(tiny_rows.sft_train)))
    train = tmp_path / "train.jsonl"
    write_jsonl(train, [row] * 8)
    prompt, response = (
        len(tiny_tokenizer(row[key])["input_ids"]) for key in ("input_text", "response")
    )
    max_length = 16 if keep == "part of the prompt" else prompt + response // 2
    with pytest.raises(UserError, match="more than the recipe's max_length"):
        train_sft(tiny_rows, tmp_path, train=train, max_length=max_length)
    assert not (tmp_path / ADAPTER).exists()


@pytest.mark.slow
@pytest.mark.parametrize("longer", ["response", "input_text"])
def test_one_row_over_max_length_stops_the_training(longer, tiny_rows, tiny_tokenizer, tmp_path):
    """Else trl cuts a long response, and silently drops the row of a long prompt."""
    rows = list(read_jsonl(tiny_rows.sft_train))
    lengths = [
        sum(len(tiny_tokenizer(row[key])["input_ids"]) for key in ("input_text", "response"))
        for row in rows
    ]
    train = tmp_path / "train.jsonl"
    write_jsonl(train, [*rows, rows[0] | {longer: " ".join([rows[0][longer]] * 9)}])
    with pytest.raises(UserError, match="more than the recipe's max_length"):
        train_sft(tiny_rows, tmp_path, train=train, max_length=max(lengths) + 1)


@pytest.mark.slow
def test_sft_goes_on_from_a_parents_adapter(tiny_sft, tiny_rows, tmp_path):
    metrics = train_sft(tiny_rows, tmp_path, lineage=[tiny_sft], parent="sft", learning_rate=1e-12)
    before = read_json(tiny_sft.parent / "metrics.json")["eval_loss"]
    assert abs(metrics["eval_loss_before"] - before) < 1e-5
    child = weights(tmp_path / ADAPTER)
    for name, tensor in weights(tiny_sft).items():
        torch.testing.assert_close(child[name], tensor, rtol=0, atol=1e-7)
    check_lineage(tiny_rows.base, [tiny_sft, tmp_path / ADAPTER])


def changed_base(tiny_rows, folder: Path, change) -> Path:
    """Save the base model after a change to its model and tokenizer."""
    model, tokenizer = change(load_base(tiny_rows.base, "cpu"), load_tokenizer(tiny_rows.base))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_base_without_a_pad_token_trains(tiny_rows, tmp_path):
    def drop(model, tokenizer):
        tokenizer.pad_token = None
        model.config.pad_token_id = None
        model.generation_config.pad_token_id = None
        return model, tokenizer

    base = changed_base(tiny_rows, tmp_path / "base", drop)
    assert read_json(base / "tokenizer_config.json").get("pad_token") is None
    metrics = train_sft(tiny_rows, tmp_path / "sft", base=base)
    assert metrics["eval_loss"] < metrics["eval_loss_before"]
    check_lineage(base, [tmp_path / "sft" / ADAPTER])


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_bases_with_tied_and_untied_heads_train_alike(tied, tiny_rows, tiny_sft, tmp_path):
    def untie(model, tokenizer):
        from transformers import Qwen2Config, Qwen2ForCausalLM

        config = Qwen2Config(**model.config.to_dict() | {"tie_word_embeddings": tied})
        other = Qwen2ForCausalLM(config)
        state = dict(model.state_dict())
        other.load_state_dict(
            state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}
        )
        return other, tokenizer

    base = changed_base(tiny_rows, tmp_path / "base", untie)
    metrics = train_sft(tiny_rows, tmp_path / "sft", base=base)
    expected = read_json(tiny_sft.parent / "metrics.json")
    assert metrics["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-4)
