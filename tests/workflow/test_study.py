"""The results of the small study: files, truth, report, and the same bytes when it is made again."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import yaml
from scipy.stats import kendalltau

from persuasion_rl.annotation.arena import LoadedModels, claim_turns
from persuasion_rl.evaluation.arena import present_models
from persuasion_rl.files import read_json, read_jsonl, write_jsonl
from persuasion_rl.runtime.lock import LOCK
from persuasion_rl.study.loading import load_config
from persuasion_rl.study.recorded import recorded_config
from running import succeed
from small_study import (
    CONFIG,
    MODELS,
    NO_NETWORK,
    ON_SMALL,
    PLAYERS,
    difference,
    run_jobs,
    run_module,
    table,
)

pytestmark = pytest.mark.slow


def test_nothing_touched_the_network(small, network_log):
    assert not network_log.exists(), network_log.read_text()


def test_a_refused_connection_is_logged(tmp_path):
    """This shows that the test above can fail."""
    log = tmp_path / "refused.log"
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(NO_NETWORK), "NETWORK_LOG": str(log)},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0 and "no network here" in run.stderr
    assert "192.0.2.1" in log.read_text()


def test_supervised_training_shows_in_the_truth(small):
    low, _ = difference(small / "evaluation", "sft", "base")
    assert low > 0


def test_the_reports_ranking_agrees_with_the_truth(small):
    """The judge that knows the truth ranks like it; the report states Kendall's tau of every judge."""
    truth = {row["model"]: float(row["mean"]) for row in table(small / "evaluation/truth.csv")}
    report = (small / "report.html").read_text()
    for judge, least in (("truth", 0.3), ("delta", -1)):
        (reported,) = re.findall(
            rf"Judge {judge} ranks,.*?the measured truth: (-?\d\.\d\d)\.", report
        )
        rows = [row for row in table(small / "evaluation/ranking.csv") if row["judge"] == judge]
        strengths = [float(row["strength"]) for row in rows]
        tau = kendalltau(strengths, [truth[row["player"]] for row in rows]).statistic
        assert len(rows) == len(PLAYERS) and float(reported) == round(tau, 2) > least


def test_a_second_run_does_nothing(small, make_small):
    assert "Nothing to be done" in make_small()


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
        counts = read_json(small / f"preferences/{pool}_pairs.json")
        assert counts["verdicts"] == {name: verdicts.count(name) for name in ("1", "2", "tie")}
        assert sum(counts["pairs"].values()) == len(pairs)
        assert counts["mean_tokens"] > 10
    counts = read_json(small / "preferences/ai_pairs.json")
    # A judge of single texts does not depend on their order.
    assert counts["first_shown"]["value"] == 0.5 and counts["flips"]["flipped"] == 0


def test_every_training_checked_its_start(small):
    for model in MODELS:
        method = "sft" if model == "sft" else "dpo"
        log = (small / f"logs/train_{method}/{model}.log").read_text()
        assert "supervised spans are whole responses that end with EOS" in log
        if method == "dpo":
            rewards = re.search(r"update: rewards (\S+) and (\S+), sigmoid term 0\.6931", log)
            assert all(abs(float(reward)) < 1e-5 for reward in rewards.groups())


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
    """The command that writes the report, and the path of the page."""
    page = "results/small/report.html"
    plan = succeed(page, "-n", "-p", "--forcerun", "report_study", *ON_SMALL, root=root)
    module = "persuasion_rl.report.report_study"
    (words,) = re.findall(rf"python -m {re.escape(module)} (.*?) 2>", plan.replace("\\\n", " "))
    return [sys.executable, "-m", module, *shlex.split(words)], root / page


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
    pages = []
    for _ in range(2):
        subprocess.run(command, cwd=fresh, check=True)
        pages.append(page.read_bytes())
    assert pages[0] == pages[1]
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
        assert text in pages[0].decode()


def test_the_report_tells_how_far_the_annotators_agree(small):
    page = (small / "report.html").read_text()
    agreement = read_json(small / "preferences/human_answers.json")
    assert "The annotators of the human pool (simulated)" in page
    assert f"Krippendorff&#39;s alpha {agreement['alpha']['value']:.3f}" in page.replace(
        "'", "&#39;"
    )


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
    lost = [
        prompt for prompt in verdicts[0] if all(of_judge[prompt] == "1" for of_judge in verdicts)
    ]
    assert page.count("sft loses to base") == min(len(lost), 2)  # sample_replies


def test_snakemakes_own_report_has_captions_and_categories(fresh):
    succeed("--report", "report.html", *ON_SMALL, root=fresh)
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
    settings = yaml.safe_load(CONFIG.read_text())
    recorded = yaml.safe_load((small / "config.yaml").read_text())
    assert recorded == load_config(settings, CONFIG).resolved()


def test_variants_stand_side_by_side_and_seeds_have_a_spread(small):
    rows = {row["model"]: row for row in table(small / "models.csv")}
    assert rows.keys() == set(MODELS)
    assert rows["rlhf"]["differs"] == "num_train_epochs=2"
    assert rows["rlhf_b5"]["differs"] == "beta=0.5, num_train_epochs=2"
    assert [name for name, row in rows.items() if row["group"] == "rlhf"] == ["rlhf", "rlhf_s2"]
    assert rows["rlhf"]["train_rows"] == rows["rlhf_s2"]["train_rows"]
    (group,) = table(small / "seeds.csv")
    assert (group["models"], group["seeds"]) == ("rlhf rlhf_s2", "2")
    assert float(group["eval_loss_sd"]) > 0  # the seed has an effect
    page = (small / "report.html").read_text()
    for name in ("rlhf_s2", "rlhf_b5", f"{float(group['eval_loss_mean']):.4f} ±"):
        assert name in page


def test_checkpoints_are_gone_when_a_model_is_whole(small):
    files = {path.name for path in (small / "state/trainings").rglob("*") if path.is_file()}
    assert files == {LOCK}


def test_the_evaluation_made_again_has_the_same_bytes(fresh):
    """The replies of two players, all verdicts and all tables are sampled, judged and computed again."""
    results = fresh / "results/small"
    names = [*results.glob("evaluation/*.csv"), *results.glob("evaluation/*/*")]
    unchanged_players = ("base", "sft", "rlaif", "rlhf", "rlhf_s2", "rlhf_b5")
    before = {
        path: path.read_bytes()
        for path in names
        if path.is_file() and path.stem not in unchanged_players
    }
    assert len(before) > 18
    for path in before:
        path.unlink()
    shutil.rmtree(results / "state/samples")
    run_jobs(fresh, "evaluation")
    assert [path for path, content in before.items() if path.read_bytes() != content] == []


def test_the_arena_and_the_chat_speak_with_the_studys_models(small):
    loaded = LoadedModels(small, recorded_config(small))
    assert set(loaded.names) == {"base", *MODELS}
    view = "We should get rid of bike lanes\nSo much waste is burnt because of them."
    context, models, replies, digests = loaded.battle(claim_turns(view))
    present = present_models({model: small / f"models/{model}/recipe.json" for model in MODELS})
    assert digests == [present[model] for model in models], "as the ranking finds them"
    assert context.startswith("Claim: We should get rid of bike lanes\nPoster: ")
    assert len(set(models)) == 2 and all(replies)
    chat = run_module(
        *("tools.cli", "chat", "--study", small, "--model", "sft"),
        input=f"{view.replace(chr(10), ' ')}\nI doubt it.\n\n",
    )
    assert chat.returncode == 0 and chat.stdout.count("sft: ") == 2, chat.stderr
    wrong = run_module("tools.cli", "chat", "--study", small, "--model", "gpt")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: no model 'gpt'; there are: ")
