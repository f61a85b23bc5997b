"""Makes an engine by its name. Its module is imported only then, so that digests of stages skip the code of others."""

from importlib import import_module

from persuasion_rl.sampling.engine import Engine, SamplingSettings
from persuasion_rl.study.names import ENGINE_MODULES


def make_engine(settings: SamplingSettings) -> Engine:
    """The engine that the settings name: transformers, vllm, openai, or endpoint (a model on another server).

    Each module of `ENGINE_MODULES` has a function `make` that makes its engine.
    """
    module = import_module(f"persuasion_rl.{ENGINE_MODULES[settings.engine]}")
    return module.make(settings)
