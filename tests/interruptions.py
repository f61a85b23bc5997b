"""A study that is killed again and again, and started again each time, must end as one that nobody disturbed.

SIGKILL goes to a process of it at a random moment: a trainer, a sampler, the labeller, or Snakemake itself. Each of them
is hit at least once where there are kills enough.

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
WRITTEN = {
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
LOOKS_EVERY_S = 0.2
KINDS = {
    "training.sft": "trainer", "training.dpo": "trainer", "training.reward": "trainer",
    "sampling.generate_responses": "sampler", "sampling.evaluate_model": "sampler",
    "preferences.label_ai": "labeller", "snakemake": "snakemake",
}  # fmt: skip
"""What is to be hit, by the module that runs; others may be hit, too."""
BEGUN = (0.4, 0.95)
"""A process is killed once it has run for such a share, drawn at random, of what its stage takes."""
COMPARED = (
    "splits/*", "preferences/*.jsonl", "judges/*.csv", "judges/delta/*.safetensors", "models/*/*.safetensors",
    "evaluation/*.csv", "evaluation/responses/*", "evaluation/verdicts/*", "*.csv",
)  # fmt: skip
"""Files without times in them."""


@dataclass
class Story:
    """What happened to a study until it was whole."""

    seconds: float = 0
    steps: int = 0
    """Training steps that were made, those made again included."""
    killed: list[str] = field(default_factory=list)
    """The module that each kill hit."""
    repeated: list[str] = field(default_factory=list)
    """Jobs that ran again though they had ended."""
    unrecorded: list[str] = field(default_factory=list)
    """The same of jobs whose end Snakemake had not recorded when it was killed, so that it cannot know of it."""
    doubled: set[str] = field(default_factory=set)
    """What two processes wrote at the same time."""

    def hit(self) -> set[str]:
        return {KINDS[name] for name in self.killed if name in KINDS}


def run(
    checkout: Path, target: str, kills: int = 0, random: Random | None = None, undisturbed=None
) -> Story:
    """Run the study until a target of it is whole, with some kills on the way.

    Args:
        random, undisturbed: where there are kills; the latter is the study as nobody disturbed it, its folder and story.
    """
    story = Story()
    takes = durations(undisturbed[0]) if undisturbed else {}
    # Half of its share of the time, for what a kill costs is made up after it, and the last one must find the study at work.
    within_s = undisturbed[1].seconds / max(1, 2 * kills) if undisturbed else 0
    ends_within_s = 1200 + 120 * kills  # an upper bound, of a busy machine too
    begun = time.monotonic()
    unknown: set[str] = set()  # jobs that a killed Snakemake had begun, and not recorded as ended
    for attempt in range(kills + 1):
        ended = ended_jobs(checkout)
        told = checkout / f"told-{attempt}.txt"
        with told.open("w") as output:
            process = start(checkout, target, output)
            try:
                plan = Plan(kills - attempt, random, takes, within_s) if attempt < kills else None
                while process.poll() is None:
                    look(checkout, story)
                    victim = plan and plan.victim(process, story)
                    if victim and (name := kill(victim)):
                        story.killed.append(name)
                        break
                while process.poll() is None:
                    look(checkout, story)
                    if time.monotonic() - begun > ends_within_s:
                        raise RuntimeError(f"not at its end in {ends_within_s} s: {tail(told)}")
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if len(story.killed) < min(attempt + 1, kills):
            raise RuntimeError(f"the study ended before kill {attempt + 1}: {tail(told)}")
        story.steps += told.read_text().count("'tokens_per_second':")
        after = ended_jobs(checkout)
        again = {job for job, when in ended.items() if after.get(job) != when}
        story.unrecorded += sorted(again & unknown)
        story.repeated += sorted(again - unknown)
        unknown = set()
        if process.returncode < 0:
            unknown = not_recorded(checkout, undisturbed[0])
            snakemake(checkout, "--unlock").wait()
    if process.returncode:
        raise RuntimeError(f"the study failed: {tail(told)}")
    story.seconds = time.monotonic() - begun
    return story


class Plan:
    """Whom the next kill hits, and when."""

    def __init__(self, left: int, random: Random, takes: dict[str, float], within_s: float):
        self.left = left
        self.random = random
        self.takes = takes
        self.share = random.uniform(*BEGUN)
        self.wait_s = random.uniform(0, within_s)
        self.moment = None

    def victim(self, process: subprocess.Popen, story: Story) -> psutil.Process | None:
        """A process to kill now, if there is one.

        The labeller runs once, so that one that was not hit yet is never let go. The last kills are for what was not hit.
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
        if wanted := [kind for kind in kinds if kind in missing]:
            kinds = wanted
        elif self.left <= len(missing):
            return None
        return self.random.choice([process for kind in kinds for process in running[kind]])

    def has_begun(self, process: psutil.Process, name: str) -> bool:
        try:
            age = time.time() - process.create_time()
        except psutil.NoSuchProcess:
            return False
        return age > self.share * self.takes.get(name, 0)


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
    """The processes of stages that run for a checkout, orphans too."""
    found = []
    for process in psutil.process_iter():
        try:
            if module_of(process) and process.cwd() == str(checkout):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def kill(victim: psutil.Process) -> str | None:
    """Kill a process, and tell what it ran, unless it has ended."""
    try:
        name = module_of(victim) or "snakemake"
        victim.kill()
    except psutil.NoSuchProcess:
        return None
    return name


def module_of(process: psutil.Process) -> str | None:
    """The stage that a process runs; a shell is none."""
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    if len(words) < 3 or words[1] != "-m" or not words[2].startswith("persuasion_rl."):
        return None
    return words[2].removeprefix("persuasion_rl.")


def look(checkout: Path, story: Story) -> None:
    """Note what two processes write: files that both have open, the output of both.

    The lock of a model's trainings is no such file, and a training that waits for it writes no output: that the lock keeps
    them apart is in test_lock.py.
    """
    files: Counter[str] = Counter()
    outputs: Counter[str] = Counter()
    for process in stages(checkout):
        try:
            opened = [f.path for f in process.open_files() if f.mode not in ("r", "a+")]
            opened = [path for path in opened if Path(path).name != LOCK]
            # A file that is being written has its writer's number in its name, until it is whole.
            whole = {re.sub(r"/\.([^/]+)\.\d+\.part$", r"/\1", path) for path in opened}
            files.update({path for path in whole if path.startswith(f"{checkout / STUDY}/")})
            words = process.cmdline()
            alive = process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        arguments = dict(pairwise(words))
        if alive and "--adapter" not in arguments:
            flags = ("--output", *WRITTEN.get(module_of(process), ()))
            outputs.update({arguments[flag] for flag in flags if flag in arguments})
    story.doubled |= {path for path, count in (files + outputs).items() if count > 1}
    time.sleep(LOOKS_EVERY_S)


def durations(checkout: Path) -> dict[str, float]:
    """How long the processes of a module ran, the shortest of them, in seconds."""
    found = {}
    for module, patterns in {
        "training.sft": ["train_sft/*"], "training.dpo": ["train_dpo/*"], "training.reward": ["train_delta_judge"],
        "sampling.generate_responses": ["generate_responses/*"], "sampling.evaluate_model": ["evaluate_model/*"],
        "preferences.label_ai": ["label_ai"],
        "training.standin": ["pretrain_standin"], "judges.judge_trust": ["judge_trust/judges"],
    }.items():  # fmt: skip
        folder = checkout / STUDY / "benchmarks"
        files = [file for pattern in patterns for file in folder.glob(f"{pattern}.tsv")]
        if files:
            found[module] = min(
                float(file.read_text().split("\n")[1].split("\t")[0]) for file in files
            )
    return found


def ended_jobs(checkout: Path) -> dict[str, float]:
    """The jobs that have ended well, by their benchmark file, and when."""
    files = (checkout / STUDY / "benchmarks").rglob("*.tsv")
    return {str(file.relative_to(checkout)): file.stat().st_mtime for file in files}


def not_recorded(checkout: Path, quiet: Path) -> set[str]:
    """The jobs that Snakemake, killed, takes for begun and not ended, by their benchmark file: by the marks that it sets
    on outputs at a job's start, and removes once it has recorded its end.

    Args:
        quiet: the same study at its end, whose records have the same names and tell an output's log.
    """
    marks, records = (folder / ".snakemake" for folder in (checkout, quiet))
    names = [m.relative_to(marks / "incomplete") for m in (marks / "incomplete").rglob("*") if m.is_file()]  # fmt: skip
    logs = [json.loads((records / "metadata" / name).read_text())["log"][0] for name in names]
    return {log.replace("/logs/", "/benchmarks/").replace(".log", ".tsv") for log in logs}


def samples(checkout: Path) -> Counter[str]:
    """How often a sample was drawn and kept, by the folder of its model and what names it there."""
    found: Counter[str] = Counter()
    for file in (checkout / STUDY / "state/samples").glob("*/*.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        found.update(f"{file.parent.name}/{key}" for key, *_ in whole)
    return found


def tail(file: Path) -> str:
    return file.read_text()[-3000:]


def digests(checkout: Path) -> dict[str, str]:
    """What a study found, file by file."""
    study = checkout / STUDY
    files = sorted(file for pattern in COMPARED for file in study.glob(pattern) if file.is_file())
    return {str(f.relative_to(study)): sha256(f.read_bytes()).hexdigest() for f in files}


def compare(
    folder: Path, kills: int, seed: int, target: str = "all"
) -> tuple[Story, Story, list[str]]:
    """A study undisturbed up to a target, the same killed, and what is wrong with the second."""
    quiet, broken = copy_project(folder / "quiet"), copy_project(folder / "broken")
    undisturbed = run(quiet, target)
    story = run(broken, target, kills, Random(seed), (quiet, undisturbed))
    expected, found = digests(quiet), digests(broken)
    assert len(expected) > 20
    differ = sorted(n for n in expected | found if expected.get(n) != found.get(n))
    again = story.steps - undisturbed.steps
    # A trainer that is killed loses what it did since its last checkpoint; with Snakemake go as many as run.
    save_steps = yaml.safe_load((quiet / CONFIG).read_text())["recipes"]["sft"]["save_steps"]
    hit = [KINDS.get(name) for name in story.killed]
    bound = save_steps * (hit.count("trainer") + CORES * hit.count("snakemake"))
    drawn = samples(broken)
    wrong = {
        "files that differ": differ,
        "recorded jobs that ran again": story.repeated,
        "unrecorded jobs that ran again, more than can run when Snakemake is killed": story.unrecorded[
            CORES * story.killed.count("snakemake") :
        ],
        "samples that were kept and drawn again": [key for key in drawn if drawn[key] > 1],
        "samples that nobody needs, or that are missing": sorted(
            drawn.keys() ^ samples(quiet).keys()
        ),
        "written by two": sorted(story.doubled),
        f"training steps made again, of {bound} that may be": [again] * (not 0 <= again <= bound),
    }
    return undisturbed, story, [f"{what}: {which}" for what, which in wrong.items() if which]


def tell(undisturbed: Story, story: Story) -> str:
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
    print(tell(undisturbed, story))
    print("wrong:", "; ".join(wrong) or "nothing")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
