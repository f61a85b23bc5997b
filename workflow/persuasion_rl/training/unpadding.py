"""Computes each distinct token of a padded batch once: no padding, and a prompt shared by two responses only once.

trl's collators pad, and its DPO and reward trainers put a prompt into a batch twice, once before each response.
Here the padded batch is laid out as one row of distinct tokens before it enters the model's layers, and the hidden
states are put back in place after them, so that trl's trainers and losses work unchanged. Each stretch of the row
attends to itself and to the tokens before it in its own sequence (variable-length attention, Dao 2023,
arXiv:2307.08691). The language-model head is computed only for tokens with a label.

Sliding windows and soft caps are computed here as the model's configuration says. A model with anything else that changes
attention keeps its padded batches.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel

from persuasion_rl.files import UserError
from persuasion_rl.models.linear import by_torch
from persuasion_rl.models.plain import without_wrapper
from persuasion_rl.runtime.command import note

NAME = "unpadded"
PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers whose attention is computed here."""
PASSED_ON = {
    "position_ids", "label_positions", "use_cache", "cache_position", "num_items_in_batch", "is_causal",
    "output_attentions", "output_hidden_states", "output_router_logits", "return_dict",
}  # fmt: skip
"""Arguments that reach attention and change nothing there. Any other might."""


class NotComputedHere(Exception):
    """A model's attention has something that is not computed without padding."""


@dataclass
class Layout:
    """The places of the tokens of a padded batch (rows, length) in one row of distinct tokens.

    Attributes:
        tokens: indices into the flattened batch of the tokens that are computed, (computed,).
        position_ids: their positions in their sequences, (1, computed).
        places: for each position of the batch its index in the row, 0 for padding, (rows, length).
        queries, keys: lengths of each stretch, and of the tokens it attends to, its own last.
        key_tokens: indices into the row of the tokens that stretches attend to; None if they are the row itself.
    """

    tokens: torch.Tensor
    position_ids: torch.Tensor
    places: torch.Tensor
    queries: list[int]
    keys: list[int]
    key_tokens: torch.Tensor | None

    @functools.cached_property
    def bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cumulative lengths of queries and keys, as variable-length kernels take them."""
        device = self.tokens.device
        return tuple(
            F.pad(torch.tensor(lengths, device=device).cumsum(0), (1, 0)).to(torch.int32)
            for lengths in (self.queries, self.keys)
        )


def lay_out(input_ids: torch.Tensor, attention_mask: torch.Tensor, paired: bool) -> Layout:
    """Lay out a batch that is padded on the right.

    Args:
        input_ids, attention_mask: (rows, length).
        paired: rows i and i + rows / 2 are two continuations; their common beginning is computed once.
    """
    rows, length = input_ids.shape
    device = input_ids.device
    lengths = attention_mask.sum(1)
    shared = torch.zeros_like(lengths)
    if paired:
        first, second = input_ids.chunk(2)
        alike = (first == second) & attention_mask.chunk(2)[0].bool()
        common = alike.long().cumprod(1).sum(1)
        # The second row keeps at least one token, so that it has a stretch of its own.
        shared[rows // 2 :] = torch.minimum(common, lengths[rows // 2 :] - 1)
    columns = torch.arange(length, device=device)
    inside = columns < lengths[:, None]
    computed = inside & (columns >= shared[:, None])
    places = (computed.flatten().cumsum(0) - 1).view(rows, length)
    if paired:
        begin = columns < shared[rows // 2 :, None]
        places[rows // 2 :] = torch.where(begin, places[: rows // 2], places[rows // 2 :])
    keys, begins = lengths.tolist(), shared.tolist()
    return Layout(
        tokens=computed.flatten().nonzero().squeeze(1),
        position_ids=columns.expand(rows, length)[computed][None],
        places=places.masked_fill(~inside, 0),
        queries=[key - begin for key, begin in zip(keys, begins, strict=True)],
        keys=keys,
        key_tokens=places[inside] if any(begins) else None,
    )


@dataclass(frozen=True)
class Form:
    """How a layer attends.

    Attributes:
        scaling: the factor of the products of queries and keys; None is one over the root of their width.
        window: how many tokens a token attends to, itself included; None is all before it.
        softcap: the bound of the scaled products, c tanh(x / c); None is none.
        dropout: the share of attention weights that are dropped.
    """

    scaling: float | None = None
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    layout: Layout | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within the sequences of a layout, in the form that transformers calls.

    Args:
        query: (1, heads, computed, width); key and value: (1, key heads, computed, width).

    Returns:
        (1, computed, heads, width)

    Raises:
        NotComputedHere: an argument that might change attention is unknown here.
    """
    if layout is None:
        raise NotComputedHere("a layer that hides the layout")
    if sliding_window is None and _has_window(module):
        raise NotComputedHere("a window that only its mask has")
    unknown = [
        name for name, value in others.items() if value is not None and name not in PASSED_ON
    ]
    if unknown or not getattr(module, "is_causal", True):
        raise NotComputedHere(unknown[0] if unknown else "attention to later tokens")
    form = Form(scaling, sliding_window, softcap, dropout)
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    if layout.key_tokens is not None:
        key, value = key[layout.key_tokens], value[layout.key_tokens]
    flash = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and _has_flash()
    flash = flash and not (softcap or dropout)  # its kernel has neither
    return (_flash if flash else _one_by_one)(query, key, value, layout, form)[None], None


def _has_window(module: torch.nn.Module) -> bool:
    """Whether a layer attends to a window, by its model's configuration; Phi-MoE's layers do not say it themselves."""
    config = getattr(module, "config", None)
    if getattr(config, "sliding_window", None) is None:
        return False
    kinds = getattr(config, "layer_types", None)
    return kinds is None or kinds[module.layer_idx] == "sliding_attention"


@functools.cache
def _has_flash() -> bool:
    """Whether torch has FlashAttention here (Ampere and later) and it gives the values of plain attention."""
    if torch.cuda.get_device_capability() < (8, 0):
        return False
    batch = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0]], device="cuda")
    layout = lay_out(batch, (batch > 0).long(), paired=True)
    with torch.random.fork_rng():
        query, key, value = (
            torch.randn(len(layout.tokens), heads, 64, device="cuda", dtype=torch.float16)
            for heads in (4, 2, 2)
        )
    key, value = key[layout.key_tokens], value[layout.key_tokens]
    for form in (Form(), Form(window=2)):
        states = query, key, value, layout, form
        if not torch.allclose(_flash(*states), _one_by_one(*states), atol=1e-2):
            note("FlashAttention gives other values than plain attention here, and is not used")
            return False
    return True


def _flash(query, key, value, layout: Layout, form: Form) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    before = -1 if form.window is None else form.window - 1
    return varlen_attn(
        query, key, value, *layout.bounds, max(layout.queries), max(layout.keys),
        scale=form.scaling, window_size=(before, 0), enable_gqa=True,
    )  # fmt: skip


def _one_by_one(query, key, value, layout: Layout, form: Form) -> torch.Tensor:
    """Attention of one stretch at a time, for devices without a kernel for all together, and for soft caps."""
    groups = query.shape[1] // key.shape[1]
    stretches = zip(
        query.split(layout.queries), key.split(layout.keys), value.split(layout.keys), strict=True
    )
    outputs = []
    for q, k, v in stretches:
        whole = len(q) == len(k) and (form.window is None or len(k) <= form.window)
        mask = None if whole and not form.softcap else _seen(len(q), len(k), form.window, q.device)
        # (key heads, groups, tokens, width): keys and values are the same for all heads of a group, and not copied
        q, k, v = (states.transpose(0, 1).unflatten(0, (key.shape[1], -1)) for states in (q, k, v))
        k, v = (states.expand(-1, groups, -1, -1) for states in (k, v))
        if form.softcap:
            out = _capped(q, k, v, mask, form)
        else:
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=form.scaling, dropout_p=form.dropout,
            )  # fmt: skip
        outputs.append(out.flatten(0, 1).transpose(0, 1))
    return torch.cat(outputs)


def _seen(queries: int, keys: int, window: int | None, device) -> torch.Tensor:
    """Which keys each of the last `queries` of `keys` tokens attends to: (queries, keys) bool."""
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask if window is None else mask.triu(keys - queries - window + 1)


def _capped(q, k, v, mask: torch.Tensor, form: Form) -> torch.Tensor:
    """Attention with a soft cap on its scores, as transformers' eager attention of Gemma 2, in little memory; (key heads, groups, tokens, width)."""
    scale = q.shape[-1] ** -0.5 if form.scaling is None else form.scaling
    scores = (q @ k.transpose(2, 3)).mul_(scale / form.softcap).tanh_() * form.softcap
    weights = scores.masked_fill_(~mask, -torch.inf).softmax(-1, dtype=torch.float32).to(q.dtype)
    return F.dropout(weights, form.dropout) @ v


AttentionInterface.register(NAME, attend)


@dataclass
class Workload:
    """The work of a model in training.

    Attributes:
        tokens: tokens that went through the layers. labelled: those of them that went through the head.
        attended: pairs of a token and a token that it attends to, in one head of one layer.
    """

    tokens: int = 0
    labelled: int = 0
    attended: int = 0

    def add(self, layout: Layout, labelled: int) -> None:
        self.tokens += len(layout.tokens)
        self.labelled += labelled
        for queries, keys in zip(layout.queries, layout.keys, strict=True):
            self.attended += queries * (2 * keys - queries + 1) // 2


def compute_without_padding(model: PreTrainedModel, paired: bool = False) -> Workload:
    """Make a model compute each token of a batch once, if all of its attention is known here. It then can only train and score.

    Otherwise the model keeps its padded batches, and one line says why.

    Args:
        model: a causal language model with trl's fused head, or a sequence classifier.
        paired: batches hold two continuations of each prompt, as trl's preference collators make them.

    Returns:
        The count of its work in training mode from now on.

    Raises:
        UserError: its layers cannot be told from its head.
    """
    workload = Workload()
    backbone = model.base_model
    if backbone is model:
        raise UserError(
            f"{model.config.model_type}: transformers has its layers in one with its head; take another base model"
        )
    layers = getattr(backbone, "decoder", backbone)  # OPT's head calls its decoder itself
    config = backbone.config
    backbone.plain_attention = config._attn_implementation
    config._attn_implementation = NAME

    def unpads() -> bool:
        return config._attn_implementation == NAME

    def only_labelled(_, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Leave only labelled tokens to trl's head, which drops the others on GPUs only."""
        if not kwargs.get("fused_lm_head"):
            return args, kwargs
        targets = kwargs["labels"][:, 1:]
        mask = targets != -100
        kwargs["label_positions"] = F.pad(mask, (0, 1))
        if unpads():
            kwargs |= {"labels": None, "shift_labels": targets[mask][None]}
        return args, kwargs

    def flatten(_, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if kwargs.get("past_key_values") is not None and unpads():
            raise RuntimeError("this model computes whole batches; load another one to generate")
        input_ids = args[0] if args else kwargs["input_ids"]
        mask = kwargs.get("attention_mask")
        mask = torch.ones_like(input_ids) if mask is None else mask
        layout = lay_out(input_ids, mask, paired and unpads())
        if model.training:
            label_positions = kwargs.get("label_positions")
            workload.add(
                layout, len(input_ids) if label_positions is None else int(label_positions.sum())
            )
        if not unpads():
            kwargs.pop("label_positions", None)
            return args, kwargs
        return (), {
            **kwargs,
            "attention_mask": None,
            "input_ids": input_ids.flatten()[layout.tokens][None],
            "position_ids": layout.position_ids,
            "layout": layout,
            "use_cache": False,
        }

    def put_back(_, args: tuple, kwargs: dict, output):
        if "layout" not in kwargs:
            return output
        places, label_positions = kwargs["layout"].places, kwargs.get("label_positions")
        hidden = output.last_hidden_state[0]
        output.last_hidden_state = (
            hidden[places] if label_positions is None else hidden[places[label_positions]][None]
        )
        return output

    def in_place(_, args: tuple, kwargs: dict, output):
        if kwargs.get("fused_lm_head") and unpads():
            mask = kwargs["label_positions"][:, :-1]
            for name in PER_TOKEN:
                if (values := getattr(output, name)) is not None:
                    output[name] = values.new_zeros(mask.shape).masked_scatter(mask, values)
            output["label_mask"] = mask
        return output

    model.register_forward_pre_hook(only_labelled, with_kwargs=True)
    model.register_forward_hook(in_place, with_kwargs=True)
    layers.register_forward_pre_hook(flatten, with_kwargs=True)
    layers.register_forward_hook(put_back, with_kwargs=True)
    if reason := _why_padded(model):
        config._attn_implementation = backbone.plain_attention
        note(f"{config.model_type}: batches stay padded; not computed without padding: {reason}")
    return workload


def _why_padded(model: PreTrainedModel) -> str | None:
    """What keeps a model from computing without padding; None is nothing. A short batch is tried."""
    backbone = model.base_model
    others = set(getattr(backbone.config, "layer_types", None) or ()) - LAYERS
    if others:
        return min(others).replace("_", " ")
    if not backbone._supports_attention_backend:
        return "attention of its own"
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 5, 6, 0, 0]], device=model.device)
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    trains = model.training
    try:
        with torch.no_grad():
            model.eval()(**batch)  # or a head that goes past the backbone would end later
            own = backbone(**batch).last_hidden_state
            with as_it_is(model):
                plain = backbone(**batch).last_hidden_state
    except NotComputedHere as error:
        return str(error)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        return f"layers without a layout ({str(error).splitlines()[0]})"
    finally:
        model.train(trains)
    error = (own - plain)[ids > 0].float().norm() / plain[ids > 0].float().norm()
    return None if error < (1e-3 if plain.dtype == torch.float32 else 0.1) else "its attention"


@contextmanager
def as_it_is(model: torch.nn.Module) -> Iterator[None]:
    """In this context a model computes as transformers does, in padded batches.

    Args:
        model: one of `compute_without_padding`, with an adapter or without.
    """
    inner = without_wrapper(model)
    config, plain = inner.base_model.config, inner.base_model.plain_attention
    now, config._attn_implementation = config._attn_implementation, plain
    try:
        with by_torch():
            yield
    finally:
        config._attn_implementation = now
