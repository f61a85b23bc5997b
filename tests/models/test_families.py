"""Other families of models: each stage computes what transformers computes for one row alone."""

import copy
import random

import pytest
import torch

from persuasion_rl.evaluation.loss import evaluate_loss
from persuasion_rl.files import UserError
from persuasion_rl.models.arguments import ModelArguments
from persuasion_rl.models.loading import load_classifier
from persuasion_rl.models.plain import plain_log_probs
from persuasion_rl.sampling.local import ContinuousBatches, PaddedBatches
from persuasion_rl.sampling.request import Limits, Request
from persuasion_rl.training.assertions import assert_as_plain
from persuasion_rl.training.unpadding import NAME, as_it_is, compute_without_padding
from tiny_families import FAMILIES, WINDOW, family_model, write_family_base
from tiny_models import sampled_texts, sampling_settings
from tiny_trainings import ADAPTER, train_delta, train_dpo, train_sft

PADDED = ("stablelm", "falcon", "phimoe")
"""Families whose attention is not computed without padding."""
TARGETS = {
    "phi3": ["qkv_proj", "gate_up_proj"],
    "gpt2": ["c_attn"],
    "gpt_neox": ["query_key_value"],
    "falcon": ["query_key_value"],
    "deepseek_v3": ["q_b_proj"],
}
"""Modules that an adapter is put on, where they are not q_proj and v_proj."""
WINDOWED = ("mistral", "mixtral", "phimoe", "phi3", "gemma2", "gemma3_text", "cohere2")


def pair_of_rows() -> list[list[int]]:
    """Two rows of tokens with a common beginning, one shorter, both longer than a window."""
    draw = random.Random(1)
    first = [draw.randrange(1, 64) for _ in range(5 * WINDOW)]
    return [first, first[: 3 * WINDOW] + [draw.randrange(1, 64) for _ in range(WINDOW)]]


def padded(rows: list[list[int]], unlabelled: int = 0) -> dict[str, torch.Tensor]:
    """The rows as a batch, with the labels of all tokens but the first ones."""
    ids = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, rows)), batch_first=True)
    labels = ids.masked_fill(ids == 0, -100)
    labels[:, :unlabelled] = -100
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def step(model, batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Log-probabilities of a batch, and the gradients of their sum."""
    model.zero_grad()
    log_probs = model(**batch, fused_lm_head=True).log_probs
    log_probs.sum().backward()
    return log_probs, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("paired", [False, True])
def test_a_training_computes_the_plain_models_log_probabilities_and_gradients(family, paired):
    from trl.trainer.utils import add_fused_lm_head

    plain, rows = family_model(family), pair_of_rows()
    own = copy.deepcopy(plain)
    compute_without_padding(own, paired=paired)
    assert (own.config._attn_implementation == NAME) == (family not in PADDED)
    for model in (plain, own):
        add_fused_lm_head(model)
    batch = padded(rows)
    log_probs, gradients = step(own, batch)
    for values, row in zip(log_probs, rows, strict=True):
        expected = plain_log_probs(plain, row, len(row))
        torch.testing.assert_close(values[: len(row) - 1], expected, rtol=1e-4, atol=1e-5)
    _, expected_gradients = step(plain, batch)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reward_model_scores_as_the_plain_one(family, tiny_rows, tmp_path, capsys):
    """OLMo 2, Granite and Cohere 2 have no classifier in transformers, and get its generic one."""
    from peft import LoraConfig, get_peft_model

    base = write_family_base(family, tiny_rows.base, tmp_path)
    pad = 99  # any token: it ends a row where the batch is padded with it
    plain, rows = load_classifier(base, "cpu", pad), pair_of_rows()
    own = copy.deepcopy(plain)
    compute_without_padding(own, paired=True)
    batch = padded(rows)
    ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, pad)
    expected = torch.cat([plain(input_ids=torch.tensor([row])).logits for row in rows])
    scores = own(input_ids=ids, attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    modules = TARGETS.get(family, ["q_proj"])
    assert_as_plain("reward", get_peft_model(own, LoraConfig(target_modules=modules)), rows)
    assert "checked: reward differs by" in capsys.readouterr().err


@pytest.mark.parametrize("family", WINDOWED)
def test_the_tests_rows_show_a_window_that_is_dropped(family):
    """Or they could not tell a model with a window from one without."""
    (row, _), window = pair_of_rows(), dict(sliding_window=10 * WINDOW)
    with_window, without = (plain_log_probs(family_model(family, **c), row) for c in ({}, window))
    assert (with_window - without).abs().max() > 0.05


def test_a_layout_that_drops_a_feature_is_refused_before_the_training(monkeypatch):
    """The check of each start, on a layout as it was: without the window."""
    from peft import LoraConfig, get_peft_model
    from trl.trainer.utils import add_fused_lm_head

    from persuasion_rl.training import unpadding

    attend = unpadding.attend
    broken = lambda *states, sliding_window=None, **others: attend(*states, **others)  # noqa: E731
    monkeypatch.setitem(unpadding.AttentionInterface._global_mapping, NAME, broken)
    for check in ("_why_padded", "_has_window"):
        monkeypatch.setattr(unpadding, check, lambda _: None)
    model = family_model("mistral")
    compute_without_padding(model)
    add_fused_lm_head(model)
    model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(
        UserError, match=r"^sft: differs by [\d.]+ nats .* mistral .*sliding_window 8"
    ):
        assert_as_plain("sft", model, pair_of_rows())
    with as_it_is(model):
        assert_as_plain("sft", model, pair_of_rows())


def test_a_pad_token_of_minus_one_is_none():
    """As in the first Llamas' configurations; batches of a model that keeps them padded hold it."""
    from peft import LoraConfig, get_peft_model
    from trl.trainer.utils import add_fused_lm_head

    model = family_model("stablelm", pad_token_id=-1)
    compute_without_padding(model)
    add_fused_lm_head(model)
    model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert_as_plain("sft", model, pair_of_rows())


def test_a_head_that_hides_its_call_of_the_layers_keeps_padded_batches(capsys):
    """Its loss would end in a trace at the first batch; the layers alone compute."""
    model = family_model("llama")
    model.forward = lambda **batch: model.lm_head(model.model.forward(**batch).last_hidden_state)
    compute_without_padding(model)
    assert model.config._attn_implementation != NAME
    assert capsys.readouterr().err.startswith("llama: batches stay padded; ")


SAMPLED = (
    "llama",
    "mistral",
    "phi3",
    "gemma2",
    "gemma3_text",
    "olmo2",
    "qwen3",
    "gpt2",
    "stablelm",
    "mixtral",
    "deepseek_v3",
    "falcon",
)


@pytest.mark.slow
@pytest.mark.parametrize("family", SAMPLED)
def test_samples_do_not_depend_on_the_batch_and_outlast_a_window(
    family, tiny_rows, tmp_path, capsys
):
    """Prompts of different lengths, from shorter than a window to longer; samples leave the batch as they end, and others
    take their places."""
    base = write_family_base(family, tiny_rows.base, tmp_path)
    requests = [
        Request(f"p{i}", "Because " * (1 + 4 * i), number) for i in range(5) for number in (1, 2)
    ]
    limits = Limits(1.0, 1.0, 3 * WINDOW)
    texts = [
        sampled_texts(engine(sampling_settings(base, limits, batch_size=size)), requests)
        for engine, size in (
            (PaddedBatches, 1),
            (PaddedBatches, 3),
            (PaddedBatches, 64),
            (ContinuousBatches, 4),
        )
    ]
    assert len(set(texts[0].values())) > 5
    assert texts[0] == texts[1] == texts[2] == texts[3]
    assert capsys.readouterr().err.count("checked: sampling differs by") == 4


SLOW = [
    pytest.param(family, marks=pytest.mark.slow)
    for family in (
        "llama",
        "mistral",
        "phi3",
        "gemma2",
        "gemma3_text",
        "olmo2",
        "gpt2",
        "stablelm",
        "deepseek_v3",
        "opt",
    )
]


@pytest.mark.parametrize("family", ["mixtral", *SLOW])
def test_all_stages_agree(family, tiny_rows, tmp_path, capsys):
    """SFT's loss before the first step is the base's of the evaluation; DPO, the delta judge and sampling start.

    A mixture of experts that asks for its routers' logits has the losses of tokens alone, too.
    """
    changed = {"output_router_logits": True} if family == "mixtral" else {}
    base = write_family_base(
        family, tiny_rows.base, tmp_path / "base", max_position_embeddings=2048, **changed
    )
    modules = TARGETS.get(family, ["q_proj", "v_proj"])
    short = dict(base=base, max_steps=1, eval_steps=1, save_steps=1)
    lora = short | {"lora_target_modules": modules}
    metrics = train_sft(tiny_rows, tmp_path / "sft", **lora)
    sft = tmp_path / "sft" / ADAPTER
    job = ModelArguments(seed=1, threads=1, device="cpu", base=base)
    before = evaluate_loss(job=job, held_out=tiny_rows.sft_val, output=tmp_path / "loss.json")
    assert metrics["eval_loss_before"] == pytest.approx(before["validation_loss"], abs=2e-4)
    job.lineage = [sft]
    after = evaluate_loss(job=job, held_out=tiny_rows.sft_val, output=tmp_path / "loss.json")
    assert metrics["eval_loss"] == pytest.approx(after["validation_loss"], abs=2e-4)
    train_dpo(tiny_rows, tmp_path / "dpo", sft, **short)
    train_delta(tiny_rows, tmp_path / "delta", **lora)
    said = capsys.readouterr().err
    for stage in ("sft", "evaluate_loss", "dpo", "reward", "the merged adapter"):
        assert f"checked: {stage} differs by" in said
