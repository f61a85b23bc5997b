"""A GGUF file holds the merged model: the same logits and token ids, read by transformers and by llama.cpp."""

import json
import shutil

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from persuasion_rl.export.export_gguf import export_gguf
from persuasion_rl.export.export_model import export_model
from persuasion_rl.export.llama_tokenizer import PRE_TOKENIZERS, adds_bos, read_llama_tokenizer
from persuasion_rl.export.modelfile import PROMPT, modelfile_text
from persuasion_rl.files import UserError
from persuasion_rl.prompts.tokens import TextTokenizer
from tiny_families import write_family_base
from tokenizer_kinds import TEMPLATES, write_base

SAMPLING = dict(temperature=0.7, top_p=0.9, max_new_tokens=24)
QUESTION = "Claim: 1,234 zoos 🙂 in Köln\nPoster: They're  sad.\n\n\tNo, really!"
PLAIN = {"rope_type": "default", "rope_theta": 5000.0}
STRINGS = [
    QUESTION,
    "emoji 👩‍🚀🏳️‍🌈 \u00a0\u3000 end ",
    "12345678 90 3.14",
    "a\n\nb\r\n\n  c",
    "<|im_start|>user\nx<|im_end|>",
]


def exported(base, folder, prompt_format="plain", lineage=(), **changed):
    """A folder with a merged model, its GGUF file and the Modelfile."""
    export_model(base=base, lineage=list(lineage), output=folder, **SAMPLING)
    export_gguf(
        model=folder, name="tiny", output=folder / "tiny.gguf", modelfile=folder / "Modelfile",
        prompt_format=prompt_format, source="cmv", num_ctx=400, **SAMPLING | changed,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folders(tiny_rows, tiny_sft, tmp_path_factory):
    """Kind of model -> an exported folder: the trained Qwen2, a random Llama with keys for two heads each, and one with
    the positions of Llama 3 and the single digits of SmolLM."""
    root = tmp_path_factory.mktemp("exported")
    llama = write_family_base("llama", tiny_rows.base, root / "base", rope_parameters=PLAIN)
    slowed = write_family_base("llama", tiny_rows.base, root / "slowed_base")
    tokenizer = json.loads((slowed / "tokenizer.json").read_text())
    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [{"type": "Digits", "individual_digits": True}, words]
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    (slowed / "tokenizer.json").write_text(json.dumps(tokenizer))
    return {
        "llama3": exported(slowed, root / "llama3"),
        "qwen2": exported(tiny_rows.base, root / "qwen2", lineage=[tiny_sft]),
        "llama": exported(llama, root / "llama"),
    }


def log_probs(model, ids):
    with torch.no_grad():
        return model.eval()(ids).logits.log_softmax(-1)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_read_back_it_is_the_merged_model(folders, kind):
    folder = folders[kind]
    merged = AutoModelForCausalLM.from_pretrained(folder)
    back = AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf", dtype=torch.float32)
    ids = torch.arange(3, 203)[None]
    difference = (log_probs(merged, ids) - log_probs(back, ids)).abs().max()
    assert 0 < difference < 0.05, "float16 rounds"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    read_back = AutoTokenizer.from_pretrained(folder, gguf_file="tiny.gguf")
    for text in STRINGS:
        assert tokenizer(text).input_ids == read_back(text).input_ids, text
    assert read_back.eos_token == tokenizer.eos_token == "<|endoftext|>"
    assert read_back.chat_template == tokenizer.chat_template


def test_llama_cpp_writes_what_the_merged_model_writes(folders, tiny_rows):
    llama_cpp = pytest.importorskip("llama_cpp", reason="pip install llama-cpp-python builds it")
    for kind, folder in folders.items():
        model = llama_cpp.Llama(str(folder / "tiny.gguf"), n_ctx=512, verbose=False)
        text = TextTokenizer(folder)
        for string in STRINGS[:-1]:
            (ids,) = text.prompt_ids([string])
            assert model.tokenize(string.encode(), add_bos=True, special=True) == ids, kind
        (prompt,) = text.prompt_ids([text.format.render(QUESTION, "cmv")])
        merged = AutoModelForCausalLM.from_pretrained(folder)
        greedy = merged.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24)
        ends = merged.generation_config.eos_token_id
        expected = [id_ for id_ in greedy[0, len(prompt) :].tolist() if id_ not in ends]
        written = []
        for id_ in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
            if id_ in ends or len(written) == 24:
                break
            written.append(id_)
        assert written == expected, kind
        model.close()


def test_what_no_float16_holds_stays_float32(tiny_rows, tmp_path):
    base = write_family_base("llama", tiny_rows.base, tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.lm_head.weight.data[7, 3] = 1e6
    shutil.rmtree(base)
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_rows.base).save_pretrained(base)
    file = exported(base, tmp_path / "out") / "tiny.gguf"
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors.items()}
    assert kinds["output.weight"] == kinds["output_norm.weight"] == "F32"
    assert kinds["token_embd.weight"] == kinds["blk.1.ffn_down.weight"] == "F16"
    assert tensors["output.weight"].data[7, 3] == 1e6
    # Llama 3 slows its positions by these factors.
    rotary = model.model.rotary_emb.inv_freq
    default = 10_000.0 ** -(torch.arange(4) / 4)
    assert torch.allclose(default / torch.tensor(tensors["rope_freqs.weight"].data), rotary)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gemma2", "gemma2 is none of llama, mistral, qwen2"),
        ("qwen2", "the positions of this qwen2 are of the type linear"),
        ("mistral", "it attends to 8 tokens, and a prompt with its reply has 400"),
    ],
)
def test_other_models_are_refused_in_one_line(family, reason, tiny_rows, tmp_path):
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    changed = {"rope_parameters": linear} if family == "qwen2" else {}
    base = write_family_base(family, tiny_rows.base, tmp_path / "base", **changed)
    with pytest.raises(UserError) as refusal:
        exported(base, tmp_path / "out")
    assert reason in str(refusal.value) and "convert_hf_to_gguf.py of llama.cpp" in str(refusal.value)  # fmt: skip
    assert (tmp_path / "out/model.safetensors").exists() and "\n" not in str(refusal.value)
    assert not list((tmp_path / "out").glob("*tiny*"))


@pytest.mark.parametrize("kind", ["byte_fallback", "unigram", "word_level"])
def test_other_tokenizers_are_refused(kind, tmp_path):
    with pytest.raises(UserError, match="no byte-level BPE; the merged weights are in that folder"):
        read_llama_tokenizer(write_base(tmp_path, kind), 1000, "plain")


def test_pre_tokenizers_are_known_by_what_they_do(qwen_tokenizer, tmp_path):
    folder = write_base(tmp_path, "byte_level")
    content = json.loads((folder / "tokenizer.json").read_text())

    def name(pre_tokenizer):
        (folder / "tokenizer.json").write_text(json.dumps(content | {"pre_tokenizer": pre_tokenizer}))  # fmt: skip
        return read_llama_tokenizer(folder, 500, "plain").pre

    def whole(pre_tokenizer):
        content["model"]["ignore_merges"] = True
        try:
            return name(pre_tokenizer)
        finally:
            content["model"]["ignore_merges"] = False

    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    llama = [{"type": "Split", "pattern": {"Regex": PRE_TOKENIZERS["llama-bpe"][0]}, "behavior": "Isolated", "invert": False},
             words | {"use_regex": False}]  # fmt: skip
    llama = {"type": "Sequence", "pretokenizers": llama}
    assert [name(llama), whole(llama)] == ["smaug-bpe", "llama-bpe"]
    with pytest.raises(UserError, match="pre-tokenizer of another kind"):
        whole(words)
    digits = {"type": "Digits", "individual_digits": True}
    qwen = json.loads(qwen_tokenizer.read_text())["pre_tokenizer"]
    assert [name(words), name(qwen)] == ["gpt-2", "qwen2"]
    assert name({"type": "Sequence", "pretokenizers": [digits, words]}) == "smollm"
    with pytest.raises(UserError, match="pre-tokenizer of another kind than gpt-2, smollm, qwen2"):
        name({"type": "Sequence", "pretokenizers": [digits | {"individual_digits": False}, words]})


FRAMES = [("plain", None, False), ("plain", None, True)]
FRAMES += [("chat", name, begins) for name in TEMPLATES for begins in (False, True)]


@pytest.mark.parametrize(("prompt_format", "template", "begins"), FRAMES)
def test_ollamas_prompt_has_the_ids_of_the_study(prompt_format, template, begins, tmp_path):
    """The template is rendered as Ollama does where it has nothing but the prompt."""
    folder = write_base(tmp_path, "byte_level", TEMPLATES.get(template), begins=begins)
    tokenizer = TextTokenizer(folder, prompt_format)
    bos = adds_bos(folder, prompt_format)
    text = modelfile_text("m.gguf", folder, prompt_format, "cmv", {"top_k": 0}, ["</s>"], bos)
    first, rest = text.split("\n", 1)
    frame, parameters = rest.removeprefix('TEMPLATE """').split('"""\n')
    assert first == "FROM ./m.gguf" and parameters == 'PARAMETER top_k 0\nPARAMETER stop "</s>"\n'
    from tokenizers import Tokenizer

    prompt = frame.replace(PROMPT, QUESTION)
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(prompt, add_special_tokens=False).ids  # fmt: skip
    own = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<s>")
    (expected,) = tokenizer.prompt_ids([tokenizer.format.render(QUESTION, "cmv")])
    assert [own] * bos + ids == expected


def test_a_modelfile_has_the_studys_sampling(folders):
    lines = (folders["qwen2"] / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./tiny.gguf"
    assert [line.split(" ", 2)[1:] for line in lines if line.startswith("PARAMETER")] == [
        ["temperature", "0.7"], ["top_p", "0.9"], ["top_k", "0"], ["repeat_penalty", "1.0"], ["num_predict", "24"],
        ["num_ctx", "400"], ["stop", '"<|endoftext|>"'], ["stop", '"<|im_end|>"'],
    ]  # fmt: skip


def test_tokens_that_the_model_does_not_embed_are_left_out(tiny_rows, tmp_path):
    """The tokenizer of a small Gemma 3 has tokens for images; a generation_config.json may end replies with -1."""
    base = write_family_base("llama", tiny_rows.base, tmp_path / "base", rope_parameters=PLAIN)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    image = {"content": "<image>", "id": 500, "special": True, "normalized": False}
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | image)
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    (base / "generation_config.json").write_text('{"eos_token_id": [0, -1, 500]}')
    folder = exported(base, tmp_path / "out")
    tokens = gguf.GGUFReader(folder / "tiny.gguf").fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 500 and "<image>" not in tokens
    stops = [line for line in (folder / "Modelfile").read_text().splitlines() if "stop" in line]
    assert stops == ['PARAMETER stop "<|endoftext|>"', 'PARAMETER stop "<|im_end|>"']


def test_a_template_among_named_ones_is_written(tiny_rows, tmp_path):
    base = write_family_base("llama", tiny_rows.base, tmp_path / "base", rope_parameters=PLAIN)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    template = TEMPLATES["chatml"]
    named = [{"name": "tool_use", "template": "{{ x }}"}, {"name": "default", "template": template}]
    (base / "chat_template.jinja").unlink(missing_ok=True)
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))
    folder = exported(base, tmp_path / "out", "chat")
    fields = gguf.GGUFReader(folder / "tiny.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == template


def test_more_tokens_than_bos_in_front_are_refused(tmp_path):
    folder = write_base(tmp_path, "byte_level", begins=True)
    content = json.loads((folder / "tokenizer.json").read_text())
    begin, text = content["post_processor"]["single"]
    content["post_processor"]["single"] = [begin, begin, text]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="more or other tokens than BOS in front of a text"):
        read_llama_tokenizer(folder, 500, "plain")


def test_a_stop_with_a_quote_is_refused_before_anything_is_written(tiny_rows, tmp_path):
    base = write_family_base("llama", tiny_rows.base, tmp_path / "base", rope_parameters=PLAIN)
    (base / "generation_config.json").write_text('{"eos_token_id": [0, 4]}')
    assert json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]['"'] == 4
    with pytest.raises(UserError, match='the token ", which has a quote, ends a reply'):
        exported(base, tmp_path / "out")
    assert not [*(tmp_path / "out").glob("*tiny*")]


def test_a_frame_that_no_modelfile_holds_is_refused(tmp_path):
    braces = "{% for message in messages %}{{ '{{' }}{{ message['content'] }}{% endfor %}"
    folder = write_base(tmp_path, "byte_level", braces)
    with pytest.raises(UserError, match="no Modelfile of Ollama can hold"):
        modelfile_text("m.gguf", folder, "chat", "cmv", {}, [], False)
