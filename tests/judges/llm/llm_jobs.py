"""Jobs that use the judge llm with a local server (`llm_server`), and the answers that they cache."""

import os
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

from persuasion_rl.files import read_jsonl, write_jsonl
from persuasion_rl.judges.base import Comparison
from persuasion_rl.judges.llm.settings import LlmSettings
from persuasion_rl.study.flags import flags

ROOT = Path(__file__).parents[3]
RUBRIC = ROOT / "resources/rubrics/persuasiveness.md"
KEY = "sk-planted-0123456789abcdef"
PROVIDERS = ("openai", "anthropic")
PRICES = {"input": 1000.0, "output": 10_000.0}
"""USD per million tokens: 0.1 and 0.2 per answer of the server."""
FAILURES = {
    "refused", "unparsable", "rejected", "rate_limited", "timeout", "server_error", "connection",
    "broken_body",
}  # fmt: skip
GOOD = '{"reason": "r", "verdict": "1"}'
PAIRS = [
    Comparison("Poster: cars", "one two three", "one"),
    Comparison("Poster: cars", "one", "one two"),
    Comparison("Poster: tea", "one two", "two one"),
]


def settings_of(server, folder: Path, provider: str = "openai", **changes) -> LlmSettings:
    """Settings for a local server, with the cache in a folder."""
    settings = dict(
        provider=provider,
        model="tiny",
        rubric=RUBRIC,
        max_tokens=200,
        base_url=server.url(provider),
        timeout_s=5,
        retries=3,
        concurrency=4,
        cache=folder / "state/llm.sqlite",
    )
    return LlmSettings(**settings | changes)


def as_flags(settings: LlmSettings) -> dict:
    """Settings as flags of a stage (`study.config.flags`)."""
    values = {f"llm_{name}": value for name, value in vars(settings).items()}
    values["llm_prices"] = [f"{k}={v}" for k, v in (settings.prices or {}).items()]
    if settings.temperature is None:
        values["llm_temperature"] = "none"
    return values


def pairs(count: int) -> list[Comparison]:
    """Different pairs of different lengths."""
    return [
        Comparison(f"Poster: view {i}", "word " * (1 + i % 7), "word " * 4) for i in range(count)
    ]


def cached(folder: Path, what: str = "body") -> list:
    """A column of the cached answers in a folder."""
    with sqlite3.connect(folder / "state/llm.sqlite") as file:
        return [value for (value,) in file.execute(f"SELECT {what} FROM answers ORDER BY rowid")]


def write_responses(path: Path, comparisons: list[Comparison]) -> None:
    """Write comparisons as response pairs."""
    rows = [
        {
            "prompt": c.prompt,
            "response_1": c.first,
            "response_2": c.second,
            "metadata": {"prompt_id": f"p{i}", "conversation_id": f"c{i}"},
        }
        for i, c in enumerate(comparisons)
    ]
    write_jsonl(path, rows)


class Job:
    """`preferences.label_ai` as the workflow runs it, in a separate folder."""

    def __init__(self, folder: Path, settings: LlmSettings, comparisons: list[Comparison]):
        self.folder = folder
        write_responses(folder / "responses.jsonl", comparisons)
        self.words = [
            sys.executable, "-m", "persuasion_rl.preferences.label_ai",
            "--responses", str(folder / "responses.jsonl"), "--judge", "llm", "--noise", "0", "--seed", "1",
            "--threads", "1", *shlex.split(flags(as_flags(settings))),
        ]  # fmt: skip

    def start(self, labels: str = "labels.jsonl", **environment: str) -> subprocess.Popen:
        paths = [str(ROOT / "workflow"), *sys.path]
        return subprocess.Popen(
            [*self.words, "--labels", str(self.folder / labels)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **environment: str) -> str:
        """Run the job to its end, and return its standard error."""
        with self.start(**environment) as run:
            errors = run.communicate(timeout=120)[1]
        assert run.returncode == 0, errors
        return errors

    def labels(self, name: str = "labels.jsonl") -> list[dict]:
        return list(read_jsonl(self.folder / name))
