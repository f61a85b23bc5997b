"""A judge by its name. Which module it is of is known when it is made: who names a judge runs no other judge's code."""

from importlib import import_module
from pathlib import Path

from persuasion_rl.files import UserError
from persuasion_rl.judges.base import Judge
from persuasion_rl.models.devices import pick_device, prepare_torch


def make_judge(
    name: str,
    *,
    base: Path | None = None,
    delta_adapter: Path | None = None,
    device: str = "auto",
    threads: int = 1,
    seed: int = 0,
    delta_pairs: Path | None = None,
    sides: Path | None = None,
    llm: str | None = None,
    asking: str | None = None,
) -> Judge:
    """A judge by its name in the config.

    Args:
        base, delta_adapter, device, threads, seed: for the judge delta.
        delta_pairs, sides: for the judge interplay, which learns from those of the train side.
        llm, asking: for the judge llm, as JSON: what is asked, and how. Together they are `llm.Settings`, of which all
            but the model has a default.
    """
    if name == "truth":
        return _module("truth").TruthJudge()
    if name == "length":
        return _module("length").LengthJudge()
    if name == "delta":
        if base is None or delta_adapter is None:
            raise UserError("judge delta needs --base and --delta_adapter")
        prepare_torch(threads, seed, device)
        return _module("delta").DeltaJudge(base, delta_adapter, pick_device(device))
    if name == "interplay":
        if delta_pairs is None or sides is None:
            raise UserError("judge interplay needs --delta_pairs and --sides")
        return _module("interplay").InterplayJudge(delta_pairs, sides)
    if name == "llm":
        if llm is None:
            raise UserError('judge llm needs --llm, as \'{"model": "NAME"}\'')
        module = _module("llm.judge")
        return module.LlmJudge(module.Settings.read(llm, asking or "{}"))
    raise UserError(f"unknown judge {name!r}; there are truth, delta, length, interplay and llm")


def _module(name: str):
    return import_module(f"persuasion_rl.judges.{name}")
