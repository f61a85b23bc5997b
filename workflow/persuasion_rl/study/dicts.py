"""What a study's configuration as a plain dict means: lineages, sizes, folders, flags. The class Study takes these over."""

import json
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.study.names import BASE, HUMAN


def load_study(given: dict[str, Any], file: Path | None = None) -> dict[str, Any]:
    """The complete configuration of a study as a plain dict (`loading.load_config`)."""
    from persuasion_rl.study.loading import load_config

    return load_config(given, file).resolved()


def pool_sizes(data: dict[str, Any]) -> dict[str, int]:
    """The planned number of prompts of each pool; an AI pool without a size is what the others leave."""
    sides = split_sizes(data)
    held_out = data["human_pool_size"] + data["final_eval_size"]
    rest = sides["test"] - held_out + (sides["val"] if data["use_val_set"] else 0)
    return {"ai": data["ai_pool_size"] or rest, "human": data["human_pool_size"]}


def split_sizes(data: dict[str, Any]) -> dict[str, int]:
    """The planned number of rows of each side."""
    return {side: round(data["max_examples"] * share) for side, share in data["split"].items()}


def recipe_of(study: dict[str, Any], model: str) -> dict[str, Any]:
    """The recipe of a model's method with the model's own changes."""
    own = study["models"][model]
    return study["recipes"][own["method"]] | own.get("recipe", {})


def declared_comparisons(study: dict[str, Any]) -> list[str]:
    """The comparisons ("model:against") whose p-values are corrected together: those of the config, or every model with
    each one that it comes from."""
    given = study["evaluation"]["comparisons"]
    if given is not None:
        return given
    models, players = study["models"], study["evaluation"]["players"]
    return [
        f"{name}:{against}"
        for name in players
        if name in models
        for against in [*reversed(list(lineage(models, name))), BASE][1:]
        if against in players
    ]


def seed_groups(study: dict[str, Any]) -> dict[str, str]:
    """Model -> the first model that differs from it in nothing but seeds, its own or those above it."""
    groups: dict[str, str] = {BASE: BASE}

    def group(name: str) -> str:
        if name not in groups:
            model = study["models"][name]
            like = [model["method"], model.get("pool"), recipe_of(study, name)]
            made_like = json.dumps([*like, group(model["parent"])], sort_keys=True)
            groups[name] = first.setdefault(made_like, name)
        return groups[name]

    first: dict[str, str] = {}
    return {name: group(name) for name in study["models"]}


def uses_llm(study: dict[str, Any]) -> bool:
    """Whether a job of the study asks the judge llm."""
    return "llm" in (study["labels"]["ai"]["judge"], *study["evaluation"]["judges"])


def pools_behind(study: dict[str, Any], model: str) -> set[str]:
    """The pools that a model's lineage learns from, and those that made their responses."""
    found: set[str] = set()
    waiting = [model]
    while waiting:
        for name in lineage(study["models"], waiting.pop()):
            pool = study["models"][name].get("pool")
            if pool is not None and pool not in found:
                found.add(pool)
                waiting.append(study["pools"][pool]["responses_from"])
    return found


def base_folder(study: dict[str, Any]) -> str:
    """Where the base model is: a stand-in of the study, a local folder, or downloaded."""
    source = study["models"][BASE]["source"]
    if source == "standin":
        return f"results/{study['study']}/models/base"
    return model_folder(source)


def model_folder(source: str) -> str:
    """Where a model is that is named by a local folder or downloaded from the Hub."""
    if _is_local(source):
        return os.path.expanduser(source)
    return f"resources/models/{source.replace('/', '--')}"


def model_behind(study: dict[str, Any], player: str) -> str | None:
    """The study's model that a player is, or None for people and for models from elsewhere."""
    if player in study["models"]:
        return player
    return study["evaluation"]["other_players"].get(player, {}).get("model")


def refuse_other_studies(targets: Iterable[str], name: str) -> None:
    """UserError where a target lies under the results of another study than the one that is loaded."""
    for target in targets:
        parts = Path(target).parts
        if len(parts) > 2 and parts[0] == "results" and parts[1] != name:
            files = [
                file for file in sorted(Path("config").glob("*.yaml")) if _names(file) == parts[1]
            ]
            how = (
                f"add --configfile {files[0]}"
                if files
                else f"no file in config/ has `study: {parts[1]}`"
            )
            raise UserError(f"{target} is of study {parts[1]!r}, and {name!r} is loaded: {how}")


def _names(file: Path) -> str | None:
    """The study that a configuration file names, if it can be read and does."""
    from persuasion_rl.study.loading import read_config_file

    try:
        return read_config_file(file).get("study")
    except UserError:
        return None


def _is_local(source: str) -> bool:
    return source.startswith((".", "/", "~"))


def lineage(models: dict[str, dict], model: str) -> Iterator[str]:
    """The trained models from the first one above the base down to `model` itself."""
    if model != BASE:
        yield from lineage(models, models[model]["parent"])
        yield model


def needs_people(study: dict[str, Any], model: str) -> bool:
    """Whether a model's lineage has labels that only people can give."""
    return study["labels"]["human"]["source"] == "people" and HUMAN in pools_behind(study, model)


def flags(settings: dict[str, Any]) -> str:
    """Settings as one canonical string of `--name value` flags, sorted; None and empty lists are left out.

    A Snakemake param is compared as a string, so that a changed setting, and only that, makes stale.
    """
    words = []
    for name, value in sorted(settings.items()):
        if value is None or value == []:
            continue
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(shlex.quote(_word(v)) for v in values)]
    return " ".join(words)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
