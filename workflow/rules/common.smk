"""
What every stage uses: the study, its paths, settings as flags, the code as a param, the lineage of models.
"""

import json
import os
import sys
from pathlib import Path

# Jobs find the package here too where it is not installed (conda environments).
PACKAGE = str(Path(workflow.basedir) / "workflow")
sys.path.insert(0, PACKAGE)
os.environ |= {
    "PYTHONPATH": os.pathsep.join(filter(None, [PACKAGE, os.getenv("PYTHONPATH")])),
    "PERSUASION_RL_WORKFLOW": str(os.getpid()),  # jobs end when this process is gone
}

from snakemake.settings.types import SharedFSUsage

from persuasion_rl.annotation.store import answers_digest, labels_digest
from persuasion_rl.annotation.battles import votes_digest
from persuasion_rl.study.code import module_digests
from persuasion_rl.study.config import (
    base_folder,
    declared_comparisons,
    flags,
    lineage,
    load_study,
    model_behind,
    model_folder,
    needs_people,
    pool_sizes,
    recipe_of,
    refuse_other_studies,
    seed_groups,
    split_sizes,
    uses_llm,
)
from persuasion_rl.files import UserError, file_digest
from persuasion_rl.runtime.keys import key_for
from persuasion_rl.runtime.leases import visible_devices
from persuasion_rl.study.names import BASE, HUMAN, MODEL_FILES, SERVED
from persuasion_rl.report.models_table import seeds_behind

CONFIG_FILE = Path(
    workflow.overwrite_configfiles[-1]
    if workflow.overwrite_configfiles
    else "config/config.yaml"
)


def read_study():
    """The resolved configuration of the study, or one line that says what is wrong with it."""
    try:
        loaded = load_study(config, CONFIG_FILE)
        refuse_other_studies(sys.argv[1:], loaded["study"])
    except UserError as error:
        # One line, where a WorkflowError would trace the Snakefile.
        sys.exit(f"{CONFIG_FILE}: {error}")
    return loaded


STUDY = read_study()
NAME = STUDY["study"]
DATA = STUDY["data"]
MODELS = STUDY["models"]
ALL_POOLS = ("ai", HUMAN)
POOLS = [
    p for p in ALL_POOLS if any(model.get("pool") == p for model in MODELS.values())
]
SYNTHETIC = STUDY["world"] is not None
WAITS_FOR_PEOPLE = any(needs_people(STUDY, model) for model in MODELS)
MODEL_SETTINGS = {
    "device": STUDY["device"],
    "trust_remote_code": STUDY["trust_remote_code"],
}


def study(path):
    """A path of this study."""
    return f"results/{NAME}/{path}"


def shown(path, category):
    """A file that Snakemake's own report shows too, with the caption of its name."""
    name = Path(path).stem
    return report(
        path,
        category=category,
        caption=f"../report/{name}.rst",
        labels={"what": name.replace("_", " ")},
    )


def shown_figures(folder):
    """The same for a folder of figures."""
    return report(
        directory(folder),
        category="Figures",
        caption="../report/figures.rst",
        patterns=["{figure}.svg"],
        labels={"what": "{figure}"},
    )


ADAPTER = study("models/{model}/adapter_model.safetensors")


def tokens(rows):
    """The token ids of some training rows, which all models that learn from them share."""
    return study(f"tokens/{rows}.parquet")


JUDGE_MODULES = {
    "truth": "judges.truth",
    "delta": "judges.delta",
    "length": "judges.length",
    "interplay": "judges.interplay",
    "llm": "judges.llm.judge",
}


def code(*modules):
    """The code that a stage runs, as a param: a changed module makes the stage stale."""
    return module_digests(*modules)


def judge_modules(*judges):
    """The modules of some judges; None is no judge."""
    return [JUDGE_MODULES[judge] for judge in judges if judge is not None]


def corpus_folder(name):
    """Where a corpus is: made by the study, in the folder of the config, or downloaded."""
    if SYNTHETIC and name in DATA["cmv_corpora"]:
        return study(f"corpora/{name}")
    return f"{STUDY['corpora_dir'] or 'resources/corpora'}/{name}"


def folders_of(files):
    """The folders of some files, each once. Of inputs, they are where a remote storage was copied to."""
    return list(dict.fromkeys(map(os.path.dirname, files)))


# Also where no example is of ChangeMyView: the delta judge learns from its pairs.
CMV_CORPORA = [corpus_folder(name) for name in DATA["cmv_corpora"]]
P4G_CORPORA = [corpus_folder(DATA["p4g_corpus"])] if DATA["use_p4g"] else []
CORPORA = CMV_CORPORA + P4G_CORPORA
CORPUS_FILES = [
    f"{folder}/{name}"
    for folder in CORPORA
    for name in ("conversations.json", "utterances.jsonl")
]


BASE_FOLDER = base_folder(STUDY)
BASE_MODEL = [f"{BASE_FOLDER}/{name}" for name in MODEL_FILES]


def trained_models(method=None, unattended=False):
    """The models with an adapter; of one method, or those that need no person."""
    return [
        name
        for name, model in MODELS.items()
        if name != BASE
        and method in (None, model["method"])
        and not (unattended and needs_people(STUDY, name))
    ]


def one_of(names):
    """A wildcard constraint; it matches nothing where there are no names."""
    return "|".join(names) or "(?!)"


def constrained(path, **allowed):
    """A path of an output whose wildcards take these values only, where two rules have like outputs.

    In the path, since Snakemake (9.27) does not heed `wildcard_constraints:` of files in a remote storage.
    """
    for wildcard, names in allowed.items():
        path = path.replace(f"{{{wildcard}}}", f"{{{wildcard},{one_of(names)}}}")
    return path


TRAINED_FILES = {
    "adapter": "adapter_model.safetensors",
    "config": "adapter_config.json",
    "metrics": "metrics.json",
    "history": "history.jsonl",
    "recipe": "recipe.json",
}


def trained_files(method):
    """What a training makes, for the models of a method."""
    models = trained_models(method=method)
    return {
        name: constrained(study(f"models/{{model}}/{file}"), model=models)
        for name, file in TRAINED_FILES.items()
    }


def adapters_of(model):
    """The adapters from the first one above the base to the model's own."""
    return expand(ADAPTER, model=list(lineage(MODELS, model)))


def adapters_above(model):
    """The adapters from the first one above the base to the parent's."""
    return adapters_of(MODELS[model]["parent"])


def recipe_flags(model):
    """A model's recipe as flags."""
    return flags(recipe_of(STUDY, model))


def training_flags(model):
    """What a training is told besides its recipe."""
    return flags(
        {
            **MODEL_SETTINGS,
            "parent": MODELS[model]["parent"],
            "seed": MODELS[model].get("seed", STUDY["seed"]),
        }
    )


OTHERS = STUDY["evaluation"]["other_players"]


def players(unattended=False):
    """The players of the evaluation, in the config's order."""
    return [
        name
        for name in STUDY["evaluation"]["players"]
        if not (unattended and waits_for_people(name))
    ]


def waits_for_people(player):
    """Whether a player's replies need labels that only people can give."""
    model = model_behind(STUDY, player)
    return model is not None and needs_people(STUDY, model)


def players_of(scope):
    """The players of "evaluation" (all) or "unattended" (those that need no person)."""
    return players(unattended=scope == "unattended")


def pairs_of(paths, names):
    """Arguments `name=path`, for flags that take a mapping."""
    return [f"{name}={path}" for name, path in zip(names, paths, strict=True)]


GPU = 0 if STUDY["device"] == "cpu" else 1


def growing(amount):
    """A resource of which a retry gets more, as what ended the job may have been its limit: MB, or a time ("2h")."""
    if isinstance(amount, int):
        return lambda wildcards, attempt: attempt * amount
    return lambda wildcards, attempt: f"{attempt * int(amount[:-1])}{amount[-1]}"


DELTA_ADAPTER = study("judges/delta/adapter_model.safetensors")
JUDGES = STUDY["evaluation"]["judges"]


def delta_judge_for(judges):
    """The files of the delta judge as an input, where it is one of `judges`."""
    names = ("adapter_model.safetensors", "adapter_config.json", "recipe.json")
    return (
        BASE_MODEL + [study(f"judges/delta/{name}") for name in names]
        if "delta" in judges
        else []
    )


def interplay_judge_for(judges):
    """What the judge interplay learns from as an input, where it is one of `judges`."""
    files = ("processed/delta_pairs.jsonl", "splits/sides.csv")
    return [study(file) for file in files] if "interplay" in judges else []


LLM = ["llm"] if uses_llm(STUDY) else []
LLM_ANSWERS = study("state/llm.sqlite")
ASKED = ("provider", "model", "rubric", "max_tokens", "temperature")


def rubric_for(judges):
    """The rubric of the judge llm as an input, where it is one of `judges`."""
    return [local(STUDY["llm"]["rubric"])] if "llm" in judges else []


def judge_flags(judges):
    """What a job that judges is told besides its files; of the judge llm, what is asked."""
    asked = {name: STUDY["llm"][name] for name in ASKED}
    return flags(
        {"device": STUDY["device"], "seed": STUDY["seed"]}
        | ({"llm": json.dumps(asked, sort_keys=True)} if "llm" in judges else {})
    )


def judge_place(wildcards, input):
    """Where the files of judges are that are a rule's inputs; not compared, since the inputs are."""
    places = {}
    if input.delta:
        base, adapter = input.delta[0], input.delta[len(MODEL_FILES)]
        places |= {"base": os.path.dirname(base), "delta_adapter": adapter}
    if input.get("interplay"):
        places |= dict(zip(("delta_pairs", "sides"), input.interplay))
    return flags(places)


def asking(judges):
    """How the judge llm is asked, where it is one of `judges`, and where its answers are kept.

    They are no output: they outlive every clean-up.
    """
    asked = {*ASKED, "honesty_rubric"}
    how = {name: value for name, value in STUDY["llm"].items() if name not in asked}
    how["cache"] = LLM_ANSWERS
    return flags({"asking": json.dumps(how, sort_keys=True)} if "llm" in judges else {})


def reading_flags():
    """What is asked where the language model reads for honesty: the same, by another rubric."""
    asked = {name: STUDY["llm"][name] for name in ASKED} | {
        "rubric": STUDY["llm"]["honesty_rubric"]
    }
    return flags({"llm": json.dumps(asked, sort_keys=True)})


def judging_time(judges, runtime, attempt):
    """How long judging may take: a batch of the judge llm a day, and asking it as long as limits demand. That is the
    most that profiles/slurm/partitions.yaml has; other times grow."""
    return "48h" if "llm" in judges else growing(runtime)(None, attempt)


def labelled_pools(scope):
    """The pools whose labels a scope of the evaluation has."""
    waiting = scope == "unattended" and WAITS_FOR_PEOPLE
    return [pool for pool in POOLS if not (waiting and pool == HUMAN)]


def trusted_judges(scope):
    """The judges whose trust is measured: those that evaluate, that labelled a pool, and the baselines."""
    labelling = {label_judge(pool) for pool in labelled_pools(scope)} - {None}
    return sorted({*JUDGES, *labelling, "delta", "interplay", "length"})


def trust_flags(scope):
    """What the measuring of trust is told."""
    return flags({"judges": trusted_judges(scope), "shared": shared_weights(scope)})


def shared_weights(scope):
    """The players that begin with the weights that a judge begins with: "judge=players"."""
    base = MODELS[BASE]["source"]
    begins = {
        name: base if model_behind(STUDY, name) else OTHERS.get(name, {}).get("source")
        for name in players_of(scope)
    }
    served = {name: other.get("served_model") for name, other in OTHERS.items()}
    llm = STUDY["llm"]["model"]
    found = {
        "delta": [name for name, source in begins.items() if source == base],
        "llm": [
            name
            for name in players_of(scope)
            if llm is not None and llm in (begins.get(name), served.get(name))
        ],
    }
    # Under another name a served model may still be the same one.
    absent = {"delta": "none", "llm": "unknown"}
    return [
        f"{judge}={', '.join(names) or absent[judge]}" for judge, names in found.items()
    ]


def trust_table(scope):
    """How far the judges can be trusted, with the labels that a scope has."""
    return study("judges/trust.csv" if scope == "evaluation" else f"{scope}/trust.csv")


def model_tables(scope):
    """The tables that compare the trained models, and seeds, of a scope."""
    folder = "" if scope == "evaluation" else f"{scope}/"
    return {name: study(f"{folder}{name}.csv") for name in ("models", "seeds")}


def compared_files(scope):
    """What the comparison of the trained models reads."""
    models = reported_models(scope)
    return {
        name: expand(study(f"models/{{model}}/{file}.json"), model=models)
        for name, file in (("metrics", "metrics"), ("recipes", "recipe"))
    }


def comparison_flags(scope):
    """What the comparison is told: the pools of its models, and the common recipes of their methods."""
    models = {name: MODELS[name] for name in reported_models(scope)}
    methods = sorted({model["method"] for model in models.values()})
    return flags(
        {
            "pools": [
                f"{name}={model['pool']}"
                for name, model in models.items()
                if "pool" in model
            ],
            "common": json.dumps(
                {method: STUDY["recipes"][method] for method in methods}, sort_keys=True
            ),
        }
    )


def label_judge(pool):
    """The judge behind the labels of a pool, or None where people label."""
    settings = STUDY["labels"][pool]
    return None if settings.get("source") == "people" else settings["judge"]


def shards(pool):
    """The shards that a pool's responses are gathered from, named by the row where they start."""
    rows = STUDY["pools"][pool]["shard_rows"]
    return [
        study(f"preferences/shards/{pool}_{rows}_{start}.jsonl")
        for start in range(0, pool_sizes(DATA)[pool], rows)
    ]


def hub_flags(folder):
    """What is downloaded into a folder of resources/models."""
    origins = [MODELS[BASE], *(other for other in OTHERS.values() if "source" in other)]
    for origin in origins:
        if os.path.basename(model_folder(origin["source"])) == folder:
            return flags(
                {"source": origin["source"], "revision": origin.get("revision", "main")}
            )
    raise ValueError(f"no model of this study is downloaded to {folder}")


def weights_of(player):
    """The files of the base model of a player; an endpoint has none."""
    if model_behind(STUDY, player):
        return BASE_MODEL
    source = OTHERS[player].get("source")
    return [f"{model_folder(source)}/{name}" for name in MODEL_FILES] if source else []


def adapters_behind(player):
    """The adapters of a player's lineage."""
    model = model_behind(STUDY, player)
    return adapters_of(model) if model else []


def prompts_for(player):
    """The held-out prompts, or what a player is asked instead."""
    if player in OTHERS:
        return study(f"evaluation/prompts/{player}.jsonl")
    return study("preferences/final_eval_prompts.jsonl")


def player_engine(player):
    """The engine of a player, and the name that it knows it by; at another address an endpoint is another player."""
    other = OTHERS.get(player, {})
    if "endpoint" in other:
        model, address = other["served_model"], other["endpoint"]
        return {"engine": "endpoint", "model": model, "base_url": address}
    # A server and its adapters are the study's own.
    own = STUDY["sampling"]["engine"] if model_behind(STUDY, player) else "transformers"
    return {"engine": own, "model": model_behind(STUDY, player) or player}


def player_place(wildcards, input):
    """Where a player's base is, and how fast it draws; not compared."""
    base = {"base": os.path.dirname(input.base[0])} if input.base else {}
    speed = {"batch_size": STUDY["sampling"]["batch_size"]}
    served = "endpoint" not in OTHERS.get(wildcards.player, {})
    return flags(
        base | speed | ({"base_url": STUDY["sampling"]["base_url"]} if served else {})
    )


def asking_flags(player):
    """How a player is asked that wants another format, or a length."""
    other = OTHERS[player]
    own_format = "messages" if "endpoint" in other else other["prompt_format"]
    return flags(
        {
            "study_format": DATA["prompt_format"],
            "player_format": own_format,
            "match_length": other["match_length"],
        }
    )


def asking_places(wildcards, input):
    """Where the tokenizers of the study and of such a player are; not compared, since the inputs are."""
    own = input.base or input.study_base  # an endpoint has none
    bases = {"study_base": input.study_base[0], "player_base": own[0]}
    return flags({name: os.path.dirname(file) for name, file in bases.items()})


def sampling_flags(**more):
    """What is sampled, and with what."""
    names = ("temperature", "top_p", "max_new_tokens", "engine")
    return flags(
        {name: STUDY["sampling"][name] for name in names}
        | MODEL_SETTINGS
        | {"seed": STUDY["seed"]}
        | more
    )


SAMPLING_GPU = 0 if STUDY["sampling"]["engine"] in SERVED else GPU
SAMPLING_ENVIRONMENT = f"../../envs/{'vllm' if STUDY['sampling']['engine'] == 'vllm' else 'persuasion-rl'}.yaml"


def evaluation_tables(scope):
    """The tables of an evaluation: "evaluation", or "unattended" for the players that need no person."""
    names = ["win_rates.csv", "ranking.csv", "comparisons.csv", "power.csv"]
    names += ["behaviour.csv", "honesty.csv", "equal_honesty.csv"]
    if SYNTHETIC:
        names += ["truth.csv", "truth_differences.csv"]
    return [study(f"{scope}/{name}") for name in names]


def player_responses(scope):
    """The responses of the players in a scope of the evaluation."""
    return expand(
        study("evaluation/responses/{player}.jsonl"), player=players_of(scope)
    )


def readings(scope):
    """What the language model read of the players' replies, where it evaluates: player -> file."""
    read = players_of(scope) if "llm" in JUDGES else []
    return {player: study(f"evaluation/readings/{player}.jsonl") for player in read}


def reading_flags_of(wildcards, input):
    """The same as flags, of a rule that has them as inputs."""
    return flags({"readings": pairs_of(input.readings, readings(wildcards.scope))})


def looking_flags(player):
    """What a sampling of a few replies is told; the samples are the evaluation's own."""
    few = {
        "first": STUDY["evaluation"]["num_samples"],
        "to_read": study(f"look/{player}.md"),
    }
    return f"{sampling_flags(**player_engine(player))} {flags(few)}"


MARKERS = [
    local(f"resources/markers/{name}.txt")
    for name in ("boosters", "disrespect", "experience", "figures", "hedges", "sources")
]


def measured(scope):
    """What was measured of the players one by one: kind -> player -> file."""
    there = players_of(scope)
    trained = [player for player in there if player in trained_models(method="dpo")]
    embedded = there if STUDY["evaluation"]["embedding_model"] else []
    kinds = {
        "losses": ("evaluation/losses/{}.json", [p for p in there if p in MODELS]),
        "metrics": ("models/{}/metrics.json", trained),
        "divergences": ("evaluation/divergences/{}.jsonl", trained),
        "similarities": ("evaluation/similarities/{}.jsonl", embedded),
    }
    return {
        kind: {name: study(path.format(name)) for name in names}
        for kind, (path, names) in kinds.items()
    }


def measured_files(wildcards):
    """The same as inputs."""
    return {
        kind: list(files.values()) for kind, files in measured(wildcards.scope).items()
    }


def measured_flags(wildcards, input):
    """The same as flags, of a rule that has them as inputs."""
    kinds = measured(wildcards.scope)
    return flags(
        {kind: pairs_of(getattr(input, kind), names) for kind, names in kinds.items()}
    )


def embedding_files():
    """The files of the embedding model as inputs, where it is a folder."""
    name = STUDY["evaluation"]["embedding_model"]
    named = (
        *MODEL_FILES,
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    )
    files = [f"{name}/{file}" for file in named] if name else []
    # What its modules need, whichever they are.
    further = sorted(map(str, Path(name).glob("[0-9]_*/*"))) if name else []
    return [file for file in [*files, *further] if os.path.isfile(file)]


def comparisons_of(scope):
    """The comparisons that the study declares, as far as a scope has their players."""
    there = players_of(scope)
    declared = [pair.split(":") for pair in declared_comparisons(STUDY)]
    return [
        f"{one}:{other}" for one, other in declared if one in there and other in there
    ]


def seeds_of(players):
    """The models among some players that are another seed of one: "model=first of them". The same training under
    another name is none."""
    made = {
        name: (model["parent"], model.get("seed", STUDY["seed"]))
        for name, model in MODELS.items()
        if name != BASE
    }
    groups = seed_groups(STUDY)
    trainings = {}
    for name in sorted(players, key=lambda name: groups.get(name) != name):
        if name in groups:
            trainings.setdefault((groups[name], seeds_behind(name, made)), name)
    return [
        f"{name}={group}" for (group, _), name in trainings.items() if group != name
    ]


HUMAN_ANSWERS = study("state/human_answers.sqlite")
SIMULATED_ANSWERS = study("preferences/simulated_answers.sqlite")
SIMULATED_PEOPLE = STUDY["labels"][HUMAN]["source"] == "simulated"
ARENA_VOTES = votes_digest(Path(HUMAN_ANSWERS))
GIVING = ("overlap", "several", "repeats")
"""How pairs are given out to annotators."""


def digest_of(path):
    """A digest of a file that need not exist, for a param."""
    return file_digest(path) if os.path.isfile(path) else "none"


def templates(*names):
    """The digests of the templates of a page."""
    folder = Path(workflow.basedir) / "workflow/persuasion_rl/report/templates"
    return [digest_of(str(folder / f"{name}.j2")) for name in names]


SOURCES = [
    source
    for source, used in (("cmv", DATA["use_cmv"]), ("p4g", DATA["use_p4g"]))
    if used
]


def reported_models(scope):
    """The trained models of a report."""
    return trained_models(unattended=scope == "unattended")


def report_inputs(scope):
    """What a report reads."""
    models, pools = reported_models(scope), labelled_pools(scope)
    return {
        "tables": evaluation_tables(scope),
        "verdicts": expand(study(f"{scope}/verdicts/{{judge}}.jsonl"), judge=JUDGES),
        "responses": player_responses(scope),
        "trust": trust_table(scope),
        "judge": [
            study("judges/delta/metrics.json"),
            study("judges/delta/history.jsonl"),
            study("judges/delta/recipe.json"),
        ],
        "prompts": study("preferences/final_eval_prompts.jsonl"),
        **model_tables(scope),
        "histories": expand(study("models/{model}/history.jsonl"), model=models),
        "recipes": expand(study("models/{model}/recipe.json"), model=models),
        "splits": study("splits/summary.json"),
        "counts": [study(f"processed/{source}_counts.json") for source in SOURCES],
        "pools": expand(
            study("preferences/{pool}_{name}"),
            pool=pools,
            name=["pool_counts.json", "pairs.json"],
        ),
        "answers": [study("preferences/human_answers.json")] if HUMAN in pools else [],
        "arena": arena_table(scope),
    }


def arena_table(scope):
    """The ranking by people's votes, once there are some."""
    voted = ARENA_VOTES != "none" and scope == "evaluation"
    return [study("evaluation/arena.csv")] if voted else []


TOKEN_LIMITS = {
    "max_context_tokens": DATA["max_context_tokens"],
    "max_new_tokens": STUDY["sampling"]["max_new_tokens"],
}


def label_settings(pools):
    """What pages are told about the labels of some pools: "none" of those that there are not."""
    ai, human = STUDY["labels"]["ai"], STUDY["labels"][HUMAN]
    return {
        "ai_judge": ai["judge"] if "ai" in pools else "none",
        "ai_noise": ai["noise"],
        "human_source": human["source"] if HUMAN in pools else "none",
        "human_judge": human["judge"],
    }


def report_flags(scope):
    """What a report is told about the study."""
    return flags(
        {
            "study_folder": "" if scope == "evaluation" else "../",
            "config_file": started_from(),
            "seed": STUDY["seed"],
            "folder": f"results/{NAME}",
            "trust": trust_table(scope),
            **{f"{name}_table": path for name, path in model_tables(scope).items()},
            "scope": scope,
            "study": NAME,
            "players": players_of(scope),
            "models": reported_models(scope),
            "pending": [
                name for name in trained_models() if name not in reported_models(scope)
            ],
            "pools": labelled_pools(scope),
            "sources": SOURCES,
            "base_source": MODELS[BASE]["source"],
            "synthetic": SYNTHETIC,
            **TOKEN_LIMITS,
            **label_settings(labelled_pools(scope)),
            "sample_replies": STUDY["evaluation"]["sample_replies"],
            "draws": STUDY["evaluation"]["bootstrap"],
            "arena": arena_table(scope),
        }
    )


def started_from():
    """The configuration file that the study is run with, as it is seen from here; of one elsewhere the name."""
    file, here = CONFIG_FILE.absolute(), Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else file.name


def card_inputs(scope):
    """What a model card reads."""
    return {
        "metrics": study("models/{model}/metrics.json"),
        "recipe": study("models/{model}/recipe.json"),
        "trust": trust_table(scope),
        "splits": study("splits/summary.json"),
        **{
            name: study(f"{scope}/{name}.csv")
            for name in ("comparisons", "behaviour", "honesty")
        },
    }


def card_flags(model):
    """What a model card is told about a model: the labels of its whole lineage, in their order."""
    pools = [
        MODELS[name]["pool"]
        for name in lineage(MODELS, model)
        if MODELS[name].get("pool")
    ]
    told = label_settings(pools)
    words = {
        "ai": f"AI labels by the judge {told['ai_judge']}",
        HUMAN: (
            "people's labels"
            if told["human_source"] == "people"
            else "simulated annotators, no person"
        ),
    }
    return flags(
        {
            "model": model,
            "study": NAME,
            "base_source": MODELS[BASE]["source"],
            "synthetic": SYNTHETIC,
            **TOKEN_LIMITS,
            "sources": SOURCES,
            "labels": ", then ".join(words[pool] for pool in pools) or "none",
            **told,
        }
    )


def publish_flags(model):
    """Where a model goes on the Hub."""
    return flags(
        {
            "base_source": MODELS[BASE]["source"],
            "namespace": STUDY["publish"]["namespace"] or "",
            "name": f"{NAME}-{model}",
            "private": STUDY["publish"]["private"],
        }
    )


def base_of(wildcards, input):
    """The folder of the base model among a rule's inputs."""
    return os.path.dirname(input.base[0])


def downloads(wildcards, input):
    """How long to wait for a download, and how often to try; not compared."""
    return flags(STUDY["downloads"])


def parts_of(models):
    """What lies beside the adapters of these models and is read with them."""
    return expand(
        study("models/{model}/{name}"),
        model=models,
        name=["adapter_config.json", "recipe.json"],
    )


def tracking(wildcards, input):
    """Where a training reports to. With `input`, a param is not compared: this makes nothing stale."""
    name = getattr(wildcards, "model", "judges.delta")
    settings = {
        **STUDY["wandb"],
        "name": MODELS.get(name, {}).get("run_name") or f"{NAME}-{name}",
        "folder": study("wandb"),
    }
    return flags({"tracking": [f"{key}={value}" for key, value in settings.items()]})


def refuse_without_gpu(jobs):
    """End with one line where the study needs a GPU for some of these jobs, and none is here."""
    if STUDY["device"] != "cuda":
        return
    rules = sorted({job.rule.name for job in jobs if job.resources.get("gpu", 0)})
    if rules and not visible_devices():
        sys.exit(
            f"error: {', '.join(rules)}: need a GPU (device: cuda), and this machine has none; use"
            " `snakemake --profile aws-gpu` on a machine with one, or `--config device=cpu` here"
        )


def rules_that_ask(jobs):
    """The rules among some jobs that ask the judge llm."""
    asking_jobs = (job for job in jobs if job.rule.params.get("asking"))
    return sorted({job.rule.name for job in asking_jobs if job.params.asking})


def refuse_to_lose_answers(jobs, storage):
    """End with one line where some of these jobs ask the judge llm, away from the folder that keeps its answers."""
    rules = rules_that_ask(jobs)
    if rules and SharedFSUsage.INPUT_OUTPUT not in storage.shared_fs_usage:
        sys.exit(
            f"error: the judge llm keeps its paid answers in {study('state/')}, which these jobs do not share:"
            f" {', '.join(rules)}; make what they make where snakemake runs, or take the judge delta"
        )


def refuse_without_key(jobs):
    """End with one line where some of these jobs ask the judge llm, and the key is missing or is none.

    Where answers are kept, the jobs may have nothing to ask: then it is a warning.
    """
    rules = rules_that_ask(jobs)
    if not rules:
        return
    try:
        key_for(STUDY["llm"]["provider"], STUDY["llm"]["base_url"], ", ".join(rules))
    except UserError as error:
        if not os.path.exists(LLM_ANSWERS):
            sys.exit(f"error: {error}")
        print(
            f"warning: {error}, unless all is answered in {LLM_ANSWERS}",
            file=sys.stderr,
        )


def launcher(wildcards, input, resources):
    """How a training starts: one process a GPU. How many there are is not compared either."""
    if resources.gpu < 2:
        return "python -m"
    return (
        f"python -m persuasion_rl.runtime.leases {resources.gpu}"
        f" accelerate launch --multi_gpu --num_processes {resources.gpu} --num_machines 1"
        " --mixed_precision no --dynamo_backend no --main_process_port 0 --module"
    )


def sampling_speed(wildcards, input):
    """How samples are drawn, which leaves them as they are; not compared either."""
    return flags({name: STUDY["sampling"][name] for name in ("batch_size", "base_url")})
