"""What the tests share: small corpora that are really written and read, a tokenizer, the command line."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

import forks
from running import ROOT, WORKFLOW

# Tests run in parallel: waiting threads must not keep a core busy, which took ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if find_spec("persuasion_rl") is None:
    sys.path.insert(0, str(WORKFLOW))

hypothesis.settings.register_profile(
    "project",
    deadline=None,
    max_examples=60,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("project")


def pytest_configure(config):
    if config.option.markexpr == "slow":
        forks.import_trainers_too()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Each file runs in one worker, and all tests of the small study in one: another would wait for it.

    The longest tests start first: those of the small study, then the workflows.
    """
    items.sort(
        key=lambda item: ("small" not in item.fixturenames, "workflow" not in item.path.parts)
    )
    for item in items:
        group = "small" if "small" in item.fixturenames else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real corpora beside the project, or the one that the environment names."""
    path_from_env = os.environ.get("PERSUASION_RL_CORPORA")
    folder = Path(path_from_env) if path_from_env else ROOT.parent / "shared" / "data"
    if not (folder / "winning-args-corpus" / "utterances.jsonl").is_file():
        pytest.skip(f"no real corpora in {folder}; name their folder in PERSUASION_RL_CORPORA")
    return folder


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory) -> Path:
    """A synthetic ChangeMyView of 60 threads. Read only."""
    from persuasion_rl.data.synthetic.synthesize import synthesize_corpus

    folder = tmp_path_factory.mktemp("corpora") / "synthetic-changemyview"
    synthesize_corpus(corpus=folder, seed=1, threads=60, replies=4)
    return folder


@pytest.fixture(scope="session")
def tokenizer(synthetic, tmp_path_factory) -> Path:
    """A byte-level BPE of 600 entries, trained on the synthetic corpus. Every byte has a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rows = map(json.loads, (synthetic / "utterances.jsonl").read_text().splitlines())
    bpe.train_from_iterator([row["text"] for row in rows], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    bpe.save(str(path))
    return path


@pytest.fixture(scope="session")
def qwen_tokenizer(real_data, tmp_path_factory) -> Path:
    """The tokenizer.json of the real base model."""
    transformers = pytest.importorskip("transformers")
    folder = real_data / "qwen2.5-0.5b-instruct-tokenizer"
    path = tmp_path_factory.mktemp("qwen") / "tokenizer.json"
    transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A synthetic corpus, its sides, rows and pairs, and a stand-in base model (`make_tiny_base`). Read only."""
    from tiny_models import make_tiny_base

    return make_tiny_base(tmp_path_factory.getbasetemp() / "tiny_base")


@pytest.fixture(scope="session")
def tiny_rows(tiny_base, tmp_path_factory):
    """The rows that tiny trainings learn from. Read only."""
    from tiny_trainings import write_rows

    return write_rows(tiny_base, tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_rows):
    """The tokenizer of the tiny base model, loaded."""
    from persuasion_rl.models.loading import load_tokenizer

    return load_tokenizer(tiny_rows.base)


@pytest.fixture(scope="session")
def tiny_sft(tiny_rows, tmp_path_factory) -> Path:
    """The adapter of a tiny SFT. Read only."""
    from tiny_trainings import ADAPTER, train_sft

    folder = tmp_path_factory.mktemp("sft")
    train_sft(tiny_rows, folder)
    return folder / ADAPTER


@pytest.fixture(scope="session")
def tiny_dpo(tiny_rows, tiny_sft, tmp_path_factory) -> Path:
    """The adapter of a tiny DPO that goes on from `tiny_sft`. Read only."""
    from tiny_trainings import ADAPTER, train_dpo

    folder = tmp_path_factory.mktemp("dpo")
    train_dpo(tiny_rows, folder, tiny_sft)
    return folder / ADAPTER


@pytest.fixture(scope="session")
def tiny_delta(tiny_rows, tmp_path_factory) -> Path:
    """The adapter of a tiny delta judge. Read only."""
    from tiny_trainings import ADAPTER, train_delta

    folder = tmp_path_factory.mktemp("delta")
    train_delta(tiny_rows, folder)
    return folder / ADAPTER


@pytest.fixture
def write_corpus(tmp_path):
    """A function that writes utterances and conversation metas as a corpus folder, ConvoKit 5's way."""

    def write(utterances: list[dict], conversations: dict[str, dict], name: str = "corpus") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in utterances]
        (folder / "utterances.jsonl").write_text("".join(lines), encoding="utf-8")
        nested = {id_: {"meta": meta, "vectors": []} for id_, meta in conversations.items()}
        (folder / "conversations.json").write_text(json.dumps(nested), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """The line of each count of a stage, whatever the time."""
    from persuasion_rl.runtime.progress import Progress

    lines, add = [], Progress.add

    def add_and_say(progress, *args, **counts) -> None:
        add(progress, *args, **counts)
        lines.append(progress.line())

    monkeypatch.setattr(Progress, "add", add_and_say)
    return lines


@pytest.fixture(scope="session")
def command_line():
    """A function that runs `python -m persuasion_rl.<module> ...` as a person does."""

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", f"persuasion_rl.{module}", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: the distribution's, driven by Playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip(os.environ.get("NOT_INSTALLED") or "no Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield instance
        instance.close()


@pytest.fixture
def peer(tmp_path):
    """`transformers serve` with a tiny model: its address and the model's folder.

    It runs in the parent folder, so that `base` is a name of the model too.
    """
    for name in ("fastapi", "uvicorn"):
        pytest.importorskip(name, reason="pip install 'transformers[serving]'")
    import httpx

    from tiny_models import make_tiny_base

    base = make_tiny_base(tmp_path / "tiny") / "base"
    (tmp_path / "hub").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (tmp_path / "serve.log").open("w") as log:
        serving = subprocess.Popen(
            [sys.executable, "-m", "transformers.cli.transformers", "serve", *words],
            env=os.environ
            | {
                "HF_HUB_OFFLINE": "1",
                "HF_HUB_CACHE": str(tmp_path / "hub"),
                "OMP_NUM_THREADS": "1",
            },
            cwd=base.parent,
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(240):
            if serving.poll() is not None:
                break
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/health")
                yield f"http://127.0.0.1:{port}/v1", str(base)
                return
            time.sleep(0.5)
        pytest.fail(
            f"transformers serve did not start: {(tmp_path / 'serve.log').read_text()[-300:]}"
        )
    finally:
        serving.kill()
        serving.wait()
