"""What a study consists of: its models, players, pools and judges, and the file of each. The Snakefile asks it.

All of it follows from the configuration. Besides that only names of files are read: of local models' folders, and the
studies' files in config/. Nothing is written.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.records import SIDES
from persuasion_rl.settings import as_words
from persuasion_rl.study.comparison import StudyComparison
from persuasion_rl.study.flags import flags
from persuasion_rl.study.loading import load_config
from persuasion_rl.study.names import (
    BASE,
    DATASET,
    GENERATION,
    HUMAN,
    TRAINED_FILES,
    WEIGHTS,
    dataset_file,
)
from persuasion_rl.study.plan_checks import longest_prompt
from persuasion_rl.study.recorded import file_of_study, from_here
from persuasion_rl.study.rules import branch_of


class Study(StudyComparison):
    """A study: its models (`StudyModels`), how they are compared (`StudyComparison`), and its pages.

    Args:
        config: the complete configuration.
        file: the configuration file that it was read from.
    """

    @classmethod
    def read(cls, settings: dict[str, Any], file: Path) -> "Study":
        """A study from what Snakemake read of its configuration file and of --config.

        Raises:
            UserError: the configuration is none.
        """
        return cls(load_config(settings, file), file)

    # Pages

    def metrics(self, scope: str) -> dict[str, str]:
        """Trained model -> the metrics of its training."""
        return self.model_files(self.trained(scope=scope), TRAINED_FILES["metrics"])

    def recipes(self, scope: str) -> dict[str, str]:
        """Trained model -> how it was made."""
        return self.model_files(self.trained(scope=scope), TRAINED_FILES["recipe"])

    def histories(self, scope: str) -> dict[str, str]:
        """Trained model -> the logged steps of its training."""
        return self.model_files(self.trained(scope=scope), TRAINED_FILES["history"])

    def tables(self, scope: str) -> dict[str, str]:
        """Name of a table of the evaluation -> its file."""
        names = ["win_rates", "ranking", "comparisons", "power"]
        names += ["behaviour", "honesty", "equal_honesty"]
        if self.synthetic:
            names += ["truth", "truth_differences"]
        return {name: self.path(f"{scope}/{name}.csv") for name in names}

    def trust_table(self, scope: str) -> str:
        """How far the judges can be trusted, with the labels that a scope has."""
        return self.path("judges/trust.csv" if scope == "evaluation" else f"{scope}/trust.csv")

    def model_tables(self, scope: str) -> dict[str, str]:
        """The tables that compare the trained models, and their seeds."""
        return {name: self.path(f"{branch_of(scope)}{name}.csv") for name in ("models", "seeds")}

    def comparison(self, scope: str) -> dict[str, Any]:
        """What the comparison of the trained models is told: pools and groups of models, the common recipes of methods."""
        models = {name: self.models[name] for name in self.trained(scope=scope)}
        methods = sorted({model.method for model in models.values()})
        recipes = {method: getattr(self.config.recipes, method).settings() for method in methods}
        return {
            "pools": {name: model.pool for name, model in models.items() if model.pool},
            "groups": self.seed_groups(list(models)),
            "common": as_words(recipes),
        }

    def report_files(self, scope: str, voted: bool = False) -> dict[str, str | dict[str, str]]:
        """What the report is made from: the name of an input, and of a flag -> a file, or files by their names.

        Args:
            voted: whether people have voted in the arena, whose ranking is then a part.
        """
        delta = self.delta_judge()
        files: dict[str, str | dict[str, str]] = {
            "tables": self.tables(scope),
            "verdicts": self.verdicts(scope),
            "responses": self.responses(scope),
            "trust": self.trust_table(scope),
            "delta_judge": {name: delta[name] for name in ("metrics", "history", "recipe")},
            "prompts": self.path("preferences/final_eval_prompts.jsonl"),
            **{f"{name}_table": path for name, path in self.model_tables(scope).items()},
            "histories": self.histories(scope),
            "recipes": self.recipes(scope),
            "splits": self.path("splits/summary.json"),
            "counts": self.example_counts(),
            "pool_counts": self.pool_files(scope, "pool_counts.json"),
            "pool_pairs": self.pool_files(scope, "pairs.json"),
        }
        if HUMAN in self.pools(scope):
            files["answers"] = self.path("preferences/human_answers.json")
        if voted and scope == "evaluation":
            files["arena"] = self.path("evaluation/arena.csv")
        return files

    def report_settings(self, scope: str) -> dict[str, Any]:
        """What the report says about the study besides its files."""
        return {
            "study_folder": "" if scope == "evaluation" else "../",
            "config_file": self.started_from(),
            "seed": self.config.seed,
            # Of costs, and no inputs: they change with every job.
            "benchmarks": self.path("benchmarks"),
            "llm_answers": self.llm_answers,
            "study": self.name,
            "players": self.players(scope),
            "pending": self.pending(scope),
            "base_source": self.models[BASE].source,
            "synthetic": self.synthetic,
            **self._token_limits,
            **self._label_settings(self.pools(scope)),
            "sample_replies": self.config.evaluation.sample_replies,
            "draws": self.config.evaluation.bootstrap,
        }

    def started_from(self) -> str:
        """The configuration file as it is seen from here; of one elsewhere the name."""
        file = from_here(self.file)
        return file.name if file.is_absolute() else str(file)

    @property
    def _token_limits(self) -> dict[str, int]:
        return {
            "max_context_tokens": self.config.data.max_context_tokens,
            "max_new_tokens": self.config.sampling.max_new_tokens,
        }

    def _label_settings(self, pools: Iterable[str]) -> dict[str, Any]:
        """What pages say about the labels of some pools: "none" of those that there are not."""
        pools, labels = list(pools), self.config.labels
        return {
            "ai_judge": labels.ai.judge if "ai" in pools else "none",
            "ai_noise": labels.ai.noise,
            "human_source": labels.human.source if HUMAN in pools else "none",
            "human_judge": labels.human.judge,
        }

    @property
    def _who_labelled(self) -> dict[str, str]:
        """Pool -> who labelled it, in words."""
        people = self.config.labels.human.source == "people"
        return {
            "ai": f"AI labels by the judge {self.config.labels.ai.judge}",
            HUMAN: "people's labels" if people else "simulated annotators, no person",
        }

    def card_files(self, model: str, scope: str) -> dict[str, str]:
        """What a model card reads."""
        tables = self.tables(scope)
        return {
            "metrics": self.model_file(model, TRAINED_FILES["metrics"]),
            "recipe": self.model_file(model, TRAINED_FILES["recipe"]),
            "trust": self.trust_table(scope),
            "splits": self.path("splits/summary.json"),
            **self.base_origin,
            **{name: tables[name] for name in ("comparisons", "behaviour", "honesty")},
        }

    def card_settings(self, model: str) -> dict[str, Any]:
        """What a model card is told: the labels of the model's whole lineage, in their order."""
        above = [self.models[name] for name in self.config.lineage(model)]
        pools = [each.pool for each in above if each.pool]
        labels = self._label_settings(pools)
        words = self._who_labelled
        return {
            "model": model,
            "study": self.name,
            "base_source": self.models[BASE].source,
            "synthetic": self.synthetic,
            **self._token_limits,
            "sources": self.sources,
            "labels": ", then ".join(words[pool] for pool in pools) or "none",
            **labels,
            **self._loading(model),
        }

    def _loading(self, model: str) -> dict[str, Any]:
        """How readers of a model's card load it: by its name on the Hub, if the study names one."""
        base, place = self.models[BASE], self.publication(model)
        on_hub = os.path.basename(self.base_folder) in self.hub_models
        published = on_hub and place["namespace"]
        return {
            "base": base.source if on_hub else self.base_folder,
            "revision": base.revision if on_hub else None,
            "adapter": f"{place['namespace']}/{place['name']}"
            if published
            else self.path(f"models/{model}"),
            "exported": self.path(f"exported/{model}"),
            "prompt_format": self.config.data.prompt_format,
            "prompt_source": self.config.data.pool_source,
            "temperature": self.config.sampling.temperature,
            "top_p": self.config.sampling.top_p,
        }

    # What leaves the study

    @property
    def exported_files(self) -> list[str]:
        """The files of a merged model, with the wildcard {model}: those that the base model has, and how it samples."""
        names = [os.path.basename(file) for file in self.tokenizer_files]
        return [
            self.path(f"exported/{{model}}/{name}")
            for name in dict.fromkeys([WEIGHTS, *names, GENERATION])
        ]

    def gguf_settings(self, model: str) -> dict[str, Any]:
        """What llama.cpp and Ollama are told of a model: its name, the study's prompts and its sampling."""
        sampling = self.config.sampling
        return {
            "name": f"{self.name}-{model}",
            "prompt_format": self.config.data.prompt_format,
            "source": self.config.data.pool_source,
            "num_ctx": longest_prompt(self.config) + sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
        }

    def dataset_inputs(self) -> dict[str, Any]:
        """What the exported rows are made from: the name of a flag -> a file, or files by names of their own."""
        pools = self.learned_pools
        parts = {
            part: {pool: self.path(f"preferences/{pool}_{part}.jsonl") for pool in pools}
            for part in ("train", "val")
        }
        return {
            "sft": {side: self.path(f"splits/sft_{side}.jsonl") for side in SIDES},
            "held_out": self.path("preferences/final_eval_prompts.jsonl"),
            "delta_pairs": self.path("processed/delta_pairs.jsonl"),
            "sides": self.path("splits/sides.csv"),
            "labels": self.labels("evaluation"),
            **parts,
        }

    @property
    def dataset_files(self) -> list[str]:
        """The folder of the exported rows: a parquet file a split, and the card."""
        splits = ("train", "validation", "test")
        files = [dataset_file(name, split) for name in ("sft", "delta_pairs") for split in splits]
        for pool in self.learned_pools:
            files += [dataset_file(f"{pool}_pairs", split) for split in splits[:2]]
            files.append(dataset_file(f"{pool}_labels", "pool"))
        return [self.path(f"exported/{DATASET}/{name}") for name in ("README.md", *files)]

    def dataset_settings(self) -> dict[str, Any]:
        """What the card of the exported rows says of the study."""
        pools = self.learned_pools
        return {
            "study": self.name,
            "synthetic": self.synthetic,
            "sources": self.sources,
            "responses_from": {pool: self.responding_model(pool) for pool in pools},
            "labelled_by": {pool: self._who_labelled[pool] for pool in pools},
        }

    def dataset_publication(self) -> dict[str, Any]:
        """Where the exported rows go on the Hub."""
        return {
            "namespace": self.config.publish.namespace or "",
            "name": f"{self.name}-data",
            "private": self.config.publish.private,
        }

    def publication(self, model: str) -> dict[str, Any]:
        """Where a model goes on the Hub."""
        return {
            "base_source": self.models[BASE].source,
            "namespace": self.config.publish.namespace or "",
            "name": f"{self.name}-{model}",
            "private": self.config.publish.private,
        }

    def tracking_flags(self, model: str) -> str:
        """Where a training reports to, by the name of a model or `delta_judge`."""
        own = self.models[model].run_name if model in self.models else None
        name = own or f"{self.name}-{model}"
        settings = self.config.wandb.resolved() | {"name": name, "folder": self.path("wandb")}
        return flags({"tracking": settings})

    def refuse_unattended_without_players(self, targets: Iterable[str]) -> None:
        """UserError where a target compares the players that need no person, and there are not two of them."""
        players, folder = self.players("unattended"), self.path("unattended/")
        if not self.waits_for_people or len(players) > 1:
            return
        alone = {self.trust_table("unattended"), *self.model_tables("unattended").values()}
        for target in targets:
            path = os.path.normpath(target)
            if path == "unattended" or (path.startswith(folder) and path not in alone):
                who = f"only {players[0]} needs" if players else "none needs"
                raise UserError(
                    f"{target}: of evaluation.players {who} no labels of people, and a comparison takes two; add one"
                    f" ({BASE}, say), or make other targets"
                )

    def refuse_other_studies(self, targets: Iterable[str]) -> None:
        """UserError where a target lies under the results of another study than this one."""
        for target in targets:
            parts = Path(target).parts
            if len(parts) > 2 and parts[0] == "results" and parts[1] != self.name:
                file = file_of_study(parts[1])
                how = f"no file in config/ has `study: {parts[1]}`"
                if file is not None:
                    how = f"add --configfile {file}"
                raise UserError(
                    f"{target} is of study {parts[1]!r}, and {self.name!r} is loaded: {how}"
                )
