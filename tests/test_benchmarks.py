"""The benchmark of training runs end to end, and its ways train alike where they must."""

import os
import shutil
import subprocess
import sys

import pytest

from conftest import PROJECT, WORKFLOW


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


@pytest.mark.slow
def test_a_comparison_has_all_ways_and_the_losses_agree(corpora, tokenizer_folder):
    words = f"--corpora {corpora} --tokenizer {tokenizer_folder} --model tiny --rows 32 --rounds 1"
    done = subprocess.run(
        [sys.executable, PROJECT / "benchmarks/training.py", "compare", *words.split()]
        + ["--device", "cpu", "--threads", "1"],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    ways = ["predecessor", "plain trl", "ours", "second model", "plain trl", "ours"]
    assert [row[1] for row in rows[1:]] == ways
    assert all(float(row[2].replace(",", "")) > 0 for row in rows[1:])
    checks = [line for line in done.stdout.splitlines() if "loss of the" in line]
    assert len(checks) == 2 and all(line.endswith(": agree") for line in checks)


def test_coverage_is_counted_of_every_interval():
    """Of so few studies only what is far off would show; the command of benchmarks/README.md counts 2,000."""
    done = subprocess.run(
        [sys.executable, PROJECT / "benchmarks/coverage.py", "--studies", "40", "--prompts", "60"]
        + ["--draws", "300"],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    cells = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "%" in line]
    shares = {name: float(share.rstrip("%")) for name, share in cells if name[:3] != "95%"}
    assert len(shares) == 8 and all(share > 75 for share in shares.values()), shares
