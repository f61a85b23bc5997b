"""Seeds and variants of models: the tables that compare them, and the cost of another variant."""

import re
import subprocess

import pytest
import yaml

from csv_files import read_csv
from persuasion_rl.files import write_json
from persuasion_rl.report.compare_models import (
    MODEL_COLUMNS,
    Trained,
    compare_models,
    model_rows,
    seed_rows,
)
from persuasion_rl.report.figures import variants_figure
from persuasion_rl.settings import as_words
from running import ROOT, planned, succeed

COMMON = {
    "sft": {"learning_rate": 0.001, "lora_target_modules": ["q_proj", "v_proj"]},
    "dpo": {"beta": 0.1, "loss_type": ["sigmoid"]},
}


def sft(seed=1, parent="base", loss=0.3, **recipe):
    metrics = {"method": "sft", "train_rows": 900, "steps": 60, "eval_loss_before": 0.5}
    return Trained(parent, "sft", None, seed, COMMON["sft"] | recipe, metrics | {"eval_loss": loss})


def dpo(seed=1, parent="sft", pool="ai", accuracy=0.7, **recipe):
    metrics = {"method": "dpo", "eval_loss": 0.6, "eval_reward_accuracy": accuracy}
    return Trained(parent, "dpo", pool, seed, COMMON["dpo"] | recipe, metrics)


def table_rows(groups={}, **trained):
    """The rows of both tables, by model and by group."""
    rows = model_rows(trained, groups, COMMON)
    return {row["model"]: row for row in rows}, {row["group"]: row for row in seed_rows(rows)}


def test_a_group_is_named_by_its_first_model_and_stands_together():
    rows, spread = table_rows(
        {"sft_s2": "sft"}, sft=sft(1), warm=sft(1, learning_rate=0.002), sft_s2=sft(2)
    )
    groups = {name: row["group"] for name, row in rows.items()}
    assert groups == {"sft": "sft", "sft_s2": "sft", "warm": "warm"}
    assert list(rows) == ["sft", "sft_s2", "warm"]
    assert spread.keys() == {"sft"}


def test_the_spread_is_over_seeds_and_that_of_a_sample():
    groups = {"sft_s2": "sft", "sft_s3": "sft"}
    _, spread = table_rows(
        groups, sft=sft(1, loss=0.2), sft_s2=sft(2, loss=0.3), sft_s3=sft(3, loss=0.4)
    )
    assert spread.keys() == {"sft"}
    assert spread["sft"]["seeds"] == 3 and spread["sft"]["models"] == "sft sft_s2 sft_s3"
    assert spread["sft"]["eval_loss_mean"] == pytest.approx(0.3)
    assert spread["sft"]["eval_loss_sd"] == pytest.approx(0.1)  # n - 1; with n it would be 0.0816
    assert "eval_reward_accuracy_mean" not in spread["sft"]


def test_a_group_of_dpo_models_has_the_spread_of_its_accuracy():
    _, spread = table_rows(
        {"rlaif_s2": "rlaif"},
        **{"sft": sft(1), "rlaif": dpo(1, accuracy=0.6), "rlaif_s2": dpo(2, accuracy=0.8)},
        b5=dpo(1, beta=0.5),
    )
    assert spread.keys() == {"rlaif"}
    assert spread["rlaif"]["eval_reward_accuracy_mean"] == pytest.approx(0.7)
    assert spread["rlaif"]["eval_reward_accuracy_sd"] == pytest.approx(0.1 * 2**0.5)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({}, ""),
        ({"beta": 0.5}, "beta=0.5"),
        ({"loss_type": "sigmoid"}, ""),  # as a command line reads a list of one entry
        ({"loss_type": ["sigmoid", "sft"], "beta": 0.2}, "beta=0.2, loss_type=sigmoid+sft"),
        ({"precompute_ref_log_probs": True}, "precompute_ref_log_probs=true"),
    ],
)
def test_what_differs_is_what_the_common_recipe_does_not_say(recipe, words):
    rows, _ = table_rows(sft=sft(), rlaif=dpo(**recipe))
    assert rows["rlaif"]["differs"] == words


def write_model(folder, name, method, seed, recipe, parent="base", **metrics):
    """Write the files of a trained model that the comparison reads."""
    write_json(folder / f"{name}/recipe.json", {"parent": parent, "seed": seed, "recipe": recipe})
    write_json(folder / f"{name}/metrics.json", {"method": method, "eval_loss": 0.5} | metrics)


@pytest.fixture
def models(tmp_path):
    write_model(tmp_path, "sft", "sft", 1, COMMON["sft"], train_rows=900, eval_loss_before=0.625)
    write_model(tmp_path, "sft_s2", "sft", 2, COMMON["sft"], train_rows=900)
    write_model(
        *(tmp_path, "rlaif", "dpo", 1, {"beta": 0.5, "loss_type": "sigmoid"}, "sft"),
        **{"eval_reward_accuracy": 0.75, "eval_reward_accuracy_low": 0.5},
    )
    return tmp_path


def arguments(folder):
    names = ("sft", "sft_s2", "rlaif")
    return {
        "metrics": {name: folder / f"{name}/metrics.json" for name in names},
        "recipes": {name: folder / f"{name}/recipe.json" for name in names},
        "models": folder / "models.csv",
        "seeds": folder / "seeds.csv",
        "common": dict(word.split("=") for word in as_words(COMMON)),
        "groups": {"sft_s2": "sft"},
    }


def test_the_tables_hold_what_the_files_say_and_stay_empty_where_they_say_nothing(models):
    compare_models(**arguments(models), pools={"rlaif": "ai"})
    first, _, last = read_csv(models / "models.csv")
    assert list(first) == MODEL_COLUMNS
    assert (first["pool"], first["differs"], first["eval_reward_accuracy"]) == ("", "", "")
    assert (first["eval_loss_before"], first["train_rows"]) == ("0.625", "900")
    assert (last["parent"], last["pool"], last["differs"]) == ("sft", "ai", "beta=0.5")
    ends = [last[f"eval_reward_accuracy_{end}"] for end in ("low", "high")]
    assert (last["eval_reward_accuracy"], *ends) == ("0.75", "0.5", "")
    (group,) = read_csv(models / "seeds.csv")
    assert (group["models"], group["eval_loss_sd"]) == ("sft sft_s2", "0.0")
    assert group["eval_reward_accuracy_mean"] == ""


def test_the_command_line_writes_the_same_tables(models, command_line):
    args = arguments(models)
    compare_models(**args, pools={"rlaif": "ai"})
    expected = [args[name].read_text() for name in ("models", "seeds")]
    words = []
    for name, value in args.items():
        pairs = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else [value]
        words += [f"--{name}", *pairs]
    for name in ("models", "seeds"):
        args[name].unlink()
    run = command_line("report.compare_models", *words, "--pools", "rlaif=ai")
    assert run.returncode == 0, run.stderr
    assert [args[name].read_text() for name in ("models", "seeds")] == expected


def test_a_broken_file_is_one_line(models, command_line):
    args = arguments(models)
    args["metrics"]["sft"].write_text('{"method": ')
    run = command_line(
        *("report.compare_models", "--metrics", f"sft={args['metrics']['sft']}"),
        *("--common", *as_words(COMMON)),
        *("--recipes", f"sft={args['recipes']['sft']}"),
        *("--models", args["models"], "--seeds", args["seeds"]),
    )
    assert run.returncode == 1 and not args["models"].exists()
    assert len(run.stderr.splitlines()) == 1 and "not valid JSON" in run.stderr


def test_the_figure_is_there_where_two_models_can_be_compared():
    def figure(**trained):
        rows = table_rows(**trained)[0].values()
        return variants_figure([{k: "" if v is None else v for k, v in r.items()} for r in rows])

    assert figure(sft=sft(), rlaif=dpo(), rlhf=dpo(pool="human")) == ""
    svg = figure(sft=sft(), rlaif=dpo(), b5=dpo(beta=0.5), rlhf=dpo(pool="human"))
    assert "dpo, ai pool" in svg and "b5" in svg
    assert "rlhf" not in svg and "validation loss" not in svg


# What a variant costs

EXAMPLE = ("--configfile", "config/seeds-and-betas.yaml")


@pytest.fixture
def checkout(tmp_path):
    """A checkout without results."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Snakefile", "workflow", "config", "envs", "profiles", "resources/markers"):
        subprocess.run(["cp", "-a", "--parents", name, folder], cwd=ROOT, check=True)
    return folder


def test_three_seeds_and_two_betas_are_planned_in_one_run(checkout):
    demo = planned(succeed("-n", "--configfile", "config/demo.yaml", root=checkout))
    plan = planned(succeed("-n", *EXAMPLE, root=checkout))
    assert (plan["train_sft"], plan["train_dpo"], plan["write_model_card"]) == (3, 4, 7)
    assert plan["evaluate_model"] == 6  # two of the players are no longer models of the demo
    assert plan["evaluate_kl"] == 2  # of its players, rlaif and rlaif_b5
    assert plan["compare_models"] == demo["compare_models"] == 1
    assert plan["evaluate_loss"] == plan["evaluate_model"]
    counted = {"train_sft", "train_dpo", "write_model_card", "evaluate_model", "evaluate_loss"}
    counted.add("evaluate_kl")
    assert {k: v for k, v in plan.items() if k not in counted} == {
        k: v for k, v in demo.items() if k not in counted
    }


def test_a_variant_more_is_its_own_jobs_and_the_tables(checkout):
    """Snakemake takes empty files for the finished study, because `--touch` records them."""
    summary = succeed("--summary", *EXAMPLE, root=checkout)
    for line in summary.splitlines():
        if line.startswith("results/"):
            path = checkout / line.split("\t")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix:
                path.touch()
            else:
                path.mkdir()
    succeed("all", "--touch", "--forceall", "--cores", 1, *EXAMPLE, root=checkout)
    assert "Nothing to be done" in succeed("all", "-n", *EXAMPLE, root=checkout)
    (checkout / "config/more.yaml").write_text(
        yaml.safe_dump(
            {
                "extends": "seeds-and-betas.yaml",
                "study": "seeds-and-betas",
                "models": {"sft_s4": {"parent": "base", "method": "sft", "seed": 4}},
            }
        )
    )
    plan = succeed("all", "-n", "--configfile", "config/more.yaml", root=checkout)
    rules = ("train_sft", "write_model_card", "compare_models", "report_study", "record_config")
    assert planned(plan) == dict.fromkeys(rules, 1)


def test_without_people_the_comparison_is_of_the_models_that_need_none(checkout):
    plan = succeed("-n", "unattended", root=checkout).replace("\\\n", " ")
    (command,) = re.findall(r"python -m persuasion_rl.report.compare_models .*", plan)
    assert re.findall(r"models/(\w+)/metrics.json", command) == ["sft", "rlaif"]
    assert "--models results/cmv/unattended/models.csv" in command
    assert "--models_table results/cmv/unattended/models.csv" in plan
