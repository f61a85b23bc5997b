"""oneDNN's linear layers have the values and gradients of torch's, for every shape and layout."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.models.linear import Linear, PackedLinear, by_torch, linear, pack, quicken
from tiny_families import family_model

CLOSE = dict(rtol=1e-4, atol=1e-5)


@st.composite
def products(draw):
    """States and a weight of any sizes, some with strides, and whether there is a bias."""
    sizes = st.integers(1, 40)
    shape = draw(st.lists(st.integers(0, 5), max_size=2)) + [draw(sizes)]
    outputs = draw(sizes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    states = torch.randn(*shape[:-1], 2 * shape[-1], generator=generator)
    states = states[..., ::2] if draw(st.booleans()) else states[..., : shape[-1]].contiguous()
    weight = torch.randn(shape[-1], outputs, generator=generator).t()
    weight = weight if draw(st.booleans()) else weight.contiguous()
    return states, weight, torch.randn(outputs) if draw(st.booleans()) else None


@given(products(), st.booleans())
def test_values_and_gradients_are_those_of_torch(product, expanded):
    results = []
    for function in (torch.nn.functional.linear, linear):
        parts = [None if p is None else p.clone().requires_grad_() for p in product]
        out = function(*parts)
        assert torch.equal(out, function(*parts))
        # The gradient of a sum is one number, expanded.
        (out.sum() if expanded else out.square().sum()).backward()
        with torch.no_grad():
            results.append(
                [out.detach(), function(*product), *(p.grad for p in parts if p is not None)]
            )
    torch.testing.assert_close(*results, **CLOSE)


@pytest.mark.parametrize("family", ["llama", "phi", "mixtral"])
def test_a_model_computes_the_same_quickened_and_packed(family):
    ids = torch.arange(1, 25).view(2, 12)
    model = family_model(family)
    with torch.no_grad():
        expected = model(ids).logits
        quicken(model)
        assert Linear in map(type, model.modules())
        torch.testing.assert_close(model(ids).logits, expected, **CLOSE)
        packed = copy.deepcopy(model)
        pack(packed)
        assert PackedLinear in map(type, packed.modules())
        torch.testing.assert_close(packed(ids).logits, expected, **CLOSE)
        for own in (model, packed):
            with by_torch():
                assert torch.equal(own(ids).logits, expected)


def test_what_is_no_float32_on_a_cpu_is_left_to_torch():
    layer = torch.nn.Linear(4, 3)
    half = torch.nn.Linear(4, 3).bfloat16()
    quicken(torch.nn.ModuleList([layer, half]))
    assert type(layer) is Linear and type(half) is torch.nn.Linear
    states = torch.randn(2, 4, dtype=torch.float64)
    assert linear(states, layer.weight.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(2, 4)).dtype == torch.bfloat16
