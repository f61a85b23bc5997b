"""Linear layers on a CPU in float32 by oneDNN, which torch brings along and does not use for them.

torch takes MKL. On AMD's processors, whose widest instructions MKL leaves alone, oneDNN is more than twice as fast; on others about as
fast. Both are float32 throughout, and differ in the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_torchs_own = False


class Linear(torch.nn.Linear):
    """torch's layer with `linear` in place of its own function."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return linear(states, self.weight, self.bias)


class PackedLinear(torch.nn.Linear):
    """A layer that only reads, with a second copy of its weight in oneDNN's order: for a few rows at a time."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if not _fits(states, self.weight):
            return F.linear(states, self.weight, self.bias)
        return _product(states, self.packed, self.bias)


def quicken(model: torch.nn.Module) -> None:
    """Compute a model's linear layers by `linear`; on a GPU nothing is changed."""
    for module in model.modules():
        if type(module) is torch.nn.Linear and _fits(module.weight, module.weight):
            module.__class__ = Linear


def pack(model: torch.nn.Module) -> None:
    """Copy the weights of a quickened model's linear layers for `PackedLinear`. They must not change afterwards."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = PackedLinear
            module.packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())


def linear(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """states weight^T + bias, as `torch.nn.functional.linear`: (..., inputs) by (outputs, inputs)."""
    if not _fits(states, weight):
        return F.linear(states, weight, bias)
    if torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in (states, weight, bias)
    ):
        return _Linear.apply(states, weight, bias)
    return _product(states, weight, bias)


@contextmanager
def by_torch() -> Iterator[None]:
    """In this context torch computes everything by itself, so that one can compare."""
    global _torchs_own
    before, _torchs_own = _torchs_own, True
    try:
        yield
    finally:
        _torchs_own = before


def _fits(states: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN computes the product."""
    return (
        not _torchs_own
        and states.device.type == weight.device.type == "cpu"
        and states.dtype == weight.dtype == torch.float32
        and states.numel() > 0
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def _product(states, weight, bias=None) -> torch.Tensor:
    # The operation that torch's compiler writes for a linear layer.
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """`linear` with its gradients, which are products, too."""

    @staticmethod
    def forward(ctx, states, weight, bias):
        ctx.save_for_backward(states, weight)
        return _product(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        states, weight = ctx.saved_tensors
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        states_grad = linear(grad, weight.t()) if needs_states else None
        weight_grad = (
            linear(rows.t(), states.reshape(-1, states.shape[-1]).t()) if needs_weight else None
        )
        return states_grad, weight_grad, rows.sum(0) if needs_bias else None
