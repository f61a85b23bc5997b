"""What the doctor says of this machine and a study: never a key, estimates that are called so, one thing to do next."""

import json
import re
import shlex
import shutil
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from persuasion_rl.annotation.plan import FIRST_TIME, Answer, pair_id
from persuasion_rl.annotation.store import AnswerStore
from persuasion_rl.files import UserError, write_jsonl
from persuasion_rl.study.config import load_study
from persuasion_rl.study.names import MODEL_FILES
from persuasion_rl.tools.doctor import (
    CUDA_GB,
    HEAD_TILE,
    MEMORY_GB,
    QWEN,
    Size,
    estimates,
    footprint,
    gpu_memory,
    report,
    size_of,
    training_memory,
    work,
)
from running import ROOT, succeed

PUBLISHED = ROOT / "config/config.yaml"
CORPORA = ["corpora/winning-args-corpus", "corpora/subreddit-changemyview"]
BASE_FOLDER = "resources/models/Qwen--Qwen2.5-0.5B-Instruct"
PUBLISHED_SIZE = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip
"""What Qwen2.5-0.5B-Instruct's config.json says."""
KEYS = {name: f"planted-{name}" for name in ("WANDB_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")}


def study(**changes):
    return load_study(yaml.safe_load(PUBLISHED.read_text()) | changes, PUBLISHED)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def here(elsewhere):
    """The same with what the published study downloads."""
    for folder in CORPORA + ["models/Qwen--Qwen2.5-0.5B-Instruct"]:
        (elsewhere / "resources" / folder).mkdir(parents=True)
        for name in ("utterances.jsonl", *MODEL_FILES):
            (elsewhere / "resources" / folder / name).touch()
    (elsewhere / BASE_FOLDER / "config.json").write_text(json.dumps(PUBLISHED_SIZE))
    return elsewhere


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with the configurations and no results."""
    for name in ("config", "resources/rubrics"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    # Nothing listens there: whether a server answers is found out on this machine only.
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    for name in ("no_proxy", "NO_PROXY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_published_studys_work_is_that_of_a_count_by_hand():
    """Qwen2.5-0.5B: 716 MFLOP a token in the layers, 272 in the head, 43 in attention at 1,000 tokens."""
    assert QWEN.forward(1, 1000) == pytest.approx((715.6 + 272.2 + 43.0) * 1e6, rel=1e-3)
    found = work(study())
    # 40,000 rows of 600 tokens, 3 epochs; forward and back, the head on half of them.
    assert found["train sft"] == pytest.approx(72e6 * 2 * (715.6 + 25.8 + 136.1) * 1e6, rel=1e-3)
    # 8,000 pairs of twice 736 tokens: forward, back, and the reference; the head on the responses.
    head = 272.2 * 256 / 736
    assert found["train rlaif"] == pytest.approx(
        8000 * 1472 * 3 * (715.6 + 31.7 + head) * 1e6, rel=1e-3
    )
    assert found.keys() == {
        "train sft", "train rlaif", "train rlhf", "train rlaif_rlhf",
        "sample the ai pool", "sample the human pool", "sample the evaluation",
        "train the delta judge", "judge by delta", "measure losses and KL",
    }  # fmt: skip


def test_one_model_more_is_that_much_more_work():
    models = yaml.safe_load(PUBLISHED.read_text())["models"]
    more = work(study(models=models | {"sft_s2": {"parent": "base", "method": "sft", "seed": 2}}))
    assert more.pop("train sft_s2") == more["train sft"]
    before = work(study())
    assert more.pop("measure losses and KL") > before.pop("measure losses and KL")
    assert more == before


def test_times_are_called_estimates_and_fall_with_the_gpus_speed(elsewhere):
    told = report(Path("config/config.yaml"))
    assert "estimate of" in told and "Estimates, not measured" in told
    assert estimates(study())[-1][0] == "all" and "$" in estimates(study())[-1][2]
    assert "estimate" not in report(Path("config/demo.yaml")), "the stand-in is no Qwen2.5"


def test_a_key_is_set_or_not_and_never_shown(here, monkeypatch):
    assert "WANDB_API_KEY not set, so runs are kept offline" in report(Path("config/config.yaml"))
    file = here / "config/llm.yaml"
    settings = {"extends": "config.yaml", "study": "x", "labels": {"ai": {"judge": "llm"}}, "llm": {"model": "m"}}  # fmt: skip
    file.write_text(yaml.safe_dump(settings))
    assert report(file).splitlines()[-1] == "next: judge llm: set OPENAI_API_KEY"
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    told = report(file)
    assert "OPENAI_API_KEY set" in told and "WANDB_API_KEY set" in told and "planted" not in told


def test_there_is_one_thing_to_do_next(here):
    config, results = Path("config/config.yaml"), here / "results/cmv"

    def following(made=None):
        if made:
            (results / made).parent.mkdir(parents=True, exist_ok=True)
            (results / made).touch()
        return report(config).splitlines()[-1].removeprefix("next: ")

    assert "`snakemake data " in following()
    import torch

    where = "" if torch.cuda.is_available() else ", on a machine with a GPU"
    unattended = following("splits/summary.json")
    assert unattended.endswith(f"`snakemake unattended --profile aws-gpu`{where}")
    pairs = [
        {"prompt": f"Why {number}?", "response_1": "a", "response_2": "b"} for number in range(2)
    ]
    (results / "preferences").mkdir()
    write_jsonl(results / "preferences/human_pool_responses.jsonl", pairs)
    assert "`persuasion-rl annotate --study cmv`" in following()
    with AnswerStore(results / "state/human_answers.sqlite") as store:
        for pair in map(pair_id, pairs):
            assert "`persuasion-rl annotate --study cmv`" in following()
            store.add(Answer("anna", pair, FIRST_TIME, 1, "left"))
    assert "the rest: `snakemake" in following()
    assert "read results/cmv/report.html" in following("report.html")


def test_what_is_missing_comes_first(elsewhere, command_line):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    file = elsewhere / "config/cuda.yaml"
    file.write_text(yaml.safe_dump({"extends": "demo.yaml", "study": "x", "device": "cuda"}))
    assert report(file).splitlines()[-1].startswith("next: GPU: run on a machine with a GPU")
    run = command_line("tools.cli", "doctor", "--configfile", elsewhere / "nothing.yaml")
    assert run.returncode == 1 and run.stderr.splitlines() == [
        f"error: {elsewhere / 'nothing.yaml'}: no such configuration"
    ]


def test_the_largest_rule_is_the_one_that_rules_ask_for():
    asked = re.findall(
        r"mem_mb=growing\(([\d_]+)\)",
        "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk")),
    )
    assert max(int(amount) for amount in asked) == MEMORY_GB * 1000


def test_what_is_to_be_downloaded_can_be_had_or_not(elsewhere, monkeypatch):
    config = Path("config/config.yaml")
    assert "huggingface.co does not answer" in report(config)
    last = report(config).splitlines()[-1]
    assert last.startswith("next: corpus winning-args-corpus: where there is a network")

    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("HF_ENDPOINT", address)
        told = report(config)
        server.shutdown()
    assert (
        f"model Qwen/Qwen2.5-0.5B-Instruct  to be downloaded (about 1 GB); {address} answers"
        in told
    )


def test_the_disk_that_a_study_takes_grows_with_its_data_and_models(here):
    small, large = study(), study(data={"max_examples": 100_000})
    assert footprint(large)["rows"] == 2 * footprint(small)["rows"]
    assert footprint(small)["models from the Hub"] == 0, "it is here"
    assert sum(footprint(study(data={"cmv_corpora": ["winning-args-corpus"]})).values()) < 5


# What a training takes of a GPU


LORA = {"lora_r": 8, "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}


def takes(method="sft", rows=1, checkpointing=False, size=QWEN, max_length=1024, **recipe):
    recipe = {"max_length": max_length, "effective_batch_size": 64} | recipe
    return training_memory(method, recipe, LORA | recipe, size, rows, checkpointing)


def test_the_size_is_that_of_the_base_models_config(here):
    assert size_of(study()) == QWEN
    # As published: 0.49B parameters, 0.36B of them not in the embedding; peft's count of a rank 8 adapter on it.
    assert round((QWEN.backbone + QWEN.head) / 1e9, 2) == 0.49
    assert round(QWEN.backbone / 1e9, 2) == 0.36
    assert QWEN.adapter(8, LORA["lora_target_modules"]) == 1_081_344
    larger = PUBLISHED_SIZE | {"num_hidden_layers": 48}
    (here / BASE_FOLDER / "config.json").write_text(json.dumps(larger))
    assert size_of(study()).backbone == 2 * QWEN.backbone
    assert "the base model's size by its config.json" in report(Path("config/config.yaml"))
    (here / BASE_FOLDER / "config.json").write_text(json.dumps({"model_type": "another"}))
    assert size_of(study()) is None
    assert "Qwen2.5-0.5B's size" in report(Path("config/config.yaml"))
    (here / BASE_FOLDER / "config.json").write_text('{"hidden_size":')
    with pytest.raises(UserError, match="was it cut off"):
        report(Path("config/config.yaml"))


def test_memory_grows_with_rows_length_and_rank_and_shrinks_by_what_saves_it():
    by_rows = [takes(rows=rows) for rows in (1, 2, 8, 64)]
    by_length = [takes(max_length=length) for length in (128, 1024, 8192)]
    assert by_rows == sorted(set(by_rows)) and by_length == sorted(set(by_length))
    # A row twice as long is two rows.
    assert takes(rows=1, max_length=2048) == takes(rows=2, max_length=1024)
    assert takes("dpo") > takes() < takes(lora_r=64)
    for method in ("sft", "dpo", "reward"):
        assert takes(method, checkpointing=True) < takes(method)
    assert takes(use_4bit=True) < takes()


def test_memory_without_a_row_is_weights_adapter_and_cuda():
    """494 M weights in two bytes; 1.08 M of the adapter with gradients and two moments, in four bytes each."""
    expected = (494.0e6 * 2 + 1.081e6 * 16) / 2**30 + CUDA_GB
    assert takes(rows=0) == pytest.approx(expected, rel=1e-3)
    assert takes("dpo", rows=0) - takes(rows=0) == pytest.approx(1.081e6 * 4 / 2**30, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpointing", "modules"),
    [
        (False, LORA["lora_target_modules"]),
        (True, LORA["lora_target_modules"]),
        (False, [*LORA["lora_target_modules"], "gate_proj", "up_proj", "down_proj"]),
    ],
)
def test_memory_for_a_row_is_what_autograd_keeps_of_it(checkpointing, modules):
    """Counted on the CPU, in bfloat16, of the model as the trainers have it; a GPU was not there."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from persuasion_rl.training.trainer import LORA_DEFAULTS, add_lora
    from persuasion_rl.training.unpadding import compute_without_padding

    tokens, width, inner, layers = 256, 128, 640, 6
    config = Qwen2Config(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=600, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    compute_without_padding(model)
    model = add_lora(model, LORA_DEFAULTS | {"lora_target_modules": modules}, task_type="CAUSAL_LM")
    add_fused_lm_head(model.get_base_model())
    model.train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}  # held, so that no address is given twice

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(0, 600, (1, tokens))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, fused_lm_head=True)
    found = sum(storage.nbytes() for storage in kept.values()) / tokens

    size = Size(layers, width, inner, queries=width, keys=width // 2, vocab=600)
    row = dict(size=size, max_length=tokens, checkpointing=checkpointing, lora_target_modules=modules)  # fmt: skip
    # Less what is there only for the time of a backward pass: the head's tile, a layer's values that are computed again.
    tile = 2 * min(tokens, HEAD_TILE[0]) * min(600, HEAD_TILE[1])
    estimate = ((takes(rows=1, **row) - takes(rows=0, **row)) * 2**30 - tile) / tokens
    if checkpointing:
        inputs = 4 * width  # q, k, v and o
        estimate -= 24 * width + 6 * inner + 4 * inputs
    print(f"a token: {found:.0f} bytes, by the estimate {estimate:.0f}")
    assert estimate == pytest.approx(found, rel=0.2)


def test_memory_is_told_by_recipe_and_called_an_estimate(here):
    told = {finding.found.split(":")[0]: finding for finding in gpu_memory(study(), [])}
    assert list(told) == ["sft", "rlaif, rlhf, rlaif_rlhf", "delta judge"]
    assert all("(estimate)" in finding.found and not finding.todo for finding in told.values())
    assert list(gpu_memory(study(device="cpu"), [])) == []
    small = next(gpu_memory(study(), [("A10G", 22.5), ("A10G", 22.5), ("old", 2.0)]))
    assert small.todo.startswith("old has 2 GB: set use_4bit: true in its recipe")
    recipes = yaml.safe_load(PUBLISHED.read_text())["recipes"]
    recipes["sft"] |= {"per_device_train_batch_size": 32}
    fixed = next(gpu_memory(study(recipes=recipes), [("A10G", 22.5)]))
    assert "32 rows" in fixed.found and "leave per_device_train_batch_size out" in fixed.todo


# What is printed can be done


def commands(told: str) -> list[list[str]]:
    return [shlex.split(command) for command in re.findall(r"`((?:snakemake|persuasion-rl) [^`]+)`", told)]  # fmt: skip


@pytest.fixture
def checkout(here):
    """The same with the workflow."""
    for name in ("workflow", "envs", "profiles", "resources/markers"):
        shutil.copytree(ROOT / name, here / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", here)
    (here / "aws-gpu").symlink_to("profiles/aws-gpu")
    return here


@pytest.mark.parametrize("name", ["config", "demo"])
def test_every_next_step_is_a_command_that_plans_the_study(checkout, name):
    file = Path(f"config/{name}.yaml")
    results = checkout / "results" / yaml.safe_load(file.read_text())["study"]
    seen = []
    for made in (None, "splits/summary.json", "preferences/human_pool_responses.jsonl", "report.html"):  # fmt: skip
        if made:
            (results / made).parent.mkdir(parents=True, exist_ok=True)
            (results / made).touch()
        (words,) = commands(report(file).splitlines()[-1])
        seen.append(words)
        if words[0] == "snakemake":
            plan = succeed(*words[1:], "-n", root=checkout)
            assert ("Job stats" in plan or "Nothing to be done" in plan) and results.name in plan
    assert (["annotate"] in [words[1:2] for words in seen]) == (name == "config")
    assert len(set(map(tuple, seen))) >= 3


def test_what_cannot_be_downloaded_here_is_fetched_by_a_command_that_exists(checkout):
    shutil.rmtree(checkout / "resources/corpora/winning-args-corpus")
    shutil.rmtree(checkout / BASE_FOLDER)
    found = commands(report(Path("config/config.yaml")).split("next:")[0])
    assert len(found) == 2
    for words in found:
        assert re.search(r"fetch_(corpus|base_model) +1", succeed(*words[1:], "-n", root=checkout))


def test_a_machine_with_little_memory_is_told_how_to_run_there(checkout, monkeypatch):
    """psutil reads a machine with 8 GB."""
    import psutil

    (checkout / "proc").mkdir()
    names = ("MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "Active", "Inactive", "Shmem", "Slab")  # fmt: skip
    lines = [f"{name}: {8 * 2**20 if name == 'MemTotal' else 2**20} kB\n" for name in names]
    (checkout / "proc/meminfo").write_text("".join(lines))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(checkout / "proc"))
    told = report(Path("config/config.yaml"))
    assert (
        "8 GB, 1 GB of it free" in told and f"ask for {MEMORY_GB}: with `--resources mem_mb" in told
    )
    (words,) = commands(told.splitlines()[-1])
    assert words[:6] == ["snakemake", "data", "--cores", "all", "--resources", "mem_mb=6000"]
    assert "mem_mb=6000" in succeed("-n", "sft", *words[2:], root=checkout)
    assert "--resources" not in report(Path("config/demo.yaml")), "its jobs are small"


def test_what_a_study_took_is_what_its_benchmark_files_say(elsewhere):
    """As Snakemake writes them: of a job that ended too soon to be seen, with NA."""
    folder = elsewhere / "results/demo/benchmarks"
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    rows = {
        "split": "0.0801\t0:00:00\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA\n",
        "train_sft/sft": "90.0000\t0:01:30\t813.51\t5016.39\t785.34\t788.29\t0.00\t25.22\t97.02\t87.60\n",
        "label_ai": "30.0000\t0:00:30\t640.10\t4100.00\t600.00\t610.00\t0.00\t0.10\t95.00\t28.00\n",
        "train_dpo/rlaif": "60.0000\t0:01:00\t900.00\t5016.39\t785.34\t788.29\t0.00\t2.0\t97.02\t57.60\n",
    }
    assert "measured" not in report(Path("config/demo.yaml"))
    for name, row in rows.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.tsv").write_text(head + row)
    assert (
        "\nmeasured: 3.0 min in 4 jobs (their last runs), most of it train_sft/sft 1.5, train_dpo/rlaif 1.0,"
        " label_ai 0.5\n" in report(Path("config/demo.yaml"))
    )
