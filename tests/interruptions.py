"""A study that is killed and restarted several times must end like an undisturbed one.

SIGKILL hits one of its processes at a random moment: a trainer, a sampler, the labeller, or Snakemake itself. Each kind
is hit at least once if there are enough kills.

    python tests/interruptions.py --kills 20 --seed 1
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from random import Random

import psutil
import yaml

from persuasion_rl.runtime.lock import LOCK
from running import copy_project

CONFIG = "tests/tiny.yaml"
STUDY = "results/tiny"
CORES = 2
OUTPUT_FLAGS = {
    "preferences.label_ai": ["--labels"],
    "preferences.export_human_labels": ["--labels"],
    "preferences.simulate_annotators": ["--answers"],
    "preferences.preference_pairs": ["--train"],
    "data.cmv": ["--examples"],
    "evaluation.verdicts": ["--verdicts"],
    "evaluation.truth": ["--truth"],
    "report.compare_models": ["--models"],
}
"""The flags of modules that name an output and are not --output."""
POLL_S = 0.2
KINDS = {
    "training.sft": "trainer", "training.dpo": "trainer", "training.reward": "trainer",
    "sampling.generate_responses": "sampler", "sampling.evaluate_model": "sampler",
    "preferences.label_ai": "labeller", "snakemake": "snakemake",
}  # fmt: skip
"""What must be killed at least once, by the module that it runs. Other modules may be killed too."""
KILL_SHARE = (0.4, 0.95)
"""The range of the random share of its stage's duration after which a process is killed."""
COMPARED = (
    "splits/*", "preferences/*.jsonl", "judges/*.csv", "judges/delta/*.safetensors", "models/*/*.safetensors",
    "evaluation/*.csv", "evaluation/responses/*", "evaluation/verdicts/*", "*.csv",
)  # fmt: skip
"""Files without timestamps."""


@dataclass
class Story:
    """What happened during the run of a study."""

    seconds: float = 0
    steps: int = 0
    """Training steps, repeated ones included."""
    killed: list[str] = field(default_factory=list)
    """The module that each kill hit."""
    repeated: list[str] = field(default_factory=list)
    """Jobs that ran again though they had ended."""
    unrecorded: list[str] = field(default_factory=list)
    """Jobs that ran again because Snakemake was killed before it recorded their end."""
    doubled: set[str] = field(default_factory=set)
    """Files that two processes wrote at the same time."""

    def hit(self) -> set[str]:
        return {KINDS[name] for name in self.killed if name in KINDS}


def run(
    checkout: Path, target: str, kills: int = 0, random: Random | None = None, undisturbed=None
) -> Story:
    """Run the study until a target is finished, with some kills on the way.

    Args:
        random: needed for kills.
        undisturbed: the folder and the story of the undisturbed study; needed for kills.
    """
    story = Story()
    durations_s = durations(undisturbed[0]) if undisturbed else {}
    # Half of the share of each kill: a kill costs time, and the last one must still find the study running.
    max_wait_s = undisturbed[1].seconds / max(1, 2 * kills) if undisturbed else 0
    limit_s = 1200 + 120 * kills  # an upper bound, of a busy machine too
    start_s = time.monotonic()
    unknown: set[str] = (
        set()
    )  # jobs started by a Snakemake that was killed before it recorded their end
    for attempt in range(kills + 1):
        ended = ended_jobs(checkout)
        log = checkout / f"output-{attempt}.txt"
        with log.open("w") as output:
            process = start(checkout, target, output)
            try:
                plan = (
                    Plan(kills - attempt, random, durations_s, max_wait_s)
                    if attempt < kills
                    else None
                )
                while process.poll() is None:
                    record_doubled(checkout, story)
                    victim = plan and plan.victim(process, story)
                    if victim and (name := kill(victim)):
                        story.killed.append(name)
                        break
                while process.poll() is None:
                    record_doubled(checkout, story)
                    if time.monotonic() - start_s > limit_s:
                        raise RuntimeError(f"not at its end in {limit_s} s: {tail(log)}")
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if len(story.killed) < min(attempt + 1, kills):
            raise RuntimeError(f"the study ended before kill {attempt + 1}: {tail(log)}")
        story.steps += log.read_text().count("'tokens_per_second':")
        after = ended_jobs(checkout)
        again = {job for job, when in ended.items() if after.get(job) != when}
        story.unrecorded += sorted(again & unknown)
        story.repeated += sorted(again - unknown)
        unknown = set()
        if process.returncode < 0:
            unknown = not_recorded(checkout, undisturbed[0])
            snakemake(checkout, "--unlock").wait()
    if process.returncode:
        raise RuntimeError(f"the study failed: {tail(log)}")
    story.seconds = time.monotonic() - start_s
    return story


class Plan:
    """Which process the next kill hits, and when."""

    def __init__(
        self, remaining: int, random: Random, durations_s: dict[str, float], max_wait_s: float
    ):
        self.remaining = remaining
        self.random = random
        self.durations_s = durations_s
        self.share = random.uniform(*KILL_SHARE)
        self.wait_s = random.uniform(0, max_wait_s)
        self.moment = None

    def victim(self, process: subprocess.Popen, story: Story) -> psutil.Process | None:
        """A process to kill now, if there is one.

        The labeller runs only once, so the first one is always hit. The last kills are for kinds that were not hit yet.
        """
        snakemake = psutil.Process(process.pid)
        running = defaultdict(list)
        for child in snakemake.children(recursive=True):
            name = module_of(child)
            if name and self.has_begun(child, name):
                running[KINDS.get(name, name)].append(child)
        if not running:
            return None
        running["snakemake"].append(snakemake)
        missing = set(KINDS.values()) - story.hit()
        if "labeller" in missing and running["labeller"]:
            return running["labeller"][0]
        self.moment = self.moment or time.monotonic() + self.wait_s
        if time.monotonic() < self.moment:
            return None
        kinds = sorted(kind for kind, processes in running.items() if processes)
        if missing_kinds := [kind for kind in kinds if kind in missing]:
            kinds = missing_kinds
        elif self.remaining <= len(missing):
            return None
        return self.random.choice([process for kind in kinds for process in running[kind]])

    def has_begun(self, process: psutil.Process, name: str) -> bool:
        try:
            age = time.time() - process.create_time()
        except psutil.NoSuchProcess:
            return False
        return age > self.share * self.durations_s.get(name, 0)


def start(checkout: Path, target: str, output) -> subprocess.Popen:
    return snakemake(checkout, target, "--cores", str(CORES), output=output)


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
    """The running stages of a checkout, orphans included."""
    processes = []
    for process in psutil.process_iter():
        try:
            if module_of(process) and process.cwd() == str(checkout):
                processes.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return processes


def kill(victim: psutil.Process) -> str | None:
    """Kill a process and return its module; None if it has ended."""
    try:
        name = module_of(victim) or "snakemake"
        victim.kill()
    except psutil.NoSuchProcess:
        return None
    return name


def module_of(process: psutil.Process) -> str | None:
    """The stage that a process runs; None for a shell."""
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    if len(words) < 3 or words[1] != "-m" or not words[2].startswith("persuasion_rl."):
        return None
    return words[2].removeprefix("persuasion_rl.")


def record_doubled(checkout: Path, story: Story) -> None:
    """Record what two processes write at once: files that both have open, and outputs of both.

    The lock of a model is excluded, and so is the output of a training, which may wait for the lock (see test_lock.py).
    """
    files: Counter[str] = Counter()
    outputs: Counter[str] = Counter()
    for process in stages(checkout):
        try:
            open_paths = [f.path for f in process.open_files() if f.mode not in ("r", "a+")]
            open_paths = [path for path in open_paths if Path(path).name != LOCK]
            # A file that is being written has its writer's number in its name, until it is complete.
            paths = {re.sub(r"/\.([^/]+)\.\d+\.part$", r"/\1", path) for path in open_paths}
            files.update({path for path in paths if path.startswith(f"{checkout / STUDY}/")})
            words = process.cmdline()
            alive = process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        arguments = dict(pairwise(words))
        if alive and "--adapter" not in arguments:
            flags = ("--output", *OUTPUT_FLAGS.get(module_of(process), ()))
            outputs.update({arguments[flag] for flag in flags if flag in arguments})
    story.doubled |= {path for path, count in (files + outputs).items() if count > 1}
    time.sleep(POLL_S)


def durations(checkout: Path) -> dict[str, float]:
    """Module -> the shortest run of its processes, in seconds."""
    shortest = {}
    for module, patterns in {
        "training.sft": ["train_sft/*"], "training.dpo": ["train_dpo/*"], "training.reward": ["train_delta_judge"],
        "sampling.generate_responses": ["generate_responses/*"], "sampling.evaluate_model": ["evaluate_model/*"],
        "preferences.label_ai": ["label_ai"],
        "training.standin": ["pretrain_standin"], "judges.judge_trust": ["judge_trust/judges"],
    }.items():  # fmt: skip
        folder = checkout / STUDY / "benchmarks"
        files = [file for pattern in patterns for file in folder.glob(f"{pattern}.tsv")]
        if files:
            shortest[module] = min(
                float(file.read_text().split("\n")[1].split("\t")[0]) for file in files
            )
    return shortest


def ended_jobs(checkout: Path) -> dict[str, float]:
    """Benchmark file of each job that succeeded -> its time."""
    files = (checkout / STUDY / "benchmarks").rglob("*.tsv")
    return {str(file.relative_to(checkout)): file.stat().st_mtime for file in files}


def not_recorded(checkout: Path, quiet: Path) -> set[str]:
    """The benchmark files of jobs that a killed Snakemake takes for incomplete: it marks outputs when a job starts, and
    removes the marks once it has recorded the job's end.

    Args:
        quiet: the same study, finished. Its records have the same names, and name the log of each output.
    """
    marks, records = (folder / ".snakemake" for folder in (checkout, quiet))
    names = [m.relative_to(marks / "incomplete") for m in (marks / "incomplete").rglob("*") if m.is_file()]  # fmt: skip
    logs = [json.loads((records / "metadata" / name).read_text())["log"][0] for name in names]
    return {log.replace("/logs/", "/benchmarks/").replace(".log", ".tsv") for log in logs}


def samples(checkout: Path) -> Counter[str]:
    """How often each sample was stored, by the folder of its model and its key."""
    counts: Counter[str] = Counter()
    for file in (checkout / STUDY / "state/samples").glob("*/*.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        counts.update(f"{file.parent.name}/{key}" for key, *_ in rows)
    return counts


def tail(file: Path) -> str:
    return file.read_text()[-3000:]


def digests(checkout: Path) -> dict[str, str]:
    """The digests of the result files of a study."""
    study = checkout / STUDY
    files = sorted(file for pattern in COMPARED for file in study.glob(pattern) if file.is_file())
    return {str(f.relative_to(study)): sha256(f.read_bytes()).hexdigest() for f in files}


def compare(
    folder: Path, kills: int, seed: int, target: str = "all"
) -> tuple[Story, Story, list[str]]:
    """Run a study undisturbed and with kills; return both stories and the differences."""
    quiet, broken = copy_project(folder / "quiet"), copy_project(folder / "broken")
    undisturbed = run(quiet, target)
    story = run(broken, target, kills, Random(seed), (quiet, undisturbed))
    expected, actual = digests(quiet), digests(broken)
    assert len(expected) > 20
    differ = sorted(n for n in expected | actual if expected.get(n) != actual.get(n))
    again = story.steps - undisturbed.steps
    # A killed trainer loses the steps since its last checkpoint; a killed Snakemake takes all running jobs with it.
    save_steps = yaml.safe_load((quiet / CONFIG).read_text())["recipes"]["sft"]["save_steps"]
    hit = [KINDS.get(name) for name in story.killed]
    bound = save_steps * (hit.count("trainer") + CORES * hit.count("snakemake"))
    sample_counts = samples(broken)
    wrong = {
        "files that differ": differ,
        "recorded jobs that ran again": story.repeated,
        "unrecorded jobs that ran again, more than can run when Snakemake is killed": story.unrecorded[
            CORES * story.killed.count("snakemake") :
        ],
        "samples that were kept and drawn again": [
            key for key in sample_counts if sample_counts[key] > 1
        ],
        "samples that nobody needs, or that are missing": sorted(
            sample_counts.keys() ^ samples(quiet).keys()
        ),
        "written by two": sorted(story.doubled),
        f"training steps made again, of {bound} that may be": [again] * (not 0 <= again <= bound),
    }
    return undisturbed, story, [f"{what}: {which}" for what, which in wrong.items() if which]


def summary(undisturbed: Story, story: Story) -> str:
    killed = ", ".join(f"{name} {count}" for name, count in Counter(story.killed).most_common())
    return "\n".join(
        [
            f"killed: {len(story.killed)} ({killed})",
            f"seconds: {undisturbed.seconds:.0f} undisturbed, {story.seconds:.0f} with the kills",
            f"training steps: {undisturbed.steps} and {story.steps}",
            f"ended, but not recorded when Snakemake was killed, and ran again: {story.unrecorded or 'none'}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, story, wrong = compare(Path(folder), arguments.kills, arguments.seed)
    print(summary(undisturbed, story))
    print("wrong:", "; ".join(wrong) or "nothing")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
