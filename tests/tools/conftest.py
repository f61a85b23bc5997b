"""Folders for the doctor: with the configurations, and with the downloads of the published study."""

import json
import shutil
import socket

import pytest

from persuasion_rl.study.names import MODEL_FILES
from published import BASE_FOLDER, CORPORA, KEYS, PUBLISHED_SIZE
from running import ROOT


def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def downloads(config_folder):
    """A folder with the configurations and the downloads of the published study."""
    for folder in CORPORA + ["models/Qwen--Qwen2.5-0.5B-Instruct"]:
        (config_folder / "resources" / folder).mkdir(parents=True)
        for name in ("conversations.json", "utterances.jsonl", *MODEL_FILES):
            (config_folder / "resources" / folder / name).touch()
    (config_folder / BASE_FOLDER / "config.json").write_text(json.dumps(PUBLISHED_SIZE))
    return config_folder


@pytest.fixture
def config_folder(tmp_path, monkeypatch):
    """A folder with the configurations and no results."""
    (tmp_path / "Snakefile").touch()
    for name in ("config", "resources/rubrics"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    # Nothing listens there, so no request leaves this machine.
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    for name in ("no_proxy", "NO_PROXY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path
