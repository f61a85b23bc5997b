"""How the models of a study are compared: players and their replies, judges, what the study declares."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from persuasion_rl.study.flags import flags
from persuasion_rl.study.models import StudyModels
from persuasion_rl.study.names import (
    BASE,
    ENGINE_MODULES,
    JUDGE_MODULES,
    SERVED,
    TRAINED_FILES,
    model_files,
    own_file,
    package_of,
)

ALWAYS_MEASURED = ("delta", "interplay", "length")
"""Judges whose trust is measured in every study."""
LLM_ANSWER = ("model", "provider", "rubric", "max_tokens", "temperature")
"""Settings of the judge llm that decide its answers; the others say how it is asked."""


@dataclass(frozen=True)
class Player:
    """A player of the evaluation that samples replies.

    Attributes:
        model: the study's model that it is, or None.
        source: its base model, where it is another model than the study's.
        endpoint: the server that has it, or None.
    """

    name: str
    model: str | None = None
    source: str | None = None
    endpoint: str | None = None
    served_model: str | None = None


class StudyComparison(StudyModels):
    """The part of a `Study` that knows how its models are compared: players, judges, measures, comparisons."""

    # Players

    @cached_property
    def judges(self) -> list[str]:
        """The judges that evaluate."""
        return self.config.evaluation.judges

    @cached_property
    def other_players(self) -> dict[str, Any]:
        return self.config.evaluation.other_players

    @property
    def sampling_players(self) -> list[str]:
        """All that can sample replies, in the evaluation or not."""
        return [*self.models, *self.other_players]

    def players(self, scope: str) -> list[str]:
        """The players of a scope, in the configuration's order."""
        return [
            name
            for name in self.config.evaluation.players
            if not (scope == "unattended" and self._waits(name))
        ]

    def _waits(self, player: str) -> bool:
        model = self.player(player).model
        return model is not None and self.needs_people(model)

    def player(self, name: str) -> Player:
        """A player by its name; of `human`, and of models from elsewhere, `model` is None."""
        if name in self.models:
            return Player(name, model=name)
        other = self.other_players.get(name)
        if other is None:
            return Player(name)
        return Player(name, other.model, other.source, other.endpoint, other.served_model)

    def player_base(self, name: str) -> list[str]:
        """The files of the base model of a player; an endpoint has none."""
        player = self.player(name)
        if player.model:
            return self.base_model
        return model_files(player.source) if player.source else []

    def player_prompts(self, name: str) -> str:
        """The held-out prompts, or what a player is asked instead."""
        if name in self.other_players:
            return self.path(f"evaluation/prompts/{name}.jsonl")
        return self.path("preferences/final_eval_prompts.jsonl")

    def engine(self, player: str) -> dict[str, str]:
        """The engine of a player, the name that it knows it by, and how it is asked; of an endpoint, its address too."""
        who = self.player(player)
        if who.endpoint:
            return {"engine": "endpoint", "model": who.served_model, "base_url": who.endpoint}
        # A server and its adapters are the study's own.
        own = self.config.sampling.engine if who.model else "transformers"
        format_of = self.other_players.get(player, self.config.data)
        return {
            "engine": own,
            "model": who.model or player,
            "prompt_format": format_of.prompt_format,
        }

    def engine_gpu(self, engine: str) -> int:
        """The GPUs that sampling takes: none where a server samples."""
        return 0 if engine in SERVED else self.gpu

    def engine_module(self, engine: str) -> str:
        return ENGINE_MODULES[engine]

    def sampling_flags(self, **more: Any) -> str:
        """What is sampled, and with what."""
        names = ("temperature", "top_p", "max_new_tokens", "engine")
        settings = {name: getattr(self.config.sampling, name) for name in names}
        settings |= {"seed": self.config.seed, "prompt_format": self.config.data.prompt_format}
        return flags(settings | self.model_settings | more)

    def sampling_speed(self, player: str) -> dict[str, Any]:
        """How fast a player samples, and where: what leaves its samples as they are. An endpoint's address does not."""
        sampling = self.config.sampling
        address = None if self.player(player).endpoint else sampling.base_url
        return {"batch_size": sampling.batch_size, "base_url": address}

    def wording(self, player: str) -> str:
        """How a player is asked that wants another format, or a length."""
        other = self.other_players[player]
        own_format = "messages" if other.endpoint else other.prompt_format
        return flags(
            {
                "study_format": self.config.data.prompt_format,
                "player_format": own_format,
                "match_length": other.match_length,
            }
        )

    def responses(self, scope: str) -> dict[str, str]:
        """Player -> its replies."""
        return {p: self.path(f"evaluation/responses/{p}.jsonl") for p in self.players(scope)}

    def readings(self, scope: str) -> dict[str, str]:
        """Player -> what the language model read of its replies, where it evaluates."""
        if "llm" not in self.judges:
            return {}
        return {p: self.path(f"evaluation/readings/{p}.jsonl") for p in self.players(scope)}

    def losses(self, scope: str) -> dict[str, str]:
        """Player that is a model -> its loss on human winning replies."""
        return self._measured(
            "losses/{}.json", [p for p in self.players(scope) if p in self.models]
        )

    def kl(self, scope: str) -> dict[str, str]:
        """DPO model -> how far its replies are from its parent's."""
        return self._measured("kl/{}.jsonl", self._dpo_players(scope))

    def preference_metrics(self, scope: str) -> dict[str, str]:
        """DPO model -> the metrics of its training."""
        return self.model_files(self._dpo_players(scope), TRAINED_FILES["metrics"])

    def similarities(self, scope: str) -> dict[str, str]:
        """Player -> how near its replies are to the human ones, where the study has an embedding model."""
        embedded = self.players(scope) if self.config.evaluation.embedding_model else []
        return self._measured("similarities/{}.jsonl", embedded)

    def embedding_files(self) -> list[str]:
        """The files of the embedding model, where it is a folder or in a package."""
        source = self.config.evaluation.embedding_model or ""
        if package := package_of(source):
            return [package.wheel]
        folder = Path(source)
        if not source or not folder.is_dir():
            return []
        # What its modules need, whichever they are.
        modules = [*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("[0-9]_*/*")]
        return sorted(str(path) for path in modules if path.is_file())

    @property
    def embedding_flags(self) -> str:
        """Which embedding model compares replies; of one in a package, which of those in it."""
        source = self.config.evaluation.embedding_model
        package = package_of(source or "")
        return flags({"inside": package.inside} if package else {"model": source})

    def embedding_package(self, files: list[str]) -> dict[str, str]:
        """The file of the package that holds the embedding model, where it is in one."""
        package = package_of(self.config.evaluation.embedding_model or "")
        return {"model": files[0]} if package else {}

    def _dpo_players(self, scope: str) -> list[str]:
        return [player for player in self.players(scope) if player in self.trained("dpo")]

    def _measured(self, file: str, players: Iterable[str]) -> dict[str, str]:
        return {player: self.path(f"evaluation/{file.format(player)}") for player in players}

    # Judges

    def judge_modules(self, *judges: str | None) -> list[str]:
        """The modules of some judges, whose code their verdicts depend on; None is no judge."""
        return [JUDGE_MODULES[judge] for judge in judges if judge is not None]

    def judge_files(self, *judges: str | None) -> dict[str, str | list[str]]:
        """What some judges read, by the names of a rule's inputs."""
        files: dict[str, str | list[str]] = {}
        if "delta" in judges:
            delta = self.delta_judge()
            files["judge_base"] = self.base_model
            files["delta_adapter"] = delta["adapter"]
            files["delta_parts"] = [delta["config"], delta["recipe"]]
        if "interplay" in judges:
            files["delta_pairs"] = self.path("processed/delta_pairs.jsonl")
            files["sides"] = self.path("splits/sides.csv")
        if "llm" in judges:
            files["rubric"] = os.path.normpath(own_file(self.config.llm.rubric))
        return files

    def delta_judge(self) -> dict[str, str]:
        """What the training of the delta judge makes."""
        return {name: self.path(f"judges/delta/{file}") for name, file in TRAINED_FILES.items()}

    def judge_flags(self, *judges: str | None) -> str:
        """What a job that judges is told besides its files; of the judge llm, what decides its answers."""
        settings = {"device": self.config.device, "seed": self.config.seed}
        if "delta" in judges:
            settings["prompt_format"] = self.config.data.prompt_format
        return flags(settings | (self._llm(LLM_ANSWER) if "llm" in judges else {}))

    def reading_flags(self) -> str:
        """What decides the answers where the language model reads for honesty."""
        return flags(self._llm(LLM_ANSWER, rubric=self.honesty_rubric))

    @property
    def honesty_rubric(self) -> str:
        """The rubric by which the language model reads for honesty."""
        return os.path.normpath(own_file(self.config.llm.honesty_rubric))

    def asking_flags(self, *judges: str | None) -> str:
        """How the judge llm is asked, where it is one of `judges`, and where its answers are kept.

        They are no output: they outlive every clean-up.
        """
        if "llm" not in judges:
            return ""
        names = self.config.llm.resolved().keys() - {*LLM_ANSWER, "honesty_rubric"}
        return flags(self._llm(names, cache=self.llm_answers))

    def _llm(self, names: Iterable[str], **changes: Any) -> dict[str, Any]:
        """Settings of the judge llm under the names of their flags."""
        settings = {name: self.config.llm.resolved()[name] for name in names} | changes
        if "rubric" in settings:
            settings["rubric"] = own_file(settings["rubric"])
        if "temperature" in settings and settings["temperature"] is None:
            settings["temperature"] = "none"  # a flag that is left out has its default
        return {f"llm_{name}": value for name, value in settings.items()}

    @property
    def llm_answers(self) -> str:
        """Where the paid answers of the judge llm are kept."""
        return self.path("state/llm.sqlite")

    @cached_property
    def llm(self) -> list[str]:
        """The judge llm, where a job of the study asks it."""
        return ["llm"] if "llm" in (self.config.labels.ai.judge, *self.judges) else []

    def trusted_judges(self, scope: str) -> list[str]:
        """The judges whose trust is measured: those that evaluate, that labelled a pool, and the baselines."""
        labelling = {self.label_judge(pool) for pool in self.pools(scope)} - {None}
        return sorted({*self.judges, *labelling, *ALWAYS_MEASURED})

    def judge_gpu(self, judge: str) -> int:
        """The GPUs of a job that asks a judge."""
        return self.gpu if judge == "delta" else 0

    def shared_weights(self, scope: str) -> dict[str, str]:
        """Judge -> the players that begin with the weights that it begins with."""
        players = {name: self.player(name) for name in self.players(scope)}
        base, llm = self.models[BASE].source, self.config.llm.model
        begins = {name: base if p.model else p.source for name, p in players.items()}
        of_delta = [name for name, source in begins.items() if source == base]
        of_llm = [
            name
            for name, player in players.items()
            if llm is not None and llm in (begins[name], player.served_model)
        ]
        # Under another name a served model may still be the same one.
        return {
            "delta": ", ".join(of_delta) or "none",
            "llm": ", ".join(of_llm) or "unknown",
        }

    def verdicts(self, scope: str) -> dict[str, str]:
        """Judge -> its verdicts."""
        return {judge: self.path(f"{scope}/verdicts/{judge}.jsonl") for judge in self.judges}

    # Comparisons

    def equally_honest(self, scope: str) -> dict[str, str]:
        """Judge -> its verdicts on replies of the same markers."""
        return {j: self.path(f"{scope}/equal_honesty/{j}.jsonl") for j in self.judges}

    def comparisons(self, scope: str) -> list[str]:
        """The comparisons "player:against" whose p-values are corrected together, as far as a scope has their players.

        They are those of the configuration, or every model with each one that it comes from.
        """
        players, declared = self.players(scope), self.config.evaluation.comparisons
        if declared is None:
            declared = [
                f"{name}:{against}"
                for name in players
                if name in self.models
                for against in [*reversed(self._above(name)), BASE][1:]
            ]
        return [pair for pair in declared if {*pair.split(":")} <= {*players}]
