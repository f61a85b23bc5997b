"""How long Snakemake plans: the published study beside a workflow of one rule, and a study of many models and shards.

python benchmarks/planning.py --models 200 --shards 2000
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from machine import commit, device_name

ROOT = Path(__file__).parent.parent
ONE_RULE = 'rule all:\n    output: "made"\n    shell: "touch {output}"\n'
SHARD_ROWS = 4


def seconds(folder: Path, *words: str) -> float:
    """The wall time of a dry run."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", *words],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def large_study(models: int, shards: int) -> dict:
    """The published study with so many trained models in all, and AI responses in so many shards or a few more."""
    study = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    there = len(study["models"]) - 1
    for number in range(models - there):
        study["models"][f"seed{number}"] = {"parent": "base", "method": "sft", "seed": number + 2}
    study.setdefault("pools", {}).setdefault("ai", {})["shard_rows"] = SHARD_ROWS
    data = study["data"]
    data["ai_pool_size"] = shards * SHARD_ROWS
    return study | {"study": "large"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--shards", type=int, default=2000)
    arguments = parser.parse_args()
    print(f"{device_name('cpu', 1)}; commit {commit()}")
    with tempfile.TemporaryDirectory() as folder:
        one_rule, large = Path(folder) / "Snakefile", Path(folder) / "large.yaml"
        one_rule.write_text(ONE_RULE)
        large.write_text(yaml.safe_dump(large_study(arguments.models, arguments.shards)))
        rounds = [(seconds(ROOT), seconds(Path(folder))) for _ in range(arguments.rounds)]
        full, one = (statistics.median(times) for times in zip(*rounds, strict=True))
        ratios = sorted(a / b for a, b in rounds)
        print(f"published study: {full:.2f} s; one rule: {one:.2f} s (medians of {len(rounds)})")
        print(
            f"ratio: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); aim 1.5"
        )
        took = seconds(ROOT, "--configfile", str(large))
        print(
            f"{arguments.models} models, {arguments.shards} shards: {took:.1f} s; aim 20",
        )


if __name__ == "__main__":
    main()
