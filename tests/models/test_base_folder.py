"""The folder of a base model: weights in one file or several, and what is no base model, in one line."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from persuasion_rl.data.fetch import join_shards
from persuasion_rl.files import UserError, file_digest, read_json, write_json
from persuasion_rl.models.lineage import base_digest, settings_digest
from persuasion_rl.models.loading import (
    _classifier_class,
    load_base,
    load_classifier,
    load_tokenizer,
)
from persuasion_rl.models.plain import plain_log_probs, refuse_beyond_positions
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.sampling.request import STOPPED, Limits
from persuasion_rl.study.base_folder import check_base_folder, linear_modules
from persuasion_rl.study.loading import load_config
from persuasion_rl.study.names import model_files
from persuasion_rl.study.study import Study
from persuasion_rl.training.standin import END_OF_TEXT
from tiny_families import family_model, write_family_base
from tiny_models import engine_of, short_requests, write_scripted_base

ROW = [5, 6, 7, 8, 9]


@pytest.fixture
def base(tiny_rows, tmp_path) -> Path:
    """A copy of the tiny base model, to be changed."""
    return shutil.copytree(tiny_rows.base, tmp_path / "base")


def shard(base: Path) -> list[Path]:
    """Cut a model's weights into several files; the files."""
    model = load_base(base, "cpu")
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="60KB")
    return sorted(base.glob("model-*.safetensors"))


def study_of(base: Path) -> dict:
    """A study with one model on a base that is a local folder."""
    models = {"base": {"source": str(base)}, "sft": {"parent": "base", "method": "sft"}}
    return {"study": "s", "models": models, "evaluation": {"players": ["base", "sft"]}}


def refusal(function, *arguments) -> str:
    """The line with which something is refused."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_in_several_files_are_the_same_model(base):
    expected = plain_log_probs(load_base(base, "cpu"), ROW)
    one_file, settings = base_digest(base), settings_digest(base)
    shards = shard(base)
    assert len(shards) > 1
    torch.testing.assert_close(plain_log_probs(load_base(base, "cpu"), ROW), expected)
    assert base_digest(base) not in (one_file, file_digest(shards[0]))
    assert settings_digest(base) == settings
    files = [path.name for path in map(Path, model_files(str(base)))]
    assert {"config.json", "model.safetensors.index.json", *(s.name for s in shards)} <= {*files}
    assert "model.safetensors" not in files
    study = Study(load_config(study_of(base)))
    assert study.base_model == model_files(str(base))
    assert {*study.base_model} - {*study.tokenizer_files} == {
        f"{base}/{name}" for name in ("model.safetensors.index.json", *(s.name for s in shards))
    }


def test_another_number_in_any_file_is_another_model(base):
    shards, digests = shard(base), set()
    for file in shards:
        digests.add(base_digest(base))
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    digests.add(base_digest(base))
    assert len(digests) == len(shards) + 1


def test_a_file_of_the_weights_that_is_missing_is_named(base):
    missing = shard(base)[1]
    missing.unlink()
    for check in (check_base_folder, base_digest):
        assert f"{missing.name} is missing, which model.safetensors.index.json" in refusal(
            check, base
        )


def test_a_download_in_several_files_becomes_one(base):
    shards = shard(base)
    expected = {name: tensor for file in shards for name, tensor in load_file(file).items()}
    odd = expected["model.norm.weight"][:3].to(
        torch.bfloat16
    )  # 6 bytes: what follows must be aligned
    index = read_json(base / "model.safetensors.index.json")
    save_file({"odd": odd}, base / "a.safetensors")
    index["weight_map"]["odd"] = "a.safetensors"
    write_json(base / "model.safetensors.index.json", index)
    join_shards(base)
    joined = load_file(base / "model.safetensors")
    assert joined.keys() == {*expected, "odd"}
    assert all(joined[name].equal(tensor) for name, tensor in (expected | {"odd": odd}).items())
    assert [path.name for path in base.glob("*.safetensors*")] == ["model.safetensors"]


def test_half_precision_weights_are_computed_in_float32_on_a_cpu(base):
    expected = plain_log_probs(load_base(base, "cpu"), ROW)
    load_base(base, "cpu").half().save_pretrained(base)
    model = load_base(base, "cpu")
    assert model.dtype == torch.float32
    torch.testing.assert_close(plain_log_probs(model, ROW), expected, atol=0.02, rtol=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": None}, "config.json: has no model_type"),
        ({"quantization_config": {"quant_method": "gptq"}}, "the weights are quantised (gptq)"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised (bitsandbytes)"),
        (
            {"architectures": ["T5ForConditionalGeneration"]},
            "T5ForConditionalGeneration is no causal",
        ),
        ({"architectures": [7]}, "7 is no causal language model"),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is no causal language model"),
        ({"architectures": None, "is_encoder_decoder": True}, "is no causal language model"),
        ({"vision_config": {}}, "is no causal language model of text alone"),
    ],
)
def test_a_configuration_of_another_kind_is_refused_everywhere(base, changes, message):
    write_json(base / "config.json", read_json(base / "config.json") | changes)
    study = study_of(base)
    assert refusal(load_config, study).startswith("models.base.source: ")
    for line in (
        refusal(load_config, study), refusal(load_base, base, "cpu"),
        refusal(load_tokenizer, base), refusal(load_classifier, base, "cpu", 0),
    ):  # fmt: skip
        assert message in line


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named_with_what_writes_it(base, name):
    (base / name).unlink()
    study = study_of(base)
    for line in (refusal(load_config, study), refusal(load_base, base, "cpu")):
        assert f"{name} is missing" in line and "save_pretrained(...) writes it" in line


def test_weights_in_another_format_are_named(base):
    torch.save(load_base(base, "cpu").state_dict(), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    assert "missing, and pytorch_model.bin is not read; AutoModel" in refusal(
        load_base, base, "cpu"
    )


def test_a_folder_with_an_adapter_is_no_base_model(base):
    write_json(base / "adapter_config.json", {"peft_type": "LORA"})
    assert "holds an adapter" in refusal(load_base, base, "cpu")


def test_weights_that_are_cut_off_or_lack_a_tensor_are_refused(base):
    weights = base / "model.safetensors"
    tensors, whole = load_file(weights), weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "transformers cannot load it" in refusal(load_base, base, "cpu")
    assert "its numbers are cut off" in refusal(linear_modules, base)
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    for line in (refusal(load_base, base, "cpu"), refusal(load_classifier, base, "cpu", 0)):
        assert "lack model.layers.0.self_attn.q_proj.weight" in line


@pytest.mark.parametrize("kind", ["llama4_text", "gemma4_text", "granite"])
def test_a_classifier_without_a_class_of_its_own_has_the_models_own_configuration(tmp_path, kind):
    """That of the model with images, for which Llama 4's was taken, has 100 billion weights by itself."""
    config = AutoConfig.for_model(kind)
    config.save_pretrained(tmp_path)
    assert _classifier_class(tmp_path, False).config_class is type(config)


def test_a_configuration_of_another_size_than_the_weights_is_refused(base):
    write_json(base / "config.json", read_json(base / "config.json") | {"intermediate_size": 8})
    for line in (refusal(load_base, base, "cpu"), refusal(load_classifier, base, "cpu", 0)):
        assert "have model.layers.0.mlp.down_proj.weight of another size" in line


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(base):
    config = read_json(base / "tokenizer_config.json")
    write_json(base / "tokenizer_config.json", config | {"pad_token": "<|pad|>"})
    assert "has the token '<|pad|>' with the id" in refusal(load_tokenizer, base)
    write_json(base / "config.json", read_json(base / "config.json") | {"vocab_size": 300})
    assert "and the model embeds 300 tokens" in refusal(TextTokenizer, base)


def test_a_token_that_the_model_does_not_embed_may_be_unused(base):
    """As Gemma 3's token for images, of which its smallest model has none."""
    tokenizer = read_json(base / "tokenizer.json")
    token = tokenizer["added_tokens"][0] | {"id": read_json(base / "config.json")["vocab_size"]}
    tokenizer["added_tokens"].append(token | {"content": "<image>"})
    write_json(base / "tokenizer.json", tokenizer)
    assert load_tokenizer(base).convert_tokens_to_ids("<image>") == token["id"]
    (ids,) = TextTokenizer(base).response_ids(["an <image>"])
    assert max(ids) < token["id"]
    template = "<image>{% for m in messages %}{{ m.content }}{% endfor %}"
    (base / "chat_template.jinja").write_text(template)
    TextTokenizer(base)
    assert "has the token '<image>' with the id" in refusal(TextTokenizer, base, "chat")


@pytest.mark.parametrize("content", ["[]", '{"eos_token_id": [1, "x"]}', '{"eos_token_id'])
def test_end_tokens_that_cannot_be_read_are_refused(base, content):
    """transformers leaves a file out that was cut off, and replies would not end where they should."""
    (base / "generation_config.json").write_text(content)
    assert "generation_config.json" in refusal(load_base, base, "cpu")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_a_tokenizers_configuration_of_another_form_is_one_line(base, name):
    write_json(base / name, [])
    assert f"{name}: holds no object" in refusal(TextTokenizer, base)


def test_a_model_gives_its_results_by_name_whatever_its_configuration_says(base):
    write_json(base / "config.json", read_json(base / "config.json") | {"return_dict": False})
    assert plain_log_probs(load_base(base, "cpu"), ROW).shape == (len(ROW) - 1,)


def test_a_model_that_sees_later_tokens_or_keeps_a_state_is_refused(base):
    from transformers import BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM

    size = dict(
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=16,
        vocab_size=512,
        initializer_range=0.5,
    )
    for model, message in (
        (BertLMHeadModel(BertConfig(**size, num_attention_heads=2)), "sees later tokens"),
        (MambaForCausalLM(MambaConfig(**size, state_size=4)), "layers that keep a state"),
    ):
        (base / "model.safetensors").unlink()
        model.save_pretrained(base)
        assert message in refusal(load_base, base, "cpu")


def test_modules_that_a_local_base_lacks_are_said_when_the_study_is_read(tiny_rows, tmp_path):
    phi3 = write_family_base("phi3", tiny_rows.base, tmp_path / "phi3")
    assert linear_modules(phi3) == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    for family in ("mixtral", "deepseek_v3"):
        base, model = tmp_path / family, family_model(family)
        model.save_pretrained(base)
        linear = (name for name, m in model.model.named_modules() if isinstance(m, torch.nn.Linear))
        assert linear_modules(base) == {name.rpartition(".")[2] for name in linear}
    line = refusal(load_config, study_of(phi3))
    assert line.startswith("recipes.sft.lora_target_modules: the base model has no module 'q_proj'")
    assert line.endswith("there are down_proj, gate_up_proj, o_proj, qkv_proj")


def test_rows_beyond_a_models_positions_are_refused():
    from transformers import MptConfig

    refuse_beyond_positions(family_model("gpt2"), 512)
    assert "513 tokens, and the base model has positions for 512" in refusal(
        refuse_beyond_positions, family_model("gpt2"), 513
    )
    alibi = SimpleNamespace(config=MptConfig(max_seq_len=64))
    assert "positions for 64" in refusal(refuse_beyond_positions, alibi, 65)
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 64}
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    long = family_model("phi3", rope_parameters=rope | factors, original_max_position_embeddings=64)
    refuse_beyond_positions(long, 64)
    assert "unscaled positions for 64" in refusal(refuse_beyond_positions, long, 65)


def test_each_of_several_end_tokens_ends_a_response_and_is_no_part_of_it(tmp_path):
    """As Llama 3's generation_config.json; the last one is only in the chat template."""
    thirds = {END_OF_TEXT: 1 / 3, "<|im_end|>": 1 / 3, "Z": 1 / 3}
    ends_in_three_ways = {
        "": {"A": 1.0},
        "A": thirds,
        "<|im_end|>": {"B": 1.0},
        "Z": {"B": 1.0},
        "B": {"B": 1.0},
    }
    base = write_scripted_base(tmp_path, ends_in_three_ways)
    z = load_tokenizer(base).convert_tokens_to_ids("Z")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [z]}))
    samples = [s for _, s in engine_of(base, Limits(1.0, 1.0, 9)).sample(short_requests(60))]
    assert {(s.text, s.tokens, s.finish_reason) for s in samples} == {("A", 2, STOPPED)}


@pytest.mark.parametrize("pad", [None, "<|endoftext|>", "<|im_start|>"])
def test_the_pad_token_may_be_none_eos_or_another(base, pad):
    config = read_json(base / "tokenizer_config.json")
    write_json(base / "tokenizer_config.json", config | {"pad_token": pad})
    assert load_tokenizer(base).pad_token == (pad or END_OF_TEXT)
    rows = short_requests(4)
    texts = [
        [
            sample.text
            for _, sample in sorted(
                engine_of(base, batch_size=size).sample(rows), key=lambda r: r[0].prompt_id
            )
        ]
        for size in (1, 4)
    ]
    assert texts[0] == texts[1]
