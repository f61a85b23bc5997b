"""The study of `small.yaml`, made once without network, and copies of it that tests may change."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from running import ROOT, copy_project, succeed
from small_study import CONFIG, NO_NETWORK, STUDY


@pytest.fixture(scope="session")
def network_log(tmp_path_factory) -> Path:
    """The log of refused connections while the study runs. All workers of pytest share it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return folder / "refused.log"


@pytest.fixture(scope="session")
def make_small(network_log):
    """A function that runs the small study in the project's own folder and returns Snakemake's output.

    Only one worker of pytest does so at a time, as Snakemake refuses a second one. Dry runs need no lock.
    """
    lock = ROOT / ".snakemake/small-study.lock"
    lock.parent.mkdir(exist_ok=True)
    words = ("all", "--cores", 2, "--configfile", CONFIG)
    variables = {"PYTHONPATH": str(NO_NETWORK), "NETWORK_LOG": str(network_log)}

    def make() -> str:
        with FileLock(lock):
            return succeed(*words, **variables)

    return make


@pytest.fixture(scope="session")
def small(make_small) -> Path:
    """The folder of the small study. Read only."""
    make_small()
    return STUDY


@pytest.fixture(scope="session")
def finished_checkout(small, tmp_path_factory) -> Path:
    """A copy of the project with the finished study and Snakemake's records. Read only."""
    folder = copy_project(tmp_path_factory.mktemp("checkout"))
    parts = [".snakemake/metadata", "results/small"]
    subprocess.run(["cp", "-a", "--parents", *parts, folder], cwd=ROOT, check=True)
    return folder


@pytest.fixture
def fresh(finished_checkout, tmp_path) -> Path:
    """A copy of the finished checkout, which a test may change."""
    folder = tmp_path / "checkout"
    subprocess.run(["cp", "-a", finished_checkout, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def empty_checkout(tmp_path_factory):
    """A checkout without results, so that everything is planned."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (
        "Snakefile",
        "workflow",
        "config",
        "envs",
        "profiles",
        "resources/markers",
        "tests",
    ):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder
