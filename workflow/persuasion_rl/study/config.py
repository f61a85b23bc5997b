"""Reads a study's configuration: `extends`, defaults, the closed schema, and what only the whole can tell.

Imported by the Snakefile, so it stays light. Every mistake is one line: the key, the value, what is allowed.
"""

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from persuasion_rl.files import UserError
from persuasion_rl.study.names import BASE, HUMAN

SCHEMA = Path(__file__).parents[2] / "schemas" / "config.schema.yaml"


def _schema() -> dict[str, Any]:
    # Every start of Snakemake reads it: by libyaml where PyYAML has it, ten times as fast.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(SCHEMA.read_text(encoding="utf-8"), loader)


def load_study(given: dict[str, Any], file: Path | None = None) -> dict[str, Any]:
    """The complete configuration of a study.

    Args:
        given: what Snakemake read from the study's file and from --config.
        file: the study's file, from which a relative `extends:` is looked up.

    Raises:
        UserError: an unknown key, a wrong type or value, an impossible plan, a broken lineage.
    """
    study = _extended(deepcopy(given), file, seen=[])
    for section in ("llm", "sampling"):
        _refuse_keys(section, study.get(section))
    schema = _schema()
    _fill_defaults(study, schema, schema["$defs"])
    _fill_other_players(study, schema)
    error = next(iter(sorted(Draft202012Validator(schema).iter_errors(study), key=_depth)), None)
    if error is not None:
        raise UserError(_message(error))
    if study["wandb"]["mode"] is False:  # YAML reads a bare off as false
        study["wandb"]["mode"] = "off"
    _fill_sources(study["data"])
    _check_lineage(study["models"])
    _check_plan(study["data"])
    _check_recipes(study)
    _check_room(study)
    _check_sampling(study["sampling"])
    _check_pools(study)
    _check_judges(study)
    _check_llm(study)
    _check_embedding_model(study["evaluation"])
    study["corpora_dir"] = _folder(study["corpora_dir"])
    _check_corpora(study)
    return study


def _extended(study: dict, file: Path | None, seen: list[Path]) -> dict:
    """Lay a study over the one that it names under `extends:`, if it does."""
    name = study.pop("extends", None)
    if name is None:
        return study
    if not isinstance(name, str):
        raise UserError(f"extends: {name!r} must be the name of a file")
    parent_file = (file.parent if file else Path("config")) / name
    if not parent_file.is_file():
        raise UserError(f"extends: {parent_file} does not exist")
    if parent_file.resolve() in seen:
        raise UserError(f"extends: {parent_file} extends itself")
    try:
        parent = yaml.safe_load(parent_file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"extends: {parent_file} is not valid YAML: {reason}") from None
    if not isinstance(parent, dict):
        raise UserError(f"extends: {parent_file} holds no keys")
    parent = _extended(parent, parent_file, [*seen, parent_file.resolve()])
    return _merged(parent, study)


def _merged(below: dict, above: dict) -> dict:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _fill_defaults(value: Any, schema: dict, shared: dict) -> None:
    """Fill in the defaults of `properties`, also of those that stand under `$defs` (`shared`)."""
    if "$ref" in schema:
        schema = shared[schema["$ref"].removeprefix("#/$defs/")]
    if not isinstance(value, dict):
        return
    for key, part in schema.get("properties", {}).items():
        if key not in value and "default" in part:
            value[key] = deepcopy(part["default"])
        if key in value:
            _fill_defaults(value[key], part, shared)


def _fill_other_players(study: dict, schema: dict) -> None:
    """Their defaults; a model's recipe has none of its own, so named parts have them here only."""
    part = schema["properties"]["evaluation"]["properties"]["other_players"]
    given = study["evaluation"]["other_players"] if isinstance(study["evaluation"], dict) else {}
    for player in given.values() if isinstance(given, dict) else ():
        _fill_defaults(player, part["additionalProperties"], schema["$defs"])


def _depth(error: ValidationError) -> tuple:
    """Unknown keys first: they explain what is missing elsewhere."""
    return (error.validator != "additionalProperties", len(error.absolute_path), str(error.path))


def _message(error: ValidationError) -> str:
    key = ".".join(map(str, error.absolute_path)) or "the configuration"
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        unknown = sorted(set(error.instance) - set(allowed))
        path = ".".join(map(str, [*error.absolute_path, unknown[0]]))
        if unknown[0] in ALWAYS and "learning_rate" in allowed:
            return f"{path}: {ALWAYS[unknown[0]]}"
        return f"{path}: unknown key; allowed here: {', '.join(allowed)}"
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{key}: the key {missing[0]!r} is missing"
    allowed = {
        "type": lambda v: f"must be {v if isinstance(v, str) else ' or '.join(v)}",
        "enum": lambda v: f"must be one of {', '.join(map(str, v))}",
        "minimum": lambda v: f"must be at least {v}",
        "maximum": lambda v: f"must be at most {v}",
        "exclusiveMinimum": lambda v: f"must be above {v}",
        "pattern": lambda v: f"must match {v}",
        "minItems": lambda v: f"must have at least {v} entries",
    }.get(error.validator, lambda v: error.message)(error.validator_value)
    hint = ""
    if error.validator == "type" and _reads_as_number(error.instance):
        hint = " (YAML reads 1e-4 as text: write 1.0e-4)"
    return f"{key}: {error.instance!r} {allowed}{hint}"


def _reads_as_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _check_lineage(models: dict[str, dict]) -> None:
    if BASE not in models or "source" not in models[BASE]:
        raise UserError(f"models.{BASE}: needs a source (a Hub model, a local folder, or standin)")
    source = models[BASE]["source"]
    if _is_local(source) and not os.path.isfile(
        os.path.join(os.path.expanduser(source), "config.json")
    ):
        raise UserError(
            f"models.{BASE}.source: {source!r} is not the folder of a model (no config.json there)"
        )
    for name, model in models.items():
        if name == BASE:
            continue
        if "source" in model:
            raise UserError(f"models.{name}.source: only {BASE} has a source")
        if "parent" not in model or "method" not in model:
            raise UserError(f"models.{name}: needs a parent and a method")
        if model["parent"] not in models:
            raise UserError(
                f"models.{name}.parent: unknown model {model['parent']!r}; there are {', '.join(models)}"
            )
        if model["method"] == "dpo" and "pool" not in model:
            raise UserError(f"models.{name}.pool: a dpo model needs a pool (ai or human)")
        if model["method"] == "dpo" and model["parent"] == BASE:
            raise UserError(f"models.{name}.parent: dpo continues an adapter, and {BASE} has none")
    for name in models:
        above, parent = [name], models[name].get("parent")
        while parent is not None:
            if parent in above:
                raise UserError(f"models.{name}.parent: a cycle, {' -> '.join([*above, parent])}")
            above.append(parent)
            parent = models[parent].get("parent")


def _fill_sources(data: dict[str, Any]) -> None:
    """The defaults that follow from other keys: a study has a source, and pools hold prompts of one it uses."""
    if data["use_p4g"] is None:
        data["use_p4g"] = not data["use_cmv"]
    if data["pool_source"] is None:
        data["pool_source"] = "cmv" if data["use_cmv"] else "p4g"


def pool_sizes(data: dict[str, Any]) -> dict[str, int]:
    """The planned number of prompts of each pool; an AI pool without a size is what the others leave."""
    sides = split_sizes(data)
    held_out = data["human_pool_size"] + data["final_eval_size"]
    rest = sides["test"] - held_out + (sides["val"] if data["use_val_set"] else 0)
    return {"ai": data["ai_pool_size"] or rest, "human": data["human_pool_size"]}


def split_sizes(data: dict[str, Any]) -> dict[str, int]:
    """The planned number of rows of each side."""
    return {side: round(data["max_examples"] * share) for side, share in data["split"].items()}


def _check_plan(data: dict[str, Any]) -> None:
    if abs(sum(data["split"].values()) - 1) > 1e-6:
        raise UserError(f"data.split: {data['split']} must add up to 1")
    if data["min_tokens"] >= data["max_tokens"]:
        raise UserError(
            f"data.min_tokens: {data['min_tokens']} must be below max_tokens {data['max_tokens']}"
        )
    if data["max_context_tokens"] >= data["max_seq_length"]:
        raise UserError(
            f"data.max_context_tokens: {data['max_context_tokens']} must be below max_seq_length"
            f" {data['max_seq_length']}"
        )
    if not data["use_cmv"] and not data["use_p4g"]:
        raise UserError(
            "data.use_cmv and data.use_p4g: both are false; there is nothing to learn from"
        )
    if not data[f"use_{data['pool_source']}"]:
        raise UserError(
            f"data.pool_source: {data['pool_source']!r}, but data.use_{data['pool_source']} is false"
        )
    sizes = split_sizes(data)
    held_out = data["human_pool_size"] + data["final_eval_size"]
    if held_out > sizes["test"]:
        raise UserError(
            f"data.human_pool_size + data.final_eval_size: {held_out:,} prompts are more than the test"
            f" side's {sizes['test']:,} (max_examples x split.test)"
        )
    room = sizes["test"] - held_out + (sizes["val"] if data["use_val_set"] else 0)
    if data["ai_pool_size"] is None and room < 1:
        raise UserError(
            "data.human_pool_size + data.final_eval_size: they leave no prompt for the AI pool"
            f" (use_val_set: {str(data['use_val_set']).lower()})"
        )
    if (data["ai_pool_size"] or 0) > room:
        raise UserError(
            f"data.ai_pool_size: {data['ai_pool_size']:,} prompts are more than the {room:,} that validation"
            f" and test leave (use_val_set: {str(data['use_val_set']).lower()})"
        )


ONLY_OF = {
    **dict.fromkeys(("beta", "label_smoothing", "loss_type", "loss_weights"), ("dpo",)),
    **dict.fromkeys(
        ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"), ("sft", "reward")
    ),
    "use_4bit": ("sft", "dpo"),
}
"""The methods that a recipe's key means something for, where that is not all of them."""
ALWAYS = {
    "packing": "rows are computed without padding anyway, and effective_batch_size counts rows, not packs",
    "padding_free": "rows are computed without padding anyway; trl's own switch does nothing for dpo",
    "precompute_ref_log_probs": "the reference is computed once anyway",
}
"""Arguments of trl's that a recipe cannot have, and why."""


def _check_recipes(study: dict[str, Any]) -> None:
    for method, recipe in study["recipes"].items():
        _check_recipe(f"recipes.{method}", method, recipe, study["data"]["max_seq_length"])
    for name in study["models"]:
        if name != BASE:
            method = study["models"][name]["method"]
            _check_recipe(
                f"models.{name}.recipe",
                method,
                recipe_of(study, name),
                study["data"]["max_seq_length"],
            )


def _check_recipe(key: str, method: str, recipe: dict[str, Any], longest_row: int) -> None:
    """Refuse what a trainer would refuse hours later, and what it would ignore without a word."""
    for name in recipe:
        if method not in ONLY_OF.get(name, (method,)):
            why = (
                "a dpo model keeps the shape of its parent's adapter"
                if name.startswith("lora_")
                else f"it means something for {' and '.join(ONLY_OF[name])} only"
            )
            raise UserError(f"{key}.{name}: {why}")
    if recipe["max_length"] < longest_row:
        raise UserError(
            f"{key}: max_length {recipe['max_length']} must be at least data.max_seq_length"
            f" {longest_row}, or rows would be cut"
        )
    losses = recipe.get("loss_type", ["sigmoid"])
    if recipe.get("label_smoothing") and "sigmoid" in losses:
        raise UserError(
            f"{key}.label_smoothing: trl ignores it with the loss sigmoid; use loss_type: [robust]"
        )
    if len(recipe.get("loss_weights", losses)) != len(losses):
        raise UserError(f"{key}.loss_weights: {len(losses)} losses need as many weights")


def _check_room(study: dict[str, Any]) -> None:
    """A prompt and a sampled response must fit a dpo row."""
    longest = study["data"]["max_context_tokens"] + study["sampling"]["max_new_tokens"]
    for name, model in study["models"].items():
        if model.get("method") == "dpo" and longest >= recipe_of(study, name)["max_length"]:
            raise UserError(
                f"sampling.max_new_tokens + data.max_context_tokens: {longest} do not fit the max_length"
                f" {recipe_of(study, name)['max_length']} of models.{name}"
            )


def recipe_of(study: dict[str, Any], model: str) -> dict[str, Any]:
    """The recipe of a model's method with the model's own changes."""
    own = study["models"][model]
    return study["recipes"][own["method"]] | own.get("recipe", {})


def _check_judges(study: dict[str, Any]) -> None:
    wanted = {
        "evaluation.judges": study["evaluation"]["judges"],
        "labels.ai.judge": [study["labels"]["ai"]["judge"]],
    }
    if study["labels"]["human"]["source"] == "simulated":
        wanted["labels.human.judge"] = [study["labels"]["human"]["judge"]]
    for key, names in wanted.items():
        if "truth" in names and study["world"] is None:
            raise UserError(f"{key}: truth is known only in a synthetic world (world:)")
    labelling = _labelling_judges(study)
    if labelling >= {*study["evaluation"]["judges"]}:
        raise UserError(
            f"evaluation.judges: models learn from labels of every one of them ({', '.join(sorted(labelling))}); add one"
            " that labels nothing: length and interplay cost nothing"
        )
    for comparison in study["evaluation"]["comparisons"] or ():
        if {*comparison.split(":")} - {*study["evaluation"]["players"]}:
            raise UserError(
                f"evaluation.comparisons: {comparison!r} is not PLAYER:AGAINST of"
                f" {', '.join(study['evaluation']['players'])}"
            )
    others = study["evaluation"]["other_players"]
    for name, other in others.items():
        _check_other_player(name, other, study)
    for player in study["evaluation"]["players"]:
        if player not in (HUMAN, *study["models"], *others):
            raise UserError(
                f"evaluation.players: unknown player {player!r}; there are"
                f" {', '.join([*study['models'], *others, HUMAN])}"
            )


def _labelling_judges(study: dict[str, Any]) -> set[str]:
    """The judges behind the labels that models of a study learn from."""
    pools = {model.get("pool") for model in study["models"].values()}
    labels = study["labels"]
    simulated = labels[HUMAN]["source"] == "simulated"
    asked = {"ai": "ai" in pools, HUMAN: HUMAN in pools and simulated}
    return {labels[pool]["judge"] for pool, has_judge in asked.items() if has_judge}


def _check_other_player(name: str, other: dict[str, Any], study: dict[str, Any]) -> None:
    key = f"evaluation.other_players.{name}"
    if name in (HUMAN, *study["models"]):
        raise UserError(f"{key}: there is a player of that name already")
    given = [kind for kind in ("model", "source", "endpoint") if kind in other]
    if len(given) != 1:
        raise UserError(f"{key}: needs one of model, source and endpoint")
    if "model" in other and other["model"] not in study["models"]:
        raise UserError(
            f"{key}.model: unknown model {other['model']!r}; there are {', '.join(study['models'])}"
        )
    if ("endpoint" in other) != ("served_model" in other):
        raise UserError(f"{key}: endpoint and served_model go together")
    if "endpoint" in other and LOOKS_LIKE_A_KEY.search(other["endpoint"]):
        raise UserError(f"{key}.endpoint: looks like a key; keys come from the environment only")


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


LOOKS_LIKE_A_KEY = re.compile(r"\bsk-[\w-]{8,}|://[^/]*@|[?&]\w*key\w*=", re.IGNORECASE)


def _refuse_keys(section: str, settings: Any) -> None:
    """UserError, without its value, where an API key stands in a section: the study is written down."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        named = any(word in name.lower() for word in ("key", "secret", "password", "authorization"))
        if named or (isinstance(value, str) and LOOKS_LIKE_A_KEY.search(value)):
            raise UserError(
                f"{section}.{name}: looks like a key; keys come from the environment only (OPENAI_API_KEY or"
                " ANTHROPIC_API_KEY), since a study's configuration is kept with its results"
            )


def uses_llm(study: dict[str, Any]) -> bool:
    """Whether a job of the study asks the judge llm."""
    return "llm" in (study["labels"]["ai"]["judge"], *study["evaluation"]["judges"])


def _check_llm(study: dict[str, Any]) -> None:
    llm = study["llm"]
    if not uses_llm(study):
        return
    if llm["model"] is None:
        raise UserError("llm.model: the judge llm needs a model")
    for name in ("rubric", "honesty_rubric"):
        if not os.path.isfile(llm[name]):
            raise UserError(f"llm.{name}: there is no file {llm[name]!r}")
    if llm["max_cost_usd"] is not None and llm["prices"] is None:
        raise UserError(
            f"llm.prices: max_cost_usd needs what {llm['model']} costs a million tokens; write"
            " prices: {input: USD, output: USD}"
        )
    if llm["batch"] and llm["requests_per_minute"] is not None:
        raise UserError("llm.requests_per_minute: a batch is one request; leave it out with batch")


def _check_sampling(sampling: dict[str, Any]) -> None:
    if (sampling["engine"] == "openai") != (sampling["base_url"] is not None):
        raise UserError(
            "sampling.base_url: the engine openai, and no other, needs the address of its server"
            " (http://127.0.0.1:8000/v1)"
        )


def _check_embedding_model(evaluation: dict[str, Any]) -> None:
    """A local folder must be a model's; its ~ is filled in."""
    name = evaluation["embedding_model"]
    if name is None or not _is_local(name):
        return
    folder = evaluation["embedding_model"] = os.path.expanduser(name)
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise UserError(
            f"evaluation.embedding_model: {name!r} is not the folder of a model (no config.json there)"
        )


def _check_pools(study: dict[str, Any]) -> None:
    for pool, settings in study["pools"].items():
        source = settings["responses_from"]
        if source not in study["models"]:
            raise UserError(
                f"pools.{pool}.responses_from: unknown model {source!r}; there are"
                f" {', '.join(study['models'])}"
            )
        if pool in pools_behind(study, source):
            raise UserError(
                f"pools.{pool}.responses_from: a cycle, {source!r} learns from this pool"
            )
    labels, size = study["labels"]["human"]["min_labels"], study["data"]["human_pool_size"]
    if study["labels"]["human"]["source"] == "people" and labels > size:
        raise UserError(
            f"labels.human.min_labels: {labels} is more than data.human_pool_size {size}"
        )


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


def _folder(value: str | None) -> str | None:
    """A folder, with ~ and $VARIABLES filled in."""
    if value is None:
        return None
    expanded = os.path.expanduser(os.path.expandvars(value))
    if "$" in expanded:
        raise UserError(
            f"corpora_dir: the environment variable in {value!r} is not set; set it to the folder that"
            " holds the corpora, or pass --config corpora_dir=FOLDER"
        )
    return expanded


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


def _check_corpora(study: dict[str, Any]) -> None:
    """Corpora that are named by a local folder must be there."""
    data = study["data"]
    names = data["cmv_corpora"] if study["world"] is None else []
    for name in names + ([data["p4g_corpus"]] if data["use_p4g"] else []):
        if study["corpora_dir"] and not Path(study["corpora_dir"], name).is_dir():
            raise UserError(f"corpora_dir: there is no folder {name} in {study['corpora_dir']!r}")


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
    """The study that a configuration file names."""
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("study")


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


def reference() -> str:
    """Every key of the schema as a Markdown list; config/README.md holds it, and a test compares them."""
    schema = _schema()
    recipe = schema["$defs"]["recipe"]

    def lines(properties: dict[str, dict], path: str) -> Iterator[str]:
        for key, part in properties.items():
            name = f"{path}{key}"
            default = part.get("default")
            shown = "" if default in (None, {}) else f" Default `{json.dumps(default)}`."
            if allowed := part.get("enum", part.get("items", {}).get("enum")):
                words = ["null" if value is None else _word(value) for value in allowed]
                shown = f" Allowed: {', '.join(words)}.{shown}"
            yield f"- `{name}`: {part['description'].rstrip()}{shown}"
            yield from lines(part.get("properties", {}), f"{name}.")
            if isinstance(part.get("additionalProperties"), dict):
                yield from lines(part["additionalProperties"]["properties"], f"{name}.NAME.")

    keys = [*lines(schema["properties"], ""), "", "A recipe:", "", *lines(recipe["properties"], "")]
    return "\n".join(keys)


if __name__ == "__main__":
    print(reference())
