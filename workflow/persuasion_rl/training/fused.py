"""Adapters and the language-model head in fewer passes over memory, for trainings on a CPU.

The values are those of peft and trl but for the last bits, and for which entries dropout zeroes. What peft and trl have beyond
that (other kinds of adapters, soft caps, heads that train) is left to them.
"""

import math
import types
from typing import Any

import torch
from torch.nn import functional as F

TILE = 2**20
"""Logits that are in memory at once: 4 MB, which stay in a processor's cache."""


def fuse(model: torch.nn.Module) -> None:
    """Compute the adapters of a model, and the heads that trl adds, by the functions of this module.

    Args:
        model: a PeftModel on a CPU; on a GPU nothing is changed.
    """
    from peft.tuners.lora import Linear

    if next(model.parameters()).device.type != "cpu":
        return
    if model.get_base_model().get_output_embeddings() is not None:
        from trl.trainer import utils  # slow to import, and a classifier has no such head

        utils._ChunkedLogProbFunction = Head
    for module in model.modules():
        if type(module) is Linear and type(module.get_base_layer()) is torch.nn.Linear:
            module.forward = types.MethodType(_adapted, module)


# Adapters


def _adapted(layer, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The forward pass of a linear layer with an adapter; peft's own where it is not plain LoRA with one adapter."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if args or kwargs or layer.disable_adapters or layer.merged or len(names) != 1:
        return type(layer).forward(layer, x, *args, **kwargs)
    (name,) = names
    base, down, up = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
    weights = (base.weight, base.bias, down.weight, up.weight)
    trained_base = any(part is not None and part.requires_grad for part in weights[:2])
    same_kind = {x.dtype, *(part.dtype for part in weights if part is not None)} == {torch.float32}
    if name in layer.lora_variant or trained_base or not same_kind or up.bias is not None:
        return type(layer).forward(layer, x)
    dropout = layer.lora_dropout[name]
    share = getattr(dropout, "p", 0.0) if dropout.training else 0.0
    dropped = dropped_places(x.numel(), share) if share else None
    scaling = layer.scaling[name] / (1 - share) if share < 1 else 0.0
    return AdaptedLinear.apply(x, *weights, scaling, dropped)


def dropped_places(entries: int, share: float) -> torch.Tensor:
    """The places that dropout zeroes, each with probability `share` and on its own: int64, ascending.

    The gaps between them are drawn, which are geometric, instead of a number for every entry. So many are drawn that they
    do not reach the end of the entries once in a billion calls.
    """
    if share >= 1:
        return torch.arange(entries)
    draws = int(entries * share + 6 * math.sqrt(entries * share * (1 - share)) + 10)
    gaps = torch.rand(draws).neg_().log1p_().div_(math.log1p(-share)).long()
    places = gaps.add_(1).cumsum_(0).sub_(1)
    return places[: torch.searchsorted(places, entries)]


def _without(states: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
    """A copy of states (tokens, width) with zeros at the dropped places."""
    if dropped is None:
        return states
    return states.flatten().index_fill(0, dropped, 0.0).view_as(states)


class AdaptedLinear(torch.autograd.Function):
    """x W^T + b + s d(x) A^T B^T with W and b frozen and d zeroing the dropped places (Hu et al. 2021, arXiv:2106.09685).

    The product of the adapter is added in place, forward and backward. Of the states only x is kept.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scaling: float, dropped):
        states = x.reshape(-1, x.shape[-1])
        inner = _without(states, dropped) @ down.t()
        out = F.linear(states, weight, bias).addmm_(inner, up.t(), alpha=scaling)
        ctx.save_for_backward(states, weight, down, up, inner, dropped)
        ctx.scaling, ctx.shape = scaling, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        states, weight, down, up, inner, dropped = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        inner_grad = (grad @ up).mul_(ctx.scaling)
        down_grad = inner_grad.t() @ _without(states, dropped)
        up_grad = (inner.t() @ grad).mul_(ctx.scaling).t()
        states_grad = None
        if ctx.needs_input_grad[0]:
            states_grad = grad @ weight
            if dropped is None:
                states_grad.addmm_(inner_grad, down)
            else:
                states_grad += (
                    (inner_grad @ down).view(-1).index_fill_(0, dropped, 0.0).view_as(states)
                )
            states_grad = states_grad.view(ctx.shape)
        return states_grad, None, None, down_grad, up_grad, None, None


# The head


class Head:
    """What trl's head calls in place of its own function."""

    @staticmethod
    def apply(hidden, weight, bias, targets, temperature, columns, softcap, scale, outputs):
        """The arguments and values are those of trl's `ChunkedLogProbFunction`."""
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction

        trains = weight.requires_grad or (bias is not None and bias.requires_grad)
        plain = {hidden.dtype, weight.dtype} == {torch.float32} and not trains and softcap is None
        if not plain or hidden.device.type != "cpu" or "log_sum_sq_probs" in outputs:
            return ChunkedLogProbFunction.apply(
                hidden, weight, bias, targets, temperature, columns, softcap, scale, outputs
            )
        log_probs, entropy, mean_logits, is_top1 = LogProbs.apply(
            hidden, weight, bias, targets, scale / temperature
        )
        wanted = {"entropy": entropy, "mean_logits": mean_logits, "is_top1": is_top1}
        return (
            log_probs,
            *(wanted.get(name) if name in outputs else None
              for name in ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")),
        )  # fmt: skip


class LogProbs(torch.autograd.Function):
    """Log-probabilities of targets by a frozen head, whose gradient is computed in the same pass.

    The gradient of log p(target) to a hidden state is w(target) - sum of p(token) w(token), the weights of the tokens. Like the
    values in attention, that mean is summed beside the sum of exponentials, tile by tile (Dao et al. 2022, arXiv:2205.14135),
    so that no logit is computed twice.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, factor: float):
        """
        Args:
            hidden: (n, width). weight: (vocabulary, width). bias: (vocabulary,) or None. targets: (n,).
            factor: what logits are multiplied by.

        Returns:
            log-probabilities of the targets, and without gradients entropies, mean logits, and whether the target
            is the likeliest token: (n,) each.
        """
        n, tokens = len(hidden), len(weight)
        highest = hidden.new_full((n,), -torch.inf)
        total, weighted, sums, target_logits = hidden.new_zeros(4, n).unbind()
        best = torch.zeros_like(targets)
        mean = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        columns = min(tokens, max(256, TILE // max(1, n)))
        space = hidden.new_empty(2, n * columns)
        for start in range(0, tokens, columns):
            part = weight[start : start + columns]
            logits, powers = (each[: n * len(part)].view(n, len(part)) for each in space)
            torch.mm(hidden, part.t(), out=logits)
            if bias is not None:
                logits += bias[start : start + columns]
            if factor != 1:
                logits *= factor
            top, place = logits.max(1)
            best = torch.where(top > highest, place + start, best)
            before, highest = highest, torch.maximum(highest, top)
            rescale = torch.exp(before - highest)
            local = targets - start
            inside = (local >= 0) & (local < len(part))
            label_logits = logits.gather(1, local.clamp(0, len(part) - 1)[:, None])[:, 0]
            target_logits = torch.where(inside, label_logits, target_logits)
            torch.sub(logits, highest[:, None], out=powers).exp_()
            total = total * rescale + powers.sum(1)
            weighted = weighted * rescale + torch.linalg.vecdot(powers, logits)
            sums += logits.sum(1)
            if mean is not None:
                mean.mul_(rescale[:, None]).addmm_(powers, part)
        log_total = highest + total.log()
        if mean is not None:
            mean.div_(total[:, None]).neg_().add_(weight[targets])
            ctx.save_for_backward(mean.mul_(factor))
        others = log_total - weighted / total, sums / tokens, best == targets
        ctx.mark_non_differentiable(*others)
        return target_logits - log_total, *others

    @staticmethod
    def backward(ctx, grad, *_):
        (direction,) = ctx.saved_tensors
        return direction * grad[:, None], None, None, None, None
