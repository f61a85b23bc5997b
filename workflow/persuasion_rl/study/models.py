"""What a study is made of: settings, corpora, the base model, the lineage of models, the pools that they learn from."""

import fnmatch
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError, read_json, write_json
from persuasion_rl.runtime.machine import cores
from persuasion_rl.study.config import Config
from persuasion_rl.study.flags import flags
from persuasion_rl.study.names import BASE, HUMAN, TRAINED_FILES
from persuasion_rl.study.origins import StudyOrigins
from persuasion_rl.study.parsing import keys_of_file
from persuasion_rl.study.plan_checks import longest_prompt
from persuasion_rl.study.recipes import Model
from persuasion_rl.study.rules import one_of

POOLS = ("ai", HUMAN)
MOST_THREADS = 4
"""CPU threads of a training where the study says nothing; more gain little."""


class StudyModels(StudyOrigins):
    """The part of a `Study` that knows what it is made of: corpora, the base, models and their lineage, pools.

    Args:
        config: the complete configuration.
        file: the configuration file that it was read from.
    """

    def __init__(self, config: Config, file: Path = Path("config/config.yaml")):
        self.config, self.file = config, file
        self.name = config.study
        self.models: dict[str, Model] = config.models
        self.synthetic = config.world is not None
        self.gpu = 0 if config.device == "cpu" else 1

    # Paths and settings

    def path(self, name: str) -> str:
        """A path of this study."""
        return f"results/{self.name}/{name}"

    def setting(self, key: str) -> Any:
        """The value of a dotted key of the configuration.

        Raises:
            KeyError: there is no such key.
        """
        value: Any = self.config
        for part in key.split("."):
            if isinstance(value, Mapping):
                value = value[part]
            elif part in getattr(type(value), "model_fields", {}):
                value = getattr(value, part)
            else:
                raise KeyError(f"the configuration has no key {key}")
        return value

    def flags(self, *keys: str, **renamed: str) -> str:
        """Settings by their dotted keys as flags, each under the last part of its key.

        Args:
            keys: as "data.max_tokens"; "data.split.*" is all keys of a section.
            renamed: another name of a flag -> its key.
        """
        settings = {name: self.setting(key) for name, key in renamed.items()}
        for key in keys:
            section, _, last = key.rpartition(".")
            if "*" in last:
                fields = type(self.setting(section)).model_fields
                for name in fnmatch.filter(fields, last):
                    settings[name] = self.setting(f"{section}.{name}")
            else:
                settings[last] = self.setting(key)
        return flags(settings)

    # Corpora, the base model, the data

    @property
    def cmv_corpora(self) -> list[str]:
        """The folders of the ChangeMyView corpora. Read in every study: the delta judge learns from their pairs."""
        return [self._corpus(name) for name in self.config.data.cmv_corpora]

    @property
    def p4g_corpora(self) -> list[str]:
        """The folder of PersuasionForGood, where the study uses it."""
        data = self.config.data
        return [self._corpus(data.p4g_corpus)] if data.use_p4g else []

    def _corpus(self, name: str) -> str:
        if self.synthetic and name in self.config.data.cmv_corpora:
            return self.path(f"corpora/{name}")
        return os.path.normpath(f"{self.config.corpora_dir or 'resources/corpora'}/{name}")

    @property
    def corpora_names(self) -> list[str]:
        """The names of the corpora that can be downloaded for the study."""
        data = self.config.data
        return [*([] if self.synthetic else data.cmv_corpora), data.p4g_corpus]

    def corpus_files(self, *names: str) -> list[str]:
        """These files of every corpus of the study."""
        folders = [*self.cmv_corpora, *self.p4g_corpora]
        return [f"{folder}/{name}" for folder in folders for name in names]

    @property
    def prompt_room(self) -> str:
        """The longest prompt that leaves room for every reply, as a flag."""
        return flags({"max_prompt_tokens": longest_prompt(self.config)})

    @property
    def sources(self) -> list[str]:
        """The sources of examples that the study uses."""
        data = self.config.data
        return [name for name, used in (("cmv", data.use_cmv), ("p4g", data.use_p4g)) if used]

    def examples(self, scope: str = "evaluation") -> dict[str, str]:
        """Source -> its examples; of every scope."""
        return {name: self.path(f"processed/{name}_examples.jsonl") for name in self.sources}

    def example_counts(self, scope: str = "evaluation") -> dict[str, str]:
        """Source -> the counts of its examples; of every scope."""
        return {name: self.path(f"processed/{name}_counts.json") for name in self.sources}

    def training_rows(self) -> dict[str, str]:
        """Name of rows that models learn from -> their file."""
        pools = {
            f"{pool}_{part}": self.path(f"preferences/{pool}_{part}.jsonl")
            for pool in POOLS
            for part in ("train", "val")
        }
        sides = {f"sft_{side}": self.path(f"splits/sft_{side}.jsonl") for side in ("train", "val")}
        return sides | {"delta_pairs": self.path("processed/delta_pairs.jsonl")} | pools

    def tokens(self, rows: str) -> str:
        """The token ids of some rows, which all models that learn from them share."""
        return self.path(f"tokens/{rows}.parquet")

    # The lineage

    def trained(self, method: str | None = None, scope: str = "evaluation") -> list[str]:
        """The models with an adapter: of one method, of a scope."""
        return [
            name
            for name, model in self.models.items()
            if name != BASE
            and method in (None, model.method)
            and not (scope == "unattended" and self.needs_people(name))
        ]

    def needs_people(self, model: str) -> bool:
        """Whether a model's lineage has labels that only people can give."""
        by_people = self.config.labels.human.source == "people"
        return by_people and HUMAN in self.config.pools_behind(model)

    @property
    def waits_for_people(self) -> bool:
        """Whether a model needs labels that only people can give."""
        return any(map(self.needs_people, self.models))

    def pending(self, scope: str) -> list[str]:
        """The trained models that a scope lacks."""
        return [name for name in self.trained() if name not in self.trained(scope=scope)]

    def model_file(self, model: str, name: str) -> str:
        return self.path(f"models/{model}/{name}")

    def model_files(self, models: Iterable[str], name: str) -> dict[str, str]:
        """Model -> its file of this name."""
        return {model: self.model_file(model, name) for model in models}

    def trained_files(self, method: str) -> dict[str, str]:
        """What a training makes, with the wildcard {model} for the models of a method."""
        names = one_of(self.trained(method))
        return {
            name: self.path(f"models/{{model,{names}}}/{file}")
            for name, file in TRAINED_FILES.items()
        }

    def models_adapters(self, method: str) -> list[str]:
        """The adapters of all models of a method."""
        return list(self.model_files(self.trained(method), TRAINED_FILES["adapter"]).values())

    def adapters(self, model: str | None) -> list[str]:
        """The adapters from the first one above the base to the model's own; None is no model of the study."""
        return [self.model_file(name, TRAINED_FILES["adapter"]) for name in self._above(model)]

    def adapter_parts(self, model: str | None) -> list[str]:
        """What lies beside these adapters and is read with them."""
        return [
            self.model_file(name, TRAINED_FILES[part])
            for name in self._above(model)
            for part in ("config", "recipe")
        ]

    def _above(self, model: str | None) -> list[str]:
        return [] if model is None else list(self.config.lineage(model))

    def recipe(self, model: str) -> dict[str, Any]:
        """The recipe of a model's method with the model's own changes."""
        return self.config.recipe_of(model)

    def seed(self, model: str) -> int:
        """The seed of a model's training."""
        own = self.models[model].seed
        return self.config.seed if own is None else own

    @cached_property
    def like_models(self) -> dict[str, str]:
        """Model -> the first model that differs from it in nothing but seeds, its own or those above it."""
        like: dict[str, str] = {BASE: BASE}
        first: dict[str, str] = {}
        for name in self.models:
            for model in self._above(name):
                if model not in like:
                    own = self.models[model]
                    parts = [own.method, own.pool, self.recipe(model), like[own.parent]]
                    like[model] = first.setdefault(json.dumps(parts, sort_keys=True), model)
        return {name: like[name] for name in self.models}

    def seeds_behind(self, model: str) -> tuple[int, ...]:
        """The seeds of the trainings from the first one above the base to a model's own."""
        return tuple(self.seed(name) for name in self._above(model))

    def seed_groups(self, names: list[str]) -> dict[str, str]:
        """Of models and players: name -> the first model that it differs from in nothing but seeds.

        That first model and what stands alone have none, and neither has the same training under another name: it is no
        other seed.
        """
        like = self.like_models
        models = [name for name in names if name in like]
        trainings: dict[tuple, str] = {}
        for name in sorted(models, key=lambda name: like[name] != name):
            trainings.setdefault((like[name], self.seeds_behind(name)), name)
        return {name: group for (group, _), name in trainings.items() if group != name}

    def parent(self, model: str) -> str:
        """The model that a training starts from."""
        return self.models[model].parent

    def training_flags(self, model: str) -> str:
        """What a training is told besides its recipe."""
        return self.job_flags(parent=self.parent(model), seed=self.seed(model))

    def job_flags(self, **more: Any) -> str:
        """What every training is told besides its data and its recipe; `more` is its own."""
        return flags(self.model_settings | {"threads": self.threads} | more)

    @property
    def threads_file(self) -> Path:
        """Where the number of threads is kept that the study trains with, so that another machine goes on with it."""
        return Path(self.path("state/threads.json"))

    @cached_property
    def threads(self) -> int:
        """CPU threads of a training: the study's, or those that it began with, or the machine's cores, at most 4.

        Never what Snakemake scales down to --cores: another number gives other last bits.
        """
        if self.config.threads is not None:
            return self.config.threads
        for file in (self.threads_file, Path(self.path("config.yaml"))):
            with suppress(UserError):
                if isinstance(kept := keys_of_file(file).get("threads"), int):
                    return kept
        return min(MOST_THREADS, cores())

    def recorded_settings(self) -> dict[str, Any]:
        """The complete configuration, with the number of threads that was used: another machine repeats the study with it."""
        return self.config.resolved() | {"threads": self.threads}

    def keep_threads(self) -> None:
        """Write down the number of threads, before the first job of a run.

        Raises:
            UserError: the study's folder cannot be written.
        """
        kept = {"threads": self.threads}
        try:
            if not self.threads_file.is_file() or read_json(self.threads_file) != kept:
                write_json(self.threads_file, kept)
        except OSError as error:
            raise UserError(
                f"{self.threads_file}: cannot be written ({error.strerror}); a run needs room and a folder that it may write to"
            ) from None

    @property
    def model_settings(self) -> dict[str, Any]:
        """What every job with a model is told."""
        config = self.config
        return {"device": config.device, "trust_remote_code": config.trust_remote_code}

    def learned_rows(self, model: str, part: str) -> str:
        """The name of the rows of a pool that a model learns from: "train" or "val"."""
        return f"{self.models[model].pool}_{part}"

    # Pools

    def responding_model(self, pool: str) -> str:
        """The model whose responses a pool compares."""
        return self.config.pools[pool].responses_from

    def split_sizes(self) -> dict[str, int]:
        """The planned number of rows of each side."""
        data = self.config.data
        return {side: round(data.max_examples * share) for side, share in data.split.items()}

    def pool_sizes(self) -> dict[str, int]:
        """The planned number of prompts of each pool; an AI pool without a size is what the others leave."""
        data, sides = self.config.data, self.split_sizes()
        rest = sides["test"] - data.human_pool_size - data.final_eval_size
        rest += sides["val"] if data.use_val_set else 0
        return {"ai": data.ai_pool_size or rest, HUMAN: data.human_pool_size}

    @cached_property
    def learned_pools(self) -> list[str]:
        """The pools that a model learns from."""
        return [p for p in POOLS if any(model.pool == p for model in self.models.values())]

    def pools(self, scope: str) -> list[str]:
        """The pools whose labels a scope has."""
        waiting = scope == "unattended" and self.waits_for_people
        return [pool for pool in self.learned_pools if not (waiting and pool == HUMAN)]

    def labels(self, scope: str) -> dict[str, str]:
        """Pool -> its labels."""
        return self.pool_files(scope, "pool_labels.jsonl")

    def pool_files(self, scope: str, name: str) -> dict[str, str]:
        """Pool -> its file of this name, of the pools of a scope."""
        return {pool: self.path(f"preferences/{pool}_{name}") for pool in self.pools(scope)}

    def shards(self, pool: str) -> list[str]:
        """The shards that a pool's responses are gathered from, named by the row where they start."""
        rows = self.config.pools[pool].shard_rows
        return [
            self.path(f"preferences/shards/{pool}_{rows}_{start}.jsonl")
            for start in range(0, self.pool_sizes()[pool], rows)
        ]

    def label_judge(self, pool: str) -> str | None:
        """The judge behind the labels of a pool, or None where people label."""
        labels = self.config.labels
        if pool == HUMAN and labels.human.source == "people":
            return None
        return getattr(labels, pool).judge
