"""A merged model computes what the adapter on its base computes, in the base's numbers, and samples as the study does."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from persuasion_rl.export.export_model import export_model
from persuasion_rl.files import UserError
from persuasion_rl.runtime.machine import refuse_without_room
from tiny_families import write_family_base
from tiny_trainings import with_adapter

SAMPLING = dict(temperature=0.7, top_p=0.9, max_new_tokens=24)
IDS = torch.tensor([[5, 9, 200, 37, 41, 41, 6, 120, 300, 7]])


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


@pytest.mark.parametrize("chain", [["tiny_sft"], ["tiny_sft", "tiny_dpo"]])
def test_a_merged_model_has_the_adapters_logits(chain, tiny_rows, tmp_path, request):
    lineage = [request.getfixturevalue(name) for name in chain]
    folder = tmp_path / "exported"
    export_model(base=tiny_rows.base, lineage=lineage, output=folder, **SAMPLING)
    adapted = logits(with_adapter(tiny_rows.base, lineage[-1]))
    merged = logits(AutoModelForCausalLM.from_pretrained(folder))
    base = logits(AutoModelForCausalLM.from_pretrained(tiny_rows.base))
    assert (merged - adapted).abs().max() < 1e-4 < 1e-2 < (merged - base).abs().max()


def test_the_folder_is_whole_and_samples_as_the_study_does(tiny_rows, tiny_sft, tmp_path):
    folder = tmp_path / "exported"
    (folder / ".part").mkdir(parents=True)  # of one that was killed
    (folder / ".part/model.safetensors").write_text("half")
    export_model(base=tiny_rows.base, lineage=[tiny_sft], output=folder, **SAMPLING)
    names = {file.name for file in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json",
                     "tokenizer_config.json", "chat_template.jinja"}  # fmt: skip
    own, base = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tiny_rows.base)
    text = "Café 🙂\n\n 1234 <|endoftext|>"
    assert own(text).input_ids == base(text).input_ids and own.chat_template == base.chat_template
    generation = GenerationConfig.from_pretrained(folder)
    ends = base.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert (
        generation.eos_token_id == ends
    )  # a response's end, and what the chat template writes behind one
    assert (generation.do_sample, generation.temperature, generation.top_p, generation.top_k) == (True, 0.7, 0.9, 0)  # fmt: skip
    assert generation.max_new_tokens == 24


def test_weights_keep_the_numbers_of_the_base(tiny_rows, tmp_path):
    base = write_family_base("qwen2", tiny_rows.base, tmp_path / "base", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(base).to(torch.bfloat16)
    model.save_pretrained(base)
    export_model(base=base, lineage=[], output=tmp_path / "exported", **SAMPLING)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert exported.dtype == torch.bfloat16
    assert torch.equal(logits(exported), logits(AutoModelForCausalLM.from_pretrained(base)))


def test_an_adapter_of_another_base_leaves_nothing_behind(tiny_rows, tiny_dpo, tmp_path):
    with pytest.raises(UserError, match="its parent sft has changed"):
        export_model(base=tiny_rows.base, lineage=[tiny_dpo], output=tmp_path / "out", **SAMPLING)
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_one_line(tmp_path):
    refuse_without_room(tmp_path / "not/there/yet", 1)
    with pytest.raises(UserError, match=r"1,000,000,000\.00 GB are to be written there, .* free: make room"):  # fmt: skip
        refuse_without_room(tmp_path / "not/there/yet", 1e18)
