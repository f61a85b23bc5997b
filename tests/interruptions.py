"""A study that is killed again and again, and started again each time, must end as one that nobody disturbed.

SIGKILL goes to a random process of it at a random moment: a trainer, a sampler, a labeller, or Snakemake itself.

    python tests/interruptions.py --kills 20 --seed 1
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random

import psutil

from running import copy_project

CONFIG = "tests/tiny.yaml"
STUDY = "results/tiny"
CORES = 2
LOOKS_EVERY_S = 0.2
ENDS_WITHIN_S = 600
COMPARED = (
    "splits/*", "preferences/*.jsonl", "judges/*.csv", "judges/delta/*.safetensors", "models/*/*.safetensors",
    "evaluation/*.csv", "evaluation/responses/*", "evaluation/verdicts/*",
)  # fmt: skip
"""Files without times in them."""


@dataclass
class Story:
    """What happened to a study until it was whole."""

    seconds: float = 0
    steps: int = 0
    """Training steps that were made, those made again included."""
    killed: list[str] = field(default_factory=list)
    """What each kill hit."""
    repeated: list[str] = field(default_factory=list)
    """Jobs that ran again though they had ended."""
    shared: set[str] = field(default_factory=set)
    """Files that two processes had open for writing at the same time."""


def run(checkout: Path, kills: int, random: Random, within_s: float = 0) -> Story:
    """Run the study until it is whole, with `kills` kills on the way, the next one always `within_s` of a start."""
    story = Story()
    begun = time.monotonic()
    for attempt in range(kills + 1):
        ended = ended_jobs(checkout)
        told = checkout / f"told-{attempt}.txt"
        with told.open("w") as output:
            process = start(checkout, output)
            try:
                if attempt < kills:
                    moment = time.monotonic() + random.uniform(0, within_s)
                    while time.monotonic() < moment and process.poll() is None:
                        look(checkout, story)
                    if process.poll() is not None:
                        raise RuntimeError(
                            f"the study ended before kill {attempt + 1}: {tail(told)}"
                        )
                    story.killed.append(kill_one(process, random))
                while process.poll() is None:
                    look(checkout, story)
                    if time.monotonic() - begun > ENDS_WITHIN_S:
                        raise RuntimeError(f"not at its end in {ENDS_WITHIN_S} s: {tail(told)}")
            finally:
                end(checkout, process)
        story.steps += told.read_text().count("'learning_rate':")
        after = ended_jobs(checkout)
        story.repeated += [job for job, when in ended.items() if after.get(job) != when]
        if process.returncode < 0:
            snakemake(checkout, "--unlock").wait()
    if process.returncode:
        raise RuntimeError(f"the study failed: {tail(told)}")
    story.seconds = time.monotonic() - begun
    return story


def start(checkout: Path, output) -> subprocess.Popen:
    return snakemake(checkout, "all", "--cores", str(CORES), output=output)


def snakemake(checkout: Path, *words: str, output=subprocess.DEVNULL) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *words, "--configfile", CONFIG],
        cwd=checkout,
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stdout=output,
        stderr=subprocess.STDOUT,
    )


def stages(checkout: Path) -> list[psutil.Process]:
    """The processes of stages that run for a checkout, orphans too."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if process.info["cwd"] == str(checkout) and any("persuasion_rl." in w for w in words[:4]):
            found.append(process)
    return [process for process in found if Path(process.info["cmdline"][0]).name != "bash"]


def kill_one(process: subprocess.Popen, random: Random) -> str:
    """Kill Snakemake or a stage that it runs, and tell which."""
    snakemake = psutil.Process(process.pid)
    children = [child for child in snakemake.children(recursive=True) if module_of(child)]
    victim = random.choice([snakemake, *children])
    name = module_of(victim) or "snakemake"
    victim.kill()
    return name


def module_of(process: psutil.Process) -> str | None:
    """The stage that a process runs."""
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return None
    modules = [word for word in words if word.startswith("persuasion_rl.")]
    return modules[0].removeprefix("persuasion_rl.") if modules else None


def look(checkout: Path, story: Story) -> None:
    """Note files that two processes write."""
    writers: Counter[str] = Counter()
    for process in stages(checkout):
        try:
            writers.update({f.path for f in process.open_files() if f.mode != "r"})
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    story.shared |= {path for path, count in writers.items() if count > 1}
    time.sleep(LOOKS_EVERY_S)


def end(checkout: Path, process: subprocess.Popen) -> None:
    """Leave no Snakemake behind. What it ran ends by itself, while the next one starts."""
    if process.poll() is None:
        process.kill()
        process.wait()


def ended_jobs(checkout: Path) -> dict[str, float]:
    """The jobs that have ended well, by their benchmark file, and when."""
    files = (checkout / STUDY / "benchmarks").rglob("*.tsv")
    return {str(file.relative_to(checkout)): file.stat().st_mtime for file in files}


def tail(file: Path) -> str:
    return file.read_text()[-3000:]


def digests(checkout: Path) -> dict[str, str]:
    """What a study found, file by file."""
    study = checkout / STUDY
    files = sorted(file for pattern in COMPARED for file in study.glob(pattern) if file.is_file())
    return {str(f.relative_to(study)): sha256(f.read_bytes()).hexdigest() for f in files}


def compare(folder: Path, kills: int, seed: int) -> tuple[Story, Story, list[str]]:
    """A study undisturbed, the same killed, and the files in which they differ."""
    quiet, broken = copy_project(folder / "quiet"), copy_project(folder / "broken")
    undisturbed = run(quiet, 0, Random())
    story = run(broken, kills, Random(seed), within_s=undisturbed.seconds / max(1, kills))
    expected, found = digests(quiet), digests(broken)
    differ = [name for name in expected | found if expected.get(name) != found.get(name)]
    return undisturbed, story, differ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, story, differ = compare(Path(folder), arguments.kills, arguments.seed)
    killed = ", ".join(f"{name} {count}" for name, count in Counter(story.killed).most_common())
    print(f"killed: {len(story.killed)} ({killed})")
    print(f"seconds: {undisturbed.seconds:.0f} undisturbed, {story.seconds:.0f} with the kills")
    print(f"training steps: {undisturbed.steps} and {story.steps}")
    print(f"ended jobs that ran again: {story.repeated or 'none'}")
    print(f"files with two writers: {sorted(story.shared) or 'none'}")
    print(f"files that differ: {differ or 'none'}")
    sys.exit(bool(differ or story.repeated or story.shared))


if __name__ == "__main__":
    main()
