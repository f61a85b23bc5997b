"""Loads base models, tokenizers and adapters."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from persuasion_rl.files import UserError, text_digest
from persuasion_rl.models.devices import pick_dtype
from persuasion_rl.models.lineage import check_lineage
from persuasion_rl.models.plain import plain_log_probs, refuse_difference
from persuasion_rl.prompts.tokens import refuse_unembedded
from persuasion_rl.study.base_folder import check_base_folder

REASON = 250
"""Letters of another library's error that are shown at most."""
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that keep nothing but keys and values."""


def load_tokenizer(base: Path, trust_remote_code: bool = False):
    """The base model's tokenizer. If it has no pad token, it pads with EOS; padding is never a label.

    Raises:
        UserError: the folder is no base model (`study.base_folder`); its tokenizer has no EOS, so that no response could
            end, or its EOS or pad token is none of the model's; or it has its own code, which is not trusted.
    """
    from transformers import AutoTokenizer

    check_base_folder(base)
    with loading(base):
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{base}: its tokenizer has no EOS token, so no response could end; name one in"
            " tokenizer_config.json (eos_token)"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    named = (tokenizer.eos_token, tokenizer.pad_token)
    refuse_unembedded(base, {token: tokenizer.convert_tokens_to_ids(token) for token in named})
    return tokenizer


def load_base(base: Path, device: str, trust_remote_code: bool = False, use_4bit: bool = False):
    """The base model on its device, in the dtype for that device.

    Raises:
        UserError: the folder is no base model, its weights are not whole, or it is of a kind that is not read here.
    """
    from transformers import AutoModelForCausalLM

    from persuasion_rl.models.linear import quicken

    dtype = pick_dtype(device)
    quantisation = _four_bits(dtype, device) if use_4bit else None
    check_base_folder(base)
    model = _from_folder(
        AutoModelForCausalLM, base, dtype=dtype, trust_remote_code=trust_remote_code,
        quantization_config=quantisation,
    )  # fmt: skip
    model = model if use_4bit else model.to(device)
    quicken(model)
    _refuse_kind(base, model)
    if use_4bit:
        from peft import prepare_model_for_kbit_training

        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model


def _from_folder(model_class: type, base: Path, **options):
    """A model with all weights of a folder; only a classifier's score is new.

    Raises:
        UserError: it cannot be loaded, or a part of it would be random.
    """
    with loading(base):
        model, loading_info = model_class.from_pretrained(
            base, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    lacking = sorted(name for name in loading_info["missing_keys"] if not name.startswith("score"))
    others = sorted(name for name, *_ in loading_info["mismatched_keys"])
    if lacking or others:
        what = f"lack {lacking[0]}" if lacking else f"have {others[0]} of another size"
        raise UserError(
            f"{base}: its weights {what}, so it would be random; is the folder whole, and of one model?"
        )
    # Of a mixture of experts: its logits stand in no result, and sampling in batches ends over them.
    if getattr(model.config, "output_router_logits", False):
        model.config.output_router_logits = False
    model.config.return_dict = True
    return model


def _refuse_kind(base: Path, model) -> None:
    """UserError for a model with a state beside its cache, which rows of a batch cannot leave, or that sees later tokens."""
    import torch

    kind = model.config.model_type
    states = set(getattr(model.config, "layer_types", None) or ()) - ATTENTION
    if states or model._is_stateful:
        raise UserError(
            f"{base}: {kind} has layers that keep a state ({min(states, default='recurrent')}), and replies are sampled"
            " from models with attention only; take another one"
        )
    pair = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=model.device)
    with torch.no_grad():
        one, other = model(input_ids=pair).logits[:, :3].float()
    rounding = 1e-3 if model.dtype == torch.float32 else 0.05
    if (one - other).abs().max() > rounding * one.abs().max():
        raise UserError(
            f"{base}: {kind} sees later tokens, as encoders do; take a causal language model"
        )


def _four_bits(dtype, device: str):
    """The quantisation of the base model as in QLoRA (Dettmers et al. 2023)."""
    from transformers import BitsAndBytesConfig

    if device != "cuda":
        raise UserError("use_4bit: true needs a CUDA device; set use_4bit: false, or device: cuda")
    if find_spec("bitsandbytes") is None:
        raise UserError("use_4bit: true needs bitsandbytes: pip install -e '.[qlora]'")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load_classifier(base: Path, device: str, pad_token_id: int, trust_remote_code: bool = False):
    """The base model with a new scalar score in place of its head: a reward model.

    Raises:
        UserError: the folder is no base model, or transformers cannot load it as a classifier.
    """
    from persuasion_rl.models.linear import quicken

    check_base_folder(base)
    with loading(base):
        kind = _classifier_class(base, trust_remote_code)
    model = _from_folder(
        kind, base, num_labels=1, dtype=pick_dtype(device), trust_remote_code=trust_remote_code
    )
    model.config.pad_token_id = pad_token_id
    model = model.to(device)
    quicken(model)
    return model


def _classifier_class(base: Path, trust_remote_code: bool) -> type:
    """transformers' class of classifiers of a model's kind; where it has none (OLMo 2, Granite), its generic one on that kind.

    Llama 4's layers of text are of a family whose own configuration is that of the model with images."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        AutoConfig,
        AutoModelForSequenceClassification,
    )
    from transformers.modeling_layers import GenericForSequenceClassification

    kind = type(AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code))
    if kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForSequenceClassification
    family = MODEL_FOR_CAUSAL_LM_MAPPING[kind].__mro__[1]  # as Olmo2PreTrainedModel
    name = family.__name__.replace("PreTrainedModel", "ForSequenceClassification")
    return type(name, (GenericForSequenceClassification, family), {"config_class": kind})


@contextmanager
def loading(base: Path) -> Iterator[None]:
    """Turn what transformers raises over a model's folder into a UserError; a refusal of a model's own code names the setting."""
    try:
        yield
    except Exception as error:  # transformers, safetensors and tokenizers raise many kinds
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{base}: this model brings code of its own, which would run here; read it, then set"
                " trust_remote_code: true"
            ) from None
        reason = " ".join(str(error).split()) or "no reason given"
        reason = reason if len(reason) <= REASON else f"{reason[:REASON]} ..."
        raise UserError(
            f"{base}: transformers cannot load it ({type(error).__name__}: {reason})"
        ) from None


def load_for_inference(
    base: Path, adapters: list[Path], device: str, trust_remote_code: bool = False
):
    """Model, tokenizer and digest of a lineage, which is checked; the last adapter is applied."""
    digest = check_lineage(base, adapters)
    model = load_base(base, device, trust_remote_code)
    tokenizer = load_tokenizer(base, trust_remote_code)
    model.generation_config = _plain_generation(model.generation_config, tokenizer)
    if adapters:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapters[-1].parent).eval()
        if device == "cpu":  # float32; in half precision merging would round the adapter away
            row = list(range(1, 9))
            apart = plain_log_probs(model, row)
            model = model.merge_and_unload()
            refuse_difference("the merged adapter", model, [plain_log_probs(model, row)], [apart])
    return model.eval(), tokenizer, text_digest(digest)


def _plain_generation(shipped, tokenizer):
    """A configuration with the shipped end tokens alone, without the model's repetition penalty and the rest."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_tokens(shipped, tokenizer),
    )


def end_tokens(shipped, tokenizer) -> list[int]:
    """The tokens that end a response: EOS, those in the configuration that the base model ships with, and the one that its
    chat template writes behind a reply."""
    ends = shipped.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    ends = [tokenizer.eos_token_id, _end_of_turn(tokenizer), *ends]
    return sorted({end for end in ends if end is not None})


def _end_of_turn(tokenizer) -> int | None:
    """The special token that a chat template writes behind a reply; None if there is no template or no such token."""
    from jinja2 import TemplateError

    reply = "Reply-4711"
    turns = [{"role": "user", "content": "Post"}, {"role": "assistant", "content": reply}]
    try:
        chat = tokenizer.chat_template and tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError:
        return None
    behind = tokenizer((chat or "").rpartition(reply)[2].lstrip(), add_special_tokens=False)
    first = next(iter(behind["input_ids"]), None)
    return first if first in tokenizer.all_special_ids else None
