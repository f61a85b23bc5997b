"""Fixtures of the tests of the judge llm: a server on this machine, and a judge that retries without waiting."""

import pytest

import llm_server
from llm_jobs import settings_of
from persuasion_rl.judges.llm import asking
from persuasion_rl.judges.llm.judge import LlmJudge


@pytest.fixture
def server():
    with llm_server.serving() as server:
        yield server


@pytest.fixture(autouse=True)
def no_waiting_and_no_keys(monkeypatch):
    """Do not wait between attempts, and hide the keys of the person who runs the tests."""
    for package in ("openai", "anthropic"):
        pytest.importorskip(package, reason="pip install -e '.[openai,anthropic]'")
    monkeypatch.setattr(asking, "_exponential", lambda state: 0.02)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def judge(server, tmp_path):
    """A function that makes a judge llm of the server; the judges of a test share one cache."""
    return lambda provider="openai", **changes: LlmJudge(
        settings_of(server, tmp_path, provider, **changes)
    )
