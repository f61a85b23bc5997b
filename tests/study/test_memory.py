"""What jobs with a model ask of a machine's memory, and that Snakemake knows how much there is."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from persuasion_rl.runtime.machine import memory
from persuasion_rl.study.memory import FLOAT32, HALF, JobMemory, training_bytes
from persuasion_rl.study.model_size import size_of
from persuasion_rl.study.rules import MEMORY_SHARE
from persuasion_rl.training.unpadding import compute_without_padding
from published import published, write_model_folder
from running import WORKFLOW, copy_project, succeed
from tiny_families import FAMILIES, family_model
from tiny_gguf import write_header, write_wheel

SNAKEFILE = """
import sys
from persuasion_rl.study import rules
rules.memory = lambda: 1e9  # of which 800 MB are given to jobs
rules.limit_memory(workflow)
rule all:
    input: expand("{{job}}", job=["a", "b", "large"])
rule job:
    output: "{{job}}"
    threads: 1
    resources: mem_mb=lambda wildcards: {{"large": 9000}}.get(wildcards.job, 500)
    shell: "date +%s.%N > {{output}}; sleep 1; date +%s.%N >> {{output}}"
"""


def overlapping(folder, *words) -> set[frozenset]:
    """The pairs of three jobs of 500, 500 and 9,000 MB that ran at once on a machine with 1,000 MB."""
    (folder / "Snakefile").write_text(SNAKEFILE.format())
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "3", *words],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(WORKFLOW)}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    times = {
        name: [*map(float, (folder / name).read_text().split())] for name in ("a", "b", "large")
    }
    return {
        frozenset((one, other))
        for one, (_, ends) in times.items()
        for other, (begins, _) in times.items()
        if one != other and times[one][0] <= begins < ends
    }


def test_jobs_that_do_not_fit_the_machine_together_take_turns_and_a_larger_one_runs_alone(tmp_path):
    assert overlapping(tmp_path) == set()


def test_a_limit_of_the_users_own_is_kept(tmp_path):
    assert frozenset("ab") in overlapping(tmp_path, "--resources", "mem_mb=20000")


def test_the_projects_own_runs_know_the_memory_of_this_machine(tmp_path):
    """Without a flag, and so whatever profile is used."""
    root = copy_project(tmp_path / "project")
    output = succeed(
        "results/demo/config.yaml", "--cores", "1", "--configfile", "config/demo.yaml", root=root
    )
    limit = int(MEMORY_SHARE * memory() / 1e6)
    assert re.search(rf"Provided resources: .*mem_mb\D*{limit}\b", output)


SFT_ALONE = {
    "evaluation": {"players": ["base", "sft"]},
    "data": {"max_seq_length": 768, "max_context_tokens": 500, "max_tokens": 200, "max_examples": 4000,
             "human_pool_size": 200, "final_eval_size": 10},
}  # fmt: skip
SMOLLM = dict(
    model_type="llama", num_hidden_layers=30, hidden_size=576, num_attention_heads=9, num_key_value_heads=3,
    intermediate_size=1536, vocab_size=49_152, tie_word_embeddings=True,
)  # fmt: skip


def test_a_size_is_read_of_every_form_of_configuration():
    size = size_of(SMOLLM)
    assert (size.queries, size.keys, size.parameters) == (576, 192, 134_479_872)
    assert size_of(SMOLLM | {"tie_word_embeddings": False}).parameters == 134_479_872 + 49_152 * 576
    assert size_of({"text_config": SMOLLM, "model_type": "gemma3"}) == size
    assert size_of(SMOLLM | {"num_key_value_heads": None}).keys == 576
    assert size_of({"model_type": "gpt2", "n_embd": 768}) is None
    assert size_of(SMOLLM | {"num_attention_heads": 0, "hidden_size": [576, 1152]}) is None
    assert size_of(SMOLLM | {"intermediate_size": [1536, 768]}) == size


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"gpt2", "falcon"}))
def test_the_size_of_every_family_is_near_its_number_of_parameters(family):
    """Experts that a token does not take are counted too: Mixtral's were an eighth of their weights."""
    model = family_model(family, vocab_size=2048)
    size = size_of(json.loads(model.config.to_json_string(use_diff=False)))
    assert 0.7 < size.parameters / model.num_parameters() < 1.4


def test_the_size_of_a_published_mixture_of_experts():
    """Mixtral 8x7B: 46.7 billion parameters, of which 12.9 compute a token."""
    size = size_of(
        dict(
            model_type="mixtral", num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, vocab_size=32_000,
            num_key_value_heads=8, intermediate_size=14_336, num_local_experts=8, num_experts_per_tok=2,
        )
    )  # fmt: skip
    assert round(size.parameters / 1e9, 1) == 46.7
    assert round((size.backbone + 2 * size.head) / 1e9, 1) == 12.9


def test_what_a_training_asks_for_follows_its_recipe_and_its_model(tmp_path, capfd):
    """SFT with 8 rows of 768 tokens of a model of 135 M parameters takes 11.0 GB."""
    write_model_folder(tmp_path, **SMOLLM)

    def megabytes(device="cpu", **recipe) -> int:
        study = published(
            device=device,
            models={"base": {"source": str(tmp_path)}, "sft": {"parent": "base", "method": "sft"}},
            recipes={"sft": {"max_length": 768, "per_device_train_batch_size": 8} | recipe},
            **SFT_ALONE,
        )
        return JobMemory(study, here=True).training(SimpleNamespace(model="sft"), 1)

    assert 11_000 / 1.5 < megabytes() < 11_000 * 1.5
    assert megabytes(per_device_train_batch_size=1) < megabytes() / 3
    assert megabytes(gradient_checkpointing=True) < megabytes() / 2
    assert megabytes(lora_target_modules=["q_proj"]) < megabytes()
    assert capfd.readouterr().err == ""
    assert megabytes(per_device_train_batch_size=64) > 60_000
    assert "as many rows at once as fit" in capfd.readouterr().err


def test_a_merge_asks_for_the_weights_twice(tmp_path):
    """Merging an adapter into a model of 135 M parameters in float32 took 1.035 GB."""
    write_model_folder(tmp_path, **SMOLLM)
    study = published(
        models={"base": {"source": str(tmp_path)}, "sft": {"parent": "base", "method": "sft"}},
        **SFT_ALONE,
    )
    assert 1_035 < JobMemory(study, here=True).export(None, 1) < 1_035 * 1.6


def test_unpacking_asks_for_the_weights_of_a_gguf_twice(tmp_path, monkeypatch):
    """A GGUF file of 104 M parameters took 1.32 GB. A package is known when it was downloaded."""
    monkeypatch.chdir(tmp_path)
    file = write_header(tmp_path / "a.gguf", (1_000, 104_000), 2048)
    players = {"other": {"source": "pypi:p==1"}}
    study = published(
        models={"base": {"source": "./a.gguf"}, "sft": {"parent": "base", "method": "sft"}},
        **SFT_ALONE | {"evaluation": {"players": ["base", "sft"], "other_players": players}},
    )
    base, other = (SimpleNamespace(base=folder) for folder in study.packed_models)
    memory = JobMemory(study, here=True)
    assert 1_320 < memory.unpacking(base, 1) < 1_320 * 1.2
    assert memory.unpacking(base, 2) == 2 * memory.unpacking(base, 1)
    assert memory.unpacking(other, 1) == 4_000
    wheel = tmp_path / "resources/packages/p-1.whl"
    wheel.parent.mkdir(parents=True)
    write_wheel(tmp_path / "p-1-py3-none-any.whl", {"p/a.gguf": file}).rename(wheel)
    assert memory.unpacking(other, 1) == memory.unpacking(base, 1)


def test_a_downloaded_model_whose_configuration_was_cut_off_asks_for_what_is_known(
    tmp_path, monkeypatch
):
    """The plan is made; the job that loads the model says what is wrong."""
    study = published(device="cpu")
    ours = JobMemory(study, here=True)
    before = ours.delta_judge(None, 1)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / study.base_folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"hidden_size":')
    assert ours.delta_judge(None, 1) == before > 10_000


@pytest.mark.parametrize(("dtype", "numbers"), [("bfloat16", HALF), ("float32", FLOAT32)])
def test_the_scores_of_attention_with_a_soft_cap_are_counted(dtype, numbers):
    """They grow with the square of a row; in float32 the estimate is half more than autograd keeps, as was measured."""
    rows, length = 2, 160
    kept, estimates = [], []
    for cap in (2.0, None):
        model = family_model("gemma2", attn_logit_softcapping=cap, sliding_window=512)
        size = size_of(model.config.to_dict())
        kept.append(bytes_kept(model.to(getattr(torch, dtype)), rows, length))
        estimates.append(
            training_bytes(
                "sft", size, {"lora_r": 1, "lora_target_modules": []}, tokens=rows * length,
                labelled=0, length=length, checkpointing=False, numbers=numbers,
            )
        )  # fmt: skip
    counted = (estimates[0] - estimates[1]) / (kept[0] - kept[1])
    assert counted == pytest.approx(1.0 if numbers is HALF else 1.5, rel=0.15)


def bytes_kept(model, rows: int, length: int) -> int:
    """What autograd keeps of a batch of full rows for the backward pass."""
    compute_without_padding(model)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}  # kept alive, so that no address is used again

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage
        return tensor

    ids = torch.arange(1, rows * length + 1).view(rows, length) % 63 + 1
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return sum(storage.nbytes() for storage in storages.values())


def test_the_estimates_know_what_stages_take_at_once():
    """The stages do not import the estimates: else a change of these would make results again."""
    from persuasion_rl.evaluation import kl, loss
    from persuasion_rl.judges import delta
    from persuasion_rl.sampling import cache
    from persuasion_rl.study import memory

    assert memory.KL_TOKENS == kl.KL_TOKENS and memory.LOSS_TOKENS == loss.LOSS_TOKENS
    assert memory.SCORED == delta.TOKENS and memory.CACHE_ROOM == cache.ROOM
