"""The provenance of a study: the commit of the code, packages, digests of weights and rows."""

import subprocess
from importlib.metadata import version
from pathlib import Path

from persuasion_rl.files import file_digest, read_made

COUNTED_BY = ("numpy", "scipy")
"""Packages that the tables depend on and no training records."""


def made_from(recipes: dict[str, Path], delta_recipe: Path, prompts: Path) -> dict:
    """Python, packages and environment of the first training, and digests: of weights and their training rows, from the recipes, of the
    delta judge, and of the prompts that all players answer.

    If no model is trained, the delta judge's training is the first one.

    Args:
        recipes: model -> its recipe.json. delta_recipe: that of the delta judge.
        prompts: the held-out prompts of the evaluation.
    """
    trainings = {
        model: read_made(path, "adapter_digest", "data") for model, path in recipes.items()
    }
    delta = read_made(delta_recipe, "adapter_digest")
    first = next(iter(trainings.values()), delta)
    digests = {"base": first.get("base_digest", "")}
    digests |= {model: training["adapter_digest"] for model, training in trainings.items()}
    for model, training in trainings.items():
        digests |= {f"{model}, {rows} rows": digest for rows, digest in training["data"].items()}
    digests["delta judge"] = delta["adapter_digest"]
    digests["prompts of the evaluation"] = file_digest(prompts)
    return {
        "python": first.get("python", "unknown"),
        "packages": first.get("packages", {}) | {name: version(name) for name in COUNTED_BY},
        "environment": first.get("environment", {}),
        "digests": digests,
    }


def commit() -> str:
    """The commit of this code, with "-dirty" if files differ from it; "" outside a git checkout."""
    folder = str(Path(__file__).parent)
    words = ["git", "-C", folder, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
