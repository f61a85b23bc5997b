"""A cluster, really: the distribution's SLURM on loopback, and a small study through `--profile profiles/slurm`.

Nothing is written outside of temporary folders. The two GPUs of its node are character devices that every machine has;
a job gets one of its own, and trains on the CPU (`device: auto`).
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from persuasion_rl.runtime.leases import visible_devices
from persuasion_rl.study.loading import load_config
from running import ROOT, copy_project

pytestmark = pytest.mark.slurm

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun", "scontrol", "scancel")
CONFIG = "tests/cluster.yaml"
STARTS_WITHIN_S = 30
RUNS_WITHIN_S = 900
SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
GresTypes=gpu
ReturnToService=2
MinJobAge=3600
KillWait=10
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny,NoAddrCache
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""
DEVICES = ("/dev/null", "/dev/zero")
PLUGINS = ROOT / ".venv/slurm"
"""Where .ci/outside installs Snakemake's executor, apart from the environment of all other tests."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment in which SLURM's commands, and the workflow, find a cluster of one node."""
    why = os.environ.get("NOT_INSTALLED")  # .ci/outside tried to install it
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    if absent:
        pytest.skip(why or f"no {', '.join(absent)} here (Debian: slurm-wlm slurm-client munge)")
    sys.path.append(str(PLUGINS))
    if find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip(
            why or "snakemake-executor-plugin-slurm is not installed (envs/requirements-slurm.txt)"
        )
    folder = tmp_path_factory.mktemp("slurm")
    for path in reversed([folder, *folder.parents[:2]]):
        path.chmod(0o755)  # munge refuses a socket in a folder that others cannot reach
    started = start_cluster(folder)
    try:
        yield started
    finally:
        for name in ("slurmd.pid", "slurmctld.pid", "munged.pid"):
            end(folder / name)


def start_cluster(folder: Path) -> dict[str, str]:
    """Start a cluster that keeps all that it writes in a folder."""
    host = socket.gethostname().split(".")[0]
    user = subprocess.check_output(["id", "-un"], text=True).strip()
    (folder / "munge").mkdir(mode=0o700)
    (folder / "munge/key").write_bytes(os.urandom(1024))
    (folder / "munge/key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    settings = SLURM.format(folder=folder, host=host, user=user, ports=free_ports(2))
    (folder / "slurm.conf").write_text(settings)
    gpus = "".join(f"NodeName={host} Name=gpu File={device}\n" for device in DEVICES)
    (folder / "gres.conf").write_text(gpus)
    # The executor's job step drops every SLURM_* variable: its srun gets the path back.
    srun = folder / "bin/srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    environment = {"SLURM_CONF": f"{folder}/slurm.conf", "PYTHONPATH": str(PLUGINS)}
    environment["PATH"] = f"{srun.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    munge = (
        f"--socket={folder}/munge.sock --key-file={folder}/munge/key --pid-file={folder}/munged.pid"
    )
    munge += f" --log-file={folder}/munge/log --seed-file={folder}/munge/seed --num-threads=2"
    for command in (f"munged --force {munge}", "slurmctld -c", "slurmd -c"):
        run = subprocess.run(
            command.split(),
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STARTS_WITHIN_S,
        )
        assert run.returncode == 0, run.stdout
    until = time.monotonic() + STARTS_WITHIN_S
    while "idle" not in run_command(environment, "sinfo", "-h", "-o", "%T"):
        assert time.monotonic() < until, (folder / "slurmctld.log").read_text()[-3000:]
        time.sleep(0.5)
    return environment


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def end(pid_file: Path) -> None:
    """End a process of the cluster."""
    if not pid_file.is_file():
        return
    os.kill(int(pid_file.read_text()), signal.SIGTERM)
    until = time.monotonic() + STARTS_WITHIN_S
    while pid_file.exists() and time.monotonic() < until:
        time.sleep(0.1)


def run_command(environment: dict[str, str], *command: str) -> str:
    """The output of a command of SLURM."""
    return subprocess.run(
        command,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=STARTS_WITHIN_S,
    ).stdout


def jobs(cluster: dict[str, str]) -> list[dict[str, str]]:
    """All jobs that the cluster has had, as `scontrol` describes them, the earliest first."""
    lines = run_command(cluster, "scontrol", "show", "job", "-d", "-o").splitlines()
    return [dict(re.findall(r"(\w+)=(\S+)", line)) for line in lines if line.startswith("JobId=")]


def jobs_of_rule(cluster: dict[str, str], rule: str) -> list[dict[str, str]]:
    return [job for job in jobs(cluster) if job.get("Comment", "").startswith(f"rule_{rule}")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The project with the tiny study, without the models that learn from people."""
    folder = copy_project(tmp_path_factory.mktemp("cluster") / "checkout")
    tiny = folder / "tests/tiny.yaml"
    study = load_config(yaml.safe_load(tiny.read_text()), tiny).resolved()
    study["study"] = "cluster"
    study["models"] = {name: study["models"][name] for name in ("base", "sft", "rlaif")}
    (folder / CONFIG).write_text(yaml.safe_dump(study, sort_keys=False))
    return folder


def start(checkout: Path, cluster: dict[str, str], log: Path, *words: str) -> subprocess.Popen:
    """Start the tiny study through the profile."""
    command = [sys.executable, "-m", "snakemake", *words]
    command += ["--profile", "profiles/slurm", "--configfile", CONFIG]
    # There is no accounting database, and the first status check should not take 40 s.
    command += ["--slurm-status-command", "squeue", "--slurm-no-account"]
    command += ["--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks"]
    command += ["2"]
    with log.open("w") as output:
        return subprocess.Popen(
            command, cwd=checkout, env=os.environ | cluster, stdout=output, stderr=subprocess.STDOUT
        )


def end_run(run: subprocess.Popen) -> None:
    if run.poll() is None:
        run.kill()
        run.wait()


def test_a_study_runs_on_a_cluster_and_a_job_that_it_kills_goes_on(cluster, checkout, tmp_path):
    """The branch that learns from a judge, to its evaluation: all that asks for a GPU, and of the rest one job of a kind,
    since each takes some 10 s to come and go."""
    study, log = checkout / "results/cluster", tmp_path / "log.txt"
    targets = (
        "models.csv",
        "judges/trust.csv",
        "evaluation/verdicts/truth.jsonl",
        "evaluation/losses/rlaif.json",
        "evaluation/kl/rlaif.jsonl",
    )
    run = start(checkout, cluster, log, *(f"results/cluster/{target}" for target in targets))
    try:
        until = time.monotonic() + RUNS_WITHIN_S
        while not list(study.glob("state/trainings/sft/*/checkpoint-*/whole.json")):
            assert run.poll() is None and time.monotonic() < until, log.read_text()[-5000:]
            time.sleep(0.1)
        [training] = jobs_of_rule(cluster, "train_sft")
        run_command(cluster, "scancel", training["JobId"])
        devices = {}  # of a job while it runs
        while run.poll() is None and time.monotonic() < until:
            devices |= {job["JobId"]: job["GRES"] for job in jobs(cluster) if "GRES" in job}
            time.sleep(0.5)
        assert run.poll() == 0, log.read_text()[-5000:]
    finally:
        end_run(run)
    for job in jobs(cluster):
        print(*(job[key] for key in ("Comment", "Partition", "JobState", "StartTime", "EndTime")))

    # Corpora, examples and splits were made on the submit host; jobs that need a model ran in the GPU partition, the
    # others in the other one.
    partitions = {
        job["Comment"].split("_wildcards")[0].removeprefix("rule_"): job["Partition"]
        for job in jobs(cluster)
    }
    assert {rule for rule, partition in partitions.items() if partition == "gpu"} == {
        "train_sft", "train_delta_judge", "train_dpo", "generate_responses", "label_ai", "judge_trust",
        "evaluate_model", "evaluate_loss", "evaluate_kl",
    }  # fmt: skip
    assert {
        "tokenize",
        "gather_responses",
        "evaluate_verdicts",
        "compare_models",
    } <= partitions.keys()
    local_rules = {"synthesize_corpus", "assign_sides", "process_cmv", "split", "check_leakage"}
    assert not local_rules & partitions.keys()
    assert "rlaif" in (study / "models.csv").read_text()

    # The training that SLURM killed was retried and resumed.
    states = [job["JobState"] for job in jobs_of_rule(cluster, "train_sft")]
    assert states == ["CANCELLED", "COMPLETED"]
    assert "going on from" in (study / "logs/train_sft/sft.log").read_text()

    # Each shard was a job, and jobs that ran at the same time had devices of their own.
    assert len(jobs_of_rule(cluster, "generate_responses")) == 2
    concurrent = [
        (one, other)
        for one, other in combinations([job for job in jobs(cluster) if job["JobId"] in devices], 2)
        if max(one["StartTime"], other["StartTime"]) < min(one["EndTime"], other["EndTime"])
    ]
    assert concurrent
    for pair in concurrent:
        assert {devices[job["JobId"]] for job in pair} == {"gpu:1(IDX:0)", "gpu:1(IDX:1)"}


def test_a_submit_host_is_not_asked_for_a_gpu(cluster, checkout, tmp_path):
    """The job is sent to the node, and reports itself that there is none."""
    if visible_devices():
        pytest.skip("this machine has a GPU")
    log, before = tmp_path / "log.txt", len(jobs_of_rule(cluster, "train_sft"))
    words = ["results/cluster/models/sft/adapter_model.safetensors", "--config", "device=cuda"]
    run = start(
        checkout, cluster, log, *words, "--forcerun", "train_sft", "--preemptible-retries", "0"
    )
    try:
        assert run.wait(timeout=RUNS_WITHIN_S) == 1, log.read_text()[-5000:]
    finally:
        end_run(run)
    assert "and this machine has none; use" not in log.read_text()
    [job] = jobs_of_rule(cluster, "train_sft")[before:]
    assert (job["Partition"], job["JobState"]) == ("gpu", "FAILED")
