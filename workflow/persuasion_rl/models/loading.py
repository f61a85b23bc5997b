"""Loads base models, tokenizers and adapters."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from persuasion_rl.files import UserError, text_digest
from persuasion_rl.models.devices import pick_dtype
from persuasion_rl.models.lineage import check_lineage
from persuasion_rl.models.plain import plain_log_probs, refuse_difference


def load_tokenizer(base: Path, trust_remote_code: bool = False):
    """The base model's tokenizer. If it has no pad token, it pads with EOS; padding is never a label.

    Raises:
        UserError: it has no EOS, so that no response could end, or it has its own code, which is not trusted.
    """
    from transformers import AutoTokenizer

    with _remote_code_named(base):
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{base}: its tokenizer has no EOS token, so no response could end; name one in"
            " tokenizer_config.json (eos_token)"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(base: Path, device: str, trust_remote_code: bool = False, use_4bit: bool = False):
    """The base model on its device, in the dtype for that device."""
    from transformers import AutoModelForCausalLM

    dtype = pick_dtype(device)
    with _remote_code_named(base):
        model = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            quantization_config=_four_bits(dtype, device) if use_4bit else None,
        )
    if use_4bit:
        from peft import prepare_model_for_kbit_training

        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model.to(device)


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
    """The base model with a new scalar score in place of its head: a reward model."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=pick_dtype(device), trust_remote_code=trust_remote_code
    )
    model.config.pad_token_id = pad_token_id
    return model.to(device)


@contextmanager
def _remote_code_named(base: Path) -> Iterator[None]:
    """Turn the refusal of transformers to run a model's own code into a UserError that names the setting."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise UserError(
            f"{base}: this model brings code of its own, which would run here; read it, then set"
            " trust_remote_code: true"
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
    """The tokens that end a response: EOS, and those in the configuration that the base model ships with."""
    ends = shipped.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return sorted({tokenizer.eos_token_id, *(end for end in ends if end is not None)})
