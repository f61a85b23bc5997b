"""Checks that need the whole configuration: that the plan adds up, the lineage has no cycle, trainers heed the recipes.

Every mistake is one line: the key, the value, what is allowed.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from persuasion_rl.files import UserError
from persuasion_rl.study.config import Config, World
from persuasion_rl.study.judging import OtherPlayer
from persuasion_rl.study.names import BASE, CORPUS_FILES, HUMAN, kind_of, own_file
from persuasion_rl.study.parsing import shortened
from persuasion_rl.study.plan_checks import ai_room, check_lengths, check_plan
from persuasion_rl.study.recipe_checks import check_recipes
from persuasion_rl.study.recipes import Model
from persuasion_rl.study.section import MOST_ROWS, key_path
from persuasion_rl.study.source_checks import check_encoder, check_language_model, check_revisions

LOOKS_LIKE_A_KEY = re.compile(
    r"\bsk-[\w-]{8,}|://[^/]*@|[?&][\w.-]*(key|token(?!s)|secret|password)[\w.-]*=", re.IGNORECASE
)
MOST_SHARDS = 2_000
"""The most jobs that answer a pool's prompts; planning more takes Snakemake minutes."""


def check_config(config: Config) -> None:
    """UserError where the parts of a configuration do not fit each other, or a file that it names is missing."""
    check_lineage(config)
    _check_base_source(config.models[BASE])
    check_plan(config.data)
    _check_world(config.world)
    check_recipes(config)
    check_lengths(config)
    _check_sampling(config)
    _check_pools(config)
    _check_judges(config)
    _check_labelling(config)
    _check_players(config)
    check_revisions(config)
    _check_llm(config)
    check_encoder(config)
    _check_standin(config)
    _check_corpora(config)


def _check_world(world: World | None) -> None:
    if world is not None and world.threads * world.replies > MOST_ROWS:
        raise UserError(
            f"world.threads: {world.threads:,} with {world.replies:,} replies each are more than"
            f" {MOST_ROWS:,} comments; write fewer"
        )


def check_lineage(config: Config) -> None:
    """UserError where a model does not descend from the base model by trainings."""
    models = config.models
    source = models[BASE].source if BASE in models else None
    if source is None:
        raise UserError(
            f"models.{BASE}: needs a source (a Hub model, a local folder or GGUF file, a package, or standin)"
        )
    _check_base(models[BASE])
    if models[BASE].revision is not None and kind_of(source) != "hub":
        raise UserError(
            f"models.{BASE}.revision: only a Hub model has a revision, and {source!r} is none; leave it out (null where"
            " it is inherited)"
        )
    for name, model in models.items():
        if name == BASE:
            continue
        key = f"models.{name}"
        for part in ("source", "revision"):
            if getattr(model, part) is not None:
                raise UserError(
                    f"{key}.{part}: only {BASE} has a {part}; a model is its parent, trained on"
                )
        if model.parent is None or model.method is None:
            raise UserError(f"{key}: needs a parent and a method")
        if model.parent not in models:
            raise UserError(
                f"{key}.parent: unknown model {model.parent!r}; there are {', '.join(models)}"
            )
        if model.method == "dpo" and model.pool is None:
            raise UserError(f"{key}.pool: a dpo model needs a pool (ai or human)")
        if model.method == "sft" and model.pool is not None:
            raise UserError(
                f"{key}.pool: an sft model learns from replies, not from a pool; use method: dpo, or leave pool out"
                " (pool: null where it is inherited)"
            )
        if model.method == "dpo" and model.parent == BASE:
            raise UserError(f"{key}.parent: dpo continues an adapter, and {BASE} has none")
    for name in models:
        above, parent = [name], models[name].parent
        while parent is not None:
            if parent in above:
                raise UserError(f"models.{name}.parent: a cycle, {' -> '.join([*above, parent])}")
            above.append(parent)
            parent = models[parent].parent


def _check_base(base: Model) -> None:
    """Refuse keys that mean nothing for a model that is not trained here."""
    for name, _ in base.items():
        if name not in ("source", "revision"):
            raise UserError(
                f"models.{BASE}.{name}: {BASE} is not trained here; only a model with a parent has a {name}"
            )


def _check_base_source(base: Model) -> None:
    if base.source != "standin":
        check_language_model(f"models.{BASE}.source", base.source)


def _check_sampling(config: Config) -> None:
    sampling = config.sampling
    if (sampling.engine == "openai") != (sampling.base_url is not None):
        raise UserError(
            "sampling.base_url: the engine openai, and no other, needs the address of its server"
            " (http://127.0.0.1:8000/v1)"
        )
    if sampling.engine == "vllm" and config.device == "cpu":
        raise UserError(
            "sampling.engine: vllm needs a GPU, and device is cpu: take transformers, or device: auto"
        )


def _check_pools(config: Config) -> None:
    for name, pool in config.pools.items():
        key, source = f"pools.{name}.responses_from", pool.responses_from
        if source not in config.models:
            raise UserError(
                f"{key}: unknown model {source!r}; there are {', '.join(config.models)}"
            )
        if name in config.pools_behind(source):
            raise UserError(f"{key}: a cycle, {source!r} learns from this pool")
        data = config.data
        size = data.human_pool_size if name == HUMAN else data.ai_pool_size or ai_room(data)
        if size > MOST_SHARDS * pool.shard_rows:
            raise UserError(
                f"pools.{name}.shard_rows: {pool.shard_rows:,} prompts a job are more than {MOST_SHARDS:,} jobs for the"
                f" pool's {size:,}; write at least {-(-size // MOST_SHARDS)}"
            )
    labels, size = config.labels.human, config.data.human_pool_size
    # The default of `several` is more than one annotator can give, and does no harm.
    if labels.source == "simulated" and labels.several > max(labels.annotators, 2):
        raise UserError(
            f"labels.human.several: {labels.several} annotators a pair, and labels.human.annotators is"
            f" {labels.annotators}; write as many"
        )
    if labels.source == "people" and labels.min_labels > size:
        raise UserError(
            f"labels.human.min_labels: {labels.min_labels} is more than data.human_pool_size {size}"
        )


def _check_judges(config: Config) -> None:
    labels = config.labels
    judges = {"evaluation.judges": config.evaluation.judges, "labels.ai.judge": [labels.ai.judge]}
    if labels.human.source == "simulated":
        judges["labels.human.judge"] = [labels.human.judge]
    for key, names in judges.items():
        if "truth" in names and config.world is None:
            raise UserError(f"{key}: truth is known only in a synthetic world (world:)")


def _check_labelling(config: Config) -> None:
    """A judge favours models that learned from its labels, so at least one of evaluation.judges must label nothing."""
    labels, pools = config.labels, {model.pool for model in config.models.values()}
    labelling = {labels.ai.judge} if "ai" in pools else set()
    if HUMAN in pools and labels.human.source == "simulated":
        labelling.add(labels.human.judge)
    if labelling >= {*config.evaluation.judges}:
        raise UserError(
            f"evaluation.judges: models learn from labels of every one of them ({', '.join(sorted(labelling))}); add one"
            " that labels nothing: length and interplay cost nothing"
        )


def _check_players(config: Config) -> None:
    evaluation = config.evaluation
    compared: set[frozenset[str]] = set()
    for comparison in evaluation.comparisons or ():
        sides = frozenset(comparison.split(":"))
        if sides - {*evaluation.players} or len(sides) < 2:
            raise UserError(
                f"evaluation.comparisons: {comparison!r} is not PLAYER:AGAINST of"
                f" {', '.join(evaluation.players)}"
            )
        if sides in compared:
            raise UserError(
                f"evaluation.comparisons: {comparison!r} stands there in the other order already; it would count twice"
            )
        compared.add(sides)
    for name, other in evaluation.other_players.items():
        _check_other_player(name, other, config)
    players = [*config.models, *evaluation.other_players, HUMAN]
    for player in evaluation.players:
        if player not in players:
            raise UserError(
                f"evaluation.players: unknown player {player!r}; there are {', '.join(players)}"
            )


def _check_other_player(name: str, other: OtherPlayer, config: Config) -> None:
    key = key_path("evaluation", "other_players", name)
    if name in (HUMAN, *config.models):
        raise UserError(f"{key}: there is a player of that name already")
    if [other.model, other.source, other.endpoint].count(None) != 2:
        raise UserError(f"{key}: needs one of model, source and endpoint")
    if other.model is not None and other.model not in config.models:
        raise UserError(
            f"{key}.model: unknown model {other.model!r}; there are {', '.join(config.models)}"
        )
    if other.source == "standin":
        raise UserError(f"{key}.source: only models.{BASE} can be a standin; use model: {BASE}")
    if other.source is not None:
        check_language_model(f"{key}.source", other.source)
    if other.revision != "main" and (other.source is None or kind_of(other.source) != "hub"):
        raise UserError(
            f"{key}.revision: only a Hub model has a revision, and this is none; leave it out"
            " (null where it is inherited)"
        )
    if (other.endpoint is None) != (other.served_model is None):
        raise UserError(f"{key}: endpoint and served_model go together")
    if other.endpoint is not None and LOOKS_LIKE_A_KEY.search(other.endpoint):
        raise UserError(f"{key}.endpoint: looks like a key; keys come from the environment only")


def _check_llm(config: Config) -> None:
    """Check what the judge llm needs, where a job of the study asks it."""
    llm = config.llm
    if "llm" not in (config.labels.ai.judge, *config.evaluation.judges):
        return
    if llm.model is None:
        raise UserError("llm.model: the judge llm needs a model")
    for name in ("rubric", "honesty_rubric"):
        file = own_file(getattr(llm, name))
        # The project's own rubrics are in its checkout; without one only the doctor reads a study.
        elsewhere = file == getattr(type(llm)(), name) and not os.path.isfile("Snakefile")
        if not elsewhere:
            check_text_file(f"llm.{name}", file)
    if llm.max_cost_usd is not None and llm.prices is None:
        raise UserError(
            f"llm.prices: max_cost_usd needs what {llm.model} costs a million tokens; write"
            " prices: {input: USD, output: USD}"
        )
    if llm.batch and llm.requests_per_minute is not None:
        raise UserError("llm.requests_per_minute: a batch is one request; leave it out with batch")


def check_text_file(key: str, file: str) -> None:
    """UserError where a file that a key names is not there, is empty, or is no text in UTF-8."""
    if not os.path.isfile(file):
        raise UserError(f"{key}: there is no file {file!r}")
    try:
        text = Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{key}: {file}, line {line}: not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{key}: {file} cannot be read ({error.strerror})") from None
    if not text.strip():
        raise UserError(f"{key}: {file} is empty")


def _check_standin(config: Config) -> None:
    """Check the widths of the stand-in's attention, where the study has one."""
    standin = config.standin
    heads, width = standin.num_attention_heads, standin.hidden_size
    if config.models[BASE].source != "standin":
        return
    if heads % 2:
        raise UserError(
            f"standin.num_attention_heads: {heads} must be even; half as many have keys and values"
        )
    if width // heads < 2 or (width // heads) % 2:
        raise UserError(
            f"standin.hidden_size: {width} gives each of the {heads} heads a width of {width // heads}, which must be"
            " even and at least 2"
        )


def _check_corpora(config: Config) -> None:
    """Corpora that are named by a local folder must be there, and be read."""
    data, folder = config.data, config.corpora_dir
    if folder and config.world is not None and not data.use_p4g:
        raise UserError(
            "corpora_dir: the study makes its own ChangeMyView (world:), so no corpus of this folder would be read; write"
            " `world: null` to study yours, or leave corpora_dir out"
        )
    names = data.cmv_corpora if config.world is None else []
    for name in names + ([data.p4g_corpus] if data.use_p4g else []):
        if not folder:
            continue
        corpus = os.path.normpath(os.path.join(folder, name))
        if not os.path.isdir(corpus):
            inside = os.path.isfile(os.path.join(folder, CORPUS_FILES[0]))
            hint = (
                "; it is itself a corpus: name the folder above it, and it in data.cmv_corpora"
                if inside
                else ""
            )
            raise UserError(
                f"corpora_dir: there is no folder {name!r} in {shortened(folder)}{hint}"
            )
        for file in CORPUS_FILES:
            if not os.path.isfile(os.path.join(corpus, file)):
                raise UserError(
                    f"corpora_dir: {corpus} has no {file}: a corpus in ConvoKit's format has"
                    f" {' and '.join(CORPUS_FILES)}"
                )


def check_publication(namespace: str, base_source: str, names: Iterable[str]) -> None:
    """UserError where adapters on this base model cannot go to the Hub, or no namespace is set.

    Args:
        names: the repositories' names within the namespace; the Hub must accept them.
    """
    _check_namespace(namespace)
    if kind_of(base_source) != "hub":
        raise UserError(
            f"publish: an adapter on {base_source!r} (models.{BASE}.source) is of no use to others: that base model is"
            " not on the Hub; leave out the target publish"
        )
    check_repositories(namespace, names)


def _check_namespace(namespace: str) -> None:
    if not namespace:
        raise UserError(
            "publish.namespace: write the user or organisation of the Hub to publish under"
        )


def check_repositories(namespace: str, names: Iterable[str]) -> None:
    """UserError where no namespace is set, or the Hub accepts no repository of one of these names in it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    _check_namespace(namespace)
    for name in names:
        try:
            validate_repo_id(f"{namespace}/{name}")
        except HFValidationError as error:
            raise UserError(
                f"publish: the Hub takes no repository {namespace}/{name} (publish.namespace/study-MODEL):"
                f" {' '.join(str(error).split())}"
            ) from None
