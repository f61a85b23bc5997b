"""Keys come from the environment, and go nowhere but into requests."""

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
    judge_both_orders(judge(provider), PAIRS)  # on this machine none is needed
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
    judge_both_orders(judge(provider, model="other"), PAIRS)
    sent = [KEY in str(asked.headers) for asked in server.requests]
    assert sent == [False] * 6 + [True] * 6


def test_what_is_answered_needs_no_key_and_no_client(judge, server, monkeypatch):
    found = judge_both_orders(judge(), PAIRS)
    monkeypatch.setitem(sys.modules, "openai", None)
    assert judge_both_orders(judge(base_url="https://example.org/v1"), PAIRS) == found
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
        with pytest.raises(UserError, match="OPENAI_API_KEY holds more than a key") as refusal:
            key_for("openai", address, "judge llm")
        assert "sk" not in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_missing_key_is_said_before_the_first_job(tmp_path):
    """Where answers are kept, which may be all that is needed, it is a warning."""
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
    words = [f"{folder.relative_to(root)}/preferences/ai_pool_labels.jsonl", "--cores", 1]
    words += ["--configfile", "config/keyless.yaml", "--allowed-rules", "label_ai"]
    run = snakemake("all", *words[1:5], root=root)
    missing = "the environment variable OPENAI_API_KEY is not set"
    asking = "evaluate_verdicts, judge_trust, label_ai, read_honesty"
    assert run.returncode == 1 and f"error: {asking}: {missing}" in run.stdout
    assert not (folder / "logs").exists(), "no job has begun"
    (folder / "state").mkdir(exist_ok=True)
    AnswerCache(folder / "state/llm.sqlite").close()
    run = snakemake(*words, root=root)
    assert f"warning: label_ai: {missing}" in run.stdout and (folder / "logs/label_ai.log").exists()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_is_nowhere_in_what_a_job_leaves_behind(server, tmp_path, provider):
    """Not even where the server says it back: in an answer, in one that is junk, in an error, in what is no answer."""
    echo = json.dumps({"reason": f"Your key is {KEY}", "verdict": "1"})
    wrong = [no_header(KEY), status(500, text=f"{KEY} failed"), junk(f"{KEY}?"), body(f"{KEY}!")]
    wrong.append(status(400, text=f"{KEY} is rejected"))

    def behave(asked, times):
        number = int(asked.data["conversation"].removeprefix("Poster: view "))
        return wrong[number] if number < len(wrong) else [wrong[2], junk(echo)][min(times, 2) - 1]

    server.behave = behave
    job = Job(
        tmp_path, settings_of(server, tmp_path, provider, retries=1), pairs(len(wrong) + 1)[::-1]
    )
    told = job.run(
        **{f"{provider.upper()}_API_KEY": KEY}, OPENAI_LOG="debug", ANTHROPIC_LOG="debug"
    )
    assert all(KEY in str(asked.headers) for asked in server.requests)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"labels.jsonl", "llm.sqlite"} <= {path.name for path in left}
    for path in left:
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in told
    for name in ("connection", "server_error", "unparsable", "broken_body", "rejected"):
        assert re.search(rf"for instance: {name}: .*\[key\]", told), name
    assert "Your key is [key]" in job.labels()[0]["votes"][0]["reason"]
