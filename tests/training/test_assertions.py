"""Checks before the first update: the supervised tokens, the trainable parameters, and the start."""

import pytest
import torch

from persuasion_rl.models.loading import load_base
from persuasion_rl.training.assertions import (
    assert_batch,
    assert_effective_batch,
    assert_supervised,
    assert_trainable,
    supervised_spans,
)
from persuasion_rl.training.dpo import assert_start
from persuasion_rl.training.sft import labelled_dataset
from persuasion_rl.training.tokenize import Tokens
from tiny_trainings import SEED, dpo_trainer, with_adapter

RESPONSES = ["Buses save time.", "I see your point."]


@pytest.fixture
def spans(tiny_tokenizer) -> list[tuple[int, ...]]:
    """The two responses, each with its EOS."""
    return [(*ids, tiny_tokenizer.eos_token_id) for ids in tiny_tokenizer(RESPONSES)["input_ids"]]


@pytest.mark.slow
def test_whole_responses_with_their_eos_are_accepted(spans, tiny_tokenizer, capsys):
    assert_supervised(spans, tiny_tokenizer, spans)
    assert "2 supervised spans" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a prompt token too", "no EOS", "cut", "begun late", "nothing"])
def test_wrong_supervision_stops_the_training(what, spans, tiny_tokenizer):
    first, second = spans
    prompt_token = tiny_tokenizer("\n")["input_ids"][-1]
    wrong = {
        "a prompt token too": [first, (prompt_token, *second)],
        "no EOS": [first, second[:-1]],
        "cut": [first, (*second[:-3], second[-1])],
        "begun late": [first, second[1:]],
        "nothing": [],
    }[what]
    with pytest.raises(AssertionError):
        assert_supervised(wrong, tiny_tokenizer, spans)


@pytest.mark.parametrize(
    ("supervised", "spans"),
    [
        ("011011", [(2, 3), (5, 6)]),
        ("100000", [(1,)]),
        ("000000", []),
        ("111111", [(1, 2, 3, 4, 5, 6)]),
    ],
)
def test_supervised_spans_of_a_row_are_told_apart(supervised, spans):
    mask = [mark == "1" for mark in supervised]
    assert list(supervised_spans([1, 2, 3, 4, 5, 6], mask)) == spans


@pytest.mark.slow
def test_a_collator_that_rebuilds_labels_is_caught(tiny_rows, tiny_tokenizer, tmp_path):
    """transformers' collator for language models makes labels of its own and throws a prompt mask away."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    tokens = Tokens.read(tiny_rows.tokens(tiny_rows.sft_train))
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to=[], per_device_train_batch_size=4, seed=SEED
    )

    rows = labelled_dataset(tokens)

    def trainer(collator, rows):
        return Trainer(load_base(tiny_rows.base, "cpu"), arguments, collator, train_dataset=rows)

    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as TrlCollator

    assert_batch(trainer(TrlCollator(tiny_tokenizer.pad_token_id), rows), tiny_tokenizer, tokens)
    collator = DataCollatorForLanguageModeling(tiny_tokenizer, mlm=False)
    rebuilt = trainer(collator, rows.remove_columns("labels"))
    with pytest.raises(AssertionError, match="does not supervise exactly a response"):
        assert_batch(rebuilt, tiny_tokenizer, tokens)


@pytest.mark.slow
def test_a_foreign_trainable_parameter_is_caught(tiny_rows, tiny_sft):
    model = with_adapter(tiny_rows.base, tiny_sft, is_trainable=True)
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


@pytest.mark.slow
def test_another_effective_batch_is_caught(tiny_rows, tiny_sft, tiny_tokenizer, tmp_path):
    trainer = dpo_trainer(
        tiny_rows,
        tiny_sft,
        tiny_tokenizer,
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
    )
    assert_effective_batch(trainer, 6)
    with pytest.raises(AssertionError, match="an update would have 6 rows"):
        assert_effective_batch(trainer, 8)


@pytest.mark.slow
def test_dpo_refuses_to_start_away_from_its_reference(
    tiny_sft, tiny_rows, tiny_tokenizer, tmp_path, capsys
):
    trainer = dpo_trainer(tiny_rows, tiny_sft, tiny_tokenizer, tmp_path)
    assert_start(trainer, 0.1)
    assert "rewards 0 and 0, sigmoid term 0.6931" in capsys.readouterr().err
    assert trainer.model.training
    name, parameter = next(
        (name, p) for name, p in trainer.model.named_parameters() if ".lora_B.default." in name
    )
    with torch.no_grad():
        parameter += 0.05
    with pytest.raises(AssertionError, match="does not start from its reference"):
        assert_start(trainer, 0.1)
    assert name.replace(".default.", ".ref.") in dict(trainer.model.named_parameters())


@pytest.mark.slow
def test_a_dpo_whose_parent_was_dropped_is_caught(tiny_rows, tiny_sft, tiny_tokenizer, tmp_path):
    """This happens if a new adapter is put on a merged parent and the base is the reference."""
    trainer = dpo_trainer(
        tiny_rows, tiny_sft, tiny_tokenizer, tmp_path, per_device_train_batch_size=4
    )
    assert_start(trainer, 0.1)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if ".lora_B.ref." in name:
                parameter.zero_()
    with pytest.raises(AssertionError, match="does not start from its reference"):
        assert_start(trainer, 0.1)
