"""What the doctor says of this machine and a study: never a key, estimates that are called so, one thing to do next."""

import re
import shutil
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from persuasion_rl.answers import FIRST_TIME, Answer, AnswerStore, pair_id
from persuasion_rl.config import MODEL_FILES, load_study
from persuasion_rl.doctor import MEMORY_GB, QWEN, estimates, footprint, report, work
from persuasion_rl.files import write_jsonl
from running import ROOT

PUBLISHED = ROOT / "config/config.yaml"
CORPORA = ["corpora/winning-args-corpus", "corpora/subreddit-changemyview"]
KEYS = {name: f"planted-{name}" for name in ("WANDB_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")}


def study(**changes):
    return load_study(yaml.safe_load(PUBLISHED.read_text()) | changes, PUBLISHED)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def here(elsewhere):
    """The same with what the published study downloads."""
    for folder in CORPORA + ["models/Qwen--Qwen2.5-0.5B-Instruct"]:
        (elsewhere / "resources" / folder).mkdir(parents=True)
        for name in ("utterances.jsonl", *MODEL_FILES):
            (elsewhere / "resources" / folder / name).touch()
    return elsewhere


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with the configurations and no results."""
    for name in ("config", "resources/rubrics"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    # Nothing listens there: whether a server answers is found out on this machine only.
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    for name in ("no_proxy", "NO_PROXY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_published_studys_work_is_that_of_a_count_by_hand():
    """Qwen2.5-0.5B: 716 MFLOP a token in the layers, 272 in the head, 43 in attention at 1,000 tokens."""
    assert QWEN.forward(1, 1000) == pytest.approx((715.6 + 272.2 + 43.0) * 1e6, rel=1e-3)
    found = work(study())
    # 40,000 rows of 600 tokens, 3 epochs; forward and back, the head on half of them.
    assert found["train sft"] == pytest.approx(72e6 * 2 * (715.6 + 25.8 + 136.1) * 1e6, rel=1e-3)
    # 8,000 pairs of twice 736 tokens: forward, back, and the reference; the head on the responses.
    head = 272.2 * 256 / 736
    assert found["train rlaif"] == pytest.approx(
        8000 * 1472 * 3 * (715.6 + 31.7 + head) * 1e6, rel=1e-3
    )
    assert found.keys() == {
        "train sft", "train rlaif", "train rlhf", "train rlaif_rlhf",
        "sample the ai pool", "sample the human pool", "sample the evaluation",
        "train the delta judge", "judge by delta", "measure losses and KL",
    }  # fmt: skip


def test_one_model_more_is_that_much_more_work():
    models = yaml.safe_load(PUBLISHED.read_text())["models"]
    more = work(study(models=models | {"sft_s2": {"parent": "base", "method": "sft", "seed": 2}}))
    assert more.pop("train sft_s2") == more["train sft"]
    before = work(study())
    assert more.pop("measure losses and KL") > before.pop("measure losses and KL")
    assert more == before


def test_times_are_called_estimates_and_fall_with_the_gpus_speed(elsewhere):
    told = report(Path("config/config.yaml"))
    assert "estimate of" in told and "Estimates, not measured" in told
    assert estimates(study())[-1][0] == "all" and "$" in estimates(study())[-1][2]
    assert "estimate" not in report(Path("config/demo.yaml")), "the stand-in is no Qwen2.5"


def test_a_key_is_set_or_not_and_never_shown(here, monkeypatch):
    assert "WANDB_API_KEY not set, so runs are kept offline" in report(Path("config/config.yaml"))
    file = here / "config/llm.yaml"
    settings = {"extends": "config.yaml", "study": "x", "labels": {"ai": {"judge": "llm"}}, "llm": {"model": "m"}}  # fmt: skip
    file.write_text(yaml.safe_dump(settings))
    assert report(file).splitlines()[-1] == "next: judge llm: set OPENAI_API_KEY"
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    told = report(file)
    assert "OPENAI_API_KEY set" in told and "WANDB_API_KEY set" in told and "planted" not in told


def test_there_is_one_thing_to_do_next(here):
    config, results = Path("config/config.yaml"), here / "results/cmv"

    def following(made=None):
        if made:
            (results / made).parent.mkdir(parents=True, exist_ok=True)
            (results / made).touch()
        return report(config).splitlines()[-1].removeprefix("next: ")

    assert "`snakemake data " in following()
    import torch

    where = "" if torch.cuda.is_available() else ", on a machine with a GPU"
    unattended = following("splits/summary.json")
    assert unattended.endswith(f"`snakemake unattended --profile aws-gpu`{where}")
    pairs = [
        {"prompt": f"Why {number}?", "response_1": "a", "response_2": "b"} for number in range(2)
    ]
    (results / "preferences").mkdir()
    write_jsonl(results / "preferences/human_pool_responses.jsonl", pairs)
    assert "`persuasion-rl annotate --study cmv`" in following()
    with AnswerStore(results / "state/human_answers.sqlite") as store:
        for pair in map(pair_id, pairs):
            assert "`persuasion-rl annotate --study cmv`" in following()
            store.add(Answer("anna", pair, FIRST_TIME, 1, "left"))
    assert "the rest: `snakemake" in following()
    assert "read results/cmv/report.html" in following("report.html")


def test_what_is_missing_comes_first(elsewhere, command_line):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    file = elsewhere / "config/cuda.yaml"
    file.write_text(yaml.safe_dump({"extends": "demo.yaml", "study": "x", "device": "cuda"}))
    assert report(file).splitlines()[-1].startswith("next: GPU: run on a machine with a GPU")
    run = command_line("cli", "doctor", "--configfile", elsewhere / "nothing.yaml")
    assert run.returncode == 1 and run.stderr.splitlines() == [
        f"error: {elsewhere / 'nothing.yaml'}: no such configuration"
    ]


def test_the_largest_rule_is_the_one_that_rules_ask_for():
    asked = re.findall(
        r"mem_mb=growing\(([\d_]+)\)",
        "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk")),
    )
    assert max(int(amount) for amount in asked) == MEMORY_GB * 1000


def test_what_is_to_be_downloaded_can_be_had_or_not(elsewhere, monkeypatch):
    config = Path("config/config.yaml")
    assert "huggingface.co does not answer" in report(config)
    assert report(config).splitlines()[-1].startswith("next: corpus winning-args-corpus: get it on")

    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("HF_ENDPOINT", address)
        told = report(config)
        server.shutdown()
    assert (
        f"model Qwen/Qwen2.5-0.5B-Instruct  to be downloaded (about 1 GB); {address} answers"
        in told
    )


def test_the_disk_that_a_study_takes_grows_with_its_data_and_models(here):
    small, large = study(), study(data={"max_examples": 100_000})
    assert footprint(large)["rows"] == 2 * footprint(small)["rows"]
    assert footprint(small)["models from the Hub"] == 0, "it is here"
    assert sum(footprint(study(data={"cmv_corpora": ["winning-args-corpus"]})).values()) < 5
