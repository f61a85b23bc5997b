"""Fetching a base model: whole or not at all, and what the Hub refuses is explained."""

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from persuasion_rl.data.fetch import fetch_base_model
from persuasion_rl.files import UserError, read_json, write_json
from persuasion_rl.study.names import MODEL_FILES


def test_a_model_is_put_into_place_whole(tmp_path, monkeypatch):
    def download(source, *, revision, local_dir, **_):
        (local_dir / ".cache").mkdir()
        for name in MODEL_FILES:
            (local_dir / name).touch()
        write_json(local_dir / "config.json", {"model_type": "qwen2", "of": [source, revision]})
        if revision == "broken":
            raise ConnectionError("reset\nby peer")
        if revision == "cut":
            (local_dir / "tokenizer.json").unlink()

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    output = tmp_path / "models" / "base"
    output.mkdir(parents=True)
    fetch_base_model(source="some/model", revision="1", output=output)
    assert read_json(output / "config.json")["of"] == ["some/model", "1"]
    with pytest.raises(UserError, match=r"ConnectionError: reset\); .* set models.base.source"):
        fetch_base_model(source="some/model", revision="broken", output=output)
    with pytest.raises(UserError, match="^base model some/model: tokenizer.json is missing"):
        fetch_base_model(source="some/model", revision="cut", output=output)
    assert read_json(output / "config.json")["of"] == ["some/model", "1"]
    (output / "old").touch()
    fetch_base_model(source="some/model", revision="2", output=output)
    assert read_json(output / "config.json")["of"] == ["some/model", "2"]
    assert not (output / "old").exists()
    assert [path.name for path in output.parent.iterdir()] == ["base"]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "some/model is gated: accept its terms .* set HF_TOKEN"),
        (404, "RepoNotFound", "there is no model some/model at revision 1"),
    ],
)
def test_a_hub_that_refuses_is_explained(
    status, code, message, command_line, tmp_path, monkeypatch
):
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        result = command_line(
            "data.fetch", "fetch_base_model", "--source", "some/model", "--revision", "1", "--output", tmp_path / "out"
        )  # fmt: skip
        server.shutdown()
    assert result.returncode == 1
    assert re.search(message, result.stderr.strip().splitlines()[-1])
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
