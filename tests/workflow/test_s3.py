"""A study with its files in S3, as in profiles/aws-batch, with a local server instead of Amazon's."""

import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import yaml

from running import ROOT, copy_project, planned, snakemake

pytestmark = pytest.mark.s3

PROFILE = yaml.safe_load((ROOT / "profiles/aws-batch/config.yaml").read_text())
STARTS_WITHIN_S = 60
KEYS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
PLUGINS = ROOT / ".venv/s3"
"""Where .ci/outside installs the packages of these tests, apart from the environment of all others."""
WITH_PLUGINS = KEYS | {"PYTHONPATH": str(PLUGINS)}
BATCH = {f"SNAKEMAKE_AWS_BATCH_{name}": "none" for name in ("JOB_QUEUE", "JOB_ROLE")}
STUDY = ("--configfile", "tests/tiny.yaml")
# Jobs run on this machine and share its records and sources, but no results.
SHARED = ("persistence", "software-deployment", "sources", "source-cache")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server that speaks S3 and has a bucket named study."""
    sys.path.append(str(PLUGINS))
    for name in ("moto", "snakemake_storage_plugin_s3", "snakemake_executor_plugin_aws_batch"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed (envs/requirements-aws.txt, -moto.txt)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("moto") / "log.txt"
    with log.open("w") as output:
        serving = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=output,
            stderr=output,
            env=os.environ | WITH_PLUGINS,
        )
    try:
        until = time.monotonic() + STARTS_WITHIN_S
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert serving.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        client(address).create_bucket(Bucket="study")
        yield address
    finally:
        serving.kill()
        serving.wait()


def client(address: str):
    import boto3

    keys = {name.lower(): value for name, value in KEYS.items()}
    return boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)


def in_s3(address: str) -> list[str]:
    """Options that put a study's files into the bucket."""
    return [
        "--default-storage-provider", "s3",
        "--default-storage-prefix", "s3://study",
        "--storage-s3-endpoint-url", address,
        "--storage-s3-region", "us-east-1",
    ]  # fmt: skip


def test_a_study_is_made_in_s3_and_found_there_again(server, tmp_path):
    checkout = copy_project(tmp_path / "checkout")
    words = ["data", "sft", "--cores", 2, *STUDY, *in_s3(server), "--shared-fs-usage", *SHARED]
    run = snakemake(*words, root=checkout, **WITH_PLUGINS)
    assert run.returncode == 0, run.stdout[-5000:]

    entries = client(server).list_objects_v2(Bucket="study", Prefix="results/tiny/")["Contents"]
    names = {entry["Key"].removeprefix("results/tiny/") for entry in entries}
    assert {
        "splits/sides.csv", "splits/sft_train.jsonl", "splits/leakage.json", "data_report.html",
        "models/base/model.safetensors", "models/sft/adapter_model.safetensors", "models/sft/recipe.json",
    } <= names  # fmt: skip
    assert not (checkout / "results/tiny/splits").exists(), "what S3 has is not here too"

    plan = snakemake(*words, "-n", root=checkout, **WITH_PLUGINS)
    assert "Nothing to be done" in plan.stdout, plan.stdout[-3000:]


def test_the_profile_of_aws_batch_is_planned(server, tmp_path):
    checkout = copy_project(tmp_path / "checkout")
    words = ["-n", "--profile", "profiles/aws-batch", *in_s3(server)]
    run = snakemake(*words, root=checkout, **WITH_PLUGINS, **BATCH)
    assert run.returncode == 0, run.stdout[-3000:]
    rules = planned(run.stdout)
    assert rules["train_sft"] == 1 and rules["generate_responses"] == 9


def test_paid_answers_are_not_sent_where_they_would_be_lost(server, tmp_path):
    checkout = copy_project(tmp_path / "checkout")
    (checkout / "config/paid.yaml").write_text(
        yaml.safe_dump(
            {"extends": "config.yaml", "study": "paid", "labels": {"ai": {"judge": "llm"}}}
            | {"llm": {"model": "m"}}
        )
    )
    words = ["results/paid/preferences/ai_pool_labels.jsonl", "--configfile", "config/paid.yaml"]
    words += ["--profile", "profiles/aws-batch", *in_s3(server)]
    run = snakemake(*words, root=checkout, OPENAI_API_KEY="none", **WITH_PLUGINS, **BATCH)
    assert run.returncode != 0
    assert "error: the judge llm keeps its paid answers in results/paid/state/" in run.stdout
