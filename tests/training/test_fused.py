"""Adapters and heads in fewer passes give the values and gradients of peft's and trl's."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from persuasion_rl.training.fused import AdaptedLinear, Head, LogProbs, dropped_places, fuse
from tiny_families import FAMILIES, family_model

OUTPUTS = ("entropy", "mean_logits", "is_top1")


def adapted(model, dropout: float = 0.0, **options):
    """A model with an adapter on all its linear layers, whose second matrices are not zero."""
    torch.manual_seed(2)
    config = LoraConfig(target_modules="all-linear", r=4, lora_dropout=dropout, **options)
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def step(model):
    """Logits of a batch, and the gradients of all trainable weights."""
    model.zero_grad()
    logits = model(input_ids=torch.arange(1, 41).view(2, 20)).logits
    logits.log_softmax(-1)[..., 3].sum().backward()
    return logits, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


# Phi-MoE's router is a linear layer that returns two tensors, which peft cannot wrap.
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"phimoe"}))
def test_an_adapter_computes_what_peft_computes(family):
    plain = adapted(family_model(family))
    own = copy.deepcopy(plain)
    fuse(own)
    expected, gradients = step(plain)
    logits, own_gradients = step(own)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own_gradients, gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_other_kinds_of_adapters_are_left_to_peft(options):
    plain = adapted(family_model("llama"), **options)
    own = copy.deepcopy(plain)
    fuse(own)
    torch.testing.assert_close(step(own)[1], step(plain)[1])


def test_a_second_adapter_and_none_are_those_of_peft():
    """As DPO's reference is, and a base model beneath an adapter."""
    plain = adapted(family_model("llama"))
    plain.add_adapter("ref", LoraConfig(target_modules="all-linear", r=2, init_lora_weights=False))
    own = copy.deepcopy(plain)
    fuse(own)
    for model in (plain, own):
        model.set_adapter("ref")
    torch.testing.assert_close(step(own)[0], step(plain)[0], rtol=1e-4, atol=1e-4)
    with plain.disable_adapter(), own.disable_adapter(), torch.no_grad():
        ids = torch.arange(1, 9)[None]
        assert torch.equal(own(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_gradients_with_dropout_are_those_of_the_same_entries_dropped():
    torch.manual_seed(1)
    x, weight, down, up = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 5, 6), (7, 6), (3, 6), (7, 3)))  # fmt: skip
    weight = weight.detach()
    dropped = torch.tensor([0, 7, 31, 59])
    kept = torch.ones(60, dtype=torch.float64).index_fill(0, dropped, 0).view_as(x)
    grad = torch.randn(2, 5, 7, dtype=torch.float64)
    results = []
    for out in (
        AdaptedLinear.apply(x, weight, None, down, up, 2.0, dropped),
        x @ weight.t() + 2.0 * (x * kept) @ down.t() @ up.t(),
    ):
        results.append((out, *torch.autograd.grad(out, (x, down, up), grad)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_each_entry_is_dropped_as_often_and_on_its_own(share):
    torch.manual_seed(1)
    entries, draws = 40, 4000
    dropped = torch.zeros(draws, entries)
    for row in dropped:
        row[dropped_places(entries, share)] = 1
    deviation = (share * (1 - share) / draws) ** 0.5
    assert (dropped.mean(0) - share).abs().max() < 4.5 * deviation
    pairs = torch.corrcoef(dropped.t()) - torch.eye(entries)
    assert pairs.abs().max() < 5 / draws**0.5
    assert dropped_places(entries, 1.0).tolist() == list(range(entries))


def test_dropout_is_off_in_evaluation_and_repeatable_by_its_seed():
    plain = adapted(family_model("llama"), dropout=0.3)
    fuse(plain)
    evaluated = step(plain.eval())[0]
    torch.testing.assert_close(step(plain)[0], evaluated)
    trained = []
    for _ in range(2):
        torch.manual_seed(5)
        trained.append(step(plain.train())[0])
    assert torch.equal(*trained) and not torch.allclose(trained[0], evaluated, atol=1e-3)


def test_an_adapter_whose_input_is_all_dropped_adds_nothing():
    plain = adapted(family_model("llama"), dropout=1.0).train()
    own = copy.deepcopy(plain)
    fuse(own)
    (expected, gradients), (logits, own_gradients) = step(plain), step(own)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own_gradients, gradients)
    assert not any(gradient.any() for gradient in own_gradients.values())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("n", "vocabulary"), [(1, 300), (13, 1000), (700, 3001)])
def test_a_head_computes_what_trl_computes(n, vocabulary, bias):
    """In one tile and in several, the last of them narrower."""
    torch.manual_seed(1)
    hidden = torch.randn(n, 16, requires_grad=True)
    weight = torch.randn(vocabulary, 16)
    shift = torch.randn(vocabulary) if bias else None
    targets = torch.randint(vocabulary, (n,))
    targets[0] = (hidden[0] @ weight.t() + (0 if shift is None else shift)).argmax()
    results = []
    for function in (Head, ChunkedLogProbFunction):
        values = function.apply(hidden, weight, shift, targets, 0.8, 512, None, 0.5, OUTPUTS)
        loss = (values[0] * torch.arange(1.0, n + 1)).sum()
        results.append((*values, *torch.autograd.grad(loss, hidden)))
    assert results[0][0].grad_fn is not None and results[0][2] is None
    assert results[0][4][0]
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


def test_a_batch_without_a_label_has_no_value():
    hidden, weight = torch.randn(0, 8, requires_grad=True), torch.randn(30, 8)
    values = LogProbs.apply(hidden, weight, None, torch.zeros(0, dtype=torch.int64), 1.0)
    values[0].sum().backward()
    assert [len(value) for value in values] == [0] * 4 and hidden.grad.shape == (0, 8)


@pytest.mark.parametrize("trained", [False, True])
def test_only_a_frozen_head_is_computed_here(trained, monkeypatch):
    called = []
    apply = LogProbs.apply
    monkeypatch.setattr(LogProbs, "apply", lambda *each: called.append(1) or apply(*each))
    weight = torch.randn(30, 8, requires_grad=trained)
    arguments = (torch.randn(4, 8), weight, None, torch.arange(4), 1.0, 64)
    Head.apply(*arguments, None, 1.0, OUTPUTS)
    assert bool(called) != trained
    Head.apply(*arguments, 5.0, 1.0, OUTPUTS)
    assert len(called) == (not trained)
