"""The exports of the small study, by their targets: models that compute what its adapters compute, and its rows."""

import datasets
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from persuasion_rl.files import read_jsonl
from persuasion_rl.prompts.tokens import TextTokenizer
from small_study import run_jobs, stale

pytestmark = pytest.mark.slow
MODEL = "rlaif_rlhf"


def test_a_model_and_the_rows_of_a_study_are_exported_by_their_names(fresh, tmp_path):
    results = fresh / "results/small"
    exported = results / "exported" / MODEL
    files = [f"results/small/exported/{MODEL}/{name}" for name in (f"{MODEL}.gguf", "README.md")]
    run_jobs(fresh, *files, "export_dataset")
    assert stale(fresh, target=files[0]) == set()
    (row, *_) = read_jsonl(results / "preferences/final_eval_prompts.jsonl")
    ids = torch.tensor(TextTokenizer(exported).prompt_ids([row["prompt"]]))
    base = AutoModelForCausalLM.from_pretrained(results / "models/base")
    with torch.no_grad():
        merged, back, adapted = (
            model.eval()(ids).logits.log_softmax(-1)
            for model in (
                AutoModelForCausalLM.from_pretrained(exported),
                AutoModelForCausalLM.from_pretrained(exported, gguf_file=f"{MODEL}.gguf", dtype=torch.float32),
                PeftModel.from_pretrained(base, results / "models" / MODEL),
            )
        )  # fmt: skip
    assert (merged - adapted).abs().max() < 1e-3 and (back - adapted).abs().max() < 0.1
    assert "FROM ./rlaif_rlhf.gguf\nTEMPLATE " in (exported / "Modelfile").read_text()
    assert "library_name: transformers" in (exported / "README.md").read_text()
    folder, cache = str(results / "exported/dataset"), str(tmp_path / "cache")
    examples = datasets.load_dataset(folder, "sft", cache_dir=cache)
    held_out = [*read_jsonl(results / "preferences/final_eval_prompts.jsonl")]
    assert {each["prompt"] for each in held_out} == set(examples["test"]["prompt"])
    pairs = datasets.load_dataset(folder, "ai_pairs", cache_dir=cache)
    own = [*read_jsonl(results / "preferences/ai_train.jsonl")]
    assert pairs["train"]["chosen"] == [pair["chosen"] for pair in own]
