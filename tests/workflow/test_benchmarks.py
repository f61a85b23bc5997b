"""Benchmarks run end to end, and their comparisons agree where they must."""

import os
import re
import shutil
import subprocess
import sys
from itertools import product

import pytest

from persuasion_rl.files import write_jsonl, write_text
from running import ROOT, WORKFLOW
from tiny_models import pool_rows


@pytest.fixture
def corpora(synthetic, tmp_path):
    """A folder with a synthetic corpus under the real one's name."""
    shutil.copytree(synthetic, tmp_path / "corpora" / "winning-args-corpus")
    return tmp_path / "corpora"


@pytest.fixture
def tokenizer_folder(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "tokenizer"
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer), eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    return folder


def run_benchmark(benchmark: str, *words: str) -> str:
    """Run a benchmark and return its output."""
    run = subprocess.run(
        [sys.executable, ROOT / f"benchmarks/{benchmark}.py", *words],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_a_comparison_has_all_ways_and_the_losses_agree(corpora, tokenizer_folder):
    words = f"--corpora {corpora} --tokenizer {tokenizer_folder} --model tiny --rows 32 --rounds 1"
    output = run_benchmark(
        "training", "compare", *words.split(), "--device", "cpu", "--threads", "1"
    )
    rows = [line.split(" | ") for line in output.splitlines() if line.startswith("| ")]
    ways = ["predecessor", "plain trl", "ours", "second model", "plain trl", "ours"]
    assert [row[1] for row in rows[1:]] == ways
    assert all(float(row[2].replace(",", "")) > 0 for row in rows[1:])
    checks = [line for line in output.splitlines() if "loss of the" in line]
    assert len(checks) == 2 and all(line.endswith(": agree") for line in checks)


@pytest.mark.slow
def test_a_profile_tells_where_all_of_the_time_goes(corpora, tokenizer_folder):
    words = f"--corpora {corpora} --tokenizer {tokenizer_folder} --model tiny --updates 1"
    output = run_benchmark(
        "training", "profile", *words.split(), "--device", "cpu", "--threads", "1"
    )
    shares = dict(re.findall(r"^\| ([\w, -]+) \| ([\d.]+)% \|$", output, re.M))
    assert {"linear layers", "attention", "language-model head", "optimizer"} <= shares.keys()
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "rows"),
    [
        ("compare", ["convokit.Corpus, one tokenizer call a comment", "process_cmv"]),
        ("scale", ["6,000 | 0.0 | process_cmv", "6,000 | 0.0 | check_leakage"]),
    ],
)
def test_the_data_stages_are_timed_on_a_corpus_of_any_size(what, rows, tokenizer_folder):
    output = run_benchmark(
        "data", what, "--tokenizer", str(tokenizer_folder), "--utterances", "6000"
    )
    for row in rows:
        assert re.search(rf"^\| {re.escape(row)} \| \d+\.\d \|", output, re.M), output


def test_an_edit_is_counted_by_the_jobs_that_it_makes_stale():
    """test_staleness.py has more edits."""
    words = "--config tests/tiny.yaml --targets sft --modules training/sft.py runtime/leases.py"
    output = run_benchmark("staleness", *words.split())
    assert "| nothing | 0 | 0 |  |" in output and "| runtime/leases.py | 0 | 0 |  |" in output
    assert "| training/sft.py | 1 | 1 | train_sft 1 |" in output


def test_planning_is_timed_beside_a_workflow_of_one_rule():
    output = run_benchmark("planning", "--rounds", "1", "--models", "6", "--shards", "10")
    assert re.search(r"^6 models, 10 shards: ", output, re.M), output


def test_coverage_is_counted_of_every_interval():
    """So few studies show only large errors; the command of benchmarks/README.md counts 2,000."""
    output = run_benchmark("coverage", "--studies", "15", "--prompts", "60", "--draws", "300")
    cells = [line.strip("| ").split(" | ") for line in output.splitlines() if "%" in line]
    shares = {name: float(share.rstrip("%")) for name, share in cells if name[:3] != "95%"}
    assert len(shares) == 10 and all(share > 75 for share in shares.values()), shares


@pytest.mark.slow
def test_generation_is_timed_in_three_ways_within_the_studys_limit(tiny_rows, tiny_sft, tmp_path):
    shutil.copytree(tiny_rows.base, tmp_path / "models/base")
    shutil.copytree(tiny_sft.parent, tmp_path / "models/sft")
    record = "{study: timed, sampling: {max_new_tokens: 7}, models: {base: {source: standin}}}\n"
    write_text(tmp_path / "config.yaml", record)
    pool = pool_rows(["Hello", "Hello!", "No"])
    write_jsonl(tmp_path / "preferences/ai_pool_prompts.jsonl", pool)
    words = f"--study {tmp_path} --rounds 2 --threads 1"
    lines = run_benchmark("generation", *words.split(), "--device", "cpu", "--batch_size", "4")
    text = " ".join(lines.split())
    assert re.search(r"commit [0-9a-f]{7,}\+?; torch", text)
    assert "3 prompts x 2, at most 7 tokens, 4 at a time; 2 rounds" in text
    table = {
        cells[0]: [float(cell.replace(",", "")) for cell in cells[1:3]]
        for line in lines.splitlines()
        if (cells := line.strip("| ").split(" | "))[0] in ("one at a time", "plain batches", "ours")
    }
    assert len(table) == 3
    for responses, tokens in table.values():
        assert 0 < tokens / responses <= 7.3  # both are rounded


@pytest.mark.slow
def test_the_estimate_of_memory_is_near_what_jobs_take():
    """Small rows of three shapes; the table of benchmarks/README.md has larger ones, and all jobs."""
    lines = run_benchmark("memory", *"--jobs sft loss --rows 2 --length 128".split())
    lines += run_benchmark("memory", *"--shapes demo --jobs sampling --length 256".split())
    rows = [line.strip("| ").split(" | ") for line in lines.splitlines() if line[:2] == "| "]
    ratios = {(shape, job): float(ratio) for shape, job, *_, ratio in rows if shape != "shape"}
    shapes = ("demo", "small", "SmolLM2-135M")
    assert ratios.keys() == {("demo", "sampling"), *product(shapes, ("sft", "loss"))}
    assert all(1 / 1.5 < ratio < 1.5 for ratio in ratios.values()), ratios
