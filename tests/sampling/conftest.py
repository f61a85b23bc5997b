"""Models that the engines sample from, and a server that answers for one."""

from pathlib import Path

import pytest

from completions_server import CompletionServer
from persuasion_rl.files import read_jsonl
from persuasion_rl.prompts.wording import PLAIN
from persuasion_rl.sampling.request import Request
from tiny_models import TROUBLE, engine_of, make_tiny_base, sampled_texts, write_scripted_base


@pytest.fixture(scope="session")
def troubled_base(tmp_path_factory) -> Path:
    return write_scripted_base(tmp_path_factory.mktemp("troubled"), TROUBLE)


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory) -> Path:
    """A folder with a stand-in base model and SFT rows."""
    return make_tiny_base(tmp_path_factory.getbasetemp() / "tiny_base")


@pytest.fixture(scope="session")
def tiny_base(tiny_study) -> Path:
    return tiny_study / "base"


@pytest.fixture(scope="session")
def requests(tiny_study) -> list[Request]:
    """More than a thousand samples of prompts of very different lengths."""
    rows = [row["input_text"] for row in read_jsonl(tiny_study / "examples.jsonl")]
    prompts = list(dict.fromkeys(rows))[:80]
    prompts += [PLAIN.render(f"Claim: CMV: {'no ' * i}cars", "cmv") for i in range(25)]
    return [Request(f"p{i}", text, n) for i, text in enumerate(prompts) for n in range(1, 16)]


@pytest.fixture(scope="session")
def texts_of_one_batch(tiny_base, requests) -> dict[tuple[str, int], str]:
    """The texts of all `requests`, sampled by one engine in the order that it likes."""
    return sampled_texts(engine_of(tiny_base), requests)


@pytest.fixture
def start_server(monkeypatch):
    """A function that starts a CompletionServer with its answers; the engines hardly wait between their tries."""
    pytest.importorskip("openai")
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    monkeypatch.setattr("persuasion_rl.sampling.server.BODY_WAITS_S", (0.01,) * 3)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    running = []

    def start(answer) -> CompletionServer:
        running.append(CompletionServer(answer))
        return running[-1]

    yield start
    for server in running:
        server.shutdown()
        server.server_close()
