"""Makes a judge by its name. Its module is imported only then, so that stages load and digest only judges they ask."""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from persuasion_rl.files import UserError
from persuasion_rl.judges.base import Judge
from persuasion_rl.judges.llm.settings import LlmSettings
from persuasion_rl.models.devices import pick_device, prepare_torch
from persuasion_rl.study.names import JUDGE_MODULES


@dataclass(frozen=True)
class JudgeSettings:
    """Settings of all judges; each judge reads only its own.

    seed, threads, device, base, delta_adapter: the judge delta, a reward model (`base` is the folder of its base model,
    `prompt_format` the form of the prompts, "plain" or "chat").
    delta_pairs, sides: the judge interplay learns from the delta pairs of the train side. llm: the judge llm.
    """

    seed: int
    threads: int = 1
    device: str = "auto"
    base: Path | None = None
    prompt_format: str = "plain"
    delta_adapter: Path | None = None
    delta_pairs: Path | None = None
    sides: Path | None = None
    llm: LlmSettings = field(default_factory=LlmSettings)


def make_judge(name: str, settings: JudgeSettings) -> Judge:
    """Make a judge by its name in the configuration.

    Raises:
        UserError: there is no such judge, or it lacks a setting.
    """
    if name not in JUDGE_MODULES:
        *others, last = JUDGE_MODULES
        raise UserError(f"unknown judge {name!r}; there are {', '.join(others)} and {last}")
    module = import_module(f"persuasion_rl.{JUDGE_MODULES[name]}")
    if name == "truth":
        return module.TruthJudge()
    if name == "length":
        return module.LengthJudge()
    if name == "interplay":
        if settings.delta_pairs is None or settings.sides is None:
            raise UserError("judge interplay needs --delta_pairs and --sides")
        return module.InterplayJudge(settings.delta_pairs, settings.sides)
    if name == "llm":
        return module.LlmJudge(settings.llm)
    if name == "delta":
        if settings.base is None or settings.delta_adapter is None:
            raise UserError("judge delta needs --base and --delta_adapter")
        prepare_torch(settings.threads, settings.seed, settings.device)
        device = pick_device(settings.device)
        return module.DeltaJudge(
            settings.base, settings.delta_adapter, device, settings.prompt_format
        )
    raise NotImplementedError(f"judge {name} is named in study/names.py and not made here")
