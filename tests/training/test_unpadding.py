"""A model without padding computes the same as the padded model, with less work."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persuasion_rl.training.unpadding import compute_without_padding, lay_out

VOCABULARY = 50
OUTPUTS = ("log_probs", "entropy", "is_top1")


def config(**changed):
    from transformers import Qwen2Config

    defaults = dict(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        initializer_range=0.3,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    return Qwen2Config(**(defaults | changed))


@pytest.fixture(scope="module")
def models():
    """trl's model as it is, without padding, and without padding for pairs."""
    from transformers import Qwen2ForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(1)
    plain = Qwen2ForCausalLM(config())
    unpadded, paired = copy.deepcopy(plain), copy.deepcopy(plain)
    compute_without_padding(unpadded)
    add_fused_lm_head(unpadded, outputs=OUTPUTS)
    add_fused_lm_head(paired, outputs=OUTPUTS)
    compute_without_padding(paired, paired=True)  # the order does not matter
    add_fused_lm_head(plain, outputs=OUTPUTS)
    return plain, unpadded, paired


@st.composite
def batches(draw):
    """A batch as trl's collators make it: prompts, each with two responses, padded on the right.

    It has few different tokens, so that responses often share a beginning, and one may begin with all of the other.
    """
    tokens = st.integers(1, 3)
    pairs = draw(
        st.lists(
            st.tuples(
                st.lists(tokens, min_size=1, max_size=12),
                st.lists(tokens, min_size=1, max_size=9),
                st.lists(tokens, min_size=1, max_size=9),
            ),
            min_size=1,
            max_size=4,
        )
    )
    rows = [(p, c) for p, c, _ in pairs] + [(p, r) for p, _, r in pairs]
    length = max(len(p) + len(r) for p, r in rows) + draw(st.integers(0, 3))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (prompt, response) in enumerate(rows):
        sequence = torch.tensor(prompt + response)
        ids[i, : len(sequence)] = sequence
        mask[i, : len(sequence)] = 1
        labels[i, len(prompt) : len(sequence)] = sequence[len(prompt) :]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def step(model, batch):
    """The model's output, and the gradients of a loss that weights every row differently."""
    model.zero_grad()
    output = model(**batch, fused_lm_head=True)
    weights = torch.arange(1.0, len(batch["input_ids"]) + 1)
    (output.log_probs.sum(dim=1) * weights).sum().backward()
    return output, [parameter.grad.clone() for parameter in model.parameters()]


@settings(max_examples=25)
@given(batch=batches())
@pytest.mark.parametrize("which", [1, 2])
def test_outputs_and_gradients_are_those_of_the_padded_model(models, which, batch):
    expected, expected_gradients = step(models[0], batch)
    actual, gradients = step(models[which], batch)
    for name in ("log_probs", "entropy"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-4, atol=1e-5)  # fmt: skip
    assert actual.label_mask.equal(expected.label_mask)
    assert actual.is_top1.shape == expected.is_top1.shape
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@settings(max_examples=25)
@given(batch=batches())
def test_a_classifier_scores_as_it_did(classifiers, batch):
    plain, unpadded = classifiers
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    torch.testing.assert_close(
        unpadded(**inputs).logits, plain(**inputs).logits, rtol=1e-4, atol=1e-5
    )


@pytest.fixture(scope="module")
def classifiers():
    from transformers import Qwen2ForSequenceClassification

    torch.manual_seed(2)
    plain = Qwen2ForSequenceClassification(config(num_labels=1))
    unpadded = copy.deepcopy(plain)
    compute_without_padding(unpadded, paired=True)
    return plain, unpadded


@given(batch=batches())
def test_padding_is_never_computed_and_a_shared_beginning_once(batch):
    ids, mask = batch["input_ids"], batch["attention_mask"]
    lengths = mask.sum(1).tolist()
    apart, together = lay_out(ids, mask, False), lay_out(ids, mask, True)
    assert len(apart.tokens) == sum(lengths)
    half, saved = len(ids) // 2, 0
    for i in range(half):
        one, other = ids[i, : lengths[i]].tolist(), ids[half + i, : lengths[half + i]].tolist()
        alike = next((n for n, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))  # noqa: B905 # fmt: skip
        saved += min(alike, len(other) - 1)
    assert len(together.tokens) == sum(lengths) - saved
    for layout in (apart, together):
        # Every place of the batch has its token and its position.
        row = ids.flatten()[layout.tokens]
        assert torch.where(mask.bool(), row[layout.places], 0).equal(ids)
        positions = layout.position_ids[0][layout.places].masked_fill(mask == 0, 0)
        assert positions.equal(torch.arange(ids.shape[1]).expand_as(ids).masked_fill(mask == 0, 0))
        assert sum(layout.queries) == len(layout.tokens) and layout.keys == lengths


def test_work_is_counted_in_training_only():
    from transformers import Qwen2ForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    model = Qwen2ForCausalLM(config())
    work = compute_without_padding(model)
    add_fused_lm_head(model)
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])
    batch = {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "labels": torch.tensor([[-100, 2, 3], [-100, 5, -100]]),
        "fused_lm_head": True,
    }
    model.eval()(**batch)
    assert work.tokens == 0
    model.train()(**batch)
    assert (work.tokens, work.labelled, work.attended) == (5, 3, 6 + 3)


def test_a_model_without_padding_refuses_to_generate(models):
    with pytest.raises(RuntimeError, match="load another one to generate"):
        models[1].generate(torch.tensor([[1, 2, 3]]), max_new_tokens=3)


@pytest.mark.slow
def test_checkpointed_gradients_are_the_same():
    from transformers import Qwen2ForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(3)
    model = Qwen2ForCausalLM(config()).train()
    compute_without_padding(model, paired=True)
    add_fused_lm_head(model)
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 6, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    batch["labels"] = torch.where((ids > 0) & (torch.arange(5) > 0), ids, -100)
    _, plain = step(model, batch)
    model.gradient_checkpointing_enable()
    _, checkpointed = step(model, batch)
    for one, other in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(one, other)
