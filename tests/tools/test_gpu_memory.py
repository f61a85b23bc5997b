"""The estimated GPU memory of a training, against what autograd keeps."""

import json
from pathlib import Path

import pytest

from persuasion_rl.files import UserError
from persuasion_rl.study.memory import HEAD_TILE
from persuasion_rl.study.model_size import QWEN, Size, size_in
from persuasion_rl.tools.assumptions import ASSUMED
from persuasion_rl.tools.doctor import report
from persuasion_rl.tools.gpu_memory import training_memory
from published import BASE_FOLDER, PUBLISHED_SIZE, published

LORA = {"lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.05}
LORA |= {"lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}


def memory_gb(method="sft", rows=1, checkpointing=False, size=QWEN, max_length=1024, **recipe):
    recipe = {"max_length": max_length, "effective_batch_size": 64} | recipe
    return training_memory(method, recipe, LORA | recipe, size, rows, checkpointing)


def test_the_size_is_that_of_the_base_models_config(downloads):
    assert size_in(published().base_folder) == QWEN
    # As published: 0.49B parameters, 0.36B of them outside the embedding. The adapter of rank 8 has peft's count.
    assert round((QWEN.backbone + QWEN.head) / 1e9, 2) == 0.49
    assert round(QWEN.backbone / 1e9, 2) == 0.36
    assert QWEN.adapter(8, LORA["lora_target_modules"]) == 1_081_344
    larger = PUBLISHED_SIZE | {"num_hidden_layers": 48}
    (downloads / BASE_FOLDER / "config.json").write_text(json.dumps(larger))
    assert size_in(published().base_folder).backbone == 2 * QWEN.backbone
    assert "the base model's size by its config.json" in report(Path("config/config.yaml"))
    (downloads / BASE_FOLDER / "config.json").write_text(json.dumps({"model_type": "another"}))
    assert size_in(published().base_folder) is None
    assert "Qwen2.5-0.5B's size" in report(Path("config/config.yaml"))
    (downloads / BASE_FOLDER / "config.json").write_text('{"hidden_size":')
    with pytest.raises(UserError, match="was it cut off"):
        report(Path("config/config.yaml"))


def test_memory_grows_with_rows_length_and_rank_and_shrinks_by_what_saves_it():
    by_rows = [memory_gb(rows=rows) for rows in (1, 2, 8, 64)]
    by_length = [memory_gb(max_length=length) for length in (128, 1024, 8192)]
    assert by_rows == sorted(set(by_rows)) and by_length == sorted(set(by_length))
    # A row twice as long is two rows.
    assert memory_gb(rows=1, max_length=2048) == memory_gb(rows=2, max_length=1024)
    assert memory_gb("dpo") > memory_gb() < memory_gb(lora_r=64)
    for method in ("sft", "dpo", "reward"):
        assert memory_gb(method, checkpointing=True) < memory_gb(method)
    assert memory_gb(use_4bit=True) < memory_gb()


def test_memory_without_a_row_is_weights_adapter_and_cuda():
    """494 M weights in two bytes; 1.08 M of the adapter with gradients and two moments, in four bytes each."""
    expected = (494.0e6 * 2 + 1.081e6 * 16) / 2**30 + ASSUMED.cuda_gb
    assert memory_gb(rows=0) == pytest.approx(expected, rel=1e-3)
    assert memory_gb("dpo", rows=0) - memory_gb(rows=0) == pytest.approx(
        1.081e6 * 4 / 2**30, rel=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpointing", "modules"),
    [
        (False, LORA["lora_target_modules"]),
        (True, LORA["lora_target_modules"]),
        (False, [*LORA["lora_target_modules"], "gate_proj", "up_proj", "down_proj"]),
    ],
)
def test_memory_for_a_row_is_what_autograd_keeps_of_it(checkpointing, modules):
    """Measured on the CPU, in bfloat16, on the model as the trainers set it up."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from persuasion_rl.training.trainer import add_lora
    from persuasion_rl.training.unpadding import compute_without_padding

    tokens, width, inner, layers = 256, 128, 640, 6
    config = Qwen2Config(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=600, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    compute_without_padding(model)
    model = add_lora(model, LORA | {"lora_target_modules": modules}, task_type="CAUSAL_LM")
    add_fused_lm_head(model.get_base_model())
    model.train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}  # keeps storages alive, so that no address is reused

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(0, 600, (1, tokens))
    with (
        torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, fused_lm_head=True)
    bytes_per_token = sum(storage.nbytes() for storage in storages.values()) / tokens

    size = Size(layers, width, inner, queries=width, keys=width // 2, vocab=600)
    row = dict(size=size, max_length=tokens, checkpointing=checkpointing, lora_target_modules=modules)  # fmt: skip
    # Without what exists only during a backward pass: the tile of the head, and recomputed values of a layer.
    tile = 2 * min(tokens, HEAD_TILE[0]) * min(600, HEAD_TILE[1])
    estimate = ((memory_gb(rows=1, **row) - memory_gb(rows=0, **row)) * 2**30 - tile) / tokens
    if checkpointing:
        inputs = 4 * width  # q, k, v and o
        estimate -= 24 * width + 6 * inner + 4 * inputs
    print(f"a token: {bytes_per_token:.0f} bytes, by the estimate {estimate:.0f}")
    assert estimate == pytest.approx(bytes_per_token, rel=0.2)
