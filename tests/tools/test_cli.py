"""`persuasion-rl` in a checkout runs the checkout's package, whichever is installed."""

import os
import shutil
import subprocess
import sys

import pytest

from running import WORKFLOW

NAMES = (
    "import sys; from persuasion_rl.tools.cli import main; sys.argv[1:] = ['why', 'a b']; main()"
)
SHADOWED = "import sys; sys.path.insert(0, {place!r})"


@pytest.fixture
def packages(tmp_path):
    """Two folders, each with a package in workflow/ whose `why` prints the folder's name."""
    for name in ("installed", "checkout"):
        package = tmp_path / name / "workflow/persuasion_rl"
        shutil.copytree(WORKFLOW / "persuasion_rl", package)
        says = f"def explain(target, configfile):\n    return f'{name}, {{target}}\\n'\n"
        (package / "tools/why.py").write_text(says)
    (tmp_path / "checkout/Snakefile").touch()
    return tmp_path


def why(folder, *places):
    """The output of `why` in a folder, with `places` as PYTHONPATH."""
    run = subprocess.run(
        [sys.executable, "-P", "-c", NAMES],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_in_a_checkout_its_own_package_runs(packages):
    installed = packages / "installed/workflow"
    assert why(packages / "checkout", installed) == "checkout, a b\n"
    assert why(packages / "checkout", packages / "checkout/workflow") == "checkout, a b\n"
    assert why(packages, installed) == "installed, a b\n"


def test_another_package_that_stays_first_runs_without_a_loop(packages):
    site, installed = packages / "site", packages / "installed/workflow"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SHADOWED.format(place=str(installed)))
    assert why(packages / "checkout", site) == "installed, a b\n"
