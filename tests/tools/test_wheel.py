"""The package installed from a wheel, outside of its checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from running import ROOT, copy_project

PACKAGE = ROOT / "workflow/persuasion_rl"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of an unpacked wheel. It was built from a copy that is deleted afterwards."""
    if find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed: it builds the wheel")
    source, folder = (tmp_path_factory.mktemp(name) for name in ("source", "installed"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "workflow", source / "workflow", ignore=left_out)
    words = ["wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run([sys.executable, "-m", "pip", *words], cwd=source, check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(folder)
    shutil.rmtree(source)
    return folder


def run(installed: Path, folder: Path, *words: object) -> subprocess.CompletedProcess:
    """Run Python in a folder with the installed package."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )


def test_a_wheel_has_every_file_of_the_package(installed):
    def files(folder):
        paths = (path for path in folder.rglob("*") if path.is_file())
        return {str(p.relative_to(folder)) for p in paths if "__pycache__" not in p.parts}

    assert files(installed / "persuasion_rl") == files(PACKAGE)
    (commands,) = installed.glob("*.dist-info/entry_points.txt")
    assert "persuasion-rl = persuasion_rl.tools.cli:main" in commands.read_text()


def test_the_doctor_needs_no_rubric_where_there_is_no_checkout(installed, tmp_path):
    study = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    study["evaluation"]["judges"] = ["llm", "length"]
    study["llm"] = {"model": "a-model"}
    words = ("-m", "persuasion_rl.tools.cli", "doctor", "--configfile", "mine.yaml")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(study))
    doctor = run(installed, tmp_path, *words)
    assert doctor.returncode == 0, doctor.stderr
    study["llm"]["rubric"] = "own.md"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(study))
    doctor = run(installed, tmp_path, *words)
    assert doctor.returncode == 1
    assert "llm.rubric: there is no file 'own.md'" in doctor.stderr


def test_the_doctor_runs_where_there_is_a_configuration_and_no_checkout(installed, tmp_path):
    (tmp_path / "mine.yaml").write_text((ROOT / "config/demo.yaml").read_text())
    location = run(installed, tmp_path, "-c", "import persuasion_rl; print(persuasion_rl.__file__)")
    assert location.stdout.startswith(str(installed))
    words = ("-m", "persuasion_rl.tools.cli", "doctor", "--configfile", "mine.yaml")
    outside = run(installed, tmp_path, *words)
    assert outside.returncode == 0, outside.stderr
    assert "not in this folder; the commands below are for its checkout" in outside.stdout
    assert outside.stdout.splitlines()[-1].startswith("next: the data and a page about it: ")

    checkout = copy_project(tmp_path / "checkout")
    shutil.rmtree(checkout / "workflow/persuasion_rl")
    inside = run(installed, checkout, *words[:-1], "config/demo.yaml")
    assert inside.returncode == 0, inside.stderr
    assert "not in this folder" not in inside.stdout and "\nnext: the data " in inside.stdout
