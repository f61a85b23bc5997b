"""Mistakes that must show: broken trainings, adapters that do not fit, truncated corpora."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from forks import run_fork
from persuasion_rl.files import file_digest, read_json, read_jsonl, write_jsonl
from persuasion_rl.study.loading import load_config
from running import ROOT, WORKFLOW, snakemake
from small_study import CONFIG, ON_SMALL, difference, run_jobs, run_module, table

pytestmark = pytest.mark.slow


SAMPLING = "--temperature 0.7 --top_p 0.9 --max_new_tokens 128 --batch_size 64 --seed 1".split()


@pytest.fixture(scope="module")
def measure(small, tmp_path_factory):
    """A function that compares a broken player with base or sft by the truth, and returns the interval."""

    def measure(lineage: list[Path], against: str) -> tuple[float, float]:
        folder = tmp_path_factory.mktemp("measured")
        responses = {p: small / f"evaluation/responses/{p}.jsonl" for p in ("base", "sft")}
        responses["broken"] = folder / "broken.jsonl"
        run_stage(
            *("sampling.evaluate_model", "--model", "broken", "--base", small / "models/base"),
            *("--lineage", *lineage, "--prompts", small / "preferences/final_eval_prompts.jsonl"),
            *("--output", responses["broken"], "--state", folder / "state"),
            *("--threads", 2, *SAMPLING),
        )
        run_stage(
            *("evaluation.truth", "--draws", 1000, "--seed", 1),
            *("--responses", *(f"{player}={path}" for player, path in responses.items())),
            *("--truth", folder / "truth.csv", "--differences", folder / "truth_differences.csv"),
            *("--comparisons", f"broken:{against}"),
        )
        return difference(folder, "broken", against)

    return measure


def run_stage(module, *words):
    variables = os.environ | {"PYTHONPATH": str(WORKFLOW)}
    run = run_fork([f"persuasion_rl.{module}", *map(str, words)], variables, ROOT)
    assert run.returncode == 0, run.stderr[-4000:]


def tokenize_rows(base, rows):
    """Write the token ids of some rows beside them, and return the table's path."""
    table = rows.with_suffix(".parquet")
    run_stage("training.tokenize", "--base", base, "--rows", rows, "--output", table)
    return table


def recipe_words(method, **changes):
    """The study's recipe of a method as flags."""
    settings = load_config(yaml.safe_load(CONFIG.read_text()), CONFIG).resolved()
    words = []
    for name, value in (settings["recipes"][method] | changes).items():
        words += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    return words


def test_sft_on_losing_replies_is_not_above_base(small, measure, tmp_path):
    side = {row["conversation_id"]: row["side"] for row in table(small / "splits/sides.csv")}
    example = next(read_jsonl(small / "splits/sft_train.jsonl"))
    for part, count in (("train", 600), ("val", 60)):
        rows = [
            {
                "input_text": row["prompt"],
                "full_text": row["prompt"] + row["loser"],
                "response": row["loser"],
                "metadata": example["metadata"] | row["metadata"],
            }
            for row in read_jsonl(small / "processed/delta_pairs.jsonl")
            if side[row["metadata"]["conversation_id"]] == part
        ]
        write_jsonl(tmp_path / f"{part}.jsonl", rows[:count])
    adapter, base = tmp_path / "models/losing/adapter_model.safetensors", small / "models/base"
    run_stage(
        *("training.sft", "--base", base, "--adapter", adapter, "--state", tmp_path / "state"),
        *("--train", tokenize_rows(base, tmp_path / "train.jsonl")),
        *("--val", tokenize_rows(base, tmp_path / "val.jsonl")),
        *("--seed", 1, "--threads", 2, *recipe_words("sft", num_train_epochs=2)),
    )
    low, _ = measure([adapter], "base")
    assert low <= 0


def test_swapped_preferences_fall_below_sft(small, measure, tmp_path):
    for part in ("train", "val"):
        rows = read_jsonl(small / f"preferences/ai_{part}.jsonl")
        swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
        write_jsonl(tmp_path / f"{part}.jsonl", swapped)
    adapter, base = tmp_path / "models/swapped/adapter_model.safetensors", small / "models/base"
    sft = small / "models/sft/adapter_model.safetensors"
    run_stage(
        *("training.dpo", "--base", base, "--lineage", sft, "--parent", "sft"),
        *("--train", tokenize_rows(base, tmp_path / "train.jsonl")),
        *("--val", tokenize_rows(base, tmp_path / "val.jsonl")),
        *("--adapter", adapter, "--state", tmp_path / "state", "--seed", 1, "--threads", 2),
        *recipe_words("dpo", num_train_epochs=2),
    )
    _, high = measure([sft, adapter], "sft")
    assert high < 0


def test_dpo_saved_without_its_parent_falls_below_sft(small, measure, tmp_path):
    """The predecessor's mistake: a new LoRA on a merged parent, loaded on the base alone."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(2)
    base = small / "models/base"
    merged = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), small / "models/sft"
    ).merge_and_unload()
    keys = ("prompt", "chosen", "rejected")
    pairs = [{k: row[k] for k in keys} for row in read_jsonl(small / "preferences/ai_train.jsonl")]
    trainer = DPOTrainer(
        model=merged,
        args=DPOConfig(
            str(tmp_path / "checkpoints"), max_steps=25, per_device_train_batch_size=8, learning_rate=5e-4,
            report_to=[], save_strategy="no", gradient_checkpointing=False, bf16=False,
        ),
        processing_class=AutoTokenizer.from_pretrained(base),
        train_dataset=Dataset.from_list(pairs),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    folder = tmp_path / "models/orphan"
    trainer.model.save_pretrained(folder)
    adapter = folder / "adapter_model.safetensors"
    # A recipe that hides the mistake from the check of the lineage.
    recipe = read_json(small / "models/sft/recipe.json")
    recipe["adapter_digest"] = file_digest(adapter)
    recipe["config_digest"] = file_digest(folder / "adapter_config.json")
    (folder / "recipe.json").write_text(json.dumps(recipe))
    _, high = measure([adapter], "sft")
    assert high < 0


def test_an_adapter_whose_parent_changed_is_refused(small, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(small / "models", models)
    shutil.copy(models / "rlhf/adapter_model.safetensors", models / "sft/adapter_model.safetensors")
    run = run_module(
        *("sampling.evaluate_model", "--model", "rlaif", "--base", models / "base", "--lineage"),
        *(models / f"{name}/adapter_model.safetensors" for name in ("sft", "rlaif")),
        *("--prompts", small / "preferences/final_eval_prompts.jsonl"),
        *("--output", tmp_path / "out.jsonl", "--state", tmp_path / "state", *SAMPLING),
    )
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_failing_job_says_why_in_the_output(fresh):
    """For a truncated corpus, the user sees the line with its file and number."""
    path = fresh / "results/small/corpora/synthetic-changemyview/utterances.jsonl"
    path.write_text(path.read_text()[:-40])
    target = "results/small/processed/cmv_examples.jsonl"
    run = snakemake(target, "--cores", 1, *ON_SMALL, root=fresh)
    assert run.returncode != 0
    assert "not valid JSON" in run.stdout and "Traceback" not in run.stdout


def test_the_workflow_trains_by_two_processes(fresh):
    """`gpu` slots become processes, here on the CPU. test_processes.py checks that they train the same as one."""
    brief = {"extends": "small.yaml", "study": "small", "recipes": {"sft": {"max_steps": 10}}}
    (fresh / "tests/brief.yaml").write_text(yaml.safe_dump(brief))
    words = ("--set-resources", "train_sft:gpu=2", "--resources", "gpu=2")
    output = run_jobs(fresh, "sft", *words, config="tests/brief.yaml")
    assert "2 process(es)" in output
    model = fresh / "results/small/models/sft"
    assert read_json(model / "recipe.json")["batches"]["processes"] == 2
    assert read_json(model / "metrics.json")["steps"] == 10
