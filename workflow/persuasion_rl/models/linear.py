"""Linear layers on a CPU in float32 by oneDNN, which torch brings along and does not use for them.

torch takes MKL. On AMD's processors, whose widest instructions MKL leaves alone, oneDNN is more than twice as fast; others were not
measured. Both are float32 throughout, and differ in the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def unviewed(rows: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Rows (n, width) as (*shape, width). For autograd it is no view, so that models may change it in place (OLMo's clip_qkv)."""
    return torch.ops.aten._unsafe_view(rows, (*shape, rows.shape[-1]))


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
        rows = states.reshape(-1, states.shape[-1])
        ctx.save_for_backward(rows, weight)
        return unviewed(_product(rows, weight, bias), states.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, weight = ctx.saved_tensors
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad
        grads = grad.reshape(-1, grad.shape[-1])
        return (
            linear(grads, weight.t()).view(*grad.shape[:-1], -1) if needs_states else None,
            linear(grads.t(), rows.t()) if needs_weight else None,
            grads.sum(0) if needs_bias else None,
        )
