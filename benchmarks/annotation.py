"""Counts lost answers and times round trips while many people answer at once, on a page that is really served.

Each person is a thread of this process with a connection of its own: it loads the next pair, answers it, and is sent on
to the page that follows. A round trip is an answer with that next page.

    python benchmarks/annotation.py [--people 50] [--answers 20]
"""

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import yaml
from machine import commit, device_name

from persuasion_rl.annotation.store import AnswerStore
from persuasion_rl.annotation.study import AnnotatedStudy
from persuasion_rl.files import write_jsonl
from persuasion_rl.prompts.wording import PLAIN

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
ADDRESS = f"http://127.0.0.1:{PORT}"
WORDS = "the reason that was given stands on one case and others may differ from it".split()


def write_study(folder: Path, pairs: int) -> None:
    """A pool of replies of about 150 words, as long as the study's."""
    generator = np.random.default_rng(1)

    def text(words: int) -> str:
        return " ".join(generator.choice(WORDS, words)) + "."

    settings = {
        "study": "load", "seed": 1, "data": {"prompt_format": "plain"}, "llm": {"rubric": "resources/rubrics/persuasiveness.md"},
        "labels": {"human": {"overlap": 0.2, "several": 2, "repeats": 0.05, "min_labels": pairs}},
        "models": {"base": {"source": "standin"}},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    rows = [
        {
            "prompt": PLAIN.render(f"Claim: CMV: {number}\nPoster: {text(120)}", "cmv"),
            "response_1": text(150), "response_2": text(150),
            "metadata": {"prompt_id": str(number), "conversation_id": str(number), "source": "cmv"},
        }
        for number in range(pairs)
    ]  # fmt: skip
    write_jsonl(folder / "preferences/human_pool_responses.jsonl", rows)


def fields(text: str) -> dict[str, str]:
    """The hidden fields of a page."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text))


def answer_all(name: str, answers: int) -> tuple[list[tuple[int, str]], list[float]]:
    """Answer what one person is shown.

    Returns:
        Number of the showing and side of each answer, practice apart; and the seconds of each round trip.
    """
    sides, seconds = [], []
    with httpx.Client(base_url=ADDRESS, follow_redirects=True, timeout=60) as page:
        page.post("/name", data={"name": name})
        page.get("/pair")
        while len(sides) < answers:
            text = page.get("/pair").text
            if "showing" not in (shown := fields(text)):
                break
            side = "left" if len(sides) % 2 else "right"
            started = time.perf_counter()
            response = page.post("/pair", data={**shown, "answer": side})
            seconds.append(time.perf_counter() - started)
            response.raise_for_status()
            if "It does not count." not in text:
                sides.append((int(shown["showing"]), side))
    return sides, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--answers", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder, "results/load")
        # Each person ends with one more pair on the page, which is nobody else's then.
        write_study(study, asked.people * (asked.answers + 1))
        words = ["annotate", "--study", str(study), "--port", str(PORT)]
        server = subprocess.Popen([sys.executable, "-m", "persuasion_rl.tools.cli", *words])
        try:
            _wait_for_it()
            started = time.perf_counter()
            with ThreadPoolExecutor(asked.people) as people:
                names = [f"person {number}" for number in range(asked.people)]
                done = list(people.map(lambda name: answer_all(name, asked.answers), names))
            wall = time.perf_counter() - started
        finally:
            server.kill()
            server.wait()
        plan = AnnotatedStudy(study).plan
        with AnswerStore(study / "state/human_answers.sqlite") as store:
            kept = [(a.annotator, a.pair, a.kind, a.answer) for a in store.answers()]
            sent = [(name, store.showing(number), side) for name, (sides, _) in zip(names, done, strict=True)
                    for number, side in sides]  # fmt: skip
    kept = [one for one in kept if one[2] != "practice"]
    sent = [(name, showing.pair, showing.kind, side) for name, showing, side in sent]
    seconds = np.concatenate([taken for _, taken in done])
    lost = len(set(sent) - set(kept))
    people_on = Counter(pair for _, pair, kind, _ in kept if kind == "first")
    doubled = sum(max(0, people_on[pair] - wanted) for pair, wanted in plan.in_order)
    middle, high = np.quantile(seconds, [0.5, 0.95])
    print(f"{device_name('cpu', 2)}, commit {commit()}\n")
    print(
        f"{asked.people} people at once, {len(sent):,} answers (and {len(plan.practice)} for practice each), {wall:.1f} s:"
    )
    print(
        f"{lost} lost, {doubled} more than a pair was to get, {len(kept) - len(sent)} that nobody gave"
    )
    print(
        f"round trip of an answer, with the next page: median {middle:.3f} s, 95th percentile {high:.3f} s"
    )


def _wait_for_it() -> None:
    for _ in range(100):
        try:
            httpx.get(ADDRESS)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    sys.exit("the page did not start")


if __name__ == "__main__":
    main()
