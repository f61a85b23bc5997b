"""A model is published to the Hub, here a local server, complete and with its card, and only on request."""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from persuasion_rl.files import read_json
from running import ROOT, planned, snakemake, succeed

TOKEN = "hf_planted0123456789"
MODEL = {
    "adapter_model.safetensors": "weights",
    "recipe.json": "{}",
    "README.md": "---\nlicense: other\n---\n# sft",
}


class Hub(BaseHTTPRequestHandler):
    """The part of the Hub's interface that an upload needs."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        if self.server.refuses:
            return self.reply({"error": "You have no rights here"}, 403)
        if self.path == "/api/repos/create":
            return self.reply({"url": f"{self.server.url}/team/demo-sft", "id": "1"})
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.reply({"files": files})
        if "/commit/" in self.path:
            self.server.committed = [json.loads(line) for line in body.splitlines()]
            return self.reply(
                {"commitUrl": f"{self.server.url}/team/demo-sft/commit/abc", "commitOid": "abc"}
            )
        return self.reply({"errors": [], "warnings": []})

    def do_GET(self):
        self.reply({"id": "team/demo-sft", "sha": "0" * 40, "siblings": []})

    def reply(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.requests, server.committed, server.refuses = [], [], False
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models/sft"
    folder.mkdir(parents=True)
    for name, text in MODEL.items():
        (folder / name).write_text(text)
    settings = {"base_model_name_or_path": "/home/somebody/models/base", "r": 16}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "optimizer.pt").write_text("no part of it")
    return folder


@pytest.fixture
def publish(hub, model, tmp_path, command_line, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def run(**changes):
        args = dict(folder=model, base_source="Qwen/Qwen2.5-0.5B-Instruct", namespace="team", name="demo-sft",
                     private="true", output=tmp_path / "published/sft.json") | changes  # fmt: skip
        return command_line(
            "report.publish_model", *(w for k, v in args.items() for w in (f"--{k}", v))
        )

    return run


def test_a_model_is_one_commit_of_what_it_takes_and_its_base_is_named_as_the_hub_does(
    hub, model, publish, tmp_path
):
    run = publish()
    assert run.returncode == 0, run.stderr
    created = json.loads(hub.requests[0][2])
    assert (created["name"], created["organization"], created["visibility"]) == (
        "demo-sft",
        "team",
        "private",
    )
    _, *files = hub.committed
    sent = {f["value"]["path"]: base64.b64decode(f["value"]["content"]).decode() for f in files}
    assert {name: sent[name] for name in MODEL} == MODEL
    assert json.loads(sent["adapter_config.json"]) == {
        "base_model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct",
        "r": 16,
    }
    assert sent.keys() == {*MODEL, "adapter_config.json"}
    assert {authorization for _, authorization, _ in hub.requests} <= {f"Bearer {TOKEN}"}
    record = read_json(tmp_path / "published/sft.json")
    assert (record["repository"], record["commit"]) == ("team/demo-sft", "abc")
    assert record["files"].keys() == sent.keys()
    assert TOKEN not in (tmp_path / "published/sft.json").read_text() + run.stderr + run.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"namespace": ""}, "publish.namespace"),
        ({"base_source": "standin"}, "that base model is not on the Hub"),
        (
            {"name": "a--b-sft"},
            "takes no repository team/a--b-sft (publish.namespace/study-MODEL): ",
        ),
        ({"namespace": "me-"}, "takes no repository me-/demo-sft"),
        ({"namespace": "me."}, "takes no repository me./demo-sft"),
        ({"name": "a" * 97}, "maximum length is 96"),
    ],
)
def test_what_cannot_be_published_is_said_in_one_line_and_nothing_is_sent(
    hub, publish, changes, message
):
    run = publish(**changes)
    assert run.returncode == 1 and message in run.stderr and len(run.stderr.splitlines()) == 1
    assert hub.requests == []


def test_the_rows_of_a_study_are_one_commit_of_the_files_that_the_rule_names(
    hub, publish, command_line, tmp_path
):
    folder = tmp_path / "exported/dataset"
    (folder / "sft").mkdir(parents=True)
    rows = {"README.md": "---\nlicense: other\n---\n# rows", "sft/train.parquet": "PAR1"}
    for name, text in rows.items():
        (folder / name).write_text(text)
    (folder / "sft/older.parquet").write_text("of a pool that is gone")
    words = [
        "--folder",
        folder,
        "--files",
        *(folder / name for name in rows),
        "--name",
        "demo-data",
    ]
    words += ["--private", "true", "--output", tmp_path / "published/dataset.json", "--namespace"]
    refused = command_line("report.publish_dataset", *words, "")
    assert refused.returncode == 1 and "publish.namespace" in refused.stderr and not hub.requests
    run = command_line("report.publish_dataset", *words, "team")
    assert run.returncode == 0, run.stderr
    created = json.loads(hub.requests[0][2])
    assert (created["name"], created["type"], created["visibility"]) == ("demo-data", "dataset", "private")  # fmt: skip
    assert all("/datasets/" in path for path, _, _ in hub.requests if "team/demo-data" in path)
    _, *files = hub.committed
    sent = {f["value"]["path"]: base64.b64decode(f["value"]["content"]).decode() for f in files}
    assert sent == rows
    record = read_json(tmp_path / "published/dataset.json")
    assert record["repository"] == "team/demo-data" and record["files"].keys() == rows.keys()


def test_without_a_token_nothing_is_sent(hub, publish, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    run = publish()
    assert run.returncode == 1 and "set HF_TOKEN" in run.stderr and hub.requests == []


def test_a_refusal_of_the_hub_is_one_line_and_leaves_no_record(hub, publish, tmp_path):
    hub.refuses = True
    run = publish()
    assert run.returncode == 1 and "team/demo-sft was not written" in run.stderr
    assert len(run.stderr.splitlines()) == 1 and not (tmp_path / "published").exists()


def test_only_the_target_publish_sends_anything_away(tmp_path):
    for target in ("all", "report", "unattended"):
        assert "publish_model" not in succeed(target, "-n")
    assert planned(succeed("publish", "-n"))["publish_model"] == 4
    assert "publish_dataset" not in succeed("publish", "-n")
    asked = tmp_path / "asked.yaml"
    asked.write_text(
        f"extends: {ROOT}/config/config.yaml\nstudy: asked\npublish: {{dataset: true}}\n"
    )
    plan = planned(succeed("publish", "-n", "--configfile", asked))
    assert plan["publish_dataset"] == plan["export_dataset"] == 1
    run = snakemake("-n", "publish", "--config", "publish={namespace: 'a b'}")
    assert run.returncode == 1 and "publish.namespace" in run.stdout
