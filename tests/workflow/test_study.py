"""A whole study, small: its files, its truth, what becomes stale, and mistakes that must show.

The study of `small.yaml` is made once, in results/small, with every connection but loopback refused.
"""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from scipy.stats import kendalltau
from test_docs import RUN_ON_A_STUDY, run_as_typed

from persuasion_rl.annotation.arena import LoadedModels, claim_turns
from persuasion_rl.annotation.battles import BattleStore
from persuasion_rl.annotation.plan import Answer, Plan, pair_id
from persuasion_rl.annotation.store import AnswerStore
from persuasion_rl.evaluation.arena import present_models
from persuasion_rl.files import read_json, read_jsonl, write_jsonl
from persuasion_rl.study.config import load_study
from persuasion_rl.study.recorded import recorded_settings
from running import ROOT, copy_project, planned, snakemake, succeed

pytestmark = pytest.mark.slow

CONFIG = ROOT / "tests/small.yaml"
STUDY = ROOT / "results/small"
GUARD = ROOT / "tests/no_network"
PLAYED = ("sft", "rlaif", "rlhf", "rlaif_rlhf")
PLAYERS = ("base", "base_length", *PLAYED, "human")
MODELS = (*PLAYED, "rlhf_s2", "rlhf_b5")


@pytest.fixture(scope="module")
def network_log(tmp_path_factory):
    return tmp_path_factory.mktemp("network") / "refused.log"


@pytest.fixture(scope="module")
def small(network_log):
    succeed(
        *("all", "--cores", 2, "--configfile", CONFIG),
        PYTHONPATH=str(GUARD),
        NETWORK_LOG=str(network_log),
    )
    return STUDY


@pytest.fixture(scope="module")
def checkout(small, tmp_path_factory):
    """A copy of the project with the study and Snakemake's records, to change things in."""
    folder = copy_project(tmp_path_factory.mktemp("checkout"))
    made = [".snakemake/metadata", "results/small"]
    subprocess.run(["cp", "-a", "--parents", *made, folder], cwd=ROOT, check=True)
    return folder


@pytest.fixture
def fresh(checkout, tmp_path):
    """The copy again, for one test."""
    folder = tmp_path / "checkout"
    subprocess.run(["cp", "-a", checkout, folder], check=True)
    return folder


def stale(root, config="tests/small.yaml", target="all"):
    output = succeed(target, "-n", "--configfile", config, root=root)
    return set(planned(output)) if "Job stats:" in output else set()


def table(path):
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def gap(folder, model, against):
    """The interval of a row of truth_differences.csv."""
    (row,) = (
        row
        for row in table(folder / "truth_differences.csv")
        if (row["model"], row["against"]) == (model, against)
    )
    return float(row["low"]), float(row["high"])


# What the study made


def test_nothing_touched_the_network(small, network_log):
    assert not network_log.exists(), network_log.read_text()


def test_the_guard_refuses_and_tells(tmp_path):
    """Else the test above could not fail."""
    log = tmp_path / "refused.log"
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(GUARD), "NETWORK_LOG": str(log)},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0 and "no network here" in run.stderr
    assert "192.0.2.1" in log.read_text()


def test_supervised_training_shows_in_the_truth(small):
    low, _ = gap(small / "evaluation", "sft", "base")
    assert low > 0


def test_the_reports_ranking_agrees_with_the_truth(small):
    """That of the judge who knows it; of every judge the report tells how far."""
    truth = {row["model"]: float(row["mean"]) for row in table(small / "evaluation/truth.csv")}
    report = (small / "report.html").read_text()
    for judge, least in (("truth", 0.3), ("delta", -1)):
        (told,) = re.findall(rf"Judge {judge} ranks,.*?the measured truth: (-?\d\.\d\d)\.", report)
        rows = [row for row in table(small / "evaluation/ranking.csv") if row["judge"] == judge]
        strengths = [float(row["strength"]) for row in rows]
        tau = kendalltau(strengths, [truth[row["player"]] for row in rows]).statistic
        assert len(rows) == len(PLAYERS) and float(told) == round(tau, 2) > least


def test_asking_again_does_nothing(small):
    output = succeed("all", "--cores", 2, "--configfile", CONFIG)
    assert "Nothing to be done" in output


def test_every_artifact_of_the_contract_is_there(small):
    names = [
        "splits/sides.csv", "processed/cmv_examples.jsonl", "processed/delta_pairs.jsonl", "splits/sft_train.jsonl",
        "splits/sft_val.jsonl", "splits/sft_test.jsonl", "splits/summary.json", "judges/trust.csv", "report.html",
        "judges/delta/adapter_model.safetensors", "preferences/final_eval_prompts.jsonl", "config.yaml",
        "evaluation/behaviour.csv", "evaluation/honesty.csv", "evaluation/equal_honesty.csv",
        "evaluation/win_rates.csv", "evaluation/truth.csv", "evaluation/truth_differences.csv",
        "models.csv", "seeds.csv",
    ]  # fmt: skip
    for pool in ("ai", "human"):
        names += [
            f"preferences/{pool}_pool_{part}.jsonl" for part in ("prompts", "responses", "labels")
        ]
        names += [
            f"preferences/{pool}_{part}" for part in ("train.jsonl", "val.jsonl", "pairs.json")
        ]
    for model in MODELS:
        names += [
            f"models/{model}/{name}"
            for name in (
                "adapter_model.safetensors", "adapter_config.json", "metrics.json", "history.jsonl", "recipe.json",
                "README.md",
            )
        ]  # fmt: skip
    names += [f"evaluation/responses/{player}.jsonl" for player in PLAYERS]
    names += [f"evaluation/verdicts/{judge}.jsonl" for judge in ("truth", "delta", "length")]
    assert [name for name in names if not (small / name).stat().st_size] == []


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("splits/sft_train.jsonl", {"input_text", "full_text", "response", "metadata"}),
        ("processed/delta_pairs.jsonl", {"prompt", "winner", "loser", "metadata"}),
        ("preferences/ai_pool_prompts.jsonl", {"prompt", "metadata"}),
        ("preferences/ai_pool_responses.jsonl", {"prompt", "response_1", "response_2", "metadata"}),
        ("preferences/human_pool_labels.jsonl", {"prompt", "response_1", "response_2", "metadata", "verdict", "labeler", "votes"}),
        ("preferences/ai_train.jsonl", {"prompt", "chosen", "rejected", "metadata"}),
    ],
)  # fmt: skip
def test_rows_have_the_keys_of_the_contract(small, name, keys):
    rows = list(read_jsonl(small / name))
    assert rows and all(set(row) == keys for row in rows)


def test_ties_are_labelled_and_make_no_pair(small):
    for pool in ("ai", "human"):
        verdicts = [
            row["verdict"] for row in read_jsonl(small / f"preferences/{pool}_pool_labels.jsonl")
        ]
        pairs = [
            row
            for part in ("train", "val")
            for row in read_jsonl(small / f"preferences/{pool}_{part}.jsonl")
        ]
        assert verdicts.count("tie") > 0
        assert len(pairs) == len(verdicts) - verdicts.count("tie")
        told = read_json(small / f"preferences/{pool}_pairs.json")
        assert told["verdicts"] == {name: verdicts.count(name) for name in ("1", "2", "tie")}
        assert sum(told["pairs"].values()) == len(pairs)
        assert told["mean_tokens"] > 10
    told = read_json(small / "preferences/ai_pairs.json")
    assert told["first_shown"]["value"] == 0.5 and told["flips"]["flipped"] == 0  # a judge of texts


def test_every_training_checked_its_start(small):
    for model in MODELS:
        method = "sft" if model == "sft" else "dpo"
        log = (small / f"logs/train_{method}/{model}.log").read_text()
        assert "supervised spans are whole responses that end with EOS" in log
        if method == "dpo":
            assert "rewards 0 and 0, sigmoid term 0.6931" in log


def test_the_pools_and_the_evaluation_share_nothing(small):
    assert read_json(small / "splits/leakage.json")["leaks"] == 0


def test_the_report_says_what_is_simulated_and_holds_no_link_outside(small):
    page = (small / "report.html").read_text()
    for words in (
        "Synthetic data",
        "Stand-in base model",
        "AI labels are simulated",
        "Human labels are simulated",
        "Labels of the pools",
    ):
        assert words in page
    assert page.count("<svg") >= 5
    assert 'src="http' not in page and 'href="http' not in page


def report_command(root):
    """The command that writes the report, and the page that it writes."""
    page = "results/small/report.html"
    words = (page, "-n", "-p", "--forcerun", "report_study", "--configfile", "tests/small.yaml")
    plan = succeed(*words, root=root)
    (command,) = re.findall(
        r"python -m persuasion_rl\.report\.report_study (.*?) 2>", plan.replace("\\\n", " ")
    )
    return [
        sys.executable,
        "-m",
        "persuasion_rl.report.report_study",
        *shlex.split(command),
    ], root / page


def test_text_of_models_and_corpora_is_text_in_the_report(fresh):
    hostile = "</div></pre><script>alert('x')</script><img src=x onerror=alert(1)> & \u202e"
    for player in PLAYERS:
        path = fresh / f"results/small/evaluation/responses/{player}.jsonl"
        rows = list(read_jsonl(path))
        rows[0] |= {"response": hostile, "prompt": hostile}
        write_jsonl(path, rows)
    command, page = report_command(fresh)
    subprocess.run(command, cwd=fresh, check=True)
    text = page.read_text()
    assert "<script>alert" not in text and "<img" not in text
    assert text.count("&lt;script&gt;alert") == len(PLAYERS) + 1


def test_the_report_made_again_has_the_same_bytes_and_its_figures_are_files(fresh):
    command, page = report_command(fresh)
    made = []
    for _ in range(2):
        subprocess.run(command, cwd=fresh, check=True)
        made.append(page.read_bytes())
    assert made[0] == made[1]
    figures = {path.stem: path.read_text() for path in (page.parent / "figures").glob("*.svg")}
    assert {
        "lineage",
        "ranking",
        "length",
        "trust",
        "honesty",
        "truth",
        "win_rates_delta",
    } <= figures.keys()
    for text in figures.values():
        ElementTree.fromstring(text)  # an image by itself
        assert text in made[0].decode()


def test_the_report_tells_how_far_the_annotators_agree(small):
    page = (small / "report.html").read_text()
    found = read_json(small / "preferences/human_answers.json")
    assert "The annotators of the human pool (simulated)" in page
    assert f"Krippendorff&#39;s alpha {found['alpha']['value']:.3f}" in page.replace("'", "&#39;")


def test_the_report_shows_where_a_model_loses(small):
    page = (small / "report.html").read_text()
    verdicts = [
        {
            row["prompt_id"]: row.get("verdict")
            for row in read_jsonl(path)
            if (row["player_1"], row["player_2"]) == ("base", "sft")
        }
        for path in sorted((small / "evaluation/verdicts").glob("*.jsonl"))
        if path.stem != "length"
    ]
    lost = [prompt for prompt in verdicts[0] if all(found[prompt] == "1" for found in verdicts)]
    assert page.count("sft loses to base") == min(len(lost), 2)  # sample_replies


def test_snakemakes_own_report_has_captions_and_categories(fresh):
    succeed("--report", "report.html", "--configfile", "tests/small.yaml", root=fresh)
    page = (fresh / "report.html").read_text()
    for words in (
        "Comparisons",
        "Judges",
        "Figures",
        "far each judge can be trusted",
        "win_rates_delta",
    ):
        assert words in page


def test_the_recorded_configuration_is_the_resolved_one(small):
    given = yaml.safe_load(CONFIG.read_text())
    assert yaml.safe_load((small / "config.yaml").read_text()) == load_study(given, CONFIG)


def test_variants_stand_side_by_side_and_seeds_have_a_spread(small):
    rows = {row["model"]: row for row in table(small / "models.csv")}
    assert rows.keys() == set(MODELS)
    assert rows["rlhf"]["differs"] == "num_train_epochs=2"
    assert rows["rlhf_b5"]["differs"] == "beta=0.5, num_train_epochs=2"
    assert [name for name, row in rows.items() if row["group"] == "rlhf"] == ["rlhf", "rlhf_s2"]
    assert rows["rlhf"]["train_rows"] == rows["rlhf_s2"]["train_rows"]
    (group,) = table(small / "seeds.csv")
    assert (group["models"], group["seeds"]) == ("rlhf rlhf_s2", "2")
    assert float(group["eval_loss_sd"]) > 0  # the seed did something
    page = (small / "report.html").read_text()
    for name in ("rlhf_s2", "rlhf_b5", f"{float(group['eval_loss_mean']):.4f} ±"):
        assert name in page


def test_checkpoints_are_gone_when_a_model_is_whole(small):
    assert [path for path in (small / "state/trainings").rglob("*") if path.is_file()] == []


def test_the_evaluation_made_again_has_the_same_bytes(fresh):
    """Samples drawn again, judged again, tabulated again."""
    results = fresh / "results/small"
    names = [
        *results.glob("evaluation/*.csv"),
        *results.glob("evaluation/*/*"),
        results / "judges/trust.csv",
    ]
    before = {path: path.read_bytes() for path in names if path.is_file()}
    assert len(before) > 25
    for path in before:
        path.unlink()
    shutil.rmtree(results / "state/samples")
    succeed("evaluation", "--cores", 2, "--configfile", "tests/small.yaml", root=fresh)
    assert [path for path, content in before.items() if path.read_bytes() != content] == []


def test_a_model_is_looked_at_alone_and_its_replies_are_those_of_the_evaluation(fresh):
    study = fresh / "results/small"
    config = fresh / "tests/few.yaml"
    config.write_text(yaml.safe_dump({"extends": "small.yaml", "evaluation": {"num_samples": 3}}))
    target = "results/small/look/rlaif.md"
    assert stale(fresh, config="tests/few.yaml", target=target) == {"preview_model"}
    succeed(target, "--cores", 1, "--configfile", "tests/few.yaml", root=fresh)
    looked = list(read_jsonl(study / "look/rlaif.jsonl"))
    assert looked == list(read_jsonl(study / "evaluation/responses/rlaif.jsonl"))[:3]
    text = (study / "look/rlaif.md").read_text()
    assert text.count("\n## ") == 3 and f"    {looked[2]['response'].splitlines()[0]}" in text


@pytest.mark.parametrize("command", RUN_ON_A_STUDY)
def test_a_command_of_the_docs_does_what_is_said(command, fresh):
    """With this study in the place of the reader's. A file that it asks for is made anew."""
    typed = re.sub(r"\b(STUDY|NAME|(cmv|demo)(-\w+)*)\b", "small", command)
    typed = typed.replace("MODEL", "rlaif")
    if typed.startswith("snakemake "):
        for target in re.findall(r"results/\S+", typed):
            (fresh / target).unlink(missing_ok=True)
        typed += " --configfile tests/small.yaml"
    said = run_as_typed(typed, fresh, input="We should get rid of bike lanes.\n\n")
    assert re.search(RUN_ON_A_STUDY[command], said, re.M), said[-4000:]


# What becomes stale: a table of changes is in test_staleness.py


def test_a_deleted_file_is_rebuilt_alone(fresh):
    name = "results/small/judges/trust.csv"
    before = (fresh / name).read_bytes()
    (fresh / name).unlink()
    assert stale(fresh, target=name) == {"judge_trust"}
    succeed(name, "--cores", 2, "--configfile", "tests/small.yaml", root=fresh)
    assert (fresh / name).read_bytes() == before
    assert stale(fresh) == set()  # the same bytes: what lies below stands


def test_two_processes_make_the_same_model(small, fresh):
    """The workflow's own launcher: `gpu` slots become processes, here on the CPU. Nothing above is made again."""
    ran = succeed(
        *("sft", "--cores", 2, "--configfile", "tests/small.yaml", "--forcerun", "train_sft"),
        *("--set-resources", "train_sft:gpu=2", "--resources", "gpu=2"),
        root=fresh,
    )
    assert "2 process(es)" in ran
    metrics = [
        read_json(folder / "models/sft/metrics.json") for folder in (small, fresh / "results/small")
    ]
    assert metrics[1]["eval_loss"] == pytest.approx(metrics[0]["eval_loss"], abs=0.01)
    assert metrics[0]["steps"] == metrics[1]["steps"]


# Breakages: each a mistake of earlier work, and the row that shows it


@pytest.fixture(scope="module")
def measured(small, tmp_path_factory):
    """Measures players given by their adapters: the truth table of these and of the study's base and sft."""

    def measure(name: str, lineage: list[Path], comparison: str) -> tuple[float, float]:
        folder = tmp_path_factory.mktemp(name)
        sampling = (
            "--temperature 0.7 --top_p 0.9 --max_new_tokens 128 --batch_size 64 --seed 1".split()
        )
        run_stage(
            *("sampling.evaluate_model", "--base", small / "models/base"),
            *("--lineage", *lineage, "--prompts", small / "preferences/final_eval_prompts.jsonl"),
            *("--output", folder / "broken.jsonl", "--state", folder / "state", "--model", name),
            *("--threads", 2, *sampling),
        )
        responses = [f"{p}={small}/evaluation/responses/{p}.jsonl" for p in ("base", "sft")]
        model, against = comparison.split(":")
        run_stage(
            *("evaluation.truth", "--draws", 1000, "--seed", 1),
            *("--responses", *responses, f"{model}={folder}/broken.jsonl"),
            *("--truth", folder / "truth.csv", "--differences", folder / "truth_differences.csv"),
            *("--comparisons", comparison),
        )
        return gap(folder, model, against)

    return measure


def run_stage(module, *words):
    subprocess.run(
        [sys.executable, "-m", f"persuasion_rl.{module}", *map(str, words)], cwd=ROOT, check=True
    )


def tokens(base, rows):
    """The token ids of some rows, beside them."""
    run_stage("tokens", "--base", base, "--rows", rows, "--output", rows.with_suffix(".parquet"))
    return rows.with_suffix(".parquet")


def recipe_words(method, **changes):
    recipe = load_study(yaml.safe_load(CONFIG.read_text()), CONFIG)["recipes"][method] | changes
    words = []
    for name, value in recipe.items():
        words += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    return words


def test_sft_on_losing_replies_is_not_above_base(small, measured, tmp_path):
    side = {row["conversation_id"]: row["side"] for row in table(small / "splits/sides.csv")}
    for part, wanted in (("train", "train"), ("val", "val")):
        rows = [
            {
                "input_text": row["prompt"],
                "response": row["loser"],
                "metadata": row["metadata"],
            }
            for row in read_jsonl(small / "processed/delta_pairs.jsonl")
            if side[row["metadata"]["conversation_id"]] == wanted
        ]
        write_jsonl(tmp_path / f"{part}.jsonl", rows[:900])
    adapter, base = tmp_path / "models/losing/adapter_model.safetensors", small / "models/base"
    run_stage(
        *("sft", "--base", base, "--adapter", adapter, "--state", tmp_path / "state"),
        *("--train", tokens(base, tmp_path / "train.jsonl")),
        *("--val", tokens(base, tmp_path / "val.jsonl")),
        *("--seed", 1, "--threads", 2, *recipe_words("sft", num_train_epochs=2)),
    )
    low, _ = measured("losing", [adapter], "broken:base")
    assert low <= 0


def test_swapped_preferences_fall_below_sft(small, measured, tmp_path):
    for part in ("train", "val"):
        rows = read_jsonl(small / f"preferences/ai_{part}.jsonl")
        swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
        write_jsonl(tmp_path / f"{part}.jsonl", swapped)
    adapter, base = tmp_path / "models/swapped/adapter_model.safetensors", small / "models/base"
    sft = small / "models/sft/adapter_model.safetensors"
    run_stage(
        *("dpo", "--base", base, "--lineage", sft, "--parent", "sft"),
        *("--train", tokens(base, tmp_path / "train.jsonl")),
        *("--val", tokens(base, tmp_path / "val.jsonl")),
        *("--adapter", adapter, "--state", tmp_path / "state", "--seed", 1, "--threads", 2),
        *recipe_words("dpo"),
    )
    _, high = measured("swapped", [sft, adapter], "broken:sft")
    assert high < 0


def test_dpo_saved_without_its_parent_falls_below_sft(small, measured, tmp_path):
    """What the predecessor published: a new LoRA on a merged parent, loaded on the base alone."""
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
    honest = read_json(small / "models/sft/recipe.json")
    from persuasion_rl.files import file_digest

    (folder / "recipe.json").write_text(
        json.dumps(
            honest
            | {
                "adapter_digest": file_digest(adapter),
                "config_digest": file_digest(folder / "adapter_config.json"),
            }
        )
    )
    _, high = measured("orphan", [adapter], "broken:sft")
    assert high < 0


def test_an_adapter_whose_parent_changed_is_refused(small, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(small / "models", models)
    shutil.copy(models / "rlhf/adapter_model.safetensors", models / "sft/adapter_model.safetensors")
    run = subprocess.run(
        [
            *(sys.executable, "-m", "persuasion_rl.sampling.evaluate_model"),
            *("--base", models / "base", "--lineage"),
            *(models / f"{name}/adapter_model.safetensors" for name in ("sft", "rlaif")),
            *("--prompts", small / "preferences/final_eval_prompts.jsonl"),
            *("--output", tmp_path / "out.jsonl", "--state", tmp_path / "state"),
            *"--model rlaif --temperature 1 --top_p 1 --max_new_tokens 8 --batch_size 8 --seed 1 --threads 1".split(),
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_failing_job_says_why_in_the_output(fresh):
    """A corpus that is cut off: the line with file and number is what the person sees."""
    path = fresh / "results/small/corpora/synthetic-changemyview/utterances.jsonl"
    path.write_text(path.read_text()[:-40])
    run = snakemake(
        *(
            "results/small/processed/cmv_examples.jsonl",
            "--cores",
            1,
            "--configfile",
            "tests/small.yaml",
        ),
        root=fresh,
    )
    assert run.returncode != 0
    assert "not valid JSON" in run.stdout and "Traceback" not in run.stdout


# What people answer


@pytest.fixture
def people(fresh):
    """The copy as a study that waits for people, with the simulated annotators' store to take answers from."""
    settings = {
        "extends": "small.yaml",
        "labels": {"human": {"source": "people", "min_labels": 40}},
    }
    (fresh / "tests/people.yaml").write_text(yaml.safe_dump(settings))
    return fresh


def test_too_few_answers_stop_the_human_branch_and_nothing_else(people):
    words = ("--cores", 2, "--configfile", "tests/people.yaml")
    run = snakemake("results/small/preferences/human_pool_labels.jsonl", *words, root=people)
    assert run.returncode == 1
    assert re.search(r"0 of \d+ pairs have a verdict and 40 are needed", run.stdout)
    assert "persuasion-rl annotate --study small" in run.stdout
    plan = planned(succeed("unattended", "-n", "--configfile", "tests/people.yaml", root=people))
    assert plan.keys() >= {"report_unattended"}
    assert not plan.keys() & {"export_human_labels", "simulate_annotators", "train_dpo"}


def test_new_answers_make_exactly_the_rlhf_branch_stale(people):
    small = people / "results/small"
    store = small / "state/human_answers.sqlite"
    shutil.copy(small / "preferences/simulated_answers.sqlite", store)
    simulated = list(read_jsonl(small / "preferences/human_pool_labels.jsonl"))
    succeed("dpo", "--cores", 2, "--configfile", "tests/people.yaml", root=people)
    given = list(read_jsonl(small / "preferences/human_pool_labels.jsonl"))
    assert [row["verdict"] for row in given] == [row["verdict"] for row in simulated]
    assert {row["labeler"] for row in given} == {"people"}
    assert stale(people, "tests/people.yaml", target="dpo") == set()
    agreement = "results/small/preferences/human_answers.json"
    succeed(agreement, "--cores", 2, "--configfile", "tests/people.yaml", root=people)
    assert stale(people, "tests/people.yaml", target=agreement) == set()
    plan = Plan(sorted({pair_id(row) for row in given}), seed=1)
    with AnswerStore(store) as answers:
        # A skip and a repeat make no label: only what is told of agreement is stale.
        answers.add(Answer("simulated_1", plan.pairs[0], "repeat", 1, "tie"))
        answers.add(Answer("somebody", plan.pairs[0], "first", 1, "skip"))
    assert stale(people, "tests/people.yaml", target="dpo") == set()
    assert stale(people, "tests/people.yaml", target=agreement) == {"report_agreement"}
    with AnswerStore(store) as answers:
        undoable = [n for n, _ in answers.own_answers("simulated_1", plan) if n]
        firsts = [s for n in undoable if (s := answers.showing(n)).kind == "first"]
        assert answers.undo(firsts[-1])
    plan = succeed("dpo", "-n", "--configfile", "tests/people.yaml", root=people)
    jobs = planned(plan)
    assert jobs.keys() == {"export_human_labels", "preference_pairs", "tokenize", "train_dpo"}
    assert (jobs["preference_pairs"], jobs["train_dpo"]) == (
        1,
        4,
    )  # all that learn from the human pool


def test_votes_in_the_arena_make_their_ranking_and_the_report_stale(fresh):
    there = present_models([fresh / "results/small/models/sft/recipe.json"])
    models = ("sft", "base")
    with BattleStore(fresh / "results/small/state/human_answers.sqlite") as battles:
        for number in range(8):
            digests = [there[model] for model in models]
            battles.add("anna", f"Claim: {number}", models, ("Yes.", "No."), digests)
            battles.vote("anna", battles.latest("anna").number, "left" if number else "right")
    assert stale(fresh) == {"rank_arena", "report_study"}
    words = ("--cores", 2, "--configfile", "tests/small.yaml")
    succeed("all", *words, root=fresh)
    (first, second) = table(fresh / "results/small/evaluation/arena.csv")
    assert (first["player"], second["player"]) == ("sft", "base")
    page = (fresh / "results/small/report.html").read_text()
    assert "Judge people (arena) ranks" in page


def test_the_arena_and_the_chat_speak_with_the_studys_models(small):
    loaded = LoadedModels(small, recorded_settings(small))
    assert set(loaded.names) == {"base", *MODELS}
    view = "We should get rid of bike lanes\nSo much waste is burnt because of them."
    context, models, replies, digests = loaded.battle(claim_turns(view))
    there = present_models(sorted(small.glob("models/*/recipe.json")))
    assert digests == [there[model] for model in models], "as the ranking finds them"
    assert context.startswith("Claim: We should get rid of bike lanes\nPoster: ")
    assert len(set(models)) == 2 and all(replies)
    said = subprocess.run(
        [
            sys.executable,
            "-m",
            "persuasion_rl.tools.cli",
            "chat",
            "--study",
            small,
            "--model",
            "sft",
        ],
        input=f"{view.replace(chr(10), ' ')}\nI doubt it.\n\n",
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
    )
    assert said.returncode == 0 and said.stdout.count("sft: ") == 2, said.stderr
    words = ["chat", "--study", small, "--model", "gpt"]
    wrong = subprocess.run(
        [sys.executable, "-m", "persuasion_rl.tools.cli", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
    )
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: no model 'gpt'; there are: ")


# Why it is stale


def why(root, target, config="tests/small.yaml"):
    run = subprocess.run(
        [sys.executable, "-m", "persuasion_rl.tools.cli", "why", target, "--configfile", config],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root / "workflow")},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_why_names_the_setting_the_module_and_the_file_that_changed(fresh):
    model = "results/small/models/sft/adapter_model.safetensors"
    assert why(fresh, model)[0].startswith(f"{model}: nothing to do")
    settings = {"extends": "small.yaml", "recipes": {"sft": {"learning_rate": 0.002}}}
    (fresh / "tests/changed.yaml").write_text(yaml.safe_dump(settings))
    told = why(fresh, model, "tests/changed.yaml")
    assert told[:2] == ["train_sft (sft) would run:", "  learning_rate: 0.001 -> 0.002"]
    assert re.fullmatch(r"1 job; it took \d+ s when it last ran", told[2])
    path = fresh / "workflow/persuasion_rl/training/dpo.py"
    path.write_text(path.read_text().replace("else 0.5 * beta", "else 0.4 * beta"))
    told = why(fresh, "results/small/report.html")
    assert told[:2] == ["train_dpo (rlaif) would run:", "  code of dpo changed"]
    assert any(line.startswith("made again, because what they read is: ") for line in told)
    pairs = fresh / "results/small/preferences/human_train.jsonl"
    write_jsonl(pairs, list(read_jsonl(pairs))[:-1])
    told = why(fresh, "results/small/tokens/human_train.parquet")
    assert told[:2] == [
        "tokenize (human_train) would run:",
        "  changed: results/small/preferences/human_train.jsonl",
    ]
