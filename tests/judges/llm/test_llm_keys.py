"""Keys come from the environment, and are sent in requests only."""

import json
import re
import sys

import pytest
import yaml

from llm_jobs import KEY, PAIRS, PROVIDERS, Job, pairs, settings_of, write_responses
from llm_server import (
    body,
    junk,
    no_header,
    status,
)
from persuasion_rl.files import UserError
from persuasion_rl.judges.base import judge_both_orders
from persuasion_rl.judges.llm.cache import AnswerCache
from persuasion_rl.runtime.keys import key_for
from running import copy_project, snakemake


@pytest.mark.parametrize("provider", PROVIDERS)
def test_only_the_key_that_is_used_is_asked_for(judge, server, provider, monkeypatch):
    other = {"openai": "ANTHROPIC_API_KEY", "anthropic": "OPENAI_API_KEY"}[provider]
    monkeypatch.setenv(other, KEY)
    with pytest.raises(UserError, match=f"{provider.upper()}_API_KEY is not set"):
        judge_both_orders(judge(provider, base_url="https://example.org/v1"), PAIRS)
    judge_both_orders(judge(provider), PAIRS)  # a server on this machine needs none
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
    judge_both_orders(judge(provider, model="other"), PAIRS)
    has_key = [KEY in str(request.headers) for request in server.requests]
    assert has_key == [False] * 6 + [True] * 6


def test_what_is_answered_needs_no_key_and_no_client(judge, server, monkeypatch):
    judged = judge_both_orders(judge(), PAIRS)
    monkeypatch.setitem(sys.modules, "openai", None)
    assert judge_both_orders(judge(base_url="https://example.org/v1"), PAIRS) == judged
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        judge_both_orders(judge(base_url="https://example.org/v1"), pairs(1))
    with pytest.raises(UserError, match="the package openai is not installed"):
        judge_both_orders(judge(), pairs(1))


@pytest.mark.parametrize(
    "key", ["sk-one\nsk-two", "sk-one\rx", "sk one", "sk-\u00e4", "\u201csk-one\u201d"]
)
def test_what_no_header_can_hold_is_no_key(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"  {KEY}\n")
    assert key_for("openai", None, "judge llm") == KEY
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for address in (None, "http://localhost/v1"):
        with pytest.raises(UserError, match="OPENAI_API_KEY holds more than a key") as error:
            key_for("openai", address, "judge llm")
        assert "sk" not in str(error.value) and "\n" not in str(error.value)


def test_a_missing_key_is_reported_before_the_first_job(tmp_path):
    """With a cache of answers, which may suffice, it is a warning."""
    root = copy_project(tmp_path)
    study = {
        "extends": "demo.yaml",
        "study": "keyless",
        "labels": {"ai": {"judge": "llm", "noise": 0}},
    }
    study["llm"] = {"model": "tiny", "base_url": "https://example.invalid/v1"}
    study["evaluation"] = {"judges": ["llm", "delta", "length"]}
    (root / "config/keyless.yaml").write_text(yaml.safe_dump(study))
    folder = root / "results/keyless"
    write_responses(folder / "preferences/ai_pool_responses.jsonl", PAIRS)
    args = [f"{folder.relative_to(root)}/preferences/ai_pool_labels.jsonl", "--cores", 1]
    args += ["--configfile", "config/keyless.yaml", "--allowed-rules", "label_ai"]
    run = snakemake("all", *args[1:5], root=root)
    missing = "the environment variable OPENAI_API_KEY is not set"
    stages = "evaluate_verdicts, judge_trust, label_ai, read_honesty"
    assert run.returncode == 1 and f"error: {stages}: {missing}" in run.stdout
    assert not (folder / "logs").exists(), "no job has begun"
    (folder / "state").mkdir(exist_ok=True)
    AnswerCache(folder / "state/llm.sqlite").close()
    run = snakemake(*args, root=root)
    assert f"warning: label_ai: {missing}" in run.stdout and (folder / "logs/label_ai.log").exists()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_is_nowhere_in_what_a_job_leaves_behind(server, tmp_path, provider):
    """This holds even where the server repeats it: in answers, valid or not, in errors, and in broken responses."""
    answer = json.dumps({"reason": f"Your key is {KEY}", "verdict": "1"})
    echoes = [no_header(KEY), status(500, text=f"{KEY} failed"), junk(f"{KEY}?"), body(f"{KEY}!")]
    echoes.append(status(400, text=f"{KEY} is rejected"))

    def behave(request, attempt):
        number = int(request.data["conversation"].removeprefix("Poster: view "))
        if number < len(echoes):
            return echoes[number]
        return [echoes[2], junk(answer)][min(attempt, 2) - 1]

    server.behave = behave
    job = Job(
        tmp_path, settings_of(server, tmp_path, provider, retries=1), pairs(len(echoes) + 1)[::-1]
    )
    errors = job.run(
        **{f"{provider.upper()}_API_KEY": KEY}, OPENAI_LOG="debug", ANTHROPIC_LOG="debug"
    )
    assert all(KEY in str(request.headers) for request in server.requests)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"labels.jsonl", "llm.sqlite"} <= {path.name for path in files}
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in errors
    for name in ("connection", "server_error", "unparsable", "broken_body", "rejected"):
        assert re.search(rf"for instance: {name}: .*\[key\]", errors), name
    assert "Your key is [key]" in job.labels()[0]["votes"][0]["reason"]
