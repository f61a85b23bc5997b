"""What Snakemake costs at `--cores 1`: a study through it beside the same commands run by hand, one after the other.

python benchmarks/overhead.py --configfile config/demo.yaml
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import commit, device_name

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from running import copy_project

COMMAND = re.compile(r"^Shell command: *\n((?: {8}.*\n|\n)+)", re.MULTILINE)
A_FILE = re.compile(r"results/[^\s'\"=]+")


def through_snakemake(folder: Path, configfile: str) -> tuple[float, list[str]]:
    """The wall time of the study, and its commands in the order in which they ran."""
    words = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", configfile]
    started = time.perf_counter()
    with (folder / "log").open("w") as log:
        subprocess.run(words, cwd=folder, check=True, stdout=log, stderr=subprocess.STDOUT)
    took = time.perf_counter() - started
    return took, COMMAND.findall((folder / "log").read_text())


def by_hand(folder: Path, commands: list[str]) -> float:
    """The wall time of the commands alone."""
    took = 0.0
    environment = os.environ | {"PYTHONPATH": str(folder / "workflow")}
    for number, command in enumerate(commands, 1):
        for file in A_FILE.findall(command):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{command}"],
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
        )
        took += time.perf_counter() - started
        print(f"\r{number} of {len(commands)} commands, {took:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--configfile", default="config/demo.yaml")
    configfile = parser.parse_args().configfile
    print(f"{device_name('cpu', 1)}; commit {commit()}; {configfile}")
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        whole, commands = through_snakemake(copy_project(Path(one)), configfile)
        stages = by_hand(copy_project(Path(other)), commands)
    print(f"through Snakemake: {whole:.1f} s; {len(commands)} commands by hand: {stages:.1f} s")
    print(f"on top: {whole / stages - 1:.1%}; aim: less than 15%")


if __name__ == "__main__":
    main()
