"""Loads base models and adapters, and refuses a chain of adapters that does not fit together.

Every adapter is complete on the base model. Its `recipe.json` holds the digests of the base and of the
parent that it was trained from, and whoever loads it passes the files of its whole lineage.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from persuasion_rl.files import UserError, file_digest, read_json, text_digest
from persuasion_rl.models.devices import pick_dtype

WEIGHTS = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
RECIPE = "recipe.json"
LINEAGE_KEYS = ("base_digest", "parent", "parent_digest", "adapter_digest", "config_digest")


def base_digest(base: Path) -> str:
    """SHA-256 of the base model's weights."""
    for name in ("config.json", WEIGHTS, "tokenizer.json"):
        if not (base / name).is_file():
            raise UserError(f"base model {base}: {name} is missing")
    return file_digest(base / WEIGHTS)


def check_lineage(base: Path, adapters: list[Path]) -> str:
    """Check that each adapter was trained from the one before it and return the last one's digest.

    Args:
        adapters: the adapter files from the first one above the base to the model's own; may be empty.
    """
    digest = root = base_digest(base)
    for adapter in adapters:
        recipe = read_json(adapter.parent / RECIPE)
        missing = [key for key in LINEAGE_KEYS if key not in recipe]
        if missing:
            raise UserError(f"{adapter.parent / RECIPE}: the key {missing[0]!r} is missing")
        if recipe["base_digest"] != root:
            raise UserError(f"{adapter}: was trained on another base model than {base}")
        if recipe["parent_digest"] != digest:
            raise UserError(
                f"{adapter}: its parent {recipe['parent']} has changed since it was trained;"
                " ask for the adapter again to train it from the parent that is there"
            )
        if recipe["adapter_digest"] != file_digest(adapter):
            raise UserError(f"{adapter}: is not the file that its {RECIPE} describes")
        if recipe["config_digest"] != file_digest(adapter.parent / ADAPTER_CONFIG):
            raise UserError(
                f"{adapter.parent / ADAPTER_CONFIG}: is not the file that {RECIPE} describes; its scale would"
                " be another one"
            )
        digest = recipe["adapter_digest"]
    return digest


def load_tokenizer(base: Path, trust_remote_code: bool = False):
    """The base model's tokenizer; without a pad token of its own it pads with EOS, which no label is.

    Raises:
        UserError: no EOS, so that no response could end, or code of its own that is not trusted.
    """
    from transformers import AutoTokenizer

    with _told_of_remote_code(base):
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
    """The base model on its device, in the dtype that the device has."""
    from transformers import AutoModelForCausalLM

    dtype = pick_dtype(device)
    with _told_of_remote_code(base):
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
    """How QLoRA (Dettmers et al. 2023) keeps the base model."""
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
    """The base model with a scalar score in place of its head: a reward model, whose score is new."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=pick_dtype(device), trust_remote_code=trust_remote_code
    )
    model.config.pad_token_id = pad_token_id
    return model.to(device)


@contextmanager
def _told_of_remote_code(base: Path) -> Iterator[None]:
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
    """Model, tokenizer and digest of a checked lineage; the last adapter applied."""
    digest = check_lineage(base, adapters)
    model = load_base(base, device, trust_remote_code)
    tokenizer = load_tokenizer(base, trust_remote_code)
    model.generation_config = _plain_generation(model.generation_config, tokenizer)
    if adapters:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapters[-1].parent)
        if device == "cpu":  # in float32; in half precision, merging would round the adapter away
            model = model.merge_and_unload()
    return model.eval(), tokenizer, text_digest(digest)


def _plain_generation(shipped, tokenizer):
    """Of the settings that a model ships with, only what ends a response: not its repetition penalty."""
    from transformers import GenerationConfig

    ends = shipped.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return GenerationConfig(
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted({tokenizer.eos_token_id, *(end for end in ends if end is not None)}),
    )
