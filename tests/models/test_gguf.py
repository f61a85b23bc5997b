"""GGUF files as base models: the same model as the one they were made from, or one line that says why not."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from persuasion_rl.files import UserError, file_digest, read_json
from persuasion_rl.models.gguf import convert_gguf
from persuasion_rl.models.gguf_header import read_header
from persuasion_rl.models.loading import end_tokens, load_base, load_tokenizer
from persuasion_rl.models.plain import plain_log_probs
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.study.base_folder import check_base_folder, check_gguf
from tiny_families import write_family_base
from tiny_gguf import write_gguf
from tokenizer_kinds import write_base

ROW = [*range(5, 60)]
TEXT = "Post: In 2019  I saw 12 zoos.\n\n3 of them 'closed'. É"
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}{{ 'assistant: ' if add_generation_prompt }}"
ROPE = {"rope_type": "default", "rope_theta": 50_000.0}
FAMILIES = {
    "llama": {"rope_parameters": ROPE, "intermediate_size": 64},
    "qwen2": {"intermediate_size": 64},
    "mistral": {"sliding_window": None},
    "qwen3": {"head_dim": 128},
    "phi3": {"sliding_window": None},
}


@pytest.fixture(scope="module")
def base_of(tiny_rows, tmp_path_factory):
    """A function that makes the ordinary folder of a tiny model of a family."""

    def make(family: str, **changed) -> Path:
        folder = tmp_path_factory.mktemp(family)
        changed = FAMILIES.get(family, {}) | changed
        return write_family_base(family, tiny_rows.base, folder, **changed)

    return make


@pytest.fixture(scope="module")
def llama(base_of) -> Path:
    return base_of("llama")


def converted(file: Path) -> Path:
    folder = file.with_suffix("")
    folder.mkdir()
    convert_gguf(file, folder)
    return folder


def refusal(function, *arguments) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, kind) for family in ("llama", "qwen2") for kind in ("F32", "F16", "Q8_0")]
    + [(family, "F32") for family in ("mistral", "qwen3", "phi3")],
)
def test_the_folder_is_the_model_of_the_file(family, kind, base_of, tmp_path):
    base = base_of(family)
    file = write_gguf(base, tmp_path / "model.gguf", kind, tokenizer__chat_template=TEMPLATE)
    folder = converted(file)
    check_base_folder(folder)
    theirs, ours = load_base(base, "cpu"), load_base(folder, "cpu")
    direct = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype="float32")
    own = plain_log_probs(ours, ROW)
    torch.testing.assert_close(own, plain_log_probs(direct, ROW), rtol=0, atol=0)
    apart = (own - plain_log_probs(theirs, ROW)).abs().max()
    assert apart < {"F32": 1e-5, "F16": 0.05, "Q8_0": 1}[kind]
    weights = theirs.model.layers[0].self_attn.o_proj.weight.detach()
    rounding = {"F32": 0, "F16": 2**-10, "Q8_0": 2**-6}[kind] * weights.abs().max()
    torch.testing.assert_close(
        ours.model.layers[0].self_attn.o_proj.weight.detach(), weights, rtol=0, atol=float(rounding)
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer(TEXT)["input_ids"] == AutoTokenizer.from_pretrained(base)(TEXT)["input_ids"]
    assert tokenizer.chat_template == TEMPLATE
    assert TextTokenizer(folder, "chat").format.name == "chat"
    said = read_json(folder / "generation_config.json")
    assert said.keys() <= {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}
    assert end_tokens(ours.generation_config, tokenizer) == [tokenizer.eos_token_id]
    config = read_json(folder / "config.json")
    assert "quantization_config" not in config and config["eos_token_id"] == tokenizer.eos_token_id


def test_a_token_that_ends_a_turn_ends_a_reply_too(llama, tmp_path):
    file = write_gguf(llama, tmp_path / "model.gguf", tokenizer__ggml__eot_token_id=7)
    said = read_json(converted(file) / "generation_config.json")
    assert 7 in said["eos_token_id"] and len(said["eos_token_id"]) == 2


@pytest.mark.parametrize(("text", "kind"), [("<｜User｜>", 3), ("    ", 4)])
def test_a_token_that_would_be_cut_into_pieces_is_refused(text, kind, llama, tmp_path):
    """As the roles of DeepSeek's templates, and the indents of OLMo and Phi-2."""
    content = json.loads((llama / "tokenizer.json").read_text())
    ids = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}  # fmt: skip
    tokens = sorted(ids, key=ids.get)
    kinds = [3 if number < 3 else 1 for number in range(len(tokens))]
    tokens[1], kinds[1] = text, kind
    file = write_gguf(llama, tmp_path / "model.gguf", tokenizer__ggml__tokens=tokens, tokenizer__ggml__token_type=kinds)  # fmt: skip
    (tmp_path / "out").mkdir()
    message = refusal(convert_gguf, file, tmp_path / "out")
    assert f"has the token {text!r}, which transformers would cut into pieces" in message


def test_a_disk_without_room_for_float32_is_told_before(llama, tmp_path, monkeypatch):
    file = write_gguf(llama, tmp_path / "model.gguf", "Q8_0")
    free = 3 * read_header(file).numbers
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
    (tmp_path / "out").mkdir()
    assert "GB are to be written there" in refusal(convert_gguf, file, tmp_path / "out")


def test_digits_are_split_off_where_the_vocabulary_was_learned_so(llama, tmp_path):
    """transformers splits as GPT-2 does wherever it does not know how: spaces before a number are then other tokens."""
    file = write_gguf(llama, tmp_path / "model.gguf", tokenizer__ggml__pre="smollm")
    split = load_tokenizer(converted(file)).backend_tokenizer.pre_tokenizer
    assert [word for word, _ in split.pre_tokenize_str("a  12")] == ["a", "ĠĠ", "1", "2"]


@pytest.mark.parametrize(
    ("pre", "whole"), [("llama-bpe", True), ("tekken", True), ("qwen2", False)]
)
def test_words_stay_whole_and_bos_begins_a_text_where_llama_cpp_does_so(pre, whole, llama, tmp_path):  # fmt: skip
    """Llama 3 has words that are tokens and that no merges lead to, and its older files do not say that BOS is added."""
    content = json.loads((llama / "tokenizer.json").read_text())["model"]
    merges = [" ".join(merge) for merge in content["merges"] if "".join(merge) != "Ġthe"]
    keys = {"pre": pre, "merges": merges, "bos_token_id": 3}
    file = write_gguf(llama, tmp_path / "model.gguf", **{f"tokenizer__ggml__{key}": value for key, value in keys.items()})  # fmt: skip
    ids = TextTokenizer(converted(file)).prompt_ids([" the"])[0]
    pieces = [content["vocab"][piece] for piece in ("Ġt", "he")]
    assert ids == ([3, content["vocab"]["Ġthe"]] if whole else pieces)


@pytest.mark.parametrize("prefix", [None, True, False])
def test_a_sentence_piece_vocabulary_has_the_spaces_of_llama_cpp(prefix, base_of, tmp_path):
    """A space in front of each text, also of one that begins with spaces, unless the header says that there is none."""
    original = write_base(tmp_path / "original", "legacy")
    content = json.loads((original / "tokenizer.json").read_text())
    special = {token["content"]: token["id"] for token in content["added_tokens"] if token["special"]}  # fmt: skip
    ids = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}  # fmt: skip
    tokens = sorted(ids, key=ids.get)
    ranks = {"".join(merge): -rank for rank, merge in enumerate(content["model"]["merges"])}
    kinds = [6 if token.startswith("<0x") else 3 if token in special else 1 for token in tokens]
    keys = {
        "model": "llama", "pre": None, "merges": None, "tokens": tokens, "token_type": kinds,
        "scores": [float(ranks.get(token, -1000)) for token in tokens], "bos_token_id": ids["<s>"],
        "eos_token_id": ids["</s>"], "unknown_token_id": ids["<unk>"], "padding_token_id": None,
        "add_bos_token": False, "add_space_prefix": prefix,
    }  # fmt: skip
    base = base_of("llama", vocab_size=len(tokens))
    file = write_gguf(base, tmp_path / "model.gguf", **{f"tokenizer__ggml__{key}": value for key, value in keys.items()})  # fmt: skip
    ours, theirs = load_tokenizer(converted(file)), AutoTokenizer.from_pretrained(original)
    if prefix is False:
        theirs.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    for text in (TEXT, "  are slow", "<s>buses</s> are"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.decode(ours("  are slow")["input_ids"]) == "  are slow"


def test_the_header_says_what_the_card_tells(llama, tmp_path):
    file = write_gguf(
        llama, tmp_path / "model.gguf", "Q8_0", general__license="mit", general__name="Tiny\n one"
    )
    (tmp_path / "out").mkdir()
    facts = convert_gguf(file, tmp_path / "out")
    assert facts == {"name": "Tiny one", "architecture": "llama", "licence": "mit", "quantisation": "Q8_0"}  # fmt: skip
    assert read_header(file).numbers == load_base(llama, "cpu").num_parameters()


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        ({"general__architecture": "starcoder9"}, "transformers cannot load it"),
        ({"general__type": "adapter"}, "an adapter, and no base model"),
        ({"general__type": "mmproj"}, "the part of a model that sees images"),
        ({"general__type": "imatrix"}, "of the type 'imatrix', and no model"),
        ({"split__count": 3}, "one of 3 files"),
        ({"llama__pooling_type": 1}, "a model of embeddings"),
        ({"tokenizer__ggml__tokens": None}, "without a vocabulary"),
        ({"tokenizer__ggml__pre": "unheard-of"}, "how its tokenizer splits text (tokenizer.ggml.pre = unheard-of)"),
        ({"tokenizer__ggml__pre": None}, "(tokenizer.ggml.pre = None)"),
        ({"llama__rope__scaling__type": "yarn"}, "says llama.rope.scaling.type = yarn"),
        ({"llama__attention__sliding_window": 8}, "says llama.attention.sliding_window = 8"),
        ({"llama__attention__key_length": 32}, "llama.attention.key_length = 32"),
        ({"llama__vocab_size": 100}, "tokens, and its model embeds 100"),
        ({"tokenizer__ggml__eos_token_id": None}, "without an EOS token (tokenizer.ggml.eos_token_id)"),
        ({"tokenizer__ggml__eot_token_id": "a"}, "tokenizer.ggml.eot_token_id is 'a', and should be the number of one of its"),
        ({"tokenizer__ggml__eot_token_id": 999_999}, "eot_token_id is 999999, and should be the number of one of its"),
        ({"tokenizer__chat_template": 3}, "tokenizer.chat_template is 3, and should be a text"),
        ({"general__license": ["mit"]}, "general.license is ['mit'], and should be a text"),
        ({"split__count": "3"}, "one of 3 files"),
        ({"llama__block_count": 200_000}, "no larger than that of its tensors, 21"),
    ],
)  # fmt: skip
def test_what_would_be_another_model_is_refused_from_the_header(metadata, line, llama, tmp_path):
    file = write_gguf(llama, tmp_path / "model.gguf", **metadata)
    (tmp_path / "out").mkdir()
    message = refusal(convert_gguf, file, tmp_path / "out")
    assert message.startswith(str(file)) and line in message
    assert not [*(tmp_path / "out").glob("*.safetensors")]


def test_a_gemma_of_narrow_heads_is_refused(base_of, tmp_path):
    """As those of 27 billion weights: llama.cpp knows their scale by their number of layers, transformers takes 256."""
    usual = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    base = base_of("gemma2", **usual)
    file = write_gguf(base, tmp_path / "model.gguf", gemma2__attention__sliding_window=8, gemma2__attention__key_length=8)  # fmt: skip
    (tmp_path / "out").mkdir()
    line = (
        "does not say how its attention is scaled, and transformers would take 256 for heads of 8"
    )
    assert line in refusal(convert_gguf, file, tmp_path / "out")


def test_scaled_positions_that_transformers_drops_are_refused(base_of, tmp_path, monkeypatch):
    """Llama 3.1 and later have their factors in a tensor of their own, `rope_freqs`."""
    from gguf import GGUFWriter

    write = GGUFWriter.write_header_to_file
    monkeypatch.setattr(
        GGUFWriter, "write_header_to_file",
        lambda self: (self.add_tensor("rope_freqs.weight", np.ones(4, np.float32)), write(self)),
    )  # fmt: skip
    file = write_gguf(base_of("llama"), tmp_path / "model.gguf")
    (tmp_path / "out").mkdir()
    assert "a part of the model would be lost" in refusal(convert_gguf, file, tmp_path / "out")


def test_numbers_that_are_none_are_refused(llama, tmp_path):
    """A token's embedding that is not finite shows in no short row."""
    file = write_gguf(llama, tmp_path / "model.gguf")
    from gguf import GGUFReader

    embedding = next(t for t in GGUFReader(file, "r+").tensors if t.name == "token_embd.weight")
    embedding.data[-1, -1] = np.inf
    embedding.data.base.flush()
    (tmp_path / "out").mkdir()
    message = refusal(convert_gguf, file, tmp_path / "out")
    assert "model.embed_tokens.weight has numbers that are not finite" in message


def test_tensors_that_overlap_are_refused(llama, tmp_path):
    """A bit of the header that was lost makes another model, and not a shorter one."""
    file = write_gguf(llama, tmp_path / "model.gguf")
    from gguf import GGUFReader

    reader = GGUFReader(file, "r+")
    place = next(t for t in reader.tensors if t.name == "blk.0.ffn_up.weight").field.parts[-1]
    place[0] = 0
    reader.data.flush()
    message = refusal(read_header, file)
    assert "blk.0.ffn_up.weight does not begin where blk.0.ffn_gate.weight ends" in message


def test_tensors_without_a_number_change_nothing(llama, tmp_path, monkeypatch):
    from gguf import GGUFWriter

    write = GGUFWriter.write_header_to_file
    monkeypatch.setattr(
        GGUFWriter, "write_header_to_file",
        lambda self: (self.add_tensor("empty.weight", np.ones(0, np.float32)), write(self)),
    )  # fmt: skip
    file = write_gguf(llama, tmp_path / "model.gguf")
    assert read_header(file).numbers == load_base(llama, "cpu").num_parameters()


def test_a_type_that_cannot_be_multiplied_out_is_named(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("gguf.dequantize", lambda data, kind: (_ for _ in ()).throw(NotImplementedError))  # fmt: skip
    file = write_gguf(llama, tmp_path / "model.gguf", "Q8_0")
    assert "is stored as Q8_0, which the package gguf does not read" in refusal(read_header, file)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(share, llama, tmp_path):
    file = write_gguf(llama, tmp_path / "model.gguf")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert str(file) in refusal(read_header, file)


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (b"PK\x03\x04\0\0\0\0", "no GGUF file"),
        (b"GGUF" + struct.pack("<I", 1), "GGUF version 1, and versions 2 and 3 are read"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian"),
    ],
)
def test_how_a_file_begins_is_looked_at_when_the_study_is_read(start, line, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(start + bytes(100))
    assert line in refusal(check_gguf, file)


def test_a_part_of_a_model_is_refused(tmp_path):
    file = tmp_path / "model-00001-of-00003.gguf"
    file.write_bytes(b"GGUF")
    assert "a part of a model in several files" in refusal(check_gguf, file)
    assert "there is no file" in refusal(check_gguf, tmp_path / "none.gguf")


def test_the_file_itself_is_not_touched(llama, tmp_path):
    file = write_gguf(llama, tmp_path / "model.gguf")
    before = file_digest(file)
    converted(file)
    assert file_digest(file) == before
